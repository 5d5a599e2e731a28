"""Merges of the most frequent neighbours in counted runs of tokens, without counting again.

Equal runs of a batch are merged equally, so each distinct one is held once, with its number of occurrences, in the
order of first occurrence: the first place of a pair here is its first place in the batch. The tokens of all runs lie
side by side in linked lists. The queue holds for each pair at least one entry that is not worse than the truth; an
entry is put right when it comes to the front. After each merge it takes in the pairs that gained a place.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from tokenlayer.core.vocab import ByteVocab

Pair = tuple[int, int]


class MergePool:
    """Distinct runs of tokens, merged together.

    Args:
        vocab: the model's own tokens.
        valid: whether some bytes may be one unit.

    Attributes:
        made: the merges so far, as bytes.
        removed: tokens that the batch has lost after 0, 1, 2, ... merges.
    """

    def __init__(self, vocab: ByteVocab, valid: Callable[[bytes], bool]) -> None:
        self.made: list[tuple[bytes, bytes]] = []
        self.removed = [0]
        self._vocab, self._valid = vocab, valid
        self._start: dict[tuple[int, ...], int] = {}
        self._times: dict[tuple[int, ...], int] = {}
        self._unit: list[int] = []
        self._left: list[int] = []
        self._right: list[int] = []
        self._weight: list[int] = []
        self._absorbed: list[int] = []
        self._count: dict[Pair, int] = {}
        self._places: dict[Pair, list[int]] = {}
        self._bytes: dict[int, bytes] = {}
        self._number: dict[bytes, int] = {}

    def add(self, ids: Sequence[int]) -> int:
        """Takes a run of token ids in; returns the place of its first token. Runs come in reading order."""
        key = tuple(ids)
        start = self._start.get(key)
        if start is None:
            start = self._start[key] = len(self._unit)
            end = start + len(key)
            self._unit += [self._number_of(self._vocab.tokens[i]) for i in key]
            self._left += [-1, *range(start, end - 1)]
            self._right += [*range(start + 1, end), -1]
        self._times[key] = self._times.get(key, 0) + 1
        return start

    def merge_frequent(self, most: int | None) -> None:
        """Merges the most frequent valid pair, of several the first in reading order, again and again.

        Args:
            most: merges at most; None: until no valid pair is left.
        """
        self._index()
        count, places = self._count, self._places
        queue = [(-n, places[pair][0], pair) for pair, n in count.items()]
        heapify(queue)
        while most is None or len(self.made) < most:
            pair = self._best(queue)
            if pair is None:
                return
            for gained in self._merge(pair):
                heappush(queue, (-count[gained], self._first(gained), gained))

    def merge_listed(self, rules: Sequence[tuple[bytes, bytes]]) -> None:
        """Makes given merges one after the other, each everywhere; those that find no valid place are passed over."""
        self._index()
        for left, right in rules:
            pair = self._number.get(left, -1), self._number.get(right, -1)
            if self._count.get(pair) and self._valid(left + right):
                self._merge(pair)

    def units(self, start: int, size: int, merges: int) -> list[Pair]:
        """The units of the run at a place as `(first, end)` in the run, after that many of the merges."""
        absorbed = self._absorbed[start : start + size]
        firsts = [at for at, when in enumerate(absorbed) if not 0 < when <= merges]
        return list(zip(firsts, [*firsts[1:], size], strict=True))

    def _number_of(self, data: bytes) -> int:
        """A number for bytes, own token or not; two own tokens with the same bytes have one."""
        number = self._number.get(data)
        if number is None:
            number = self._number[data] = len(self._number)
            self._bytes[number] = data
        return number

    def _index(self) -> None:
        """Counts all pairs; the places of each ascend."""
        for ids, times in self._times.items():
            self._weight += [times] * len(ids)
        self._absorbed = [0] * len(self._unit)
        unit, weight = self._unit, self._weight
        for place, right in enumerate(self._right):
            if right >= 0:
                pair = unit[place], unit[right]
                self._count[pair] = self._count.get(pair, 0) + weight[place]
                self._places.setdefault(pair, []).append(place)

    def _best(self, queue: list[tuple[int, int, Pair]]) -> Pair | None:
        """The next pair to merge; entries that were too good are put right on the way."""
        while queue:
            less, first, pair = queue[0]
            count = self._count.get(pair, 0)
            if not count or not self._valid(self._bytes[pair[0]] + self._bytes[pair[1]]):
                heappop(queue)
                continue
            truth = (-count, self._first(pair), pair)
            if truth == (less, first, pair):
                heappop(queue)
                return pair
            heapreplace(queue, truth)
        return None

    def _first(self, pair: Pair) -> int:
        """The first place of a pair that has one; places that it lost are dropped."""
        places = self._places[pair]
        while True:
            place = places[0]
            if self._unit[place] == pair[0] and (right := self._right[place]) >= 0 and self._unit[right] == pair[1]:
                return place
            heappop(places)

    def _merge(self, pair: Pair) -> set[Pair]:
        """Merges a pair at all its places, left to right; returns the pairs that gained a place."""
        one, two = pair
        data = self._bytes[one], self._bytes[two]
        new = self._number_of(data[0] + data[1])
        self.made.append(data)
        now, lost = len(self.made), self.removed[-1]
        unit, lefts, rights, weights = self._unit, self._left, self._right, self._weight
        gained: set[Pair] = set()
        for place in sorted(self._places.pop(pair)):
            middle = rights[place]
            if unit[place] != one or middle < 0 or unit[middle] != two:
                continue
            left, right, weight = lefts[place], rights[middle], weights[place]
            unit[place], unit[middle] = new, -1
            self._absorbed[middle] = now
            lost += weight
            rights[place] = right
            if left >= 0:
                self._count[unit[left], one] -= weight
                gained.add(self._gain((unit[left], new), left, weight))
            if right >= 0:
                lefts[right] = place
                self._count[two, unit[right]] -= weight
                gained.add(self._gain((new, unit[right]), place, weight))
        del self._count[pair]
        self.removed.append(lost)
        return {gain for gain in gained if self._count[gain]}

    def _gain(self, pair: Pair, place: int, weight: int) -> Pair:
        self._count[pair] = self._count.get(pair, 0) + weight
        heappush(self._places.setdefault(pair, []), place)
        return pair
