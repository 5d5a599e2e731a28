"""All cuts of a string into tokens: the lattice, and its best paths under scores per token."""

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Lattice = tuple[tuple[tuple[int, int], ...], ...]
"""For each end 1..length the tokens that end there, as (start, token id)."""

Scores = Sequence[float] | NDArray[np.float64]


def lattice(data: bytes, ids: Mapping[bytes, int], longest: int) -> Lattice:
    """Returns every place of every token in a string.

    Args:
        data: the string.
        ids: the tokens.
        longest: bytes of the longest token; time and size grow with length times this.
    """
    size = len(data)
    return tuple(
        tuple((start, i) for start in range(max(0, end - longest), end) if (i := ids.get(data[start:end])) is not None)
        for end in range(1, size + 1)
    )


def k_best(places: Lattice, scores: Scores, k: int) -> list[tuple[float, tuple[int, ...]]]:
    """Returns the `k` cuts with the highest sums of scores, best first (fewer, where there are fewer).

    Viterbi with the `k` best ways to reach each position instead of one. Of equal sums any may be the first.
    """
    ways: list[list[tuple[float, int, int, int]]] = [[(0.0, -1, 0, 0)]]  # sum, token, start, rank at the start
    for ends in places:
        found = [(way[0] + scores[i], i, start, rank) for start, i in ends for rank, way in enumerate(ways[start])]
        ways.append(sorted(found, reverse=True) if len(found) <= k else heapq.nlargest(k, found))
    return [(way[0], _followed(ways, way)) for way in ways[-1]]


def _followed(ways: list[list[tuple[float, int, int, int]]], way: tuple[float, int, int, int]) -> tuple[int, ...]:
    """The tokens of a path, from its last step back to the start."""
    ids = []
    while way[1] >= 0:
        ids.append(way[1])
        way = ways[way[2]][way[3]]
    return tuple(reversed(ids))


def all_cuts(places: Lattice, end: int | None = None) -> Iterator[tuple[int, ...]]:
    """Every cut of a string (of its first `end` bytes); there may be two to the power of its length."""
    end = len(places) if end is None else end
    if end == 0:
        yield ()
        return
    for start, i in places[end - 1]:
        for before in all_cuts(places, start):
            yield (*before, i)
