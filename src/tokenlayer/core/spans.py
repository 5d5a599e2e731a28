"""Cuts of one byte string (tokens, words, patches) and how two cuts of it line up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spans:
    """Consecutive pieces of a byte string, given by their ends.

    Attributes:
        ends: ascending (not strictly: a piece may be empty) byte offsets; piece `i` is
            `ends[i-1]:ends[i]`, and the first piece starts at 0.
    """

    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        previous = 0
        for end in self.ends:
            if end < previous:
                raise ValueError(f"span ends must not descend: {end} after {previous}")
            previous = end

    @staticmethod
    def from_pieces(pieces: Iterable[bytes]) -> "Spans":
        """Spans of the concatenation of `pieces`."""
        return Spans(tuple(np.cumsum([len(p) for p in pieces], dtype=np.int64).tolist()))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def total(self) -> int:
        """Number of bytes covered."""
        return self.ends[-1] if self.ends else 0

    @property
    def starts(self) -> tuple[int, ...]:
        """Start of each piece."""
        return (0, *self.ends[:-1]) if self.ends else ()

    def lengths(self) -> tuple[int, ...]:
        """Bytes of each piece."""
        return tuple(end - start for start, end in zip(self.starts, self.ends, strict=True))

    def cut(self, data: bytes) -> list[bytes]:
        """The pieces of `data`, which must be as long as the spans.

        Raises:
            ValueError: another length.
        """
        if len(data) != self.total:
            raise ValueError(f"the spans cover {self.total} bytes, the text has {len(data)}")
        return [data[start:end] for start, end in zip(self.starts, self.ends, strict=True)]


def shared_ends(one: Spans, other: Spans) -> list[int]:
    """Byte offsets where a piece ends in both cuts, ascending, each once."""
    return sorted(set(one.ends) & set(other.ends))


def align(one: Spans, other: Spans) -> list[tuple[range, range]]:
    """The smallest groups of pieces that cover the same bytes in both cuts.

    Args:
        one: a cut of some byte string.
        other: another cut of the same byte string.

    Returns:
        Pairs `(pieces of one, pieces of other)` as index ranges, in text order. Empty pieces belong to
        the group in which they stand first. Every piece is in exactly one pair. O(len(one) + len(other)).

    Raises:
        ValueError: the cuts do not cover the same number of bytes.
    """
    if one.total != other.total:
        raise ValueError(f"two cuts of one text must cover the same bytes: {one.total} and {other.total}")
    groups: list[tuple[range, range]] = []
    i = j = 0
    for end in shared_ends(one, other):
        to_i, to_j = _past(one.ends, i, end), _past(other.ends, j, end)
        groups.append((range(i, to_i), range(j, to_j)))
        i, j = to_i, to_j
    return groups


def _past(ends: Sequence[int], at: int, end: int) -> int:
    while at < len(ends) and ends[at] <= end:
        at += 1
    return at
