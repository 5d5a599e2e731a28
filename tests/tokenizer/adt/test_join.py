"""The join over traps against the double loop over words."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlayer.tokenizer.adt.join import Pair, TrapJoin


def double_loop(words, traps, compounds):
    """All pairs of words, one after the other."""
    found = []
    for one, other in itertools.product(words, words):
        whole, seam = one + other, len(one)
        if whole in compounds:
            continue
        for start, end in itertools.product(range(seam), range(seam + 1, len(whole) + 1)):
            trap = whole[start:end]
            if trap in traps and (traps[trap][0] or start == 0):
                found.append(Pair(one, other, trap, seam - start))
    return sorted(found)


def toy(seed, entries=200, letters="abcd"):
    """A vocabulary of short words, some of which are traps only after a space."""
    draw, found = random.Random(seed), set()
    while len(found) < entries:
        found.add("".join(draw.choices(letters, k=draw.randint(1, 4))))
    texts = sorted(found)
    words = {text: float(draw.randint(0, 9)) for text in texts if len(text) > 1}
    traps = {text: (draw.random() < 0.8, True) for text in texts if len(text) > 1}
    return words, traps, set(texts)


def test_join_of_200_entries_is_the_double_loop():
    words, traps, compounds = toy(0, letters="abcdef")
    assert len(compounds) == 200
    found = sorted(TrapJoin(words, traps, compounds))
    assert found == double_loop(words, traps, compounds)
    assert len(found) > 1000
    assert {pair.kind for pair in found} == {"tail+head", "whole+head", "tail+whole"}


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_join_is_the_double_loop_for_any_vocabulary(seed, entries):
    words, traps, compounds = toy(seed, entries, "ab")
    join = TrapJoin(words, traps, compounds)
    assert sorted(join) == double_loop(words, traps, compounds)
    assert join.size == len(double_loop(words, traps, set()))


def test_best_pairs_come_by_descending_product_and_are_those_of_a_full_sort():
    words, traps, compounds = toy(1, entries=120)
    join = TrapJoin(words, traps, compounds)
    seams = {}
    for pair in join:
        seams.setdefault((pair.trap, pair.cut), []).append(join.score(pair))
    capped = {}
    for pair in join.best(3):
        capped.setdefault((pair.trap, pair.cut), []).append(join.score(pair))
    assert capped == {seam: sorted(scores, reverse=True)[:3] for seam, scores in seams.items()}


def test_every_pair_is_drawn_equally_often():
    words = {"aab": 9.0, "cab": 1.0, "bcc": 5.0, "bda": 1.0, "bbb": 2.0}
    join = TrapJoin(words, {"bb": (True, False), "abb": (True, False)}, set())
    everything = list(join)
    drawn = [join.sample(1, seed)[0] for seed in range(300 * len(everything))]
    assert set(drawn) == set(everything)
    n, p = len(drawn), 1 / len(everything)
    sigma = (n * p * (1 - p)) ** 0.5
    assert all(abs(drawn.count(pair) - n * p) < 4.5 * sigma for pair in everything)
    assert sorted(join.sample(200, 0)) == sorted(everything)
    assert join.sample(5, 3) == join.sample(5, 3)


@pytest.mark.parametrize(
    ("words", "traps"), [({}, {"ab": (True, True)}), ({"ab": 1.0}, {}), ({"xy": 1.0}, {"ab": (True, True)})]
)
def test_join_of_nothing_is_empty(words, traps):
    join = TrapJoin(words, traps, set())
    assert join.size == 0
    assert list(join) == list(join.best(3)) == join.sample(3, 0) == []
