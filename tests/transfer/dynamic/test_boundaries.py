"""Units never cross a boundary of the real text, whatever the tokenizer does to it before it cuts."""

import json
from dataclasses import replace
from functools import cache

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny_tokenizers

from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.boundaries import BOUNDARIES, JoinRule, white_space_in_front, word_starts
from tokenlayer.transfer.dynamic.segment import DynamicBPE

FAMILIES = sorted(tiny_tokenizers.FAMILIES)
HARD = [
    "a\r\nb\r\n\r\nc  d\t e",
    "e\u0301te\u0301 Z\u0351\u036b\u0343 n\u0303o",
    "👩‍👩‍👧‍👦👍🏽 ok🤖 ❤️",
    "no\u00a0break\u3000wide\u200bzero\u2028line",
    "12345 1,234.5 a1b2",
    "well-known, don't (stop)! 'so' --x",
    "日本語テキスト。すべての人間は",
]
texts = st.lists(
    st.one_of(
        st.sampled_from([*tiny_tokenizers.SENTENCES.values(), *HARD]),
        st.text(max_size=20),
        st.text(alphabet="ab1 \n\t\r.-'\u00a0é\u0301日🤖", max_size=40),
    ),
    min_size=1,
    max_size=4,
)


@cache
def tokenizer(family: str) -> LoadedTokenizer:
    return LoadedTokenizer(json.loads(tiny_tokenizers.FAMILIES[family]()))


@cache
def bpe(family: str, boundary: str) -> DynamicBPE:
    return DynamicBPE(tokenizer(family), boundary=boundary, warn=lambda _: None)


@settings(max_examples=40)
@given(texts, st.sampled_from(FAMILIES), st.sampled_from(["pretoken", "word", "word_hyphen"]))
def test_units_never_cross_words(batch, family, boundary):
    cutter = bpe(family, boundary)
    found = cutter.segment(batch * 2, reduction=1.0)
    for text, spans, pieces in zip(batch * 2, found.spans, found.pieces, strict=True):
        for (begin, end), size in zip(spans, pieces, strict=True):
            if size > 1:
                assert not regex.search(r"\S\s", text[begin:end]), text[begin:end]


@settings(max_examples=30)
@given(texts, st.sampled_from(["byte-level", "split-byte-level", "unigram", "wordpiece"]))
def test_pretokens_are_those_of_the_tokenizer(batch, family):
    """Each unit lies in one piece that the pre-tokenizer makes of the whole text."""
    plain = tokenizer(family).backend.encode_batch(batch)
    found = bpe(family, "pretoken").segment(batch, reduction=1.0)
    for one, words, pieces in zip(plain, found.words, found.pieces, strict=True):
        at = 0
        for word, size in zip(words, pieces, strict=True):
            assert set(one.word_ids[at : at + size]) == {word}
            at += size


@settings(max_examples=30)
@given(texts, st.sampled_from(FAMILIES), st.sampled_from(BOUNDARIES))
def test_spans_tile_what_the_plain_spans_tile(batch, family, boundary):
    found = bpe(family, boundary).segment(batch, reduction=1.0)
    for text, one, spans in zip(batch, tokenizer(family).backend.encode_batch(batch), found.spans, strict=True):
        assert covered(spans) >= covered(one.offsets)  # also accents inside a unit, which some normalisers drop
        if family in ("byte-level", "split-byte-level"):
            assert covered(spans) == set(range(len(text)))
        assert sorted(begin for begin, end in spans if end) == [begin for begin, end in spans if end]


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {at for begin, end in spans for at in range(begin, end)}


def test_a_boundary_is_one_of_the_text_not_of_the_joined_string():
    """A pre-tokenizer that takes three digits at a time parts "4567" behind the 6, but would leave "67" whole."""
    loaded = tokenizer("split-byte-level")
    text = "4567 67"
    found = DynamicBPE(loaded).segment([text] * 4, reduction=1.0)
    units = [text[begin:end] for begin, end in found.spans[0]]
    assert units == ["456", "7", " ", "67"]
    assert len(loaded.backend.pre_tokenizer.pre_tokenize_str("67")) == 1


def test_all_merges_give_one_unit_for_each_pretoken():
    text = "quick brownish foxes überall, 1948!"
    found = bpe("byte-level", "pretoken").segment([text], reduction=1.0)
    pieces = [span for _, span in tokenizer("byte-level").backend.pre_tokenizer.pre_tokenize_str(text)]
    assert found.spans[0] == pieces


@pytest.mark.parametrize("family", ["sentencepiece-bpe", "unigram"])
def test_a_space_that_the_normaliser_puts_in_front_parts_nothing(family):
    text = "quick quick"
    found = bpe(family, "word").segment([text] * 3, reduction=1.0)
    assert found.spans[0] == [(0, 5), (5, 11)]
    assert found.rows[0][0] == found.rows[0][1]  # both are " quick"


def test_punctuation_is_its_own_word_for_bert():
    found = bpe("wordpiece", "pretoken").segment(["fox.quick,fox"] * 2, reduction=1.0, specials=False)
    assert found.spans[0] == [(0, 3), (3, 4), (4, 9), (9, 10), (10, 13)]


def test_a_tokenizer_without_pretokenizer_ends_units_at_words_and_says_so():
    said: list[str] = []
    cutter = DynamicBPE(tokenizer("sentencepiece-bpe"), warn=said.append)
    assert cutter.boundary == "word"
    assert said == ["the tokenizer given has no pre-tokenizer that cuts: units end at words instead"]
    found = cutter.segment(["free and equal"], reduction=1.0)
    assert found.spans[0] == [(0, 4), (4, 8), (8, 14)]


