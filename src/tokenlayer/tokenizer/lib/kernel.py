"""The hot loops of the learner and of segmentation, on plain tables of numbers.

Every function here runs as it stands, on lists, and compiled by numba, on arrays: it takes tables, indexes them,
and allocates only lists of numbers. Chunks are nodes of one character trie, node 0 is the root and the empty chunk.
"""

# ruff: noqa: PLR0917 -- single numbers go from loop to loop: compiled code copies a tuple of arrays at each call

from typing import Any, NamedTuple

CHAR_BITS = 21
NODES, FREE, LEXICON, TRIALS, REWARDS, STEP = range(6)
"""What the entries of `Tables.counts` count: nodes ever made, nodes to be used again, chunks of the lexicon, entries
of `Tables.trial`, entries of `Tables.rewards`, articles read."""


class Tables(NamedTuple):
    """All that the learner remembers; each field is a list or an array of integers.

    Attributes:
        parent: the node above; -1 for a node that is not in use.
        char: the last character of the chunk.
        depth: the length of the chunk in characters.
        children: how many nodes are below.
        uses: how many stored contexts name the node.
        rank: place in the lexicon, 0 is best; -1 for a node that is no chunk of it.
        expires: the step at whose end a chunk on probation is forgotten; 0 for others.
        left: the chunk before it when it went on probation; -1 where no context was stored.
        right: the chunk after it.
        slots: an open hash table, two entries each: `node << 21 | character`, or -1 where there is none, and twice the
            child, plus one if that is a chunk of the lexicon, so that matching looks at nothing else.
        free: nodes to be used again.
        order: the lexicon by rank.
        trial: the chunks on probation, with stale entries among them.
        rewards: chunks to be moved, in order; negative to be moved to the tail.
        counts: see `NODES` and those after it.
    """

    parent: Any
    char: Any
    depth: Any
    children: Any
    uses: Any
    rank: Any
    expires: Any
    left: Any
    right: Any
    slots: Any
    free: Any
    order: Any
    trial: Any
    rewards: Any
    counts: Any


class Rules(NamedTuple):
    """The settings of the learner as numbers: see `LibConfig`."""

    in_rate: float
    out_rate: float
    update_rate: float
    life: int
    longest: int
    inspect: bool
    forgets: bool
    reranks: bool


def home(node: int, char: int, mask: int) -> int:
    """The slot where the search for a child begins; below 2^30 nodes nothing overflows 63 bits."""
    mixed = node * 2654435761 + char * 2246822519
    return (mixed ^ (mixed >> 17)) & mask


def slot_of(slots: Any, node: int, char: int) -> int:
    """The place in `slots` of the child by that character, or -1."""
    mask = len(slots) // 2 - 1
    key = (node << CHAR_BITS) | char
    at = home(node, char, mask)
    while slots[2 * at] != key:
        if slots[2 * at] < 0:
            return -1
        at = (at + 1) & mask
    return 2 * at + 1


def child_of(slots: Any, node: int, char: int) -> int:
    """The child by that character, or 0."""
    slot = slot_of(slots, node, char)
    return slots[slot] >> 1 if slot >= 0 else 0


def mark(t: Tables, node: int, known: int) -> None:
    """Says in `slots` whether a node is a chunk of the lexicon (1) or not (0)."""
    t.slots[slot_of(t.slots, t.parent[node], t.char[node])] = (node << 1) | known


def add_edge(t: Tables, node: int, char: int, child: int) -> None:
    """Enters a child that is not there."""
    mask = len(t.slots) // 2 - 1
    at = home(node, char, mask)
    while t.slots[2 * at] >= 0:
        at = (at + 1) & mask
    t.slots[2 * at] = (node << CHAR_BITS) | char
    t.slots[2 * at + 1] = (child << 1) | (1 if t.rank[child] >= 0 else 0)


def drop_edge(t: Tables, node: int, char: int) -> None:
    """Takes a child out and closes the gap, so that no search ends too early."""
    mask = len(t.slots) // 2 - 1
    gap = slot_of(t.slots, node, char) // 2
    at = (gap + 1) & mask
    while t.slots[2 * at] >= 0:
        moved = t.slots[2 * at]
        begins = home(moved >> CHAR_BITS, moved & ((1 << CHAR_BITS) - 1), mask)
        if ((at - begins) & mask) >= ((at - gap) & mask):
            t.slots[2 * gap] = moved
            t.slots[2 * gap + 1] = t.slots[2 * at + 1]
            gap = at
        at = (at + 1) & mask
    t.slots[2 * gap] = -1


