"""Merges applied one by one to distinct pre-tokens, with the count of every pair that changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from jaxtyping import Int32, Int64

from tokenlayer.tokenizer.mixture import loops
from tokenlayer.tokenizer.mixture.rules import MergeRules

WORTH_COMPILING = 100_000
"""Symbols from which on starting numba pays."""
LOW = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Transcript:
    """Counts of every pair of one sample while merges are applied.

    Attributes:
        pairs: left token id * 2**32 + right token id, ascending.
        pair: for each change its place in `pairs`; ascending.
        step: how many merges were applied before the new count; 0 for the counts at the start; ascending within a
            pair. Merge `t` competes at step `t`.
        count: the new count.
        merges: how many merges were applied in all.
        total: number of pairs at the start.
        tokens: number of symbols at the end.
    """

    pairs: Int64[np.ndarray, " pairs"]
    pair: Int32[np.ndarray, " changes"]
    step: Int32[np.ndarray, " changes"]
    count: Int64[np.ndarray, " changes"]
    merges: int
    total: int
    tokens: int

    def counts_at(self, step: int) -> dict[tuple[int, int], int]:
        """Returns the count of each pair of token ids that occurs after `step` merges."""
        seen = self.step <= step
        last = dict(zip(self.pair[seen].tolist(), self.count[seen].tolist(), strict=True))
        keys = self.pairs.tolist()
        return {(keys[p] >> 32, keys[p] & LOW): n for p, n in last.items() if n}


def replay(words: Mapping[str, int], rules: MergeRules, *, compiled: bool | None = None) -> Transcript:
    """Applies merges to weighted pre-tokens, visiting only the places of the merged pair.

    Args:
        words: pre-token as the model gets it -> how often it occurs.
        rules: the merges, in order.
        compiled: with numba or without, same result; None decides by the size of the work.

    Returns:
        All changes of all counts. Needs about 100 bytes for each symbol of the distinct pre-tokens.
    """
    symbols, weights = _laid_out(words, rules)
    tokens = int(weights[symbols >= 0].sum())
    if compiled is None:
        compiled = len(symbols) >= WORTH_COMPILING and find_spec("numba") is not None
    run = loops.compiled() if compiled else loops.apply_merges
    parts = [np.array(part, np.int64) for part in (rules.left, rules.right, rules.result)]
    keys, pair, step, count = run(symbols, weights, *parts)
    order = np.argsort(keys)
    place = np.empty(len(keys), np.int32)
    place[order] = np.arange(len(keys), dtype=np.int32)
    by_pair = np.lexsort((step, place[pair]))
    pair, step, count = place[pair][by_pair], step[by_pair], count[by_pair]
    total = int(count[step == 0].sum())
    merged = tokens - int(weights[symbols >= 0].sum())
    return Transcript(keys[order], pair, step, count, len(rules), total, tokens - merged)


def _laid_out(words: Mapping[str, int], rules: MergeRules) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """All symbols in one row with a barrier after each pre-token, and the weight of each place."""
    symbols: list[int] = []
    lengths: list[int] = []
    for word in words:
        found = rules.symbols(word)
        symbols += found
        symbols.append(loops.BARRIER)
        lengths.append(len(found) + 1)
    return np.array(symbols, np.int64), np.repeat(np.fromiter(words.values(), np.int64, len(words)), lengths)
