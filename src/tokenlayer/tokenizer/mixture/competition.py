"""All samples' pair counts side by side: what a mixture says of every pair at every merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from tokenlayer.core.errors import BadText, MissingExtra
from tokenlayer.tokenizer.mixture.replay import Transcript
from tokenlayer.tokenizer.mixture.rules import MergeRules

MILLION = 1e6
"""Counts are in millionths of a sample's pairs, so that late merges weigh more than a solver's tolerance."""
Steps = Int64[np.ndarray, " n"]
Values = Float64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Excess:
    """Pairs that lead: `pair[i]` is `by[i]` millionths ahead of merge `step[i]`, its largest lead at that count."""

    step: Int64[np.ndarray, " n"]
    pair: Int64[np.ndarray, " n"]
    by: Float64[np.ndarray, " n"]

    def at(self, places: Int64[np.ndarray, " some"]) -> "Excess":
        """Returns some of the entries."""
        return Excess(self.step[places], self.pair[places], self.by[places])


class Competition:
    """Pair counts of several categories over the merges.

    A pair's count in a mixture stays the same from one change to the next. So a pair leads a merge somewhere in such
    a stretch exactly when it leads the weakest merge of the stretch, which a table of range minima tells at once for
    all stretches: no walk over the merges is needed.

    Args:
        transcripts: category -> its counts, all over the same merges.
        rules: the merges.
        first_merge: earlier merges do not compete.

    Attributes:
        categories: names, in the order of every vector of shares.
        steps: number of merges.
        pairs: keys of all pairs.
        merge_pair: for each merge its pair, -1 if no sample ever has it.
        missing: merges that no sample has at their turn; they do not compete.

    Raises:
        BadText: no merge occurs in any sample.
        MissingExtra: scipy is not installed.
    """

    def __init__(self, transcripts: Mapping[str, Transcript], rules: MergeRules, *, first_merge: int = 0) -> None:
        try:
            from scipy.sparse import csr_matrix
        except ImportError as error:
            raise MissingExtra("scipy", "lp", "mixture inference") from error
        self.categories = tuple(transcripts)
        self.steps = len(rules)
        self._parts = tuple(transcripts.values())
        self._scale = np.array([MILLION / max(t.total, 1) for t in self._parts])
        self.pairs = np.unique(np.concatenate([t.pairs for t in self._parts]))
        self._codes = [self._code(t) for t in self._parts]
        self._stretches = np.unique(np.concatenate(self._codes))
        deltas = [_deltas(t) * s for t, s in zip(self._parts, self._scale, strict=True)]
        rows = np.concatenate([np.searchsorted(self._stretches, codes) for codes in self._codes])
        columns = np.repeat(np.arange(len(deltas), dtype=np.int32), [len(d) for d in deltas])
        shape = (len(self._stretches), len(deltas))
        self._changes = csr_matrix((np.concatenate(deltas), (rows, columns)), shape=shape)
        self._pair = self._stretches // (self.steps + 1)
        self._start = self._stretches % (self.steps + 1)
        self.merge_pair = self._find(rules)
        counts = self.counts_at(np.arange(self.steps), np.maximum(self.merge_pair, 0))
        seen = (self.merge_pair >= 0) & (counts.sum(1) > 0)
        self.missing = np.flatnonzero(~seen)
        self.merge_counts = counts
        self.competes = seen & (np.arange(self.steps) >= first_merge)
        if not self.competes.any():
            raise BadText(
                f"none of the {self.steps} merges occurs in any category",
                hint="give text of the kind the tokenizer was trained on, and check its pre-tokenizer",
            )

    def counts_at(self, step: Steps, pair: Steps) -> Float64[np.ndarray, "n categories"]:
        """Returns each category's count of pairs at merges, in millionths, read from the stored counts."""
        wanted = pair * (self.steps + 1) + step
        found = np.zeros((len(wanted), len(self._parts)))
        for i, (codes, one) in enumerate(zip(self._codes, self._parts, strict=True)):
            at = np.searchsorted(codes, wanted, side="right") - 1
            same = (at >= 0) & (codes[np.maximum(at, 0)] // (self.steps + 1) == pair)
            found[same, i] = one.count[at[same]] * self._scale[i]
        return found

    def excesses(
        self,
        shares: Float64[np.ndarray, " categories"],
        merge_slack: Float64[np.ndarray, " merges"],
        pair_slack: Float64[np.ndarray, " pairs"],
        tolerance: float,
        *,
        depth: int = 1,
    ) -> Excess:
        """Finds the pairs that lead a merge by more than both slacks and a tolerance.

        Args:
            shares: of the categories.
            merge_slack: of each merge, in millionths.
            pair_slack: of each pair.
            tolerance: in millionths.
            depth: 1 gives the weakest merge of each stretch, 2 also the weakest ones before and after it, and so on.

        Returns:
            Entries for each stretch that leads; none exactly when no constraint is violated. The largest entry of a
            pair is its largest lead.
        """
        bar = np.where(self.competes, self.merge_counts @ shares + merge_slack, np.inf)
        value = np.cumsum(self._changes @ shares)
        value -= np.concatenate([[0.0], value])[self._pair_start]
        value -= pair_slack[self._pair]
        near = np.flatnonzero((value > bar.min() + tolerance) & self._counts)
        lows = _RangeMinima(bar)
        found: list[Excess] = []
        start, end, pair, value = self._start[near], self._end[near], self._pair[near], value[near]
        for _ in range(depth):
            step = lows.argmin(start, end)
            by = value - bar[step]
            leads = by > tolerance
            start, end, pair, value, step = (one[leads] for one in (start, end, pair, value, step))
            found.append(Excess(step, pair, by[leads]))
            left, right = step > start, step + 1 < end
            start, end = np.concatenate([start[left], step[right] + 1]), np.concatenate([step[left], end[right]])
            pair, value = (np.concatenate([one[left], one[right]]) for one in (pair, value))
        return Excess(*(np.concatenate([getattr(one, name) for one in found]) for name in ("step", "pair", "by")))

    @cached_property
    def _end(self) -> Steps:
        """The first merge that no longer sees each stretch's count."""
        end = np.full(len(self._pair), self.steps, np.int64)
        same = self._pair[1:] == self._pair[:-1]
        end[:-1][same] = self._start[1:][same]
        return end

    @cached_property
    def _counts(self) -> Bool[np.ndarray, " n"]:
        """Stretches that a merge sees."""
        return self._start < self._end

    @cached_property
    def _pair_start(self) -> Steps:
        """For each stretch the first one of its pair."""
        found: Steps = np.searchsorted(self._pair, np.arange(len(self.pairs)))[self._pair]
        return found

    def _code(self, transcript: Transcript) -> Steps:
        """One ascending number for pair and step of each change."""
        place = np.searchsorted(self.pairs, transcript.pairs)
        codes: Steps = place[transcript.pair] * (self.steps + 1) + transcript.step
        return codes

    def _find(self, rules: MergeRules) -> Steps:
        keys = (np.array(rules.left, np.int64) << 32) + np.array(rules.right, np.int64)
        at = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.where(self.pairs[at] == keys, at, -1)


def _deltas(transcript: Transcript) -> Values:
    """Each change as a difference to the count before, the first of a pair to zero."""
    counts = transcript.count.astype(np.float64)
    deltas = counts.copy()
    same = transcript.pair[1:] == transcript.pair[:-1]
    deltas[1:][same] -= counts[:-1][same]
    return deltas


class _RangeMinima:
    """Where a row of numbers is smallest within a range, by minima over all ranges of a power of two."""

    def __init__(self, numbers: Values) -> None:
        self.numbers = numbers
        at = np.arange(len(numbers), dtype=np.int64)
        self.levels = [at]
        width = 1
        while 2 * width <= len(numbers):
            one, other = at[:-width], at[width:]
            at = np.where(numbers[one] <= numbers[other], one, other)
            self.levels.append(at)
            width *= 2

    def argmin(self, start: Steps, end: Steps) -> Steps:
        """The place of the smallest number of each range `start` to `end`, which is not empty."""
        found = np.empty(len(start), np.int64)
        level = np.frexp(end - start)[1] - 1
        for k in np.unique(level):
            here = level == k
            one, other = self.levels[k][start[here]], self.levels[k][end[here] - (1 << k)]
            found[here] = np.where(self.numbers[one] <= self.numbers[other], one, other)
        return found
