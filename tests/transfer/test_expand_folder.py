"""A longer tokenizer as a folder that transformers loads, and a model that takes it without a change for old text."""

import json

import pytest
import transformers
from tests.tiny_swaps import CHAT, model_of
from tests.tiny_tokenizers import SENTENCES, byte_level, write

from tokenlayer.app import api
from tokenlayer.core.errors import BadOption, BadText, OutputExists
from tokenlayer.models.tokenizer_files import load_tokenizer

RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.\n"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "ru.txt").write_text(RUSSIAN * 20, encoding="utf-8")
    return str(tmp_path / "ru.txt")


def test_old_text_keeps_its_ids_and_new_text_gets_shorter(text, tmp_path):
    old = write(tmp_path / "old", byte_level(400), chat_template=CHAT, model_max_length=77)
    report = api.expand(old, [f"ru:{text}"], tmp_path / "new", add=20)
    before, after = load_tokenizer(old), load_tokenizer(tmp_path / "new")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert len(after.vocab) == len(before.vocab) + 20
    for name in ("en", "code", "numbers"):
        ids = before.encode(SENTENCES[name])
        assert after.encode(SENTENCES[name]) == ids == theirs(SENTENCES[name])["input_ids"]
    assert len(after.encode(RUSSIAN)) < len(before.encode(RUSSIAN))
    assert theirs(RUSSIAN)["input_ids"] == after.encode(RUSSIAN)
    assert theirs.chat_template == CHAT
    assert theirs.model_max_length == 77
    assert report.metric("tokens of the text").value < report.metric("tokens of the text").baseline
    assert api.load_report(tmp_path / "new").metric("vocab size").value == len(after.vocab)


def test_a_model_with_the_longer_tokenizer_says_the_same_of_old_text(text, tmp_path):
    source = model_of("tied_llama", tmp_path / "model", byte_level(400))
    api.expand(source, [text], tmp_path / "new", add=20)
    (tmp_path / "en.txt").write_text(SENTENCES["en"], encoding="utf-8")
    report = api.swap(source, tmp_path / "new", tmp_path / "out", eval=[str(tmp_path / "en.txt")], check_hull=True)
    assert report.metric("next-byte agreement").value == 1
    assert report.metric("tokens").value == report.metric("tokens").baseline
    assert report.metric("rows outside the convex hull").value == 0
    assert dict(row[:2] for row in report.table("origin of rows").rows) == {"copy": 400, "pieces": 20}


def test_a_dry_run_writes_nothing_and_refusals_come_first(text, tmp_path):
    old = write(tmp_path / "old", byte_level(400))
    api.expand(old, [text], tmp_path / "new", add=5, dry_run=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadOption, match="0"):
        api.expand(old, [text], tmp_path / "new", add=0)
    with pytest.raises(BadText, match="100000"):
        api.expand(old, [text], tmp_path / "new", add=100_000)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(OutputExists, match="--force|holds"):
        api.expand(old, [text], tmp_path / "new", add=5)
