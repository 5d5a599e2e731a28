"""Sub-words that are frequent within one type of terms: n-gram counts, knowledge BPE, selection by probability.

Paper: Hasan et al., "Infusing clinical knowledge into tokenisers for language models", 2024 (Computers in Biology and
Medicine 2025), vocabulary generation. Reference implementation: abulhasanbbk/K-Tokenizer.

Each word of the terms gets a BPE of its own, trained on all its n-grams, each as often as the n-gram occurs in all
words of the type: what is merged is frequent across the type, what is cut is the word.

Errors: `BadOption` for a number out of range; `BadText` for terms with fewer than two distinct words.

Differences from the paper:
    - none known in the default; `compat=True` does what the released code does: a suffix of m characters is counted
      once more for every n-gram length above m, the last character of an n-gram carries an end mark while merging,
      a later piece that begins with the word's first letter is stored without `##`, and selection is alphabetical;
    - words of more than `longest_word` characters (chemical names) are left out and counted: the cost of a word grows
      with the cube of its length.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenlayer.core.errors import BadOption, BadText

PREFIX = "##"
STEP = 1e-6
"""Between the thresholds that the released code tries, upwards from the smallest probability."""
MARK = "\0"
"""Stands after the last character of an n-gram in compat mode."""
TELL_EVERY = 100
"""Words between two calls of `progress`."""
_SYLLABLE = re.compile("[aeiouy]+[^aeiouy]+|[aeiouy]+|[^aeiouy]+[aeiouy]+|[^aeiouy]", re.DOTALL)
"""Vowels and consonants, vowels, consonants and vowels, one consonant; tried in this order (English)."""

Split = Callable[[str], Iterable[str]]
"""Cuts a term into words."""


@dataclass(frozen=True)
class TypedPiecesConfig:
    """Defaults are the paper's."""

    merges: int = 20
    """Most merges for one word."""
    longest_piece: int = 5
    """Longest piece in characters."""
    syllables: bool = True
    """Cut a long first piece into syllables; the patterns are those of English."""
    syllable_min: int = 4
    """A first piece of this many characters is cut."""
    longest_word: int = 100
    """Longer words are left out."""
    compat: bool = False
    """Do what the released code does."""

    def __post_init__(self) -> None:
        for name in ("merges", "longest_piece", "syllable_min", "longest_word"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True, eq=False)
class TypedPieces:
    """What the terms of one type give.

    Attributes:
        pieces: piece (`##` in front when it is not the first of its word) -> count of its n-gram, in the order of
            finding.
        ngrams: n-gram -> how often it occurs in the words of the type.
        words: distinct words that were cut.
        left_out: distinct words that were too long.
    """

    pieces: Mapping[str, int]
    ngrams: Mapping[str, int]
    words: tuple[str, ...]
    left_out: int = 0


