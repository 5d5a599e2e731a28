"""The linear program over shares and slacks, with rows added where they are violated."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from tokenlayer.tokenizer.mixture.competition import MILLION, Competition, Excess
from tokenlayer.tokenizer.mixture.config import MixtureConfig
from tokenlayer.tokenizer.mixture.solvers import Ranges, make_solver

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Solution:
    """The optimum over the rows that were needed.

    Attributes:
        shares: of pairs, for each category; sum to 1.
        merge_slack: by how much each merge may be behind, as a share of pairs.
        pair_slack: by how much each pair may lead, at all merges.
        gap: most that the slacks in all may be above those of the optimum; 0 when no constraint is violated.
        rounds: programs that were solved.
        rows: constraints of the last one.
        ranges: least and largest share of pairs of each category, or None.
    """

    shares: Float64[np.ndarray, " categories"]
    merge_slack: Float64[np.ndarray, " merges"]
    pair_slack: Float64[np.ndarray, " pairs"]
    gap: float
    rounds: int
    rows: int
    ranges: Ranges | None = None

    @property
    def objective(self) -> float:
        """All slacks in all."""
        return float(self.merge_slack.sum() + self.pair_slack.sum())


def solve(
    competition: Competition, config: MixtureConfig, *, solver: str | None = None, tell: Tell | None = None
) -> Solution:
    """Finds the shares under which the merges are least behind their competitors.

    Begins with no rows and even shares. Each round adds the constraints that the last answer violates most and solves
    again; the answer satisfies all `merges x pairs` of them when none is left.

    Args:
        competition: the counts.
        config: rows a round, tolerance, when to stop, width of the ranges.
        solver: highspy or scipy; None takes the first that is installed.
        tell: called with ("rounds of the linear program", rounds, 0).

    Raises:
        MissingExtra: neither highspy nor scipy is installed.
        SolverFailed: the solver gave up.
    """
    program = _Program(competition, solver)
    deadline = np.inf if config.seconds is None else time.monotonic() + config.seconds
    rounds = 0
    while True:
        found = program.violated(config.tolerance, config.depth)
        gap = _gap(found, len(competition.pairs))
        near = rounds > 0 and gap <= config.gap * program.slack
        if not len(found.step) or near or (rounds and time.monotonic() > deadline):
            break
        program.add(_worst(found, config.per_step, config.per_round))
        program.run()
        rounds += 1
        if tell is not None:
            tell("rounds of the linear program", rounds, 0)
    ranges = program.ranges(config.range_slack) if config.range_slack and rounds else None
    slacks = program.merge_slack / MILLION, program.pair_slack / MILLION
    return Solution(program.shares, *slacks, gap / MILLION, rounds, program.rows, ranges)


def _worst(found: Excess, per_step: int, per_round: int) -> Excess:
    """The largest leads: at most `per_step` over one merge, at most `per_round` in all."""
    order = np.lexsort((-found.by, found.step))
    step = found.step[order]
    order = order[np.arange(len(step)) - np.searchsorted(step, step) < per_step]
    return found.at(order[np.argsort(-found.by[order], kind="stable")][:per_round])


def _gap(found: Excess, pairs: int) -> float:
    """What the pairs' slacks would have to grow by to satisfy every constraint: an answer that is feasible."""
    worst = np.zeros(pairs)
    np.maximum.at(worst, found.pair, found.by)
    return float(worst.sum())


class _Program:
    """The rows so far, with the column of each merge's and each pair's slack, and the last answer."""

    def __init__(self, competition: Competition, solver: str | None) -> None:
        self._competition = competition
        self._categories = len(competition.categories)
        self._solver = make_solver(self._categories, solver)
        self._columns = self._categories
        self._merge_column = np.full(competition.steps, -1, np.int64)
        self._pair_column = np.full(len(competition.pairs), -1, np.int64)
        self._rows = np.empty(0, np.int64)
        self.shares = np.full(self._categories, 1 / self._categories)
        self.merge_slack = np.zeros(competition.steps)
        self.pair_slack = np.zeros(len(competition.pairs))

    @property
    def rows(self) -> int:
        """Number of constraints."""
        return len(self._rows)

    @property
    def slack(self) -> float:
        """All slacks in all, in millionths."""
        return float(self.merge_slack.sum() + self.pair_slack.sum())

    def violated(self, tolerance: float, depth: int) -> Excess:
        """The constraints that the last answer violates, without those that are rows: the solver's tolerance."""
        found = self._competition.excesses(self.shares, self.merge_slack, self.pair_slack, tolerance, depth=depth)
        return found.at(np.flatnonzero(~np.isin(self._keys(found), self._rows)))

    def add(self, chosen: Excess) -> None:
        """Adds a row for each: count of the merge + its slack + slack of the pair >= count of the pair."""
        before = self._columns
        for column, wanted in ((self._merge_column, chosen.step), (self._pair_column, chosen.pair)):
            new = np.unique(wanted[column[wanted] < 0])
            column[new] = np.arange(self._columns, self._columns + len(new))
            self._columns += len(new)
        self._solver.add_slacks(self._columns - before)
        counts = self._competition.counts_at(chosen.step, chosen.pair)
        lead = self._competition.merge_counts[chosen.step] - counts
        self._solver.add_rows(lead, self._merge_column[chosen.step], self._pair_column[chosen.pair])
        self._rows = np.concatenate([self._rows, self._keys(chosen)])

    def run(self) -> None:
        """Solves, and keeps shares and slacks."""
        values = np.maximum(self._solver.run(), 0.0)
        self.shares = values[: self._categories] / values[: self._categories].sum()
        for column, slack in ((self._merge_column, self.merge_slack), (self._pair_column, self.pair_slack)):
            slack[column >= 0] = values[column[column >= 0]]

    def ranges(self, slack: float) -> Ranges:
        """Least and largest shares over answers that are at most this much worse; no further rows are added."""
        found: Ranges = np.clip(self._solver.ranges(self.slack * (1 + slack) + 1e-6), 0.0, 1.0)
        return found

    def _keys(self, found: Excess) -> Int64[np.ndarray, " n"]:
        keys: Int64[np.ndarray, " n"] = found.pair * (self._competition.steps + 1) + found.step
        return keys
