"""What initialisers by neighbours share: weights over nearest source tokens, and rows for tokens without any."""

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from tokenlayer.core.errors import BadOption
from tokenlayer.core.neighbours import distinct_rows, nearest
from tokenlayer.core.rowplan import Noise, RowPlan
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.token_vectors import is_broken

Rows = list[dict[int, float] | None]
"""For each target id its shares of source rows, or None."""


def check_softmax(neighbours: int, temperature: float) -> None:
    """Refuses numbers that no softmax over neighbours can have.

    Raises:
        BadOption: `neighbours` below 1, or `temperature` not above 0.
    """
    if neighbours < 1:
        raise BadOption(f"neighbours is {neighbours}, expected at least 1")
    if not temperature > 0:
        raise BadOption(f"temperature is {temperature:g}, expected above 0", hint="the paper takes 0.1")


def softmax_rows(
    target: Float32[Tensor, "target dim"], source: Float32[Tensor, "source dim"], k: int, temperature: float
) -> Rows:
    """Gives each target vector the softmax of `cosine / temperature` over its `k` nearest source vectors.

    A vector of zeros has no row and is nobody's neighbour. Where fewer than `k` source vectors are not zero, all of
    them are taken.

    Raises:
        BadOption: `k` is more than there are source tokens.
    """
    if k > len(source):
        raise BadOption(f"neighbours is {k}, the source has {len(source)} tokens", hint="take fewer neighbours")
    first, place = distinct_rows(target)  # `the` and ` the` are searched for once
    found = nearest(target[first], source, k)
    scores = found.cosines.double() / temperature
    weights = scores.masked_fill(found.ids < 0, -torch.inf).softmax(dim=1).nan_to_num()
    pairs = zip(found.ids.tolist(), weights.tolist(), strict=True)
    rows = [{j: w for j, w in zip(ids, row, strict=True) if j >= 0} or None for ids, row in pairs]
    return [rows[n] for n in place.tolist()]


def copied_bytes(pair: Pair) -> Rows:
    """Copies of source rows for byte tokens and parts of characters, which no word vector speaks of."""
    data = zip(pair.target.tokens, pair.target.kinds, pair.matches, strict=True)
    return [
        {match: 1.0}
        if match is not None and (kind is Kind.BYTE or (kind is Kind.NORMAL and is_broken(token)))
        else None
        for token, kind, match in data
    ]


def starts_word(vocab: ByteVocab) -> Tensor:
    """Which tokens begin with a space."""
    return torch.tensor([token.startswith(b" ") for token in vocab.tokens], dtype=torch.bool)


def filled(pair: Pair, settled: Rows, origin: list[str], ways: Sequence[tuple[str, Rows]], seed: int) -> RowPlan:
    """Takes for each target id the first row that there is: settled, then each of `ways`, then Gaussian noise.

    Args:
        pair: source and target vocabulary.
        settled: rows that are decided.
        origin: their rules; changed in place.
        ways: pairs of (rule, rows), best first.
        seed: of the noise, which has mean and spread of the source's ordinary rows in each dimension.
    """
    rows: list[dict[int, float]] = []
    noisy: list[int] = []
    for i, decided in enumerate(settled):
        row = decided
        for rule, made in ways:
            if row is None and made[i] is not None:
                row, origin[i] = made[i], rule
        if row is None:
            row, origin[i] = pair.mean, "gaussian"
            noisy.append(i)
        rows.append(row)
    noise = Noise(torch.tensor(noisy, dtype=torch.int64), "univariate", 1.0, seed)
    return pair.plan(rows, origin, noise if noisy else None)