def typed_pieces(
    terms: Iterable[str],
    config: TypedPiecesConfig | None = None,
    split: Split = str.split,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> TypedPieces:
    """Finds the pieces of one type.

    Takes about a minute and 1 GB for 50,000 terms; time grows with the cube of the length of a word.

    Args:
        terms: distinct terms; a word that occurs in several counts for each.
        config: see `TypedPiecesConfig`.
        split: cuts a lower-cased term into words; white space in the paper.
        progress: called with words done and words in all.

    Raises:
        BadText: fewer than two distinct words.
    """
    config = config or TypedPiecesConfig()
    counts = Counter(word for term in terms for word in split(term.lower()))
    words = [word for word in counts if len(word) <= config.longest_word]
    if len(words) < 2:
        raise BadText(
            f"the terms have {len(words)} distinct words, expected at least 2",
            hint="pieces are what many words of a type share; give a longer list",
        )
    ngrams = count_ngrams({word: counts[word] for word in words}, tails=config.compat)
    pieces: dict[str, int] = {}
    for done, word in enumerate(words):
        if progress is not None and done % TELL_EVERY == 0:
            progress(done, len(words))
        for at, piece in enumerate(cut_word(word, ngrams, config)):
            if config.compat and piece in pieces:
                continue
            inside = piece[0] != word[0] if config.compat else at > 0
            pieces[PREFIX + piece if inside else piece] = ngrams[piece]
    return TypedPieces(pieces, ngrams, tuple(words), len(counts) - len(words))


def count_ngrams(words: Mapping[str, int], *, tails: bool = False) -> dict[str, int]:
    """Counts the n-grams of all lengths at all places.

    Args:
        words: word -> how often it occurs.
        tails: count a suffix once more for every length that it is too short for, as the released code does.
    """
    counts: dict[str, int] = defaultdict(int)
    for word, times in words.items():
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                counts[word[start:end]] += times
            if tails:
                counts[word[start:]] += times * start
    return dict(counts)


def cut_word(word: str, ngrams: Mapping[str, int], config: TypedPiecesConfig) -> list[str]:
    """Cuts one word: its own BPE, longest match from the left, then syllables of the first piece."""
    merged = knowledge_bpe(word, ngrams, config.merges, end_marks=config.compat)
    pieces = segment(word, merged, config.longest_piece)
    if config.syllables and len(pieces[0]) >= config.syllable_min:
        pieces[:1] = syllables(pieces[0])
    return pieces


def knowledge_bpe(word: str, ngrams: Mapping[str, int], merges: int, *, end_marks: bool = False) -> set[str]:
    """The strings that a BPE over all n-grams of a word, each with its count, merges.

    Of pairs with equal counts the one that comes first wins, shorter n-grams and lower places first.
    """
    rest = {
        word[start : start + size]: None for size in range(2, len(word) + 1) for start in range(len(word) - size + 1)
    }
    corpus = [([*gram[:-1], gram[-1] + MARK] if end_marks else list(gram), ngrams.get(gram, 1)) for gram in rest]
    merged: set[str] = set()
    for _ in range(merges):
        pairs: dict[tuple[str, str], int] = defaultdict(int)
        for symbols, count in corpus:
            for pair in pairwise(symbols):
                pairs[pair] += count
        best = max(pairs, key=pairs.__getitem__, default=None)
        if best is None or pairs[best] < 2:
            break
        merged.add("".join(best).removesuffix(MARK) if end_marks else "".join(best))
        corpus = list(_merged(corpus, *best))
    return merged


def _merged(corpus: Sequence[tuple[list[str], int]], left: str, right: str) -> Iterator[tuple[list[str], int]]:
    """The corpus with a pair joined everywhere; what has become one symbol has no pairs and is dropped."""
    both = left + right
    for symbols, count in corpus:
        at = 0
        try:
            while True:
                at = symbols.index(left, at)
                if symbols[at + 1] == right:
                    symbols[at : at + 2] = [both]
                at += 1
        except (ValueError, IndexError):
            pass
        if len(symbols) > 1:
            yield symbols, count


def segment(word: str, merged: set[str], longest: int) -> list[str]:
    """Longest match from the left among the merged strings; single characters otherwise."""
    pieces: list[str] = []
    at = 0
    while at < len(word):
        end = next((e for e in range(min(len(word), at + longest), at + 1, -1) if word[at:e] in merged), at + 1)
        pieces.append(word[at:end])
        at = end
    return pieces


def syllables(piece: str) -> list[str]:
    """Cuts a piece by patterns of vowels and consonants; the parts make up the piece again."""
    return _SYLLABLE.findall(piece)


def select(
    pieces: Mapping[str, int], *, size: int | None = None, delta: float | None = None, alphabetical: bool = False
) -> dict[str, int]:
    """Keeps the sufficient set: the most probable pieces.

    Args:
        pieces: piece -> count.
        size: how many at most; of equal counts the piece that was found first stays.
        delta: keep the pieces with probability above it (count / sum of counts).
        alphabetical: take the first `size` in alphabetical order, as the released code does.

    Returns:
        The kept pieces, most probable first (or in alphabetical order).

    Raises:
        BadOption: neither or both of `size` and `delta`, or one out of range.
    """
    if (size is None) == (delta is None):
        raise BadOption(f"size is {size} and delta is {delta}, expected one of them")
    if delta is not None:
        if not 0 <= delta < 1:
            raise BadOption(f"delta is {delta}, expected 0 to below 1")
        total = sum(pieces.values())
        return {piece: n for piece, n in _ranked(pieces) if n / total > delta}
    if size is None or size < 1:
        raise BadOption(f"size is {size}, expected at least 1")
    ranked = sorted(pieces.items()) if alphabetical else _ranked(pieces)
    return dict(ranked[:size])


def _ranked(pieces: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(pieces.items(), key=lambda entry: -entry[1])


def delta_curve(pieces: Mapping[str, int], deltas: Iterable[float] | None = None) -> list[tuple[float, float, int]]:
    """What each threshold keeps: rows (delta, entropy of what is kept in nats, pieces).

    The probabilities are not scaled anew, so the entropy falls from that of the whole as pieces drop out.

    Args:
        pieces: piece -> count.
        deltas: thresholds; by default the ten of the released code, 1e-6 apart from the smallest probability on.
    """
    total = sum(pieces.values())
    shares = sorted((n / total for n in pieces.values()), reverse=True)
    steps = [shares[-1] + STEP * n for n in range(1, 11)] if deltas is None else deltas
    kept = [(delta, [p for p in shares if p > delta]) for delta in steps]
    return [(delta, -math.fsum(p * math.log(p) for p in some), len(some)) for delta, some in kept]
