"""The plain initialisers that every other one is measured against.

`copy` keeps the rows of tokens that both vocabularies hold and fills the rest with the mean row or with noise around
it; `mean`, `gaussian` and `random` do the same to *all* text tokens, shared ones too.

The Gaussians use mean and (co)variance of the source's rows, as `resize_token_embeddings` (transformers) and Hewitt,
"Initializing New Word Embeddings for Pretrained Language Models", 2021, do.
"""

import torch

from tokenlayer.core.errors import choose
from tokenlayer.core.rowplan import Noise, RowPlan
from tokenlayer.transfer.parts import Pair

FALLBACKS = ("mean", "gaussian", "gaussian-full")
"""How a row is filled that has nothing to copy."""


def copy(pair: Pair, *, fallback: str = "mean", seed: int = 0) -> RowPlan:
    """Copies the rows of shared tokens; the others take `fallback`, one of `FALLBACKS`.

    Raises:
        BadOption: an unknown fallback.
    """
    return _fill(pair, shared=True, fallback=fallback, seed=seed)


def mean(pair: Pair) -> RowPlan:
    """Gives every text token the mean of the source's ordinary rows."""
    return _fill(pair, shared=False, fallback="mean", seed=0)


def gaussian(pair: Pair, *, kind: str = "gaussian", seed: int = 0) -> RowPlan:
    """Draws every text token around the mean row, with the source's variance (or full covariance).

    Args:
        pair: source and target vocabulary.
        kind: `"gaussian"` (each dimension by itself) or `"gaussian-full"` (multivariate).
        seed: same seed, same rows.
    """
    return _fill(pair, shared=False, fallback=kind, seed=seed)


def random(pair: Pair, *, seed: int = 0) -> RowPlan:
    """Draws every text token around zero with the source's spread in each dimension.

    What a model would start from whose table is simply made anew, at the scale of the old one.
    """
    settled, origin = pair.settled(shared=False)
    drawn = [i for i, row in enumerate(settled) if row is None]
    for i in drawn:
        origin[i] = "random"
    return pair.plan([row or {} for row in settled], origin, _noise(drawn, "univariate", seed))


def _fill(pair: Pair, *, shared: bool, fallback: str, seed: int) -> RowPlan:
    choose("fallback", fallback, FALLBACKS)
    settled, origin = pair.settled(shared=shared)
    filled = [i for i, row in enumerate(settled) if row is None]
    for i in filled:
        origin[i] = fallback
    rows = [pair.mean if row is None else row for row in settled]
    if fallback == "mean":
        return pair.plan(rows, origin)
    kind = "univariate" if fallback == "gaussian" else "multivariate"
    return pair.plan(rows, origin, _noise(filled, kind, seed))


def _noise(ids: list[int], kind: str, seed: int) -> Noise:
    return Noise(rows=torch.tensor(ids, dtype=torch.int64), kind=kind, scale=1.0, seed=seed)
