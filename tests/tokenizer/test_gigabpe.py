"""The fast trainer is used only where it gives the merges of `tokenizers`, and says why where it is not."""

import importlib.util
import json

import pytest

from tokenlayer.core.errors import BadOption, MissingExtra, VerifyFailed
from tokenlayer.tokenizer import gigabpe_trainer
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.learn import learn

installed = pytest.mark.skipif(importlib.util.find_spec("gigabpe") is None, reason="gigabpe is not installed")

LINES = [
    f"{word} {other} the {word}s of number {n}"
    for n, word in enumerate(["house", "Straße", "дом", "家", "naïve"] * 20)
    for other in ("old", "new", "élan")
]


def source(folder, lines=LINES):
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in lines), encoding="utf-8")
    return str(path)


def learned(folder, trainer, lines=LINES, **options):
    config = LearnConfig(vocab_size=400, pre_tokenizer="gpt2", trainer=trainer, **options)
    report = learn([source(folder, lines)], folder / trainer, config)
    return report, json.loads((folder / trainer / "tokenizer.json").read_text(encoding="utf-8"))


@installed
@pytest.mark.parametrize("options", [{}, {"min_frequency": 5}, {"max_token_length": 4}])
def test_both_trainers_write_the_same_tokenizer(options, tmp_path):
    _, slow = learned(tmp_path, "tokenizers", **options)
    report, fast = learned(tmp_path, "gigabpe", **options)
    assert fast == slow
    assert len(slow["model"]["merges"]) > 50
    assert report.table("trainer").rows[0][0] == "gigabpe"


@installed
def test_it_is_chosen_when_it_fits_and_the_reason_is_told_when_it_does_not(tmp_path):
    report, _ = learned(tmp_path, "auto")
    assert report.table("trainer").rows[0][0] == "gigabpe"
    (tmp_path / "second").mkdir()
    report, _ = learned(tmp_path / "second", "auto", [*LINES, "two\nlines"])
    assert report.table("trainer").rows[0] == (
        "tokenizers",
        f"gigabpe trains line by line, and document {len(LINES)} has line breaks",
    )


@installed
@pytest.mark.parametrize(("bad", "why"), [("two\nlines", "has line breaks"), ("ends ", "ends in a space")])
def test_a_document_that_it_would_cut_differently_is_refused_when_it_was_asked_for(bad, why, tmp_path):
    with pytest.raises(BadOption, match=why):
        learned(tmp_path, "gigabpe", [*LINES, bad])
    assert not (tmp_path / "gigabpe").exists()


@installed
def test_other_merges_on_the_sample_are_noticed(tmp_path, monkeypatch):
    right = gigabpe_trainer._gigabpe

    def wrong(*given):
        found = right(*given)
        return {**found, "merges": found["merges"][::-1]}

    monkeypatch.setattr(gigabpe_trainer, "_gigabpe", wrong)
    with pytest.raises(VerifyFailed, match="different merges on a sample"):
        learned(tmp_path, "gigabpe")
    report, _ = learned(tmp_path, "auto")
    assert report.table("trainer").rows[0][0] == "tokenizers"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"kind": "unigram"}, "cannot learn kind 'unigram'"),
        ({"pre_tokenizer": "cl100k"}, "only the pre-tokenizer gpt2"),
    ],
)
def test_shapes_that_it_does_not_know_are_refused(options, why, tmp_path):
    with pytest.raises(BadOption, match=why):
        learn([source(tmp_path)], tmp_path / "out", LearnConfig(vocab_size=400, trainer="gigabpe", **options))


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gigabpe_trainer, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"tokenlayer\[fast\]"):
        learned(tmp_path, "gigabpe")
    report, _ = learned(tmp_path, "auto")
    assert report.table("trainer").rows[0] == ("tokenizers", "gigabpe is not installed")
