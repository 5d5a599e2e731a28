"""Linear programs that grow: HiGHS, which goes on from its last solution, or scipy's HiGHS, which begins anew.

Columns: first the shares of the categories, which sum to 1 and cost nothing; then slacks from 0, which cost 1. A row
says that a merge's lead over a pair and the slacks of both are at least 0 together.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from tokenlayer.core.errors import MissingExtra, TokenLayerError, choose

SOLVERS = ("highspy", "scipy")
Lead = Float64[np.ndarray, "rows categories"]
Columns = Int64[np.ndarray, " rows"]
Values = Float64[np.ndarray, " columns"]
Ranges = Float64[np.ndarray, "categories 2"]


class SolverFailed(TokenLayerError, RuntimeError):
    """A linear program ended without an optimum."""

    def __init__(self, said: str) -> None:
        super().__init__(f"the linear program ended with {said!r}", hint="try fewer merges, or --seconds")


class Highs:
    """A program for HiGHS; its dual simplex goes on from the last basis."""

    def __init__(self, categories: int) -> None:
        import highspy

        self._inf = highspy.kHighsInf
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._categories = self._columns = categories
        with _silenced():
            self._lp: Any = highspy.Highs()
        self._lp.setOptionValue("output_flag", False)
        self._lp.setOptionValue("log_to_console", False)
        self._lp.setOptionValue("threads", 1)
        self._lp.setOptionValue("random_seed", 0)
        self._lp.addVars(categories, np.zeros(categories), np.ones(categories))
        self._lp.addRow(1.0, 1.0, categories, np.arange(categories, dtype=np.int32), np.ones(categories))

    def add_slacks(self, many: int) -> None:
        """Adds columns."""
        empty = np.zeros(many, np.int32), np.empty(0, np.int32), np.empty(0)
        self._lp.addCols(many, np.ones(many), np.zeros(many), np.full(many, self._inf), 0, *empty)
        self._columns += many

    def add_rows(self, lead: Lead, merge: Columns, pair: Columns) -> None:
        """Adds rows: the lead for each category, and the columns of the slacks of merge and pair."""
        starts, columns, numbers = _sparse(lead, merge, pair)
        bounds = np.zeros(len(lead)), np.full(len(lead), self._inf)
        self._lp.addRows(len(lead), *bounds, len(numbers), starts[:-1], columns, numbers)

    def run(self) -> Values:
        """Returns all columns at the optimum."""
        self._lp.run()
        status = self._lp.getModelStatus()
        if status != self._optimal:
            raise SolverFailed(self._lp.modelStatusToString(status))
        return np.array(self._lp.getSolution().col_value)

    def ranges(self, limit: float) -> Ranges:
        """Returns the least and the largest share of each category while all slacks sum to at most `limit`."""
        columns = np.arange(self._columns, dtype=np.int32)
        slacks = columns[self._categories :]
        self._lp.addRow(0.0, limit, len(slacks), slacks, np.ones(len(slacks)))
        found = np.empty((self._categories, 2))
        for category in range(self._categories):
            for side, sign in enumerate((1.0, -1.0)):
                costs = np.zeros(self._columns)
                costs[category] = sign
                self._lp.changeColsCost(self._columns, columns, costs)
                found[category, side] = self.run()[category]
        return found


class Scipy:
    """The same through `scipy.optimize.linprog`, each time from the beginning."""

    def __init__(self, categories: int) -> None:
        self._categories = self._columns = categories
        self._rows: list[tuple[Any, Any, Any]] = []
        self._limit: float | None = None

    def add_slacks(self, many: int) -> None:
        """Adds columns."""
        self._columns += many

    def add_rows(self, lead: Lead, merge: Columns, pair: Columns) -> None:
        """Adds rows."""
        self._rows.append(_sparse(lead, merge, pair))

    def run(self) -> Values:
        """Returns all columns at the optimum."""
        return self._solved(np.repeat([0.0, 1.0], [self._categories, self._columns - self._categories]))

    def ranges(self, limit: float) -> Ranges:
        """Returns the least and the largest share of each category."""
        self._limit = limit
        found = np.empty((self._categories, 2))
        for category in range(self._categories):
            for side, sign in enumerate((1.0, -1.0)):
                costs = np.zeros(self._columns)
                costs[category] = sign
                found[category, side] = self._solved(costs)[category]
        return found

    def _solved(self, costs: Values) -> Values:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix, vstack

        parts = [csr_matrix((n, c, s), shape=(len(s) - 1, self._columns)) for s, c, n in self._rows]
        left, right = -vstack(parts), np.zeros(sum(p.shape[0] for p in parts))
        shares = np.arange(self._columns) < self._categories
        if self._limit is not None:
            left, right = vstack([left, csr_matrix(1.0 - shares)]), np.append(right, self._limit)
        bounds = np.stack([np.zeros(self._columns), np.where(shares, 1.0, np.inf)], axis=1)
        done = linprog(costs, left, right, shares[None].astype(float), [1.0], bounds, method="highs")
        if done.status != 0:
            raise SolverFailed(done.message)
        return np.asarray(done.x)


def make_solver(categories: int, name: str | None = None) -> Highs | Scipy:
    """Returns an empty program.

    Args:
        categories: number of shares.
        name: highspy or scipy; None takes the first that is installed.

    Raises:
        MissingExtra: it is not installed.
    """
    if name is not None:
        choose("solver", name, SOLVERS)
    wanted = SOLVERS if name is None else (name,)
    found = next((one for one in wanted if find_spec(one)), None)
    if found is None:
        raise MissingExtra(wanted[0], "lp", "mixture inference")
    return Highs(categories) if found == "highspy" else Scipy(categories)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keeps what native code writes to standard output away: HiGHS greets before it can be told not to."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _sparse(lead: Lead, merge: Columns, pair: Columns) -> tuple[Any, Any, Any]:
    """Starts, columns and numbers of the rows."""
    rows, categories = lead.shape
    numbers = np.hstack([lead, np.ones((rows, 2))])
    columns = np.hstack([np.tile(np.arange(categories), (rows, 1)), merge[:, None], pair[:, None]])
    filled = numbers != 0
    starts = np.concatenate([[0], np.cumsum(filled.sum(1))]).astype(np.int32)
    return starts, columns[filled].astype(np.int32), numbers[filled]
