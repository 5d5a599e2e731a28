"""Skip-gram with negative sampling over token ids: pairs, negatives, loss.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", NeurIPS 2013, section 2.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import logsigmoid

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch

POWER = 0.75  # Mikolov et al. 2013, section 2.2: negatives are drawn by frequency^(3/4)
_CENTRES_AT_A_TIME = 1 << 16


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Texts as token ids, one after the other.

    Attributes:
        ids: the tokens of all texts.
        starts: where each text begins, and the end of the last.
        counts: how often each token of the vocabulary occurs.
    """

    ids: Int64[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " texts_and_end"]
    counts: Int64[np.ndarray, " vocab"]

    @staticmethod
    def of(texts: Iterable[Sequence[int]], vocab_size: int) -> "TokenStream":
        """Joins texts; no pair reaches from one into the next.

        Raises:
            VocabMismatch: an id is outside the vocabulary.
            BadText: no text has two tokens.
        """
        parts = [np.asarray(text, dtype=np.int64) for text in texts]
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        outside = (ids < 0) | (ids >= vocab_size)
        if outside.any():
            raise VocabMismatch(
                f"the token stream holds id {int(ids[outside][0])}, the target has ids 0 to {vocab_size - 1}",
                hint="encode the texts with the target tokenizer",
            )
        if not (np.diff(starts) > 1).any():
            raise BadText(
                f"none of the {len(parts)} texts has two tokens, so there are no pairs to learn from",
                hint="give text in the languages that the new tokens are for",
            )
        return TokenStream(ids, starts, np.bincount(ids, minlength=vocab_size))


@dataclass(frozen=True)
class Sampling:
    """How pairs are made; defaults are those of Mundra et al. 2024."""

    window: int = 5
    """Tokens on each side of the centre that are its context."""
    subsample: float = 1.0
    """A token that occurs `n` times is a centre with probability `sqrt(subsample / n)`; 0 takes every one."""
    batch: int = 4096
    """Pairs in one step."""


def pair_batches(
    stream: TokenStream, sampling: Sampling, generator: np.random.Generator
) -> tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Draws centres and cuts all their pairs into batches, in random order of the centres.

    Returns:
        Number of batches, and an iterator over (centre ids, context ids).
    """
    centres = generator.permutation(_kept(stream, sampling.subsample, generator))
    total = sum(
        int((_ends(stream, some, sampling.window) - _begins(stream, some, sampling.window) - 1).sum())
        for some in _parts(centres)
    )
    return -(-total // sampling.batch), _batches(stream, centres, sampling)


def _kept(stream: TokenStream, subsample: float, generator: np.random.Generator) -> np.ndarray:
    """Positions that are centres in this pass."""
    if not subsample:
        return np.arange(len(stream.ids))
    keep = np.sqrt(subsample / np.maximum(stream.counts, 1))
    return np.flatnonzero(generator.random(len(stream.ids)) < keep[stream.ids])


def _parts(centres: np.ndarray) -> Iterator[np.ndarray]:
    return (centres[at : at + _CENTRES_AT_A_TIME] for at in range(0, len(centres), _CENTRES_AT_A_TIME))


def _begins(stream: TokenStream, centres: np.ndarray, window: int) -> np.ndarray:
    """First context position of each centre."""
    text = np.searchsorted(stream.starts, centres, side="right") - 1
    first: np.ndarray = np.maximum(centres - window, stream.starts[text])
    return first


def _ends(stream: TokenStream, centres: np.ndarray, window: int) -> np.ndarray:
    """One past the last context position of each centre."""
    text = np.searchsorted(stream.starts, centres, side="right") - 1
    last: np.ndarray = np.minimum(centres + window + 1, stream.starts[text + 1])
    return last


def _batches(stream: TokenStream, centres: np.ndarray, sampling: Sampling) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    held: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    around = np.delete(np.arange(-sampling.window, sampling.window + 1), sampling.window)
    for some in _parts(centres):
        context = some[:, None] + around
        inside = context >= _begins(stream, some, sampling.window)[:, None]
        inside &= context < _ends(stream, some, sampling.window)[:, None]
        centre = np.broadcast_to(some[:, None], context.shape)
        held = tuple(
            np.concatenate([old, stream.ids[new[inside]]]) for old, new in zip(held, (centre, context), strict=True)
        )  # type: ignore[assignment]
        whole = len(held[0]) // sampling.batch * sampling.batch
        for at in range(0, whole, sampling.batch):
            yield held[0][at : at + sampling.batch], held[1][at : at + sampling.batch]
        held = held[0][whole:], held[1][whole:]
    if len(held[0]):
        yield held


Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Context ids of a batch -> negatives, shape `(pairs, negatives)`."""


def with_replacement(counts: np.ndarray, negatives: int) -> Draw:
    """Draws by frequency^0.75; a negative that is the pair's own context is drawn again.

    Raises:
        BadText: fewer than two distinct tokens occur.
    """
    known = np.flatnonzero(counts)
    if len(known) < 2:
        raise BadText(f"the token stream has {len(known)} distinct tokens, negative sampling needs at least 2")
    edges = np.cumsum(counts[known] ** POWER)

    def draw(contexts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        def some(size: int) -> np.ndarray:
            place = np.searchsorted(edges, generator.random(size) * edges[-1], side="right")
            found: np.ndarray = known[np.minimum(place, len(known) - 1)]
            return found

        drawn = some(len(contexts) * negatives).reshape(len(contexts), negatives)
        while (hit := drawn == contexts[:, None]).any():
            drawn[hit] = some(int(hit.sum()))
        return drawn

    return draw


def without_replacement(counts: np.ndarray, negatives: int) -> Draw:
    """Draws by frequency^0.75, all negatives of a batch being distinct, as the reference does."""
    weights = counts**POWER
    shares = weights / weights.sum()
    known = int((counts > 0).sum())

    def draw(contexts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        wanted = len(contexts) * negatives
        if wanted > known:
            raise BadOption(
                f"negatives 'reference' draws {wanted} distinct tokens for a batch, {known} tokens occur in the text",
                hint=f"take negatives 'canonical', or a batch of at most {known // negatives} pairs",
            )
        return generator.choice(len(counts), size=(len(contexts), negatives), replace=False, p=shares)

    return draw


def sgns_loss(
    centre: Float[Tensor, "pairs dim"],
    context: Float[Tensor, "pairs dim"],
    negative: Float[Tensor, "pairs negatives dim"],
    *,
    summed: bool = False,
) -> Float[Tensor, ""]:
    """Mean over pairs of `-log s(u_o v_c) - sum_j log s(-u_j v_c)`, in nats.

    Args:
        centre: rows of the centres.
        context: rows of their contexts.
        negative: rows of their negatives.
        summed: take one `log s` of the sum of the negatives' products, as the reference does; that is not SGNS.
    """
    against = torch.einsum("pnd,pd->pn", negative, centre)
    against = against.sum(dim=1, keepdim=True) if summed else against
    return -(logsigmoid((centre * context).sum(dim=1)) + logsigmoid(-against).sum(dim=1)).mean()
