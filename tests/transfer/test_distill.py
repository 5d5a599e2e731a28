"""Spans that two cuts share, and the divergence on them, against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption
from tokenlayer.core.spans import Spans, align
from tokenlayer.transfer.distill import span_divergence, span_numbers, span_sums, vector_distance


@st.composite
def two_cuts(draw):
    total = draw(st.integers(1, 12))
    cut = st.sets(st.integers(1, total), max_size=8).map(lambda ends: sorted(ends | {total}))
    return draw(cut), draw(cut)


@given(two_cuts())
def test_spans_are_the_smallest_groups_that_both_cuts_have(case):
    one, other = case
    mine, theirs, count = span_numbers(np.array(one), np.array(other))
    groups = align(Spans(tuple(one)), Spans(tuple(other)))
    assert count == len(groups)
    for span, (some, others) in enumerate(groups):
        assert [int(mine[i]) for i in some] == [span] * len(some)
        assert [int(theirs[i]) for i in others] == [span] * len(others)


def test_tokens_after_the_last_shared_boundary_have_no_span():
    mine, theirs, count = span_numbers(np.array([2, 5, 9]), np.array([2, 6]))
    assert (mine.tolist(), theirs.tolist(), count) == ([0, -1, -1], [0, -1], 1)
    sums = span_sums(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor(mine), count)
    assert sums.tolist() == [-1.0]


def coins(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = math.exp(t / temperature), math.exp(s / temperature)
        total += temperature * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return total


logprobs = st.lists(st.tuples(st.floats(-30, -0.01), st.floats(-30, -0.01)), min_size=1, max_size=6)


@given(logprobs, st.sampled_from([1.0, 5.0, 100.0]))
def test_divergence_is_that_of_two_coins_a_span(pairs, temperature):
    student, teacher = zip(*pairs, strict=True)
    found = span_divergence(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(found) == pytest.approx(coins(student, teacher, temperature), rel=1e-3, abs=2e-4)
    assert float(found) >= -1e-4


def test_divergence_is_zero_with_a_zero_gradient_where_both_agree():
    same = torch.tensor([-3.0, -0.5, -20.0], requires_grad=True)
    found = span_divergence(same, same.detach(), 100.0)
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-5)
    assert same.grad.abs().max() < 1e-5


def test_a_long_span_counts_by_the_ratio_of_surprisals():
    """At a large temperature: t log(t / s) - t + s."""
    s, t = 40.0, 10.0
    found = float(span_divergence(torch.tensor([-s]), torch.tensor([-t]), 1e4))
    assert found == pytest.approx(t * math.log(t / s) - t + s, rel=1e-2)


def test_certain_spans_stay_finite():
    one = torch.tensor([0.0, -1e-9, -5.0], requires_grad=True)
    found = span_divergence(one, torch.tensor([-2.0, 0.0, 0.0]), 100.0)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(one.grad).all()


def test_temperature_must_be_positive():
    with pytest.raises(BadOption, match="temperature is 0, expected above 0"):
        span_divergence(torch.tensor([-1.0]), torch.tensor([-1.0]), 0.0)


def test_vector_distance_is_a_share_of_the_teachers_length():
    student, teacher = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 3.0], [3.0, 4.0]])
    assert float(vector_distance(student, teacher)) == pytest.approx(4 / 10 + 1)