def fill_slots(t: Tables) -> None:
    """Enters every node in use into empty slots."""
    for node in range(1, t.counts[NODES]):
        if t.parent[node] >= 0:
            add_edge(t, t.parent[node], t.char[node], node)


def new_node(t: Tables, above: int, char: int) -> int:
    """Makes a node below another one."""
    if t.counts[FREE] > 0:
        t.counts[FREE] -= 1
        node = int(t.free[t.counts[FREE]])
    else:
        node = int(t.counts[NODES])
        t.counts[NODES] += 1
    t.parent[node], t.char[node], t.depth[node] = above, char, t.depth[above] + 1
    t.children[node], t.uses[node] = 0, 0
    t.rank[node], t.expires[node], t.left[node], t.right[node] = -1, 0, 0, 0
    t.children[above] += 1
    add_edge(t, above, char, node)
    return node


def prune(t: Tables, node: int) -> None:
    """Frees a node, and those above it, while nothing needs them; single characters stay."""
    while t.depth[node] > 1 and t.children[node] == 0 and t.uses[node] == 0:
        if t.rank[node] >= 0 or t.expires[node] > 0:
            return
        above = int(t.parent[node])
        drop_edge(t, above, t.char[node])
        t.parent[node] = -1
        t.depth[node] = 0
        t.free[t.counts[FREE]] = node
        t.counts[FREE] += 1
        t.children[above] -= 1
        node = above


def enter(t: Tables, text: Any, start: int, end: int) -> int:
    """The node of a span of the text, made if it is not there."""
    node = 0
    for at in range(start, end):
        below = child_of(t.slots, node, text[at])
        node = below if below > 0 else new_node(t, node, text[at])
    return node


def longest_two(slots: Any, text: Any, at: int, end: int) -> tuple[int, int]:
    """The longest and the second longest chunk of the lexicon that begin here; 0 where there is none."""
    node, best, second = 0, 0, 0
    while at < end:
        slot = slot_of(slots, node, text[at])
        if slot < 0:
            break
        node = slots[slot] >> 1
        if slots[slot] & 1:
            second = best
            best = node
        at += 1
    return best, second


def forced(t: Tables, text: Any, at: int, end: int) -> int:
    """The longest chunk that begins here, else the character; 0 at the end."""
    if at >= end:
        return 0
    best, _ = longest_two(t.slots, text, at, end)
    return best if best > 0 else enter(t, text, at, at + 1)


def share_end(t: Tables, one: int, other: int) -> bool:
    """Whether one of two chunks ends in the other; never when one is empty."""
    if one <= 0 or other <= 0:
        return False
    while one != 0 and other != 0:
        if t.char[one] != t.char[other]:
            return False
        one, other = int(t.parent[one]), int(t.parent[other])
    return True


def share_start(t: Tables, one: int, other: int) -> bool:
    """Whether one of two chunks begins with the other; never when one is empty."""
    if one <= 0 or other <= 0:
        return False
    while t.depth[one] > t.depth[other]:
        one = int(t.parent[one])
    while t.depth[other] > t.depth[one]:
        other = int(t.parent[other])
    return one == other


def begin_trial(t: Tables, node: int, expires: int, left: int, right: int) -> None:
    """Puts a chunk on probation; `left` is -1 when no context is stored."""
    t.expires[node], t.left[node], t.right[node] = expires, left, right
    if left > 0:
        t.uses[left] += 1
    if right > 0:
        t.uses[right] += 1
    t.trial[t.counts[TRIALS]] = node
    t.counts[TRIALS] += 1


def end_trial(t: Tables, node: int) -> None:
    """Takes a chunk off probation and lets its context go."""
    if t.expires[node] == 0:
        return
    left, right = int(t.left[node]), int(t.right[node])
    t.expires[node], t.left[node], t.right[node] = 0, 0, 0
    if left > 0:
        t.uses[left] -= 1
        prune(t, left)
    if right > 0:
        t.uses[right] -= 1
        prune(t, right)


def memorise(t: Tables, text: Any, start: int, end: int, left: int, right: int, rules: Rules) -> None:
    """Appends a span to the lexicon, on probation, unless it is there or too long."""
    if end - start > rules.longest:
        return
    node = enter(t, text, start, end)
    if t.rank[node] >= 0:
        return
    t.rank[node] = t.counts[LEXICON]
    mark(t, node, 1)
    t.order[t.counts[LEXICON]] = node
    t.counts[LEXICON] += 1
    begin_trial(t, node, t.counts[STEP] + rules.life, left, right)


