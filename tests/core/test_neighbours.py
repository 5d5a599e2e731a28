"""Exact cosine neighbours: equal to a dense float64 search, ties by id, zero rows apart, bounded memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core import neighbours
from tokenlayer.core.errors import BadOption, BadVectors
from tokenlayer.core.neighbours import distinct_rows, nearest, unit_rows


def dense(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in float64, zero rows left out, sorted by (-cosine, id)."""
    ids, cosines = np.full((len(queries), k), -1), np.zeros((len(queries), k))
    alive = [j for j in range(len(keys)) if keys[j].any()]
    for i, query in enumerate(queries):
        if query.any():
            unit = query / np.linalg.norm(query)
            every = {j: round(float(unit @ (keys[j] / np.linalg.norm(keys[j]))), 9) for j in alive}
            best = sorted(every, key=lambda j: (-every[j], j))[:k]
            ids[i, : len(best)], cosines[i, : len(best)] = best, [every[j] for j in best]
    return ids, cosines


def table(rows: int, dim: int, seed: int, kind: str = "normal") -> torch.Tensor:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(rows, dim)) if kind == "normal" else draw.integers(-1, 2, size=(rows, dim))
    return torch.from_numpy(values.astype(np.float32))


def check(queries: torch.Tensor, keys: torch.Tensor, k: int, **how: int) -> None:
    found = nearest(queries, keys, k, **how)
    ids, cosines = dense(queries.double().numpy(), keys.double().numpy(), k)
    np.testing.assert_allclose(found.cosines.numpy(), cosines, atol=1e-6)
    np.testing.assert_array_equal(found.ids.numpy(), ids)


@pytest.mark.parametrize("tile_bytes", [4, 4_000, 64 << 20])
def test_equals_a_dense_search_whatever_the_tile(tile_bytes):
    check(table(200, 16, 0), table(300, 16, 1), 10, tile_bytes=tile_bytes)


@pytest.mark.parametrize("tile_bytes", [246_000, 64 << 20])
def test_equals_a_dense_search_where_groups_of_cosines_are_looked_at_first(tile_bytes):
    keys = table(3003, 24, 1)
    keys[::16] = keys[5] + 0.01 * keys[::16]  # the best of a query lie in one group
    check(torch.cat([table(40, 24, 0), keys[5:6]]), keys, 10, tile_bytes=tile_bytes)


def test_equal_keys_are_searched_once_and_come_in_id_order(monkeypatch):
    keys = table(60, 3, 2, "signs").repeat(5, 1)[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    searched = []
    inner = neighbours._nearest_units
    monkeypatch.setattr(neighbours, "_nearest_units", lambda q, u, *a: searched.append(len(u)) or inner(q, u, *a))
    check(table(50, 3, 3), keys, 12)
    assert set(searched) == {len({tuple(row) for row in keys.tolist() if any(row)})}


def test_distinct_rows_are_named_by_their_first():
    rows = table(5, 4, 7)[[3, 1, 3, 0, 1, 1]]
    first, place = distinct_rows(rows)
    assert (first.tolist(), place.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1, 1])
    assert [len(part) for part in distinct_rows(rows[:0])] == [0, 0]


def test_rows_of_one_hash_are_not_taken_for_one(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **how: torch.zeros(size, dtype=torch.int64))
    rows = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 1.0]])  # the hash is now the sum of the bits
    first, place = distinct_rows(rows)
    assert torch.equal(rows[first[place]], rows)


@st.composite
def sizes(draw):
    keys = draw(st.integers(1, 40))
    return (
        draw(st.integers(0, 12)),
        keys,
        draw(st.integers(1, 4)),
        draw(st.integers(1, keys)),
        draw(st.integers(0, 999)),
    )


@given(sizes(), st.sampled_from([4, 200, 1 << 20]))
def test_ties_go_to_the_lower_id_and_zero_rows_take_no_part(case, tile_bytes):
    queries, keys, dim, k, seed = case
    check(table(queries, dim, seed, "signs"), table(keys, dim, seed + 1, "signs"), k, tile_bytes=tile_bytes)


def test_more_equal_keys_than_spare_candidates_still_come_in_id_order():
    keys = table(4, 8, 0).repeat(100, 1)
    found = nearest(keys[1:2], keys, 30, tile_bytes=4 * 64)
    assert found.ids[0].tolist() == [1 + 4 * n for n in range(30)]


def test_zero_rows_have_no_neighbours_and_are_nobodys():
    keys = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    found = nearest(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), keys, 3)
    assert found.ids.tolist() == [[-1, -1, -1], [1, -1, -1]]
    assert found.cosines.tolist() == [[0, 0, 0], [-1, 0, 0]]
    assert (nearest(keys, torch.zeros(2, 2), 1).ids == -1).all()


def test_length_does_not_matter_but_a_tiny_row_is_no_zero_row():
    keys = table(50, 8, 3)
    scaled = keys * torch.logspace(-3, 6, 50)[:, None]
    assert torch.equal(nearest(keys, scaled, 5).ids, nearest(keys, keys, 5).ids)
    assert nearest(torch.full((1, 8), 1e-20), keys, 1).ids.item() >= 0


def test_half_precision_is_widened():
    keys = table(20, 4, 5).bfloat16()
    assert nearest(keys, keys, 1).cosines.allclose(torch.ones(20, 1))


def test_float32_errs_far_less_than_what_counts_as_too_close():
    units = unit_rows(table(500, 1000, 6))
    error = (units @ units.T).double() - units.double() @ units.double().T
    assert error.abs().max() * 10 < neighbours._TOO_CLOSE


@pytest.mark.parametrize(
    ("queries", "keys", "k", "error", "said"),
    [
        ((2, 3), (4, 5), 1, BadVectors, "queries have 3 dimensions, keys have 5"),
        ((2, 3), (4, 3), 5, BadOption, "k is 5, expected 1 to 4, the number of vectors to choose from"),
        ((2, 3), (4, 3), 0, BadOption, "k is 0, expected 1 to 4"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, keys, k, error, said):
    with pytest.raises(error, match=said):
        nearest(torch.ones(queries), torch.ones(keys), k)


def test_numbers_that_are_none_are_refused_with_their_row():
    keys = torch.ones(3, 2)
    keys[2, 1] = float("nan")
    with pytest.raises(BadVectors, match="key 2 has an entry that is not a finite number"):
        nearest(torch.ones(1, 2), keys, 1)
    with pytest.raises(BadOption, match="tile_bytes is 0, expected at least 1"):
        nearest(torch.ones(1, 2), torch.ones(1, 2), 1, tile_bytes=0)
