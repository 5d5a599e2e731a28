"""Pieces of a type: counts, the BPE of a word against a plain one, marks by place, selection by probability."""

import math
import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.transfer.typed_pieces import (
    TypedPiecesConfig,
    count_ngrams,
    cut_word,
    delta_curve,
    knowledge_bpe,
    segment,
    select,
    syllables,
    typed_pieces,
)

DRUGS = [
    *("aspirin", "warfarin", "heparin", "insulin", "metformin", "penicillin", "amoxicillin", "ampicillin"),
    *("atenolol", "metoprolol", "propranolol", "bisoprolol", "paroxetine", "fluoxetine", "duloxetine"),
    *("atorvastatin", "simvastatin", "rosuvastatin", "β-blocker", "5-HT agonist", "vitamin B12", "sodium chloride"),
]
LETTERS = st.text("abc", min_size=1, max_size=7)


def naive_bpe(word, counts, merges, mark):
    """Transcription: spaced strings in a dictionary, a regular expression for each merge."""
    corpus = {}
    for size in range(1, len(word) + 1):
        for start in range(len(word) - size + 1):
            gram = word[start : start + size]
            corpus[" ".join(gram) + mark] = counts.get(gram, 1)
    found = set()
    for _ in range(merges):
        pairs = {}
        for spaced, n in corpus.items():
            symbols = spaced.split(" ")
            for pair in pairwise(symbols):
                pairs[pair] = pairs.get(pair, 0) + n
        if not pairs or max(pairs.values()) < 2:
            break
        best = next(pair for pair in pairs if pairs[pair] == max(pairs.values()))
        pattern = re.compile(r"(?<!\S)" + re.escape(" ".join(best)) + r"(?!\S)")
        corpus = {pattern.sub(lambda _: "".join(best), spaced): n for spaced, n in corpus.items()}  # noqa: B023
        found.add("".join(best).removesuffix(mark) if mark else "".join(best))
    return found


def two_hundred_words():
    pick = random.Random(5)
    parts = ["cillin", "statin", "prolol", "ox", "a", "me", "tine", "β-", "aa", "12", "mab", "ur", "nib"]
    return sorted({"".join(pick.choices(parts, k=pick.randint(1, 4))) for _ in range(320)})[:200]


@pytest.mark.parametrize("compat", [False, True])
def test_the_bpe_of_a_word_equals_a_naive_transcription_on_200_words(compat):
    words = two_hundred_words()
    assert len(words) == 200
    counts = count_ngrams(Counter(words), tails=compat)
    for word in words:
        assert knowledge_bpe(word, counts, 20, end_marks=compat) == naive_bpe(word, counts, 20, "</w>" * compat), word


@given(st.lists(LETTERS, min_size=1, max_size=5), st.integers(1, 6), st.booleans())
def test_the_bpe_of_any_word_equals_the_naive_one(words, merges, compat):
    counts = count_ngrams(Counter(words), tails=compat)
    for word in words:
        assert knowledge_bpe(word, counts, merges, end_marks=compat) == naive_bpe(word, counts, merges, "</w>" * compat)


def test_ngrams_are_counted_at_all_places_without_marks_and_suffixes_only_once():
    assert count_ngrams({"aba": 2, "b": 1}) == {"a": 4, "ab": 2, "aba": 2, "b": 3, "ba": 2}


@given(st.lists(LETTERS, min_size=1, max_size=4))
def test_the_released_count_of_tails_is_reproduced(words):
    plain = Counter(w[i : i + n] for w in words for n in range(1, len(w) + 1) for i in range(len(w)))
    assert count_ngrams(Counter(words), tails=True) == plain
    once = Counter(w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1))
    assert count_ngrams(Counter(words)) == once


def test_a_hand_case():
    """In abab: ab 2 times alone and in every longer n-gram."""
    counts = count_ngrams({"abab": 1, "abc": 3})
    assert counts["ab"] == 5
    merged = knowledge_bpe("abab", counts, 20)
    assert "ab" in merged
    assert segment("abab", {"ab", "aba"}, 5) == ["aba", "b"]
    assert segment("abab", {"ab", "aba"}, 2) == ["ab", "ab"]
    assert knowledge_bpe("xy", {}, 20) == set()  # its only pair counts 1


@pytest.mark.parametrize(
    ("piece", "parts"),
    [("pneumo", "pneu mo"), ("aspirin", "asp ir in"), ("rhythm", "rhy t h m"), ("tst", "t s t"), ("5-ht", "5 - h t")],
)
def test_syllables_by_ordered_patterns(piece, parts):
    assert syllables(piece) == parts.split()


@given(st.text(max_size=12))
def test_syllables_make_up_the_piece_again(piece):
    assert "".join(syllables(piece)) == piece


