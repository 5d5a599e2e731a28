"""Rows of shared tokens copied, others mixed from the nearest source tokens in one multilingual space.

Paper: Liu et al., "OFA: A Framework of Initializing Unseen Subword Embeddings for Efficient Large-scale Multilingual
Continued Pretraining", Findings of NAACL 2024, section 3; as compared in Mundra et al., "An Empirical Comparison of
Vocabulary Expansion and Initialization Approaches for Language Models", CoNLL 2024.

Shapes: the plan is `(target vocab, source vocab + 1)` with at most `neighbours` entries a row.

Errors: `BadOption` for a bad number or more neighbours than source tokens; `BadVectors` when `ngrams` is set and the
vectors have none, for a source without a single vector, or a word list without a usable pair.

Differences from the paper:
    - the rows keep their width: the paper's factorisation of the embedding matrix is left out;
    - tokens are matched by bytes and control tokens by role, not by strings;
    - any word vectors will do, not only ColexNet+; those of two languages are aligned by a word list, as WECHSEL
      does it;
    - rows without a vector are drawn with mean and spread of the source's ordinary tokens.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import StaticVectors
from tokenlayer.transfer.mixing import check_softmax, filled, softmax_rows
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.shared_space import in_one_space
from tokenlayer.transfer.token_vectors import Encode, TokenVectors, from_ngrams, from_words


@dataclass(frozen=True)
class OfaConfig:
    """Defaults are the paper's."""

    neighbours: int = 10
    """Source tokens that a row is mixed from."""
    temperature: float = 0.1
    """Cosines are divided by it before the softmax."""
    ngrams: bool = False
    """Token vectors from character n-grams instead of the plain mean of the words that a token occurs in."""
    seed: int = 0
    """For rows without a vector."""

    def __post_init__(self) -> None:
        check_softmax(self.neighbours, self.temperature)


def ofa(
    pair: Pair,
    vectors: StaticVectors,
    config: OfaConfig | None = None,
    *,
    source_vectors: StaticVectors | None = None,
    dictionary: Dictionary | None = None,
    source_encode: Encode | None = None,
    target_encode: Encode | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> RowPlan:
    """Copies the rows of shared tokens and mixes the others from source tokens near them.

    Args:
        pair: the model's own vocabulary and the one to move to.
        vectors: word vectors of all languages in one space, or of the target's alone.
        config: see `OfaConfig`.
        source_vectors: word vectors of the source language; None takes `vectors` for both.
        dictionary: source-target word pairs that the two spaces are aligned by; None when they are aligned already.
        source_encode: how the source tokenizer encodes texts; not needed with `config.ngrams`.
        target_encode: the same for the target.
        warn: takes one sentence for each thing that is unusual.

    Raises:
        BadOption: `config.neighbours` is more than the source has tokens.
        BadVectors: see the module.
    """
    config = config or OfaConfig()
    of_source = vectors if source_vectors is None else source_vectors
    source = _vectors(pair.source, of_source, config, source_encode)
    target = _vectors(pair.target, vectors, config, target_encode)
    space = in_one_space(source, target, of_source, vectors, dictionary)
    for sentence in space.warnings:
        warn(sentence)
    settled, origin = pair.settled(shared=True)
    mixed = softmax_rows(space.target, space.source, config.neighbours, config.temperature)
    return filled(pair, settled, origin, [("neighbours", mixed)], config.seed)


def _vectors(vocab: ByteVocab, vectors: StaticVectors, config: OfaConfig, encode: Encode | None) -> TokenVectors:
    return (
        from_ngrams(vocab, vectors) if config.ngrams else from_words(vocab, vectors, encode=encode, by_frequency=False)
    )
