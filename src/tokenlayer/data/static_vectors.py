"""Word vectors, with or without character n-grams: look-up, and training on texts.

A word's vector is the mean of its own row (if it is known) and the rows of its n-grams with `<` and `>` around the
word, as fastText has it; without n-grams an unknown word has no vector, which is written as zeros.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from tokenlayer.core.errors import BadOption, BadVectors, MissingExtra
from tokenlayer.core.seeds import derive_seed
from tokenlayer.data.dictionaries import Dictionary

LOOKED_UP = 4096
"""Words whose n-gram rows are held at a time."""
LONGEST_SENTENCE = 1000
"""Words; gensim silently drops what follows the 10,000th word of a sentence, fastText cuts at 1,024."""
_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
_WORD = re.compile(r"\w+|[^\w\s]")

Tokenize = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class NgramConfig:
    """How long the n-grams of a word are and how many rows they share."""

    min_n: int
    """Shortest n-gram in characters, the marks < and > counted."""
    max_n: int
    """Longest n-gram."""
    buckets: int
    """Rows; an n-gram takes the row of its hash."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_n <= self.max_n:
            raise BadOption(f"min_n is {self.min_n} and max_n is {self.max_n}, expected 1 <= min_n <= max_n")
        if self.buckets < 1:
            raise BadOption(f"buckets is {self.buckets}, expected at least 1")


