"""Learned tokenizers load elsewhere, keep their promises about bytes, and are the same each time."""

import json

import pytest
import transformers
from tests.tiny_tokenizers import SENTENCES, byte_level, write

from tokenlayer.core.errors import BadOption, BadText, OutputExists
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.learn import learn


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(text for text in SENTENCES.values() for _ in range(4)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_each_kind_loads_in_transformers_with_the_same_ids(kind, texts, tmp_path):
    report = learn([texts], tmp_path / "out", LearnConfig(kind=kind, vocab_size=600))
    ours = load_tokenizer(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in SENTENCES.values():
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert report.metric("vocab size").value == len(ours.vocab) <= 600
    if kind != "wordpiece":
        for text in SENTENCES.values():
            assert ours.decode_bytes(ours.encode(text)) == text.encode()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_same_text_same_bytes(kind, texts, tmp_path):
    for name in ("a", "b"):
        learn([texts], tmp_path / name, LearnConfig(kind=kind, vocab_size=500))
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_like_takes_over_special_tokens_roles_and_template(texts, tmp_path):
    other = write(
        tmp_path / "like",
        byte_level(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template="{{ messages }}",
    )
    learn([texts], tmp_path / "out", LearnConfig(vocab_size=500), like=other)
    found = load_tokenizer(tmp_path / "out")
    assert {role: found.vocab.names[i] for role, i in found.roles.items()}["eos"] == "<|im_end|>"
    assert found.chat_template == "{{ messages }}"
    assert found.data["pre_tokenizer"] == load_tokenizer(other).data["pre_tokenizer"]


def test_a_dry_run_estimates_and_writes_nothing(texts, tmp_path):
    report = learn([texts], tmp_path / "out", LearnConfig(vocab_size=500), dry_run=True)
    assert report.metric("peak memory, expected").value > 0
    assert not (tmp_path / "out").exists()


def test_too_little_text_is_said(texts, tmp_path):
    report = learn([texts], tmp_path / "out", LearnConfig(vocab_size=50_000))
    assert any("50000 were asked for" in w for w in report.warnings)


def test_refusals(texts, tmp_path):
    with pytest.raises(BadOption, match="vocab_size is 100, expected at least 257"):
        learn([texts], tmp_path / "out", LearnConfig(vocab_size=100))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n\n")
    with pytest.raises(BadText, match="no text"):
        learn([str(empty)], tmp_path / "out", LearnConfig(vocab_size=500))
    with pytest.raises(BadOption, match="kind is 'bep', expected one of: bpe"):
        LearnConfig(kind="bep")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("x")
    with pytest.raises(OutputExists):
        learn([texts], tmp_path / "out", LearnConfig(vocab_size=500))
    assert json.dumps(sorted(p.name for p in (tmp_path / "out").iterdir())) == '["x"]'


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_bytes_per_token_of_each_group_are_those_of_encoding_every_text(kind, tmp_path):
    groups = {"en": "the cat sat on the mat, the dog did not\n" * 30, "de": "Straße über Bäume, der Hund läuft\n" * 30}
    for name, text in groups.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    sources = [f"{name}:{tmp_path / name}.txt" for name in groups]
    report = learn(sources, tmp_path / "out", LearnConfig(kind=kind, vocab_size=300))
    tokenizer = load_tokenizer(tmp_path / "out")
    found = {m.source: m for m in report.metrics if m.name == "bytes per token"}
    assert set(found) == set(groups)
    for name, text in groups.items():
        body = text.rstrip("\n")
        assert found[name].n == len(body.encode())
        assert found[name].value == pytest.approx(len(body.encode()) / len(tokenizer.encode(body)), rel=0.01)
