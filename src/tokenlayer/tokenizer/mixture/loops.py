"""The loop that applies merges and counts pairs, in the part of Python that numba knows.

`apply_merges` runs as it is, or compiled by `compiled`; both give the same arrays. Types are left out on purpose:
numba finds them, and a checker of types would stop it.

Names used throughout: symbols stand in one row, `BARRIER` between pre-tokens and `GONE` where a merge has taken one;
`after` and `before` lead from a living symbol to its neighbours. Pairs are numbered as they are met; `table` finds the
number of a key by open addressing. `place` and `link` are lists of places, one list a pair, that begin at `head`; a
place that was left stays in its list and is recognised when it is visited. `used` counts pairs, places and changed
pairs of the step.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, no_type_check

import numpy as np

BARRIER = -1
GONE = -2
CHUNK = 4096


@no_type_check
def slot_of(key, keys, table):
    """The slot of `table` that holds the number of a key, or the free one where it belongs."""
    mixed = (key >> 32) * 2654435761 + (key & 0xFFFFFFFF) * 40503
    slot = (mixed ^ (mixed >> 17)) & (len(table) - 1)
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@no_type_check
def grown(old):
    """The array with twice the room."""
    new = np.zeros(2 * len(old), old.dtype)
    new[: len(old)] = old
    return new


@no_type_check
def new_table(keys, pairs, size):
    """A table of that size (a power of two) over the first `pairs` keys."""
    table = np.full(size, -1, np.int32)
    for pair in range(pairs):
        table[slot_of(keys[pair], keys, table)] = pair
    return table


@no_type_check
def add(key, amount, at, step, pairs):
    """Adds to a pair's count, and `at` (unless negative) to its places."""
    used, keys, counts, head, mark, changed, table, place, link = pairs
    slot = slot_of(key, keys, table)
    if table[slot] < 0:
        pair = used[0]
        used[0] += 1
        table[slot] = pair
        keys[pair], counts[pair], head[pair], mark[pair] = key, 0, -1, -1
    pair = table[slot]
    counts[pair] += amount
    if mark[pair] != step:
        mark[pair] = step
        changed[used[2]] = pair
        used[2] += 1
    if at >= 0:
        place[used[1]], link[used[1]] = at, head[pair]
        head[pair] = used[1]
        used[1] += 1


@no_type_check
def living(one, other, symbols, after, pairs):
    """The places where a pair stands now, ascending; in a run of one symbol also the overlapping ones."""
    _, keys, _, head, _, _, table, place, link = pairs
    pair = table[slot_of((one << 32) + other, keys, table)]
    found, n = np.empty(64, np.int32), 0
    at = head[pair] if pair >= 0 else -1
    while at >= 0:
        i = place[at]
        if symbols[i] == one and after[i] < len(symbols) and symbols[after[i]] == other:
            if n == len(found):
                found = grown(found)
            found[n] = i
            n += 1
        at = link[at]
    return np.sort(found[:n])


@no_type_check
def apply_merges(symbols, weights, left, right, result):
    """Applies all merges to `symbols`, in place.

    Args:
        symbols: int64, the first symbol of a pre-token follows a barrier.
        weights: int64, how often the pre-token of each place occurs.
        left: int64, parts and results of the merges.
        right: see `left`.
        result: see `left`.

    Returns:
        keys of the pairs; for each change its pair, the number of merges before it, and the new count.
    """
    size = len(symbols)
    after, before = np.arange(1, size + 1).astype(np.int32), np.arange(-1, size - 1).astype(np.int32)
    place, link = np.empty(3 * size + 8, np.int32), np.empty(3 * size + 8, np.int32)
    room = 2 * CHUNK
    keys, counts = np.zeros(room, np.int64), np.zeros(room, np.int64)
    head, mark, changed = np.zeros(room, np.int32), np.zeros(room, np.int32), np.zeros(room, np.int32)
    table, used = np.full(4 * room, -1, np.int32), np.zeros(3, np.int64)
    out_pair, out_step, out_count = np.zeros(room, np.int32), np.zeros(room, np.int32), np.zeros(room, np.int64)
    outs = 0
    for step in range(len(left) + 1):
        one, other, made = np.int64(0), np.int64(0), np.int64(0)
        if step == 0:
            found = np.arange(size).astype(np.int32)
        else:
            one, other, made = left[step - 1], right[step - 1], result[step - 1]
            found = living(one, other, symbols, after, (used, keys, counts, head, mark, changed, table, place, link))
        for start in range(0, len(found), CHUNK):
            while used[0] + 3 * CHUNK > len(keys):
                keys, counts, head, mark, changed = grown(keys), grown(counts), grown(head), grown(mark), grown(changed)
                table = new_table(keys, used[0], 4 * len(keys))
            some = found[start : start + CHUNK]
            pairs = (used, keys, counts, head, mark, changed, table, place, link)
            if step == 0:
                count_places(some, symbols, weights, pairs)
            else:
                merge_places(some, step, (one, other, made), (symbols, weights, after, before), pairs)
        while outs + used[2] > len(out_pair):
            out_pair, out_step, out_count = grown(out_pair), grown(out_step), grown(out_count)
        for n in range(used[2]):
            pair = changed[n]
            out_pair[outs], out_step[outs], out_count[outs] = pair, step, counts[pair]
            outs += 1
        used[2] = 0
    return keys[: used[0]], out_pair[:outs], out_step[:outs], out_count[:outs]


@no_type_check
def count_places(some, symbols, weights, pairs):
    """Counts the pairs that begin at some places."""
    for i in some:
        if i + 1 < len(symbols) and symbols[i] >= 0 and symbols[i + 1] >= 0:
            key = (symbols[i] << 32) + symbols[i + 1]
            add(key, weights[i], i, 0, pairs)


@no_type_check
def merge_places(some, step, rule, row, pairs):
    """Merges one pair at some places, from left to right."""
    one, other, made = rule
    symbols, weights, after, before = row
    size = len(symbols)
    for i in some:
        j = after[i]
        if symbols[i] != one or j >= size or symbols[j] != other:
            continue  # a run of one symbol: the place before has taken it
        h, r, weight = before[i], after[j], weights[i]
        symbols[i], symbols[j], after[i] = made, GONE, r
        if r < size:
            before[r] = i
        add((one << 32) + other, -weight, -1, step, pairs)
        if h >= 0 and symbols[h] >= 0:
            near = symbols[h] << 32
            add(near + one, -weight, -1, step, pairs)
            add(near + made, weight, h, step, pairs)
        if r < size and symbols[r] >= 0:
            near = symbols[r]
            add((other << 32) + near, -weight, -1, step, pairs)
            add((made << 32) + near, weight, i, step, pairs)


@cache
def compiled() -> Callable[..., Any]:
    """Returns `apply_merges` compiled by numba; takes seconds once, then comes from numba's cache on disk."""
    from numba import njit

    space: dict[str, Any] = dict(globals())
    for loop in (slot_of, grown, new_table, add, living, count_places, merge_places, apply_merges):
        space[loop.__name__] = njit(cache=True)(FunctionType(loop.__code__, space, loop.__name__))
    found: Callable[..., Any] = space["apply_merges"]
    return found
