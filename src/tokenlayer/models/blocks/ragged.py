"""Rows of different lengths without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tokenlayer.core.errors import VocabMismatch


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows one after the other.

    Attributes:
        values: the items of all rows, first dimension `items`.
        starts: int64, shape `(rows + 1,)`: where each row begins; the last is the number of items
            (`cu_seqlens` of attention kernels).
    """

    values: Shaped[Tensor, "items ..."]
    starts: Int[Tensor, " rows_1"]

    @staticmethod
    def of_lists(rows: Sequence[Sequence[int]]) -> "Packed":
        """Packs lists of whole numbers as int64."""
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(starts[-1]))
        return Packed(torch.from_numpy(values), torch.from_numpy(starts))

    def __post_init__(self) -> None:
        if int(self.starts[-1]) != len(self.values):
            raise VocabMismatch(f"rows end at item {int(self.starts[-1])}, there are {len(self.values)} items")

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int[Tensor, " rows"]:
        """Items of each row."""
        return self.starts[1:] - self.starts[:-1]

    def positions(self) -> Int[Tensor, " items"]:
        """The place of each item in its row, from 0."""
        first = torch.repeat_interleave(self.starts[:-1], self.lengths)
        return torch.arange(len(self.values), device=first.device) - first

    def owners(self) -> Int[Tensor, " items"]:
        """The row of each item."""
        rows = torch.arange(len(self), device=self.starts.device)
        return torch.repeat_interleave(rows, self.lengths)

    def take(self, rows: Int[Tensor, " some"]) -> "Packed":
        """Some rows, in the order asked for; a row may be asked for twice."""
        lengths = self.lengths[rows]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.starts[rows] - starts[:-1], lengths)
        return Packed(self.values[torch.arange(len(shift), device=shift.device) + shift], starts)

    def by_length(self) -> tuple["Packed", Int[Tensor, " rows"]]:
        """The rows from short to long (in their order where equal), and which row each was."""
        order = torch.argsort(self.lengths, stable=True)
        return self.take(order), order

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device."""
        return Packed(self.values.to(device), self.starts.to(device))


def equal_runs(lengths: Int[Tensor, " rows"]) -> list[tuple[int, int]]:
    """For lengths in ascending order the pairs (rows, length) of neighbours that are equally long."""
    found, times = torch.unique_consecutive(lengths, return_counts=True)
    return list(zip(times.tolist(), found.tolist(), strict=True))
