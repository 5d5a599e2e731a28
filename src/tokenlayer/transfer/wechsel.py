"""Rows as the softmax-weighted mean of the source tokens that are nearest in a shared space of word vectors.

Paper: Minixhofer et al., "WECHSEL: Effective initialization of subword embeddings for cross-lingual transfer of
monolingual language models", NAACL 2022, section 3. Reference implementation: CPJKU/wechsel 0.0.4.

Shapes: the plan is `(target vocab, source vocab + 1)` with at most `neighbours` entries a row; word vectors of both
sides have any width, the wider ones are narrowed to the other's.

Errors: `BadOption` for a bad number or more neighbours than source tokens; `BadVectors` for vectors without n-grams
(set `ngrams=False`), a dictionary without a usable pair, or a source without a single vector.

Differences from the paper:
    - control tokens take the source row of the same name or, failing that, of the same role; they are nobody's
      neighbours, and neither are byte tokens and padded rows;
    - a token that is a part of a UTF-8 character, or a byte, is copied when the source has the same bytes (the
      reference looks up U+FFFD); `copy_bytes=False` draws it;
    - rows without a vector are drawn with mean and spread of the source's ordinary tokens, not of padded and special
      rows too, from another generator;
    - of equal cosines the lower source id wins (unspecified in the reference);
    - narrowing takes the principal axes of the wider space (the reference narrows the source twice by mistake);
    - words of the file without counts weigh 1 / rank when `ngrams` is False.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tokenlayer.core.rowplan import RowPlan
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import StaticVectors
from tokenlayer.transfer.mixing import Rows, check_softmax, copied_bytes, filled, softmax_rows, starts_word
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.shared_space import SharedSpace, in_one_space
from tokenlayer.transfer.token_vectors import Encode, token_vectors

Warn = Callable[[str], object]


@dataclass(frozen=True)
class WechselConfig:
    """Defaults are the paper's."""

    neighbours: int = 10
    """Source tokens that a row is mixed from."""
    temperature: float = 0.1
    """Cosines are divided by it before the softmax: 0.1 more cosine weighs e times as much."""
    ngrams: bool = True
    """Token vectors from character n-grams; False takes the words that a token occurs in (any word vectors)."""
    most_words: int | None = None
    """Words of the file that are used when `ngrams` is False; None is all."""
    respect_space: bool = False
    """Mix tokens that begin a word only from tokens that begin a word, and the others from the others."""
    copy_overlap: bool = False
    """Copy the rows of tokens that both vocabularies hold, as FOCUS and OFA do."""
    copy_bytes: bool = True
    """Copy byte tokens and parts of characters that the source has too."""
    seed: int = 1234
    """For rows without a vector; the number is the reference's."""

    def __post_init__(self) -> None:
        check_softmax(self.neighbours, self.temperature)


def wechsel(
    pair: Pair,
    source_vectors: StaticVectors,
    target_vectors: StaticVectors,
    config: WechselConfig | None = None,
    *,
    dictionary: Dictionary | None = None,
    source_encode: Encode | None = None,
    target_encode: Encode | None = None,
    warn: Warn = warnings.warn,
) -> RowPlan:
    """Mixes each target token's row from the source tokens that mean the same.

    Time is that of one product `target x source x dim` and little more.

    Args:
        pair: the model's own vocabulary and the one to move to.
        source_vectors: word vectors of the source language.
        target_vectors: word vectors of the target language.
        config: see `WechselConfig`.
        dictionary: source-target word pairs that the spaces are aligned by; None when they are aligned already.
        source_encode: how the source tokenizer encodes texts; only looked at when `config.ngrams` is False.
        target_encode: the same for the target.
        warn: takes one sentence for each thing that is unusual.

    Returns:
        A plan whose rows sum to one, origin `"neighbours"`; rows of tokens without a vector are drawn around the
        mean row, origin `"gaussian"`.

    Raises:
        BadOption: `config.neighbours` is more than the source has tokens.
        BadVectors: see the module.
    """
    config = config or WechselConfig()
    space = shared_space(
        pair,
        source_vectors,
        target_vectors,
        config,
        dictionary,
        source_encode=source_encode,
        target_encode=target_encode,
    )
    for sentence in space.warnings:
        warn(sentence)
    settled, origin = pair.settled(shared=config.copy_overlap)
    mixed = _mixed(pair, space, config)
    ways = [("copy", copied_bytes(pair)), ("neighbours", mixed)] if config.copy_bytes else [("neighbours", mixed)]
    return filled(pair, settled, origin, ways, config.seed)


def shared_space(
    pair: Pair,
    source_vectors: StaticVectors,
    target_vectors: StaticVectors,
    config: WechselConfig,
    dictionary: Dictionary | None = None,
    *,
    source_encode: Encode | None = None,
    target_encode: Encode | None = None,
) -> SharedSpace:
    """Makes token vectors on both sides and turns the source's into the target's space.

    Raises:
        BadVectors: see the module.
    """
    make = partial(token_vectors, ngrams=config.ngrams, most_words=config.most_words)
    source = make(pair.source, source_vectors, encode=source_encode)
    target = make(pair.target, target_vectors, encode=target_encode)
    return in_one_space(source, target, source_vectors, target_vectors, dictionary)


def _mixed(pair: Pair, space: SharedSpace, config: WechselConfig) -> Rows:
    k, temperature = config.neighbours, config.temperature
    if not config.respect_space:
        return softmax_rows(space.target, space.source, k, temperature)
    rows: Rows = [None] * len(pair.target)
    source_starts, target_starts = starts_word(pair.source), starts_word(pair.target)
    for flag in (True, False):
        ids = torch.nonzero(target_starts == flag).flatten()
        source = space.source * (source_starts == flag)[:, None]
        for i, row in zip(ids.tolist(), softmax_rows(space.target[ids], source, k, temperature), strict=True):
            rows[i] = row
    return rows
