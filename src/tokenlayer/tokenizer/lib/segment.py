"""Cutting text into chunks of a finished lexicon by comparing two paths.

Runs as it stands or compiled, as `kernel` does.
"""

# ruff: noqa: PLR0917 -- single numbers go from loop to loop: compiled code copies a tuple of arrays at each call

from typing import Any, NamedTuple

from tokenlayer.tokenizer.lib.kernel import Tables, longest_two

NEWLINE = 10


class Cut(NamedTuple):
    """What a text is cut with, and room for what comes out.

    Attributes:
        tables: the lexicon; only `slots`, `rank` and `depth` are read.
        ids: token id by node.
        first_byte: token id of byte 0; the other bytes follow.
        compat: emit a single character where no second chunk matches, as the reference implementation does.
        out: room for four ids a character.
        one: room for a path, one more than characters.
        other: the same again.
    """

    tables: Tables
    ids: Any
    first_byte: int
    compat: bool
    out: Any
    one: Any
    other: Any


def encode(cut: Cut, text: Any) -> int:
    """Writes the token ids of a text, given as numbers; each line is cut alone, its end is a byte. Returns how many."""
    size, line, length = 0, 0, len(text)
    while line < length:
        end = line
        while end < length and text[end] != NEWLINE:
            end += 1
        at = line
        while at < end:
            at, size = advance(cut, text, at, end, size)
        if end < length:
            cut.out[size] = cut.first_byte + NEWLINE
            size += 1
        line = end + 1
    return size


def advance(cut: Cut, text: Any, at: int, end: int, size: int) -> tuple[int, int]:
    """Writes what stands between `at` and the place where both paths meet; returns that place and the new size."""
    t = cut.tables
    best, second = longest_two(t.slots, text, at, end)
    if second == 0:
        cut.one[0] = best if best > 0 and not cut.compat else longest_two(t.slots, text, at, at + 1)[0]
        size = write_path(cut, text, at, cut.one, 1, size)
        return at + (t.depth[cut.one[0]] if cut.one[0] > 0 else 1), size
    cut.one[0], cut.other[0] = best, second
    reach, other_reach = at + t.depth[best], at + t.depth[second]
    chunks, other_chunks = 1, 1
    while reach != other_reach:
        if other_reach < reach:
            other_reach = step(t, text, other_reach, end, cut.other, other_chunks)
            other_chunks += 1
        else:
            reach = step(t, text, reach, end, cut.one, chunks)
            chunks += 1
    tie = chunks == other_chunks
    if chunks > other_chunks or (tie and sum_ranks(t, cut.one, chunks) > sum_ranks(t, cut.other, other_chunks)):
        return reach, write_path(cut, text, at, cut.other, other_chunks, size)
    return reach, write_path(cut, text, at, cut.one, chunks, size)


def step(t: Tables, text: Any, at: int, end: int, path: Any, chunks: int) -> int:
    """Lengthens a path by the longest chunk, or by an unknown character (0); returns its end."""
    best, _ = longest_two(t.slots, text, at, end)
    path[chunks] = best
    return at + t.depth[best] if best > 0 else at + 1


def sum_ranks(t: Tables, path: Any, chunks: int) -> int:
    """The ranks of a path's chunks summed; unknown characters have none."""
    found = 0
    for i in range(chunks):
        if path[i] > 0:
            found += t.rank[path[i]]
    return found


def write_path(cut: Cut, text: Any, at: int, path: Any, chunks: int, size: int) -> int:
    """Writes the ids of a path; returns the new size."""
    for i in range(chunks):
        if path[i] > 0:
            cut.out[size] = cut.ids[path[i]]
            size += 1
            at += cut.tables.depth[path[i]]
        else:
            size = write_bytes(cut.first_byte, text[at], cut.out, size)
            at += 1
    return size


def write_bytes(first_byte: int, char: int, out: Any, size: int) -> int:
    """Writes the UTF-8 bytes of a character; a lone surrogate gets the three bytes that its number would have."""
    if char < 0x80:
        out[size] = first_byte + char
        return size + 1
    more = 1 if char < 0x800 else 2 if char < 0x10000 else 3
    lead = 0xC0 if more == 1 else 0xE0 if more == 2 else 0xF0
    out[size] = first_byte + (lead | (char >> (6 * more)))
    for i in range(more):
        out[size + 1 + i] = first_byte + (0x80 | ((char >> (6 * (more - 1 - i))) & 0x3F))
    return size + 1 + more
