"""Characters in a BPE over bytes: merges that build them, and a split that keeps unknown ones apart."""

from collections.abc import Iterable, Sequence
from typing import Any

from tokenlayer.core.byte_alphabet import CHAR_OF_BYTE, to_alphabet

ASCII = "[!-~Ā-ġ]"
"""The bytes below 128 in the byte alphabet: printable ones, then 0 to 32 and 127."""


def character_merges(known: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """How characters are built from their bytes, from the left.

    Args:
        known: characters beyond ASCII.

    Returns:
        The tokens that occur on the way to a character, in the order of need, and the merges, shortest first; both in
        the byte alphabet. The characters themselves are not among the tokens.
    """
    spelled = [to_alphabet(one.encode("utf-8", "surrogatepass")) for one in known]
    pieces = sorted({name[:end] for name in spelled for end in range(2, len(name))}, key=lambda one: (len(one), one))
    made = sorted({*pieces, *spelled}, key=lambda one: (len(one), one))
    return pieces, [(one[:-1], one[-1]) for one in made]


def run_merges(runs: Iterable[str]) -> list[tuple[str, str]]:
    """Every cut of every run in two, shorter runs first: whatever was merged before, a run ends as one token.

    Args:
        runs: strings of one character followed by repeats of one character.
    """
    cuts = [(run[:at], run[at:]) for run in sorted(runs, key=lambda one: (len(one), one)) for at in range(1, len(run))]
    return [(left, right) for left, right in cuts if len(set(right)) == 1]


def known_runs(known: Sequence[str]) -> str:
    """A pattern over the byte alphabet: a run of ASCII and known characters, or else a single byte."""
    ends: dict[str, dict[str, list[str]]] = {}
    for one in known:
        name = to_alphabet(one.encode("utf-8", "surrogatepass"))
        ends.setdefault(name[0], {}).setdefault(name[1:-1], []).append(name[-1])
    choices = [ASCII, *(lead + _after(inner) for lead, inner in sorted(ends.items()))]
    return f"(?:{'|'.join(choices)})++|[\\s\\S]"


def _after(inner: dict[str, list[str]]) -> str:
    """What may follow a first byte."""
    choices = [middle + _one_of(last) for middle, last in sorted(inner.items())]
    return choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"


def _one_of(chars: list[str]) -> str:
    """One of several characters of the alphabet for continuation bytes, as ranges."""
    order = "".join(CHAR_OF_BYTE[b] for b in range(128, 192))
    at = sorted(order.index(one) for one in chars)
    return order[at[0]] if len(at) == 1 else "[" + "".join(order[i] for i in at) + "]"


def isolate(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer step that cuts a text into the matches of a pattern (and what lies between them)."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
