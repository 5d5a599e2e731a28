"""Byte-pair merges learned on counted words that are already cut into tokens, fast enough for real corpora.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", ACL 2016: count adjacent pairs, merge
the most frequent one everywhere, repeat. Words lie one after the other in flat arrays with links over what was merged,
so that one merge is a few array operations on the places where its pair occurs.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

_GONE = -1
_SHIFT = 32
"""A pair is one number: left token << 32 | right token."""

Propose = Callable[[int, int], int | None]
"""Pair -> id of the token that it makes, or None where it must not be merged (asked once for each pair)."""


@dataclass(frozen=True)
class Merge:
    """A learned rule.

    Attributes:
        left: token id.
        right: token id.
        made: id of the token that they make.
        count: how often the pair occurred when it was merged.
    """

    left: int
    right: int
    made: int
    count: int


class Words:
    """Words as tokens, with how often each occurs.

    Args:
        words: token ids of each word.
        counts: times of each word.
    """

    def __init__(self, words: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        lengths = np.array([len(word) for word in words], np.int64)
        self.begins = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        self.ids = np.fromiter((i for word in words for i in word), np.int64, total)
        self.times = np.repeat(np.array(counts, np.int64), lengths)
        place = np.arange(total)
        self.after = place + 1
        self.before = place - 1
        self.begins = self.begins[lengths > 0]
        self.ends = np.append(self.begins[1:], total)[: len(self.begins)]
        self.before[self.begins] = _GONE
        self.after[self.ends - 1] = _GONE

    def pairs(self) -> tuple[Int64[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
        """Each adjacent pair as (key, place of its left token)."""
        left = np.flatnonzero((self.ids != _GONE) & (self.after != _GONE))
        return (self.ids[left] << _SHIFT) | self.ids[self.after[left]], left

    def merge(self, left: int, right: int, made: int, places: Int64[np.ndarray, " places"]) -> "_Changes":
        """Replaces a pair at those of `places` where it still stands, from left to right."""
        first = self._standing(left, right, np.sort(places))
        second = self.after[first]
        beyond, ahead = self.after[second], self.before[first]
        closes = np.zeros(len(first), bool)  # the pair right before this one is merged too
        if len(first) > 1:
            closes[1:] = ahead[1:] == second[:-1]
        has_ahead, has_beyond = (ahead != _GONE) & ~closes, beyond != _GONE
        lost = (self.ids[ahead[has_ahead]] << _SHIFT) | left, (np.int64(right) << _SHIFT) | self.ids[beyond[has_beyond]]
        times = self.times[first[has_ahead]], self.times[first[has_beyond]]
        self.ids[first], self.ids[second] = made, _GONE
        self.after[first] = beyond
        self.before[beyond[has_beyond]] = first[has_beyond]
        ahead = self.before[first]
        place = np.concatenate([ahead[has_ahead], first[has_beyond]])
        keys = (self.ids[place] << _SHIFT) | self.ids[self.after[place]]
        return _Changes(np.concatenate(lost), np.concatenate(times), keys, place)

    def _standing(self, left: int, right: int, places: np.ndarray) -> np.ndarray:
        """Places where the pair stands; of overlapping ones (`aaa`) every other from the left."""
        there: np.ndarray = places[self.ids[places] == left]
        after = self.after[there]
        there = there[(after != _GONE) & (self.ids[after] == right)]
        if left != right or len(there) < 2:
            return there
        starts = np.append(True, self.after[there[:-1]] != there[1:])
        run = np.arange(len(there)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
        there = there[run % 2 == 0]
        return there

    def tokens(self) -> list[list[int]]:
        """The words as they are cut now, without empty ones."""
        return [[i for i in self.ids[a:b].tolist() if i != _GONE] for a, b in zip(self.begins, self.ends, strict=True)]

    def total(self) -> int:
        """Tokens of all words, each as often as it occurs."""
        return int(self.times[self.ids != _GONE].sum())

    def uses(self, size: int) -> Int64[np.ndarray, " vocab"]:
        """How often each token occurs."""
        there = self.ids != _GONE
        return np.bincount(self.ids[there], self.times[there], minlength=size).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Changes:
    """What a merge did: pairs that are gone with their times, and new pairs with their places."""

    lost: np.ndarray
    lost_times: np.ndarray
    new: np.ndarray
    new_places: np.ndarray


def learn_merges(words: Words, propose: Propose, min_count: int = 2) -> Iterator[Merge]:
    """Yields merges, most frequent pair first, of equals the one with the lower ids; stop when you have enough.

    A pair that is new after a merge holds the token that was made, so its count can only fall from then on: the heap
    is corrected when a pair comes up.

    Args:
        words: changed in place.
        propose: see `Propose`.
        min_count: pairs below it are never merged.
    """
    counts: dict[int, int] = {}
    places: dict[int, np.ndarray] = {}
    heap: list[tuple[int, int]] = []

    def add(keys: np.ndarray, at: np.ndarray) -> None:
        for key, count, some in _grouped(keys, at, words.times):
            if count >= min_count:
                counts[key], places[key] = count, some
                heapq.heappush(heap, (-count, key))

    add(*words.pairs())
    while heap:
        said, key = heapq.heappop(heap)
        count = counts.get(key, 0)
        if count != -said:
            if count >= min_count:
                heapq.heappush(heap, (-count, key))
            continue
        left, right = key >> _SHIFT, key & ((1 << _SHIFT) - 1)
        made = propose(left, right)
        here = places.pop(key)
        del counts[key]
        if made is None:
            continue
        changes = words.merge(left, right, made, here)
        for gone, times in _summed(changes.lost, changes.lost_times):
            if gone in counts:
                counts[gone] -= times
        add(changes.new, changes.new_places)
        yield Merge(left, right, made, count)


def _grouped(keys: np.ndarray, places: np.ndarray, times: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(key, summed times, places) of each distinct key."""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    bounds = np.append(np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)]), len(keys))
    sums = np.add.reduceat(times[places], bounds[:-1]) if len(keys) else np.zeros(0, np.int64)
    ends = bounds.tolist()
    for n, (key, count) in enumerate(zip(keys[bounds[:-1]].tolist(), sums.tolist(), strict=True)):
        yield key, count, places[ends[n] : ends[n + 1]]


def _summed(keys: np.ndarray, times: np.ndarray) -> Iterator[tuple[int, int]]:
    distinct, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, inverse, times)
    return zip(distinct.tolist(), sums.tolist(), strict=True)