@pytest.mark.parametrize("on", [True, False])
def test_pieces_of_a_word_make_up_the_word_and_only_the_first_is_cut_into_syllables(on):
    config = TypedPiecesConfig(syllables=on)
    counts = count_ngrams(Counter(word for term in DRUGS for word in term.lower().split()))
    for term in DRUGS:
        for word in term.lower().split():
            pieces = cut_word(word, counts, config)
            assert "".join(pieces) == word
            assert max(map(len, pieces)) <= 5
            whole = cut_word(word, counts, TypedPiecesConfig(syllables=False))
            if not on:
                assert pieces == whole
            elif len(whole[0]) >= 4:
                assert pieces == syllables(whole[0]) + whole[1:]


def test_a_piece_is_marked_by_its_place_not_by_its_first_letter():
    """Fault 3 of the released code: a later piece with the word's first letter lost its mark."""
    terms = ["papa", "papapa", "pa"]
    right, wrong = typed_pieces(terms), typed_pieces(terms, TypedPiecesConfig(compat=True))
    assert any(piece.startswith("##p") for piece in right.pieces)
    assert not any(piece.startswith("##p") for piece in wrong.pieces)
    assert all(right.pieces[p] == right.ngrams[p.removeprefix("##")] for p in right.pieces)


def test_digits_greek_and_hyphens_are_kept_and_words_are_lower_case():
    found = typed_pieces(DRUGS)
    assert {"5-ht", "β-blocker", "b12"} <= set(found.words)
    letters = "".join(p.removeprefix("##") for p in found.pieces)
    assert set("β-512") <= set(letters)
    assert letters == letters.lower()


def test_selection_is_by_probability_and_the_released_one_by_alphabet():
    pieces = {"b": 5, "##a": 5, "c": 9, "a": 1}
    assert list(select(pieces, size=3)) == ["c", "b", "##a"]
    assert list(select(pieces, size=2, alphabetical=True)) == ["##a", "a"]
    assert select(pieces, delta=0.2) == {"c": 9, "b": 5, "##a": 5}
    assert select(pieces, delta=0.25) == {"c": 9}
    assert len(select(pieces, size=100)) == 4


def test_the_curve_falls_in_size_and_entropy():
    pieces = {"a": 1, "b": 1, "c": 2}
    rows = delta_curve(pieces, [0.0, 0.3, 0.6])
    assert [row[2] for row in rows] == [3, 1, 0]
    assert rows[0][1] == pytest.approx(1.5 * math.log(2))
    assert rows[1][1] == pytest.approx(0.5 * math.log(2))
    assert [row[0] for row in delta_curve(pieces)] == pytest.approx([0.25 + 1e-6 * n for n in range(1, 11)])


def test_the_released_sets_are_reproduced_on_the_same_terms():
    """A plain run of the released steps: tails, end marks, marks by letter, first come, alphabetical cut."""
    wanted: dict[str, int] = {}
    words = [word for term in DRUGS for word in term.lower().split()]
    counts = Counter(w[i : i + n] for w in words for n in range(1, len(w) + 1) for i in range(len(w)))
    for word in words:
        merged, at, pieces = naive_bpe(word, counts, 20, "</w>"), 0, []
        while at < len(word):
            size = next((n for n in range(5, 1, -1) if word[at : at + n] in merged and at + n <= len(word)), 1)
            pieces.append(word[at : at + size])
            at += size
        if len(pieces[0]) >= 4:
            pieces = syllables(pieces[0]) + pieces[1:]
        for piece in pieces:
            if piece not in wanted:
                wanted[piece if piece[0] == word[0] else "##" + piece] = counts[piece]
    found = typed_pieces(DRUGS, TypedPiecesConfig(compat=True)).pieces
    assert found == wanted
    assert list(select(found, size=10, alphabetical=True)) == sorted(wanted)[:10]
    assert all(piece.startswith("##") for piece in sorted(wanted)[:10])


def test_bad_input_says_what_is_wrong():
    with pytest.raises(BadText, match="0 distinct words, expected at least 2"):
        typed_pieces([" "])
    with pytest.raises(BadText, match="1 distinct words"):
        typed_pieces(["gout", "Gout"])
    with pytest.raises(BadOption, match="merges is 0"):
        TypedPiecesConfig(merges=0)
    with pytest.raises(BadOption, match="size is None and delta is None"):
        select({"a": 1})
    with pytest.raises(BadOption, match="size is 0"):
        select({"a": 1}, size=0)
    with pytest.raises(BadOption, match="delta is 1"):
        select({"a": 1}, delta=1.0)


def test_words_that_are_too_long_are_left_out_and_counted():
    found = typed_pieces(["aspirin gout " + "x" * 101])
    assert found.left_out == 1
    assert found.words == ("aspirin", "gout")
