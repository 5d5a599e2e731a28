"""Input rows of units that were predicted before, kept by when they were last needed."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption
from tokenlayer.transfer.dynamic.rows import UnitRows

CAPACITY = 5_000
"""Rows of the paper's decoders; it trains with 10,000."""


class EmbeddingCache:
    """Rows by byte string, at most `capacity` of them; the least recently needed go first.

    What a call asks for is never evicted by it: when that is more than the capacity, the table grows.

    Args:
        rows: makes what is missing, in one call.
        capacity: rows that are kept.
        device: where they are.
        dtype: of them.

    Attributes:
        hits: unique byte strings that were there when they were asked for.
        misses: those that were not.
        evictions: rows that were thrown out.
    """

    def __init__(
        self,
        rows: UnitRows,
        capacity: int = CAPACITY,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise BadOption(f"capacity is {capacity}, expected at least 1 row")
        self.rows, self.capacity = rows, capacity
        self.table = torch.empty(capacity, rows.dim, device=device, dtype=dtype)
        self.hits = self.misses = self.evictions = 0
        self._slots: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, token: bytes) -> bool:
        return token in self._slots

    @property
    def hit_rate(self) -> float:
        """Share of the unique byte strings asked for that were there."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def get_many(self, tokens: Sequence[bytes]) -> Tensor:
        """Rows of some byte strings, shape `(tokens, dim)`; those that are missing are made in one call."""
        asked = list(dict.fromkeys(tokens))
        missing = [token for token in asked if token not in self._slots]
        self.hits += len(asked) - len(missing)
        self.misses += len(missing)
        for token in asked:
            if token in self._slots:
                self._slots.move_to_end(token)
        if missing:
            made = self.rows(missing).rows
            places = [self._place(token, len(asked)) for token in missing]
            self.table[torch.tensor(places, device=self.table.device)] = made.to(self.table)
        at = torch.tensor([self._slots[token] for token in tokens], dtype=torch.int64, device=self.table.device)
        return self.table[at]

    def renew(self, rows: UnitRows) -> None:
        """Takes rows from another source; what was kept of a source with another digest is dropped."""
        if rows.digest != self.rows.digest:
            self._slots.clear()
        self.rows = rows

    def _place(self, token: bytes, needed: int) -> int:
        """A slot for a new byte string: a free one, or that of the one not needed for longest."""
        if needed > len(self.table):
            more = torch.empty(needed - len(self.table), *self.table.shape[1:]).to(self.table)
            self.table = torch.cat([self.table, more])
        if len(self._slots) < len(self.table):
            slot = len(self._slots)
        else:
            _, slot = self._slots.popitem(last=False)
            self.evictions += 1
        self._slots[token] = slot
        return slot
