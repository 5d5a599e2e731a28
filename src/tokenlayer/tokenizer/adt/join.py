"""All pairs of words whose seam hides a vocabulary entry, without trying all pairs.

For a trap `t` and an inner cut `k` the pairs are {words that end with `t[:k]`} x {words that start with `t[k:]`}: two
look-ups, and the product is the answer. The cost is that of the output, not the square of the lexicon.
"""

import bisect
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokenlayer.core.seeds import numpy_generator


class Pair(NamedTuple):
    """Two words, the trap across their seam, and how many of its characters lie before the seam."""

    first: str
    second: str
    trap: str
    cut: int

    @property
    def kind(self) -> str:
        """`"tail+head"`, or with `whole` for a word that lies within the trap altogether."""
        left = "whole" if self.cut == len(self.first) else "tail"
        return f"{left}+{'whole' if len(self.trap) - self.cut == len(self.second) else 'head'}"


class TrapJoin:
    """The pairs of a lexicon for a list of traps.

    Args:
        words: word -> frequency (at least 0).
        traps: text -> (may stand anywhere, may stand after a space only). The second kind can only hide at the start
            of the first word.
        compounds: glued pairs that are words of their own, and so no traps.
    """

    def __init__(
        self, words: Mapping[str, float], traps: Mapping[str, tuple[bool, bool]], compounds: frozenset[str] | set[str]
    ) -> None:
        ranked = sorted(words, key=lambda w: (-words[w], w))
        self._words, self._compounds = words, compounds
        longest = max(map(len, traps), default=0)
        self._ending, self._starting = _index(ranked, longest)
        self._seams = [seam for trap, forms in sorted(traps.items()) for seam in self._seams_of(trap, forms)]
        sizes = [len(firsts) * len(seconds) for _, _, firsts, seconds in self._seams]
        self._ends = list(itertools.accumulate(sizes))

    @property
    def size(self) -> int:
        """Pairs before compounds are left out, counted without listing them."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Pair]:
        """Yields every pair, each as often as it hides a trap."""
        for trap, cut, firsts, seconds in self._seams:
            for one, other in itertools.product(firsts, seconds):
                if self._is_trap(one, other):
                    yield Pair(one, other, trap, cut)

    def best(self, per_seam: int) -> Iterator[Pair]:
        """Yields for each trap and cut the pairs with the largest product of frequencies, at most `per_seam`."""
        for trap, cut, firsts, seconds in self._seams:
            found = (p for p in self._ordered(firsts, seconds) if self._is_trap(*p))
            for one, other in itertools.islice(found, per_seam):
                yield Pair(one, other, trap, cut)

    def sample(self, n: int, seed: int) -> list[Pair]:
        """Draws `n` pairs, each pair of the join as likely as any other; repeats and compounds are drawn anew.

        Fewer come back where the join is small.
        """
        draw, found, tries = numpy_generator(seed, "traps"), dict[Pair, None](), 0
        while self.size and len(found) < n and tries < 20 * n:
            for at in draw.integers(0, self.size, size=min(n, 20 * n - tries)).tolist():
                tries += 1
                pair = self._at(at)
                if len(found) < n and self._is_trap(pair.first, pair.second):
                    found[pair] = None
        return list(found)

    def score(self, pair: Pair) -> float:
        """Product of the two frequencies: larger is more plausible."""
        return self._words[pair.first] * self._words[pair.second]

    def _seams_of(self, trap: str, forms: tuple[bool, bool]) -> Iterator[tuple[str, int, list[str], list[str]]]:
        anywhere, _ = forms
        for cut in range(1, len(trap)):
            firsts, seconds = self._ending.get(trap[:cut], []), self._starting.get(trap[cut:], [])
            if not anywhere:
                firsts = [trap[:cut]] if trap[:cut] in self._words else []
            if firsts and seconds:
                yield trap, cut, firsts, seconds

    def _is_trap(self, one: str, other: str) -> bool:
        return one + other not in self._compounds

    def _at(self, number: int) -> Pair:
        seam = bisect.bisect_right(self._ends, number)
        trap, cut, firsts, seconds = self._seams[seam]
        inner = number - (self._ends[seam - 1] if seam else 0)
        return Pair(firsts[inner // len(seconds)], seconds[inner % len(seconds)], trap, cut)

    def _ordered(self, firsts: Sequence[str], seconds: Sequence[str]) -> Iterator[tuple[str, str]]:
        """All pairs of two lists in order of frequency, by descending product, without sorting them all."""
        left = np.array([self._words[w] for w in firsts])
        right = np.array([self._words[w] for w in seconds])
        heap = [(-left[0] * right[0], 0, 0)]
        while heap:
            _, i, j = heapq.heappop(heap)
            yield firsts[i], seconds[j]
            if j + 1 < len(seconds):
                heapq.heappush(heap, (-left[i] * right[j + 1], i, j + 1))
            if j == 0 and i + 1 < len(firsts):
                heapq.heappush(heap, (-left[i + 1] * right[0], i + 1, 0))


def _index(ranked: Sequence[str], longest: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Words by what they end with and by what they start with, up to the length of the longest trap."""
    ending: dict[str, list[str]] = {}
    starting: dict[str, list[str]] = {}
    for word in ranked:
        for n in range(1, min(len(word), longest) + 1):
            ending.setdefault(word[-n:], []).append(word)
            starting.setdefault(word[:n], []).append(word)
    return ending, starting
