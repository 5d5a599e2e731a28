"""Token vectors of two vocabularies in one space: narrowed to one width, and turned by a dictionary.

Minixhofer et al., "WECHSEL", NAACL 2022, section 3; OFA does without the turning where the vectors are multilingual.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenlayer.core.alignment import align, principal_axes
from tokenlayer.core.errors import BadVectors
from tokenlayer.core.neighbours import nonzero_rows
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import StaticVectors, match_pairs
from tokenlayer.transfer.token_vectors import TokenVectors


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Vectors of the tokens of both vocabularies that can be compared by cosine, zeros where a token has none.

    Attributes:
        source: float32, shape `(source vocab, dim)`.
        target: float32, shape `(target vocab, dim)`.
        warnings: what the user should know.
    """

    source: Tensor
    target: Tensor
    warnings: tuple[str, ...] = ()


def in_one_space(
    source: TokenVectors,
    target: TokenVectors,
    source_words: StaticVectors,
    target_words: StaticVectors,
    dictionary: Dictionary | None = None,
) -> SharedSpace:
    """Turns the source's token vectors into the target's space.

    Args:
        source: token vectors made of `source_words`.
        target: token vectors made of `target_words`.
        source_words: word vectors of the source language.
        target_words: word vectors of the target language.
        dictionary: source-target word pairs that the spaces are aligned by; None when they are aligned already.

    Raises:
        BadVectors: no source token has a vector, or no dictionary pair has two.
    """
    said = [*source.warnings("source"), *target.warnings("target")]
    if not nonzero_rows(source.table).any():
        raise BadVectors("no source token has a vector", hint="check the language and script of the source vectors")
    narrow = min(source_words.dim, target_words.dim)
    source_axes, target_axes = _axes(source_words, narrow), _axes(target_words, narrow)
    turned, kept = source.table @ source_axes, target.table @ target_axes
    if dictionary is not None:
        pairs = match_pairs(dictionary, source_words, target_words)
        found = align(
            torch.from_numpy(pairs.source) @ source_axes,
            torch.from_numpy(pairs.target) @ target_axes,
            torch.from_numpy(pairs.times),
        )
        said += [*dictionary.warnings(), *found.warnings(f"from {pairs.entries} of {len(dictionary)} dictionary pairs")]
        turned = turned @ found.rotation
    return SharedSpace(turned, kept, tuple(said))


def _axes(vectors: StaticVectors, count: int) -> Tensor:
    """What narrows a space to `count` dimensions: the identity when it has no more."""
    if vectors.dim == count:
        return torch.eye(count)
    words = torch.from_numpy(vectors.vectors(vectors.words))
    return principal_axes(words, count)
