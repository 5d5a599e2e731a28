"""The end of an article: forgetting, and moves in the ranked list, which lies in blocks meanwhile.

Runs as it stands or compiled, as `kernel` does.
"""

# ruff: noqa: PLR0917 -- single numbers go from loop to loop: compiled code copies a tuple of arrays at each call

from typing import Any

from tokenlayer.tokenizer.lib.kernel import (
    LEXICON,
    REWARDS,
    STEP,
    TRIALS,
    Rules,
    Tables,
    begin_trial,
    end_trial,
    mark,
    prune,
)

HALF, FULL = 32, 64
"""Chunks of a block when the list is laid out, and at most."""


def end_article(t: Tables, rules: Rules, cells: Any, sizes: Any, sums: Any) -> None:
    """Forgets, moves what was rewarded or punished, and puts the tail on probation, in this order."""
    t.counts[STEP] += 1
    if rules.forgets:
        forget(t)
    if rules.reranks:
        rerank(t, rules, cells, sizes, sums)
    t.counts[REWARDS] = 0
    size = t.counts[LEXICON]
    for i in range(int((1 - rules.out_rate) * size), size):
        node = int(t.order[i])
        if t.expires[node] == 0:
            begin_trial(t, node, t.counts[STEP] + rules.life, -1, -1)


def drop(t: Tables, node: int) -> None:
    """Takes a chunk out of lexicon and probation; `order` still names it."""
    t.rank[node] = -1
    mark(t, node, 0)
    end_trial(t, node)
    prune(t, node)


def forget(t: Tables) -> None:
    """Chunks whose life on probation is over leave it and the lexicon."""
    kept = 0
    for i in range(t.counts[TRIALS]):
        node = int(t.trial[i])
        if t.expires[node] > t.counts[STEP]:
            t.trial[kept] = node
            kept += 1
        elif t.expires[node] > 0:
            drop(t, node)
    t.counts[TRIALS] = kept
    kept = 0
    for i in range(t.counts[LEXICON]):
        node = int(t.order[i])
        if t.rank[node] >= 0:
            t.order[kept] = node
            t.rank[node] = kept
            kept += 1
    t.counts[LEXICON] = kept


def rerank(t: Tables, rules: Rules, cells: Any, sizes: Any, sums: Any) -> None:
    """Moves the rewarded chunks up and the punished down, one after the other, by a share of their rank.

    The list lies in blocks meanwhile, `Tables.rank` holds the block; one move costs O(block + log blocks).

    Args:
        t: the tables.
        rules: for the share.
        cells: room for `FULL` chunks of each block.
        sizes: room for the number of chunks of each block.
        sums: room for a binary indexed tree over `sizes`, one more than blocks.
    """
    spread(t, cells, sizes, sums)
    for i in range(t.counts[REWARDS]):
        signed = int(t.rewards[i])
        node = abs(signed)
        if t.rank[node] < 0:
            continue
        block = int(t.rank[node])
        place = block * FULL
        while cells[place] != node:
            place += 1
        at = chunks_before(sums, block) + place - block * FULL
        if at == 0:
            continue
        step = int(at * rules.update_rate) + 1
        to = max(at - step, 0) if signed > 0 else at + step
        take_out(cells, sizes, sums, block, place)
        t.counts[LEXICON] -= 1
        if to > t.counts[LEXICON]:
            drop(t, node)
        else:
            put_in(t, cells, sizes, sums, node, to)
    gather(t, cells, sizes)


def blocks_of(size: int) -> int:
    """The number of blocks for a lexicon of that size."""
    return size // HALF + 1


def spread(t: Tables, cells: Any, sizes: Any, sums: Any) -> None:
    """Lays the lexicon out in half-full blocks."""
    size = t.counts[LEXICON]
    blocks = len(sums) - 1
    for block in range(blocks):
        sizes[block] = max(0, min(HALF, size - block * HALF))
        for i in range(sizes[block]):
            node = int(t.order[block * HALF + i])
            cells[block * FULL + i] = node
            t.rank[node] = block
    sums[0] = 0
    for i in range(1, blocks + 1):
        sums[i] = sizes[i - 1]
    for i in range(1, blocks + 1):
        above = i + (i & -i)
        if above <= blocks:
            sums[above] += sums[i]


def gather(t: Tables, cells: Any, sizes: Any) -> None:
    """Writes the blocks back into `order` and `rank`."""
    at = 0
    for block in range(len(sizes)):
        for i in range(sizes[block]):
            node = int(cells[block * FULL + i])
            t.order[at] = node
            t.rank[node] = at
            at += 1


def chunks_before(sums: Any, block: int) -> int:
    """How many chunks the blocks before this one hold."""
    found = 0
    while block > 0:
        found += sums[block]
        block -= block & -block
    return found


def add_up(sums: Any, block: int, more: int) -> None:
    """Tells the tree that a block has so many more chunks."""
    block += 1
    while block < len(sums):
        sums[block] += more
        block += block & -block


def take_out(cells: Any, sizes: Any, sums: Any, block: int, place: int) -> None:
    """Takes the chunk at a cell out of its block."""
    sizes[block] -= 1
    for i in range(place, block * FULL + sizes[block]):
        cells[i] = cells[i + 1]
    add_up(sums, block, -1)


def put_in(t: Tables, cells: Any, sizes: Any, sums: Any, node: int, to: int) -> None:
    """Puts a chunk in at a place of the whole list; a full block has everything laid out anew."""
    block, rest = find_place(sizes, sums, to)
    if sizes[block] == FULL:
        gather(t, cells, sizes)
        spread(t, cells, sizes, sums)
        block, rest = find_place(sizes, sums, to)
    place = block * FULL + rest
    for i in range(block * FULL + sizes[block], place, -1):
        cells[i] = cells[i - 1]
    cells[place] = node
    t.rank[node] = block
    sizes[block] += 1
    t.counts[LEXICON] += 1
    add_up(sums, block, 1)


def find_place(sizes: Any, sums: Any, to: int) -> tuple[int, int]:
    """The block of a place, and the place in it; the end of the list is behind the last chunk of the last block."""
    blocks, block, power = len(sums) - 1, 0, 1
    while 2 * power <= blocks:
        power *= 2
    while power > 0:
        if block + power <= blocks and sums[block + power] <= to:
            block += power
            to -= sums[block]
        power //= 2
    return (block, to) if block < blocks else (blocks - 1, int(sizes[blocks - 1]))