def test_a_pretokenizer_that_cuts_nothing_is_none():
    """A split at spaces behind a normaliser that has taken them away."""
    data = json.loads(tiny_tokenizers.sentencepiece_bpe())
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    said: list[str] = []
    assert DynamicBPE(LoadedTokenizer({**data, "pre_tokenizer": split}), warn=said.append).boundary == "word"
    assert len(said) == 1
    split = {**split, "pattern": {"String": "▁"}, "behavior": "MergedWithNext"}
    assert DynamicBPE(LoadedTokenizer({**data, "pre_tokenizer": split}), warn=said.append).boundary == "pretoken"
    assert len(said) == 1


def test_a_token_that_reaches_over_a_boundary_is_not_merged():
    model = {"type": "BPE", "vocab": {c: i for i, c in enumerate(["a", "b", "'", "b'"])}, "merges": ["b '"]}
    loaded = LoadedTokenizer({"model": model, "pre_tokenizer": None, "normalizer": None, "added_tokens": []})
    spans = DynamicBPE(loaded, boundary="word_hyphen").segment(["aab'aa"], reduction=1.0).spans
    assert spans == [[(0, 2), (2, 4), (4, 6)]]
    assert DynamicBPE(loaded, boundary="word").segment(["aab'aa"], reduction=1.0).spans == [[(0, 6)]]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_offsets_that_leave_white_space_out_change_no_unit(boundary):
    """A space alone then has an empty span, also the one that the pre-tokenizer puts in front."""
    data = json.loads(tiny_tokenizers.byte_level())
    data["pre_tokenizer"]["add_prefix_space"] = True
    level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    batch = [*tiny_tokenizers.SENTENCES.values(), *HARD, " a \n b\u3000 c\n", "  ", "x ", "Zq zq"]
    results = []
    for trim in (True, False):
        loaded = LoadedTokenizer({**data, "post_processor": {**level, "trim_offsets": trim}})
        results.append(DynamicBPE(loaded, boundary=boundary).segment(batch, reduction=1.0))
    assert results[0].spans[-1][0] == (0, 2)
    trimmed, plain = ((one.rows, one.new, one.words) for one in results)
    assert trimmed == plain


@pytest.mark.parametrize(
    ("text", "words", "hyphened"),
    [
        (" \n", [" \n"], [" \n"]),
        ("a  b\r\nc ", ["a", "  b", "\r\nc", " "], ["a", "  b", "\r\nc", " "]),
        ("well-known, (don't)", ["well-known,", " (don't)"], ["well-known", ",", " (don", "'t", ")"]),
        ("x-.y", ["x-.y"], ["x-", ".y"]),
        ("--a--b", ["--a--b"], ["--a--b"]),
        ("été«ça»।", ["été«ça»।"], ["été", "«ça", "»।"]),
    ],
)
def test_words(text, words, hyphened):
    for boundary, wanted in (("word", words), ("word_hyphen", hyphened)):
        starts = word_starts(text, boundary)
        assert [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)] == wanted


def test_words_may_take_a_hyphen_and_no_other_sign():
    text = "fox-fox, fox. fox"
    found = bpe("byte-level", "word_hyphen").segment([text] * 3, reduction=1.0)
    assert [text[a:b] for a, b in found.spans[0]] == ["fox-fox", ",", " fox", ".", " fox"]
    found = bpe("byte-level", "word").segment([text] * 3, reduction=1.0)
    assert [text[a:b] for a, b in found.spans[0]] == ["fox-fox,", " fox.", " fox"]


@pytest.mark.parametrize(
    ("data", "may"),
    [
        (b" word", True),
        (b"\nword", True),
        (b"a b", False),
        (b"a\n", False),
        (b"a\r", False),
        (b"  a", False),
        (b"   ", True),
        (b"\r\n", True),
        (b" \n\t", True),
        (b"\n\n", False),
        (b"\xc3\xa4\xe2", True),
        (b"\x80\xff", True),
        (b"\xe2 \x80", False),
    ],
)
def test_white_space_stands_in_front_or_everywhere(data, may):
    assert white_space_in_front(data) is may


def test_broken_characters_may_always_merge():
    found = bpe("byte-level", "pretoken").segment(["すべて人間"], reduction=1.0)
    assert found.lengths == [1]


def test_a_sentence_parts_only_at_white_space():
    text = "fox,fox fox\r\nfox\n\n  fox"
    found = bpe("byte-level", "sentence").segment([text] * 2, reduction=1.0)
    assert [text[a:b] for a, b in found.spans[0]] == ["fox,fox", " fox", "\r\n", "fox", "\n\n ", " fox"]
    assert found.words[0] == [0, 1, 2, 2, 3, 3]


def test_added_tokens_are_not_merged():
    data = json.loads(tiny_tokenizers.byte_level())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    data["added_tokens"].append({"id": 600, "content": "<call>", **flags})
    cutter = DynamicBPE(LoadedTokenizer(data), boundary="sentence")
    found = cutter.segment(["fox<call>fox"] * 3, reduction=1.0)
    assert found.spans[0] == [(0, 3), (3, 9), (9, 12)]
    assert found.rows[0][1] == 600


def test_a_token_of_the_model_is_never_too_long():
    vocab = tokenizer("byte-level").vocab
    token = max(vocab.tokens, key=len)
    assert JoinRule(vocab, 1)(token)
    assert not JoinRule(vocab, 1)(token + b"q")
    assert JoinRule(vocab, 2)(token + b"q")
    misspelled = replace(vocab, speller=lambda many: [[0] * 9 for _ in many])  # its row is copied all the same
    assert JoinRule(misspelled, 2)(token)