@dataclass(frozen=True, eq=False)
class StaticVectors:
    """Word vectors.

    Attributes:
        words: the known words, most frequent first; of a word that is there twice the first row counts.
        rows: float32, shape `(words + buckets, dim)`: one row per word, then one per n-gram bucket. May be a file
            that is mapped into memory.
        counts: how often each word was seen, or None where the file does not say.
        ngrams: how n-grams are made, or None for vectors of whole words.
    """

    words: tuple[str, ...]
    rows: Float32[np.ndarray, "rows dim"]
    counts: Int64[np.ndarray, " words"] | None = None
    ngrams: NgramConfig | None = None

    def __post_init__(self) -> None:
        expected = len(self.words) + (self.ngrams.buckets if self.ngrams else 0)
        if len(self.rows) != expected:
            raise BadVectors(f"there are {len(self.rows)} rows for {expected} words and n-gram buckets")
        if self.counts is not None and len(self.counts) != len(self.words):
            raise BadVectors(f"there are {len(self.counts)} counts for {len(self.words)} words")

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.rows.shape[1])

    def find(self, word: str) -> int | None:
        """Row of a known word, or None."""
        return self._row_of_word.get(word)

    def vector(self, word: str) -> Float32[np.ndarray, " dim"]:
        """The vector of a word, zeros if it has none."""
        first: Float32[np.ndarray, " dim"] = self.vectors([word])[0]
        return first

    def vectors(self, words: Sequence[str]) -> Float32[np.ndarray, "words dim"]:
        """The vectors of many words at once, zeros where there is none."""
        found = np.zeros((len(words), self.dim), np.float32)
        for start in range(0, len(words), LOOKED_UP):
            part = words[start : start + LOOKED_UP]
            owners, rows = self._parts(part)
            lengths = np.bincount(owners, minlength=len(part))
            known = np.flatnonzero(lengths)
            if len(known):
                begins = np.cumsum(lengths)[known] - lengths[known]
                total = np.add.reduceat(np.asarray(self.rows[rows], np.float32), begins, axis=0)
                found[start + known] = total / lengths[known, None].astype(np.float32)
        return found

    def frequencies(self) -> Float32[np.ndarray, " words"]:
        """Relative frequency of each word; 1 / rank (Zipf) where the counts are not known."""
        counts = 1 / np.arange(1, len(self.words) + 1) if self.counts is None else self.counts.astype(np.float64)
        return (counts / max(float(counts.sum()), 1e-300)).astype(np.float32)

    @cached_property
    def _row_of_word(self) -> dict[str, int]:
        return {word: i for i, word in reversed(list(enumerate(self.words)))}

    def _parts(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of (place of the word in `words`, row), sorted by place."""
        rows = [self._row_of_word.get(word, -1) for word in words]
        known = np.flatnonzero(np.array(rows, np.int64) >= 0)
        owners, ids = known, np.array(rows, np.int64)[known]
        if self.ngrams is not None:
            owner, hashes = ngram_hashes(words, self.ngrams.min_n, self.ngrams.max_n)
            owners = np.concatenate([owners, owner])
            ids = np.concatenate([ids, len(self.words) + hashes % self.ngrams.buckets])
        order = np.argsort(owners, kind="stable")
        return owners[order], ids[order]


def ngram_hashes(words: Sequence[str], min_n: int, max_n: int) -> tuple[np.ndarray, np.ndarray]:
    """The fastText hashes of the character n-grams of `<word>`, for many words at once.

    A single `<` or `>` is no n-gram; the whole of a short `<word>` is one.

    Returns:
        For each n-gram the place of its word and its 32-bit hash (both int64), sorted by place.
    """
    data = [f"<{word}>".encode("utf-8", "surrogatepass") for word in words]
    text = np.frombuffer(b"".join(data), np.uint8)
    owner = np.repeat(np.arange(len(data)), [len(d) for d in data])
    ends = np.cumsum([len(d) for d in data], dtype=np.int64)
    # a byte goes into FNV-1a as a signed char: 0x80..0xff become 0xffffff80..0xffffffff
    signed = text.astype(np.int8).astype(np.int32).view(np.uint32)
    starts_char = np.append((text & 0xC0) != 0x80, True)
    start = np.flatnonzero(starts_char[:-1])
    hashes, length, owned, made = np.full(len(start), _FNV_START, np.uint32), np.zeros(len(start), np.int64), [], []
    for step in itertools.count():
        alive = (start + step < ends[owner[start]]) & (length <= max_n)
        start, hashes, length = start[alive], hashes[alive], length[alive]
        if not len(start):
            break
        at = start + step
        length = length + starts_char[at]
        hashes = (hashes ^ signed[at]) * _FNV_PRIME
        first, last = (start == 0) | (owner[start] != owner[start - 1]), at + 1 == ends[owner[start]]
        whole = starts_char[at + 1] & (length >= min_n) & (length <= max_n) & ~((length == 1) & (first | last))
        owned.append(owner[start[whole]])
        made.append(hashes[whole].astype(np.int64))
    if not owned:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    owners, values = np.concatenate(owned), np.concatenate(made)
    order = np.argsort(owners, kind="stable")
    return owners[order], values[order]


@dataclass(frozen=True)
class MatchedPairs:
    """Dictionary pairs of which both words have a row of their own.

    Attributes:
        source: vectors of the source words, shape `(pairs, dim)`.
        target: vectors of the target words, row by row.
        times: how often the dictionary and its spellings give each pair.
        entries: dictionary pairs that gave at least one.
    """

    source: Float32[np.ndarray, "pairs source_dim"]
    target: Float32[np.ndarray, "pairs target_dim"]
    times: Int64[np.ndarray, " pairs"]
    entries: int


def match_pairs(dictionary: Dictionary, source: StaticVectors, target: StaticVectors) -> MatchedPairs:
    """Looks up each dictionary pair as it is, in lower case and in Title Case, all nine ways.

    A spelling that comes out twice (a word that is in lower case already) counts twice, as in the published code.
    """
    found: dict[tuple[int, int], int] = {}
    entries = 0
    for pair in dictionary.pairs:
        ways = [
            (i, j)
            for one in _spellings(pair[0])
            if (i := source.find(one)) is not None
            for other in _spellings(pair[1])
            if (j := target.find(other)) is not None
        ]
        entries += bool(ways)
        for way in ways:
            found[way] = found.get(way, 0) + 1
    return MatchedPairs(
        source.vectors([source.words[i] for i, _ in found]),
        target.vectors([target.words[j] for _, j in found]),
        np.fromiter(found.values(), np.int64, len(found)),
        entries,
    )


def _spellings(word: str) -> tuple[str, str, str]:
    return word, word.lower(), word.title()


@dataclass(frozen=True)
class VectorConfig:
    """How vectors are trained; defaults are those of `wechsel.train_embeddings` and of fastText behind it."""

    dim: int = 100
    """Width of a vector."""
    window: int = 5
    """Words on each side."""
    min_count: int = 5
    """Words that are seen less often get no row of their own."""
    negative: int = 10
    """Negative samples for each word."""
    epochs: int = 20
    """Passes over the texts."""
    learning_rate: float = 0.05
    """At the start; falls to zero."""
    sample: float = 1e-4
    """Words above this share of the text are thinned out."""
    min_n: int = 5
    """Shortest n-gram; 0 together with max_n trains whole words only."""
    max_n: int = 5
    """Longest n-gram."""
    buckets: int = 2_000_000
    """Rows for n-grams; each costs 4 x dim bytes."""
    seed: int = 0
    """Same seed, same texts, same vectors."""

    def __post_init__(self) -> None:
        for name in ("dim", "window", "min_count", "negative", "epochs"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.max_n or self.min_n:
            NgramConfig(self.min_n, self.max_n, self.buckets)


def split_words(text: str) -> list[str]:
    """Cuts a text into runs of letters, digits and marks, and single signs."""
    return _WORD.findall(text)


def train_vectors(
    texts: Callable[[], Iterable[str]] | Sequence[str],
    config: VectorConfig | None = None,
    *,
    tokenize: Tokenize = split_words,
) -> StaticVectors:
    """Trains word vectors (continuous bag of words, negative sampling), with n-grams unless `max_n` is 0.

    One thread, so that the same seed gives the same vectors.

    Args:
        texts: the texts, or a function that starts over at each call, such as `Documents(...).texts`.
        config: see `VectorConfig`.
        tokenize: cuts a text into what counts as a word.

    Raises:
        BadVectors: no word is seen `min_count` times.
        MissingExtra: gensim is not installed.
    """
    config = config or VectorConfig()
    fast_text = _fast_text()
    restart = texts if callable(texts) else lambda: texts
    sentences = _Sentences(restart, tokenize)
    model = fast_text(
        vector_size=config.dim,
        window=config.window,
        min_count=config.min_count,
        negative=config.negative,
        alpha=config.learning_rate,
        min_alpha=0.0,
        sample=config.sample,
        sg=0,
        min_n=config.min_n or 1,
        max_n=config.max_n,
        bucket=config.buckets if config.max_n else 1,
        workers=1,
        seed=derive_seed(config.seed, "static-vectors") % 2**32,
    )
    model.build_vocab(corpus_iterable=sentences)
    if not len(model.wv.index_to_key):
        raise BadVectors(
            f"no word of the text is seen {config.min_count} times, there is nothing to train on",
            hint="give more text, or a lower min_count",
        )
    model.train(sentences, total_examples=model.corpus_count, epochs=config.epochs)
    return _from_gensim(model.wv, config)


def _from_gensim(wv: Any, config: VectorConfig) -> StaticVectors:
    words = tuple(wv.index_to_key)
    counts = np.array([wv.get_vecattr(word, "count") for word in words], np.int64)
    own = wv.vectors_vocab.astype(np.float32)
    if not config.max_n:
        return StaticVectors(words, own, counts)
    rows = np.concatenate([own, wv.vectors_ngrams.astype(np.float32)])
    return StaticVectors(words, rows, counts, NgramConfig(config.min_n, config.max_n, config.buckets))


class _Sentences:
    """Starts over at each iteration, as gensim wants it."""

    def __init__(self, restart: Callable[[], Iterable[str]], tokenize: Tokenize) -> None:
        self._restart, self._tokenize = restart, tokenize

    def __iter__(self) -> Iterator[list[str]]:
        for text in self._restart():
            for line in text.splitlines():
                words = list(self._tokenize(line))
                for start in range(0, len(words), LONGEST_SENTENCE):
                    yield words[start : start + LONGEST_SENTENCE]


def _fast_text() -> Any:
    try:
        from gensim.models import FastText  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("gensim", "vectors", "training word vectors") from error
    return FastText