def reward(t: Tables, signed: int) -> None:
    """Notes a reward (the node) or a punishment (its negative) for the end of the article."""
    t.rewards[t.counts[REWARDS]] = signed
    t.counts[REWARDS] += 1


def meet_again(t: Tables, text: Any, at: int, end: int, chunk: int, last: int, before: int, rules: Rules) -> None:
    """A chunk on probation is seen once more: released in a new context, lengthened in the old one."""
    left, right = int(t.left[chunk]), int(t.right[chunk])
    if not rules.inspect or left < 0:
        end_trial(t, chunk)
        return
    after = at + t.depth[chunk]
    follows = forced(t, text, after, end)
    if left == 0 and right == 0 and last == 0 and follows == 0:
        return
    lengthened = False
    if share_end(t, left, last):
        memorise(t, text, at - t.depth[last], after, before, follows, rules)
        lengthened = True
    if share_start(t, right, follows):
        beyond = after + t.depth[follows]
        memorise(t, text, at, beyond, last, forced(t, text, beyond, end), rules)
        lengthened = True
    if not lengthened:
        reward(t, chunk)
        end_trial(t, chunk)


def evaluate(t: Tables, text: Any, at: int, end: int, now: int, total: int, pending: Any, unknown: Any) -> None:
    """Lengthens the alternative of each pending evaluation to `at`, and judges those that end there.

    A pending evaluation is `(chunk, first chunk of the alternative, chunks read when it began, their ranks summed,
    end of the alternative, its number of chunks, their ranks summed, serial number)`. Characters of an alternative
    that are no chunks yet stand in `unknown` with its serial number: they count if they became chunks since.
    """
    kept = 0
    for i in range(len(pending)):
        chunk, first, opened, before, reach, size, ranks, serial = pending[i]
        while reach < at:
            best, _ = longest_two(t.slots, text, reach, end)
            if best > 0:
                ranks += t.rank[best]
                reach += t.depth[best]
            else:
                unknown.append((serial, enter(t, text, reach, reach + 1)))
                reach += 1
            size += 1
        if reach > at:
            pending[kept] = (chunk, first, opened, before, reach, size, ranks, serial)
            kept += 1
            continue
        if size == now - opened:
            for owner, node in unknown:
                if owner == serial and t.rank[node] >= 0:
                    ranks += t.rank[node]
        if now - opened > size or (now - opened == size and total - before > ranks):
            reward(t, first)
            reward(t, -chunk)
        else:
            reward(t, chunk)
    while len(pending) > kept:
        pending.pop()


def open_evaluation(pending: Any, one: Any) -> None:
    """Adds a pending evaluation; one of the same chunk is replaced where it stands."""
    for i in range(len(pending)):
        if pending[i][0] == one[0]:
            pending[i] = one
            return
    pending.append(one)


def read_sentence(t: Tables, text: Any, start: int, end: int, draws: Any, drawn: int, rules: Rules) -> int:
    """Reads one sentence; returns how many of the draws are used up."""
    pending = [(0, 0, 0, 0, 0, 0, 0, 0)]
    pending.pop()
    unknown = [(0, 0)]
    unknown.pop()
    at, now, total, last, before = start, 0, 0, 0, 0
    while at < end:
        if len(pending) > 0:
            evaluate(t, text, at, end, now, total, pending, unknown)
        chunk, smaller = longest_two(t.slots, text, at, end)
        if chunk > 0:
            after = at + t.depth[chunk]
            if t.expires[chunk] > 0:
                meet_again(t, text, at, end, chunk, last, before, rules)
            if smaller > 0:
                rank, reach = int(t.rank[smaller]), int(at + t.depth[smaller])
                open_evaluation(pending, (chunk, smaller, now, total, reach, 1, rank, now))
            if draws[drawn] < rules.in_rate:
                follows = forced(t, text, after, end)
                memorise(t, text, at - t.depth[last], after, before, follows, rules)
            drawn += 1
        else:
            after = at + 1
            chunk = enter(t, text, at, after)
            memorise(t, text, at, after, last, forced(t, text, after, end), rules)
        total += t.rank[chunk]
        now += 1
        last, before = chunk, last
        at = after
    return drawn


def read_sentences(t: Tables, text: Any, starts: Any, draws: Any, drawn: int, rules: Rules) -> int:
    """Reads the sentences between neighbouring `starts`; returns how many of the draws are used up."""
    for i in range(len(starts) - 1):
        drawn = read_sentence(t, text, starts[i], starts[i + 1], draws, drawn, rules)
    return drawn
