"""Texts cut as the trainer cut them."""

import json

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tests.tokenizer.mixture.bpe_toys import text_of, trained

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.data.documents import ReadOptions, Source
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.mixture import counting
from tokenlayer.tokenizer.mixture.counting import (
    byte_total,
    count_categories,
    count_texts,
    cut_of,
    model_words,
    parse_categories,
)


def loaded(text, **changes):
    return LoadedTokenizer({**json.loads(text), **changes}, where="toy")


def words(tokenizer, text, name=None):
    cut = cut_of(tokenizer, name)
    return model_words(count_texts([text], cut), cut)


@pytest.mark.parametrize("family", ["byte-level", "split-byte-level"])
@pytest.mark.parametrize("text", [SENTENCES["ru"], SENTENCES["code"], SENTENCES["marks"], "a 12 34\t\t<|endoftext|>"])
def test_words_are_what_the_model_gets(family, text):
    tokenizer = loaded(FAMILIES[family]())
    backend = tokenizer.backend
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    wanted = {}
    for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal):
        wanted[piece] = wanted.get(piece, 0) + 1
    assert words(tokenizer, text) == wanted


def test_a_cut_in_the_byte_alphabet_is_not_written_in_it_twice():
    tokenizer = loaded(
        FAMILIES["byte-level"](),
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )
    assert words(tokenizer, "да") == {"ĠÐ´Ð°": 1}


def test_digits_are_apart_when_the_file_says_so():
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    stage = {"type": "Sequence", "pretokenizers": [digits, level]}
    assert words(loaded(FAMILIES["byte-level"](), pre_tokenizer=stage), "a12") == {"a": 1, "1": 1, "2": 1}
    assert words(loaded(FAMILIES["byte-level"]()), "a12") == {"a": 1, "12": 1}


def test_a_missing_use_regex_means_that_texts_are_cut():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    assert words(loaded(FAMILIES["byte-level"](), pre_tokenizer=level), "a b") == {"a": 1, "Ġb": 1}
    assert words(loaded(FAMILIES["byte-level"](), pre_tokenizer={**level, "use_regex": False}), "a b") == {"aĠb": 1}


def test_sentencepiece_without_a_pre_tokenizer_is_cut_as_its_trainer_does():
    normalizer = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    tokenizer = loaded(FAMILIES["sentencepiece-bpe"](), normalizer=normalizer, pre_tokenizer=None)
    assert words(tokenizer, "to be,\n\tor 42") == {"▁to": 1, "▁be": 1, ",": 1, "or": 1, "▁": 1, "4": 1, "2": 1}
    assert "SentencePiece" in cut_of(tokenizer).note
    assert cut_of(loaded(FAMILIES["byte-level"]())).note == ""


def test_another_pre_tokenizer_can_be_named():
    assert words(loaded(FAMILIES["byte-level"]()), "a12345", "cl100k") == {"a": 1, "123": 1, "45": 1}


def test_files_and_texts_give_the_same_counts_and_files_are_read_once(tmp_path):
    cut = cut_of(trained([text_of("one")]))
    (tmp_path / "one.txt").write_text(text_of("one") + "\n\n" + text_of("two"))
    given = {"1/a": [Source(str(tmp_path / "one.txt"))], "b": [Source(str(tmp_path / "one.txt"))]}
    found = count_categories(given, cut, tmp_path / "counts", options=ReadOptions(), parts=3)
    wanted = model_words(count_texts([text_of("one"), text_of("two")], cut, parts=3), cut)
    assert {name: model_words(counts, cut) for name, counts in found.items()} == {"1/a": wanted, "b": wanted}
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "counts").iterdir()}
    count_categories(given, cut, tmp_path / "counts", options=ReadOptions(), parts=3)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "counts").iterdir()} == times
    (tmp_path / "one.txt").write_text("one")
    again = count_categories(given, cut, tmp_path / "counts", options=ReadOptions(), parts=3)
    assert model_words(again["b"], cut) == {"one": 1}


def test_parts_add_up_and_can_be_taken_again():
    cut = cut_of(trained([text_of("one")]))
    counts = count_texts(["a b", "c", "a", "a"], cut, parts=2)
    assert model_words(counts, cut) == {"a": 3, "Ġb": 1, "c": 1}
    assert model_words(counts, cut, [2, 0]) == {"a": 4, "Ġb": 2}
    assert (byte_total(counts), byte_total(counts, [2, 0])) == (6, 8)


def test_a_long_document_is_dealt_into_several_parts(monkeypatch):
    monkeypatch.setattr(counting, "PART_CHARS", 1000)
    cut = cut_of(trained([text_of("one")]))
    counts = count_texts(["a line\n" * 700], cut, parts=10)
    assert len(counts.counts) == 5
    assert counts.bytes.total() == 4900


def test_what_is_refused(tmp_path):
    for specs, said in (
        (["en"], "category 'en' is not NAME=PATH"),
        (["=a.txt"], "category '=a.txt' is not"),
        (["en=a", "en=b"], "category 'en' is named twice"),
        ([], "no category was given"),
    ):
        with pytest.raises(BadOption, match=said) as caught:
            parse_categories(specs)
        assert caught.value.hint
    (tmp_path / "empty.txt").write_text("\n\n")
    cut = cut_of(trained([text_of("one")]))
    with pytest.raises(BadText, match="category 'en' has no text"):
        count_categories({"en": [Source(str(tmp_path / "empty.txt"))]}, cut, tmp_path / "c", options=ReadOptions())
