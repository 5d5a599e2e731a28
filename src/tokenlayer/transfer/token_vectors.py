"""Vectors of tokens in a space of word vectors: from n-grams, or from the words that a token occurs in.

Minixhofer et al., "WECHSEL", NAACL 2022, section 3 (n-grams) and appendix (without, "TFR").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from tokenlayer.core.errors import BadVectors
from tokenlayer.core.neighbours import nonzero_rows
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.data.static_vectors import StaticVectors

LOW_COVERAGE = 0.2
"""Share of text tokens with a vector below which the vectors are probably those of another script."""
_WORDS_AT_A_TIME = 8192

Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, without special tokens; `LoadedTokenizer.encode_batch` is one."""


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """One vector per token, zeros where a token has none.

    Attributes:
        table: float32, shape `(vocab, dim)`.
        text_tokens: tokens that could have a vector.
    """

    table: Float32[Tensor, "vocab dim"]
    text_tokens: int

    @property
    def coverage(self) -> float:
        """Share of the text tokens that have a vector."""
        return int(nonzero_rows(self.table).sum()) / max(self.text_tokens, 1)

    def warnings(self, side: str) -> list[str]:
        """A sentence if few tokens have a vector; `side` is "source" or "target"."""
        if self.coverage >= LOW_COVERAGE:
            return []
        return [
            f"only {self.coverage:.1%} of the {self.text_tokens} {side} tokens have a vector: are the {side} vectors "
            "those of its language and script?"
        ]


def token_vectors(
    vocab: ByteVocab,
    vectors: StaticVectors,
    *,
    ngrams: bool = True,
    encode: Encode | None = None,
    most_words: int | None = None,
) -> TokenVectors:
    """Gives each token of a vocabulary its vector, by `from_ngrams` or, without `ngrams`, by `from_words`.

    Raises:
        BadVectors: n-grams are wanted and the vectors have none.
    """
    return from_ngrams(vocab, vectors) if ngrams else from_words(vocab, vectors, encode=encode, most_words=most_words)


def from_ngrams(vocab: ByteVocab, vectors: StaticVectors) -> TokenVectors:
    """Looks up each token's text as if it were a word.

    Raises:
        BadVectors: the vectors have no n-grams.
    """
    if vectors.ngrams is None:
        raise BadVectors(
            "these vectors have no n-grams, so tokens that are no words would have no vector",
            hint="set ngrams=False to make token vectors from the words that a token occurs in",
        )
    texts = token_texts(vocab)
    place = {text: n for n, text in enumerate(dict.fromkeys(t for t in texts if t))}
    found = vectors.vectors(list(place))
    table = np.zeros((len(vocab), vectors.dim), np.float32)
    known = [i for i, text in enumerate(texts) if text]
    table[known] = found[[place[texts[i]] for i in known]]
    return TokenVectors(torch.from_numpy(table), sum(kind is Kind.NORMAL for kind in vocab.kinds))


def from_words(
    vocab: ByteVocab,
    vectors: StaticVectors,
    *,
    encode: Encode | None = None,
    most_words: int | None = None,
    by_frequency: bool = True,
) -> TokenVectors:
    """Averages for each token the vectors of the words it occurs in, at the start of a text and after a space.

    Args:
        vocab: the vocabulary.
        vectors: word vectors; n-grams are not needed.
        encode: encodes texts; by default the vocabulary's own model, without its pre-tokenizer.
        most_words: take the first words only; all when None.
        by_frequency: weight words by how often they were seen; else all alike.
    """
    encode = encode or (lambda texts: vocab.spell_all([text.encode("utf-8", "replace") for text in texts]))
    words = list(vectors.words[:most_words])
    weights = (
        torch.from_numpy(vectors.frequencies()).double() if by_frequency else torch.ones(len(vectors.words)).double()
    )
    total = torch.zeros(len(vocab), vectors.dim, dtype=torch.float64)
    weight = torch.zeros(len(vocab), dtype=torch.float64)
    for start in range(0, len(words), _WORDS_AT_A_TIME):
        part = words[start : start + _WORDS_AT_A_TIME]
        tokens, owners = _occurrences([encode(part), encode([f" {word}" for word in part])])
        shares = weights[start + owners]
        rows = torch.from_numpy(vectors.vectors(part)).double()
        for some in torch.arange(len(tokens)).split(_WORDS_AT_A_TIME):
            total.index_add_(0, tokens[some], rows[owners[some]] * shares[some, None])
        weight.index_add_(0, tokens, shares)
    averaged = (total / weight.clamp(min=1e-300)[:, None]).float()
    text = torch.tensor([kind is Kind.NORMAL for kind in vocab.kinds])
    return TokenVectors(averaged * text[:, None], int(text.sum()))


def token_texts(vocab: ByteVocab) -> list[str]:
    """The text of each token without white space around it; `""` for tokens that are no text by themselves.

    These are control and unused ids, byte-fallback tokens, parts of a UTF-8 character, and white space.
    """
    return [_text(data) if kind is Kind.NORMAL else "" for data, kind in zip(vocab.tokens, vocab.kinds, strict=True)]


def is_broken(data: bytes) -> bool:
    """Whether bytes are only a part of UTF-8 characters."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _text(data: bytes) -> str:
    return "" if is_broken(data) else data.decode("utf-8").strip()


def _occurrences(encoded: Sequence[list[list[int]]]) -> tuple[Tensor, Tensor]:
    """Pairs of (token, place of the word); a token that a word holds twice counts once for each encoding."""
    pairs = [(token, n) for way in encoded for n, ids in enumerate(way) for token in sorted(set(ids))]
    flat = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return flat[:, 0], flat[:, 1]
