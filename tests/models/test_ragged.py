"""Rows without padding against plain lists."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import VocabMismatch
from tokenlayer.models.blocks.ragged import Packed, equal_runs

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=6)


def lists(packed):
    starts = packed.starts.tolist()
    return [packed.values[a:b].tolist() for a, b in pairwise(starts)]


@given(ROWS, st.data())
def test_rows_positions_and_owners_are_those_of_the_lists(rows, data):
    packed = Packed.of_lists(rows)
    assert lists(packed) == rows
    assert packed.positions().tolist() == [at for row in rows for at in range(len(row))]
    assert packed.owners().tolist() == [n for n, row in enumerate(rows) for _ in row]
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    assert lists(packed.take(torch.tensor(asked))) == [rows[n] for n in asked]


@given(ROWS)
def test_by_length_is_a_stable_sort(rows):
    packed, order = Packed.of_lists(rows).by_length()
    assert order.tolist() == sorted(range(len(rows)), key=lambda n: len(rows[n]))
    assert lists(packed) == [rows[n] for n in order.tolist()]
    runs = equal_runs(packed.lengths)
    assert [length for rows, length in runs for _ in range(rows)] == packed.lengths.tolist()


def test_rows_must_end_where_the_items_end():
    with pytest.raises(VocabMismatch, match="rows end at item 3, there are 2 items"):
        Packed(torch.tensor([1, 2]), torch.tensor([0, 3]))
