"""The tables of the kernel with room to grow, as lists or as arrays, and text as the kernel reads it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tokenlayer.tokenizer.lib.compiled import loops
from tokenlayer.tokenizer.lib.kernel import FREE, LEXICON, NODES, REWARDS, TRIALS, Rules, Tables
from tokenlayer.tokenizer.lib.ranked import FULL, blocks_of

PER_NODE = ("parent", "char", "depth", "children", "uses", "rank", "expires", "left", "right", "free", "order")
BATCH_CHARS = 4_096
"""Characters read between two looks at the room that is left."""
NODES_PER_CHAR = 8
"""Nodes that reading one character can make at most: a chunk with the one before (its own length), a chunk of
probation with the ones before and after (twice its length and that of the next), and four single characters."""


class Memory:
    """The tables, and the loops that run on them.

    Args:
        compiled: arrays and compiled loops, else lists and plain ones; what comes out is the same.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled
        self.loops: SimpleNamespace = loops(compiled)
        begin = {"counts": [0] * 6, "slots": [-1] * 4}
        self.tables = Tables(*[self._numbers(name, begin.get(name, [])) for name in Tables._fields])
        self._grow(dict.fromkeys(PER_NODE, 1))
        self.tables.counts[NODES] = 1  # the root

    def compile(self) -> None:
        """Moves everything into arrays and compiled loops."""
        self.compiled, self.loops = True, loops(True)
        self.tables = Tables(*[self._numbers(name, getattr(self.tables, name)) for name in Tables._fields])

    def codes(self, text: str) -> Any:
        """The characters of a text as numbers."""
        found = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.int32)
        return found if self.compiled else found.tolist()

    def room(self, size: int) -> Any:
        """An array or list of so many numbers."""
        return np.empty(size, dtype=np.int64) if self.compiled else [0] * size

    def add(self, chunks: Sequence[str]) -> list[int]:
        """Appends chunks to the lexicon; returns their nodes."""
        self.ensure_nodes(sum(map(len, chunks)))
        nodes = []
        for chunk in chunks:
            node = self.loops.enter(self.tables, self.codes(chunk), 0, len(chunk))
            self.loops.mark(self.tables, node, 1)
            self.tables.rank[node] = at = int(self.tables.counts[LEXICON])
            self.tables.order[at] = node
            self.tables.counts[LEXICON] += 1
            nodes.append(int(node))
        return nodes

    def begin_trial(self, node: int, expires: int, context: Sequence[str] | None) -> None:
        """Puts a chunk of the lexicon on probation with the context that it had."""
        self._ensure("trial", int(self.tables.counts[TRIALS]) + 1)
        left, right = (-1, -1) if context is None else map(self._node, context)
        self.loops.begin_trial(self.tables, node, expires, left, right)

    def _node(self, chunk: str) -> int:
        self.ensure_nodes(len(chunk))
        return int(self.loops.enter(self.tables, self.codes(chunk), 0, len(chunk)))

    def read(self, text: Any, starts: Sequence[int], draws: Any, rules: Rules) -> int:
        """Reads sentences of at most `BATCH_CHARS` characters, or one; returns how many draws are used up."""
        size = starts[-1] - starts[0]
        self.ensure_nodes(NODES_PER_CHAR * size)
        self._ensure("rewards", int(self.tables.counts[REWARDS]) + 3 * size)
        self._ensure("trial", int(self.tables.counts[TRIALS]) + 3 * size)
        borders = np.asarray(starts, dtype=np.int64) if self.compiled else starts
        return int(self.loops.read_sentences(self.tables, text, borders, draws, 0, rules))

    def end_article(self, rules: Rules) -> None:
        """Puts the lexicon in order."""
        size = int(self.tables.counts[LEXICON])
        self._ensure("trial", int(self.tables.counts[TRIALS]) + size)
        blocks = blocks_of(size)
        cells, sizes, sums = self.room(blocks * FULL), self.room(blocks), self.room(blocks + 1)
        self.loops.end_article(self.tables, rules, cells, sizes, sums)

    def chunk(self, node: int) -> str:
        """The text of a node."""
        t, found = self.tables, []
        while node > 0:
            found.append(chr(t.char[node]))
            node = int(t.parent[node])
        return "".join(reversed(found))

    def ensure_nodes(self, more: int) -> None:
        """Makes room for so many more nodes; the hash table stays at most half full."""
        counts = self.tables.counts
        needed = int(counts[NODES]) + max(0, more - int(counts[FREE]))
        if needed > len(self.tables.parent):
            self._grow(dict.fromkeys(PER_NODE, max(needed, len(self.tables.parent) * 3 // 2)))
        slots = len(self.tables.slots) // 2
        if slots < 2 * needed:
            while slots < 2 * needed:
                slots *= 2
            empty = np.full(2 * slots, -1, dtype=np.int64) if self.compiled else [-1] * (2 * slots)
            self.tables = self.tables._replace(slots=empty)
            self.loops.fill_slots(self.tables)

    def _ensure(self, name: str, size: int) -> None:
        now = len(getattr(self.tables, name))
        if size > now:
            self._grow({name: max(size, now * 3 // 2)})

    def _grow(self, sizes: dict[str, int]) -> None:
        made = {}
        for name, size in sizes.items():
            old = getattr(self.tables, name)
            more = size - len(old)
            made[name] = np.concatenate([old, np.zeros(more, old.dtype)]) if self.compiled else [*old, *[0] * more]
        self.tables = self.tables._replace(**made)

    def _numbers(self, name: str, values: Any) -> Any:
        if not self.compiled:
            return values
        return np.array(values, dtype=np.int64 if name in ("slots", "counts") else np.int32)
