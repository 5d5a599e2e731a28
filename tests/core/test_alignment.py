"""Orthogonal Procrustes against scipy's; direction, weights, warnings; axes that narrow a space; sparsemax."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.alignment import align, principal_axes
from tokenlayer.core.errors import BadVectors
from tokenlayer.core.sparsemax import sparsemax


def rows(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def rotation(dim: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(rows(dim, dim, seed)).Q


def test_equals_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    source, target = rows(80, 10, 0), rows(80, 10, 1)
    expected, _ = linalg.orthogonal_procrustes(source.double().numpy(), target.double().numpy())
    np.testing.assert_allclose(align(source, target).rotation.numpy(), expected, atol=1e-6)


def test_the_source_is_turned_into_the_targets_space_and_not_the_other_way():
    source, turn = rows(60, 8, 0), rotation(8, 1)
    found = align(source, source @ turn)
    torch.testing.assert_close(found.rotation, turn, atol=1e-5, rtol=0)
    assert not torch.allclose(found.rotation, turn.T, atol=0.1)
    assert (found.pairs, found.rank, found.warnings()) == (60, 8, [])


def test_the_rotation_is_orthogonal_however_the_spaces_are_shifted_and_scaled():
    source = rows(60, 8, 0)
    found = align(source, 3 * rows(60, 8, 1) + 5).rotation
    torch.testing.assert_close(found @ found.T, torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(align(source, 7 * source).rotation, torch.eye(8), atol=1e-5, rtol=0)


def test_nothing_is_centred():
    source, target = rows(60, 4, 0) + 2, rows(60, 4, 1) + torch.tensor([2.0, -2, 2, -2])
    centred = align(source - source.mean(0), target - target.mean(0)).rotation
    assert not torch.allclose(align(source, target).rotation, centred, atol=0.1)


def test_a_pair_that_counts_twice_is_a_pair_that_is_there_twice():
    source, target = rows(9, 5, 0), rows(9, 5, 1)
    times = torch.tensor([1, 2, 3, 1, 1, 1, 1, 1, 4])
    repeated = align(source.repeat_interleave(times, 0), target.repeat_interleave(times, 0))
    torch.testing.assert_close(align(source, target, times).rotation, repeated.rotation, atol=1e-5, rtol=0)


def test_few_pairs_and_a_low_rank_are_warned_about_with_their_numbers():
    said = align(rows(12, 20, 0), rows(12, 20, 1)).warnings("from 12 of 900 dictionary pairs")
    assert said == [
        "the spaces are aligned by only 12 word pairs from 12 of 900 dictionary pairs, expected at least 50",
        "12 word pairs from 12 of 900 dictionary pairs determine 12 of 20 dimensions; the others are turned "
        "arbitrarily",
    ]
    assert len(align(rows(49, 4, 0), rows(49, 4, 1)).warnings()) == 1
    assert align(rows(50, 4, 0), rows(50, 4, 1)).warnings() == []


def test_no_pair_is_an_error():
    with pytest.raises(BadVectors, match="no word pair has a vector on both sides") as caught:
        align(torch.zeros(0, 3), torch.zeros(0, 3))
    assert "swap it" in caught.value.hint


def test_principal_axes_keep_most_of_the_spread_and_do_not_shift():
    table = rows(500, 3, 0) @ rows(3, 6, 1) + 0.01 * rows(500, 6, 2)
    axes = principal_axes(table, 3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3), atol=1e-5, rtol=0)
    assert (table @ axes @ axes.T - table).norm() < 0.01 * table.norm()
    assert not (torch.zeros(1, 6) @ axes).any()
    torch.testing.assert_close(principal_axes(table.flip(0), 3), axes, atol=1e-4, rtol=0)


def slow_sparsemax(scores: np.ndarray) -> np.ndarray:
    """Tries every size of the support: the largest one whose threshold lies below its smallest score."""
    best = np.sort(scores)[::-1]
    for size in range(len(best), 0, -1):
        threshold = (best[:size].sum() - 1) / size
        if best[size - 1] > threshold:
            return np.maximum(scores - threshold, 0)
    raise AssertionError


@given(st.integers(1, 6), st.integers(1, 400), st.sampled_from([0.001, 0.1, 1.0, 10.0]), st.integers(0, 999))
def test_sparsemax_equals_trying_every_support(count, width, scale, seed):
    scores = rows(count, width, seed) * scale
    found = sparsemax(scores).numpy()
    np.testing.assert_allclose(found, [slow_sparsemax(r.astype(np.float64)) for r in scores.numpy()], atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_sparsemax_of_equal_scores_is_uniform_and_of_one_winner_is_one():
    assert sparsemax(torch.zeros(1, 300)).unique().tolist() == pytest.approx([1 / 300])
    assert sparsemax(torch.tensor([[5.0, 4.0, 0.0]])).tolist() == [[1, 0, 0]]
