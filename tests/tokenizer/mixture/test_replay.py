"""Counts of pairs while merges are applied, against counting again each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.mixture.bpe_toys import bpe, recounted, text_of, trained

from tokenlayer.tokenizer.mixture.counting import count_texts, cut_of, model_words
from tokenlayer.tokenizer.mixture.replay import replay
from tokenlayer.tokenizer.mixture.rules import read_rules


@pytest.fixture(scope="module")
def rules():
    return read_rules(trained([text_of("one"), text_of("two")], merges=40))


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("pairs", "pair", "step", "count")
    ) and (one.merges, one.total, one.tokens) == (other.merges, other.total, other.tokens)


def test_every_count_after_every_merge_equals_a_recount(rules):
    tokenizer = trained([text_of("one"), text_of("two")], merges=40)
    cut = cut_of(tokenizer)
    words = model_words(count_texts([text_of("three"), text_of("one")], cut), cut)
    found = replay(words, rules)
    for step in range(0, len(rules) + 1):
        assert found.counts_at(step) == recounted(words, rules, step)


@settings(max_examples=30)
@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=6), st.integers(0, 5))
def test_runs_of_one_letter_and_merges_of_merges(words, swap):
    merges = [["a", "a"], ["aa", "a"], ["b", "aa"], ["b", "b"], ["aa", "aa"], ["aaa", "bb"]]
    merges = merges[swap:] + merges[:swap] if swap in (0, 3) else merges
    rules = read_rules(bpe(["a", "b", "aa", "aaa", "baa", "bb", "aaaa", "aaabb"], merges))
    weighted = {word: n + 1 for n, word in enumerate(words)}
    found = replay(weighted, rules)
    for step in range(len(rules) + 1):
        assert found.counts_at(step) == recounted(weighted, rules, step)


def test_overlapping_pairs_count_twice():
    rules = read_rules(bpe(["a", "aa"], [["a", "a"]]))
    assert replay({"aaa": 5}, rules).counts_at(0) == {(0, 0): 10}
    assert replay({"aaa": 5}, rules).counts_at(1) == {(1, 0): 5}


def test_nothing_merges_across_a_character_without_a_token():
    rules = read_rules(bpe(["a", "b", "ab"], [["a", "b"]]))
    assert replay({"aéb": 3, "ab": 1}, rules).counts_at(0) == {(0, 1): 1}


def test_counts_above_32_bits():
    rules = read_rules(bpe(["a", "b", "ab"], [["a", "b"]]))
    assert replay({"ab": 3_000_000_000}, rules).total == 3_000_000_000


def test_a_merge_whose_parts_are_missing_leaves_an_empty_step():
    rules = read_rules(bpe(["a", "b", "c", "ab", "ac"], [["a", "b"], ["a", "c"]]))
    found = replay({"ac": 2}, rules)
    assert 1 not in found.step
    assert found.counts_at(1) == {(0, 2): 2}
    assert found.counts_at(2) == {}
    assert found.tokens == 2


@pytest.mark.slow
def test_compiled_and_plain_loops_give_the_same(rules):
    pytest.importorskip("numba")
    tokenizer = trained([text_of("one"), text_of("two")], merges=40)
    cut = cut_of(tokenizer)
    words = model_words(count_texts([text_of("two"), "aaaa aaaaaaa aaa"], cut), cut)
    assert same(replay(words, rules, compiled=True), replay(words, rules, compiled=False))


def test_tables_grow(monkeypatch, rules):
    from tokenlayer.tokenizer.mixture import loops

    cut = cut_of(trained([text_of("one")]))
    words = model_words(count_texts([text_of("three")], cut), cut)
    whole = replay(words, rules)
    monkeypatch.setattr(loops, "CHUNK", 2)
    assert same(replay(words, rules), whole)
