"""Cuts of real sentences: what crosses a word boundary, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, write
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.adt.join import Pair
from tokenlayer.tokenizer.adt.mine import try_pair
from tokenlayer.tokenizer.adt.verify import cut_at, forced_ids, hits_trap, mean_interval, wilson


def at(sentence, first, second):
    """Span and boundary of two glued words."""
    start = sentence.index(first + second)
    middle = start + len(first)
    return (start, middle + len(second)), (middle, middle)


def test_a_trap_in_the_vocabulary_that_bpe_does_not_make_is_no_error():
    falls, resists = bpe("stable", "move"), bpe("moves", "stable", "table")
    sentence = "The site #movestable."
    span, gap = at(sentence, "moves", "table")
    assert cut_at(falls, sentence, span, gap).tokens == (b"move", b"stable")
    assert hits_trap(sentence, cut_at(falls, sentence, span, gap), "stable")
    assert cut_at(resists, sentence, span, gap).tokens == (b"moves", b"table")
    assert resists.vocab.find(b"stable") is not None
    assert not cut_at(resists, sentence, span, gap).wrong


def test_neighbours_in_the_sentence_change_the_cut():
    tokenizer = bpe("xmoves", "stable", "move", "table")
    for sentence, wrong in (("movestable", True), ("xmovestable", False)):
        span, gap = at(sentence, "moves", "table")
        assert cut_at(tokenizer, sentence, span, gap).wrong == wrong


def test_a_token_inside_a_character_counts_only_if_it_crosses_the_boundary():
    apart = bpe()  # single bytes: every token is inside a character, none crosses
    sentence = "他说上海关了"
    span, gap = at(sentence, "上", "海关")
    assert not cut_at(apart, sentence, span, gap).wrong
    last, head = "上".encode()[-1:], "海".encode()[:1]
    data = {**apart.data}
    pair = [apart.vocab.names[last[0]], apart.vocab.names[head[0]]]
    data["model"] = {**data["model"], "vocab": data["model"]["vocab"] | {"".join(pair): 256}, "merges": [pair]}
    across = type(apart)(data, where="across")
    cut = cut_at(across, sentence, span, gap)
    assert cut.wrong
    assert last + head in cut.tokens
    assert not hits_trap(sentence, cut, "上海")
    inner = ["海".encode()[:1], "海".encode()[1:2]]
    pair = [apart.vocab.names[b[0]] for b in inner]
    data["model"] = {**data["model"], "vocab": apart.data["model"]["vocab"] | {"".join(pair): 256}, "merges": [pair]}
    assert not cut_at(type(apart)(data, where="inside"), sentence, span, gap).wrong


def test_english_with_spaces_is_immune_and_glued_words_are_not():
    tokenizer = bpe("stable", "move")
    for sentence, second in (("He moves table legs.", 15), ("It's moves-table now.", 0)):
        start = sentence.index("moves")
        gap = (start + 5, start + 6)
        assert not cut_at(tokenizer, sentence, (start, start + 11), gap).wrong, second
    span, gap = at("#movestable", "moves", "table")
    assert cut_at(tokenizer, "#movestable", span, gap).wrong


@pytest.mark.parametrize("normalizer", [{"type": "NFKC"}, {"type": "Lowercase"}])
def test_offsets_lead_back_through_a_normaliser(normalizer):
    tokenizer = bpe("stable", "move", normalizer=normalizer)
    sentence = "Ⅷ ﬁne: ＭｏｖｅｓTable." if normalizer["type"] == "NFKC" else "İİ ÀB: MovesTable."
    first = sentence[sentence.index(":") + 2 :][:5]
    span, gap = at(sentence, first, "Table")
    cut = cut_at(tokenizer, sentence, span, gap)
    assert sentence[slice(*span)] == first + "Table"
    lower = normalizer["type"] == "Lowercase"
    assert cut.wrong == lower  # NFKC keeps capitals, which no merge covers
    assert hits_trap(sentence.lower(), cut, "stable") or not lower or cut.crossing is not None


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_cuts_of_every_family_agree_with_the_offsets_of_the_library(family, tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / family, FAMILIES[family]()))
    sentence = "All human beingsare born freeand equal."
    for first, second in (("beings", "are"), ("free", "and")):
        span, gap = at(sentence, first, second)
        found = tokenizer.backend.encode(sentence, add_special_tokens=False).offsets
        crossing = any(a < gap[0] < b for a, b in found)
        assert cut_at(tokenizer, sentence, span, gap).wrong == crossing


@pytest.mark.parametrize("family", ["byte-level", "split-byte-level", "sentencepiece-bpe", "unigram"])
def test_a_forced_cut_has_the_boundary_and_the_same_bytes(family, tmp_path):
    if family not in FAMILIES:
        pytest.skip(f"no tiny tokenizer of that name: {sorted(FAMILIES)}")
    tokenizer = load_tokenizer(write(tmp_path / family, FAMILIES[family]()))
    sentence = "All human beings are born freeand equal."
    for boundary in range(27, 32):
        ids = forced_ids(tokenizer, sentence, (26, 33), boundary)
        assert ids
        whole = b"".join(tokenizer.token_bytes(ids))
        assert whole.lstrip() == sentence.encode()
        ends, lead, total = set(), len(whole) - len(sentence), 0
        for token in tokenizer.token_bytes(ids):
            total += len(token)
            ends.add(total - lead)
        assert boundary in ends


def test_a_forced_cut_spells_the_words_one_by_one():
    tokenizer = bpe("stable", "move", "moves", "table")
    sentence = "The site #movestable."
    span, gap = at(sentence, "moves", "table")
    assert b"stable" in tokenizer.token_bytes(tokenizer.encode(sentence))
    pieces = tokenizer.token_bytes(forced_ids(tokenizer, sentence, span, gap[0]))
    assert pieces[-3:] == [b"moves", b"table", b"."]
    assert forced_ids(tokenizer, "moves table", (0, 11), 5) == tokenizer.encode("moves table")


def test_tried_pair_says_what_stands_where():
    trap = try_pair(bpe("stable", "move"), Pair("moves", "table", "stable", 1), "See #{pair} now")
    assert trap.sentence[slice(*trap.span)] == "movestable"
    assert trap.sentence[trap.boundary :].startswith("table")
    assert (trap.kind, trap.wrong, trap.hit, trap.gold) == ("tail+whole", True, True, ("moves", "table"))
    assert trap.tokens == ("move", "stable")


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (1, 20, 0.0089, 0.2361)],
)
def test_wilson_intervals_are_those_of_the_tables(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-3)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_the_rate_and_stays_within_0_and_1(n, share):
    hits = round(n * share)
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


def test_no_rate_without_trials():
    with pytest.raises(ValueError, match="0 of 0 is no rate"):
        wilson(0, 0)


def test_mean_interval_is_symmetric_and_of_the_right_width():
    mean, low, high = mean_interval([0.0, 1.0] * 50)
    assert mean == 0.5
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(1.96 * (0.25 / 99) ** 0.5, rel=1e-3)
    assert mean_interval([0.25]) == (0.25, 0.25, 0.25)
