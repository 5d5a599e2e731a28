"""Where a tokenizer really cuts: a trap in the vocabulary is only a candidate until a sentence was encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from tokenlayer.models.score import token_ends
from tokenlayer.models.tokenizer_files import LoadedTokenizer

Z95 = 1.959964


@dataclass(frozen=True)
class Cut:
    """How a tokenizer cuts the neighbourhood of a word boundary.

    Attributes:
        wrong: a token holds bytes from both sides of the boundary.
        ids: the tokens that share bytes with the span.
        first: place of the first of them among all tokens of the sentence.
        tokens: their bytes.
        crossing: byte offsets in the sentence of the token across the boundary, or None.
    """

    wrong: bool
    ids: tuple[int, ...]
    first: int
    tokens: tuple[bytes, ...]
    crossing: tuple[int, int] | None


def cut_at(tokenizer: LoadedTokenizer, sentence: str, span: tuple[int, int], gap: tuple[int, int]) -> Cut:
    """Encodes a sentence and looks at its tokens around a word boundary.

    Args:
        tokenizer: any; where its normaliser changes the text, its own offsets lead back to it.
        sentence: the whole sentence: what stands beside the words changes the cut.
        span: characters of both words, start and end.
        gap: characters where the first word ends and the second starts; equal for glued words. A boundary
            anywhere in it is right.

    Returns:
        The cut. Offsets are compared in bytes, so a token that ends inside a character is judged exactly.
    """
    ids = tokenizer.encode(sentence)
    ends = token_ends(tokenizer, sentence, ids).tolist()
    at = _byte_offsets(sentence)
    start, stop = at[span[0]], at[span[1]]
    left, right = at[gap[0]], at[gap[1]]
    inside = [n for n, (a, b) in enumerate(zip([0, *ends[:-1]], ends, strict=True)) if a < stop and b > start]
    right_cut = any(left <= end <= right for end in ends)
    crossing = None
    over = next((n for n in inside if ends[n] > left), None)
    if not right_cut and over is not None:
        crossing = (ends[over - 1] if over else 0, ends[over])
    found = tuple(ids[n] for n in inside)
    first = inside[0] if inside else 0
    return Cut(not right_cut, found, first, tuple(tokenizer.token_bytes(found)), crossing)


def hits_trap(sentence: str, cut: Cut, trap: str) -> bool:
    """Whether the token across the boundary is the trap itself, not another one."""
    if cut.crossing is None:
        return False
    start, end = cut.crossing
    return sentence.encode("utf-8")[start:end].strip() == trap.encode("utf-8")


def forced_ids(tokenizer: LoadedTokenizer, sentence: str, span: tuple[int, int], boundary: int) -> list[int]:
    """The tokens of a sentence with a cut at the boundary: the words are spelled one by one, the rest is as it was.

    Args:
        tokenizer: any.
        sentence: the sentence.
        span: characters of both words.
        boundary: the character where the second word starts.

    Returns:
        Token ids, or an empty list where the vocabulary cannot spell the parts or a normaliser changed them.
    """
    cut = cut_at(tokenizer, sentence, span, (boundary, boundary))
    ids = tokenizer.encode(sentence)
    if not cut.wrong:
        return ids
    before, after = cut.first, cut.first + len(cut.ids)
    covered = b"".join(cut.tokens)
    start = len(b"".join(tokenizer.token_bytes(ids[:before])))
    lead = len(b"".join(tokenizer.token_bytes(ids))) - len(sentence.encode("utf-8"))  # a space put in front
    inner = len(sentence[:boundary].encode("utf-8")) + lead - start
    if lead not in (0, 1) or not 0 < inner < len(covered):
        return []
    parts = tokenizer.vocab.spell_all([covered[:inner], covered[inner:]])
    return [*ids[:before], *parts[0], *parts[1], *ids[after:]] if all(parts) else []


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson, 1927).

    Args:
        hits: from 0 to `n`.
        n: at least 1.

    Returns:
        Lower and upper bound, from 0 to 1.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no rate")
    rate, z2 = hits / n, Z95**2
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return (middle - half if hits else 0.0), (middle + half if hits < n else 1.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (normal) of numbers, one for each instance; the interval is 0 wide for one number."""
    n = len(values)
    mean = sum(values) / n
    spread = sqrt(sum((v - mean) ** 2 for v in values) / max(n - 1, 1) / n)
    return mean, mean - Z95 * spread, mean + Z95 * spread


def _byte_offsets(text: str) -> list[int]:
    """Byte offset of each character, and of the end."""
    at = [0]
    for char in text:
        at.append(at[-1] + len(char.encode("utf-8")))
    return at
