"""Rows for any tokens from a hypernetwork: the initialiser of a swap.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024.
Reference: bminixhofer/zett.

Shapes: rows `(tokens, dim)`, biases `(tokens,)`; the plan is `(target vocab, source vocab + 1)` with the rows in it.

Errors: `BadCheckpoint` for a hypernetwork of another model, `BadOption` for a language that it lacks or needs.

Differences from the paper: the target keeps its own pre-tokenizer and spelling of bytes; only what a token stands for
is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.rowplan import GivenRows, RowPlan
from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.network import Hypernet, Predicted

BATCH = 8_192
"""Tokens that are predicted at a time."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class PredictConfig:
    """How a hypernetwork is used; defaults are the paper's."""

    copy_shared: bool = False
    """Copy the rows of tokens that both vocabularies hold instead of predicting them."""
    language: str = ""
    """For a hypernetwork with language vectors: which."""

    @staticmethod
    def copying() -> "PredictConfig":
        """Shared tokens are copied: better where the network had little training (docs/results/zett.md)."""
        return PredictConfig(copy_shared=True)


def zett(
    pair: Pair,
    network: Hypernet,
    source: Tensor,
    config: PredictConfig | None = None,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    warn: Callable[[str], object] = lambda sentence: None,
) -> RowPlan:
    """Gives each target token the rows that a hypernetwork predicts from its source pieces.

    Args:
        pair: the model's own vocabulary and the one to move to.
        network: a hypernetwork that was trained for the model.
        source: the model's rows, shape `(vocab, dim)`, for untied models `(vocab, 2 * dim)`.
        config: see `PredictConfig`.
        device: where it is computed.
        progress: called with tokens done and tokens in all.
        warn: takes a sentence about tokens that were cut.

    Returns:
        A plan with one row per target token. Control tokens are copied from the source; all others are predicted,
        also those that the source has (unless `copy_shared`). What the plan shows as shares of a predicted row are
        the pieces that it was read from.
    """
    config = config or PredictConfig()
    settled, origin = pair.settled(shared=config.copy_shared)
    ids = [i for i, row in enumerate(settled) if row is None]
    if not ids:
        return pair.plan([row or {} for row in settled], origin)
    size = len(pair.source)
    decomposer = Decomposer(pair.source, network.config.longest, network.config.vocab_size)
    pieces, cut = decomposer.pieces([pair.target.tokens[i] for i in ids])
    if cut:
        shown = ", ".join(pair.target.label(ids[at]) for at in cut[:3])
        warn(f"{len(cut)} tokens have more than {network.config.longest} pieces and were cut: {shown}")
    rows = source[: network.config.vocab_size]
    found = predict(network, pieces, rows, language=config.language, device=device, progress=progress)
    for i, piece in zip(ids, _rows(pieces), strict=True):
        settled[i], origin[i] = _shares(piece, size), "predicted"
    plan = pair.plan([row or {} for row in settled], origin)
    at = torch.tensor(ids)

    def with_rows(rows: Tensor) -> RowPlan:
        return replace(plan, given=GivenRows(at, rows))

    output = None if found.output_rows is None else with_rows(found.output_rows)
    bias = None if found.bias is None else with_rows(found.bias[:, None])
    return replace(with_rows(found.rows), output=output, bias=bias)


def source_table(input_rows: Tensor, output_rows: Tensor | None) -> Tensor:
    """Rows as the network reads them, float32: input rows, for untied models with the output rows behind them."""
    rows = [input_rows.float()] + ([] if output_rows is None else [output_rows.float()])
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]


@torch.inference_mode()
def predict(
    network: Hypernet,
    pieces: Packed,
    source: Tensor,
    *,
    language: str = "",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Predicted:
    """Predicts rows in batches of tokens of like length.

    Args:
        network: the hypernetwork.
        pieces: of each token.
        source: the source rows.
        language: for a network with language vectors.
        device: where it is computed.
        progress: called with tokens done and tokens in all.

    Returns:
        Rows in float32 on the CPU, in the order of the tokens.

    Raises:
        BadOption: the network has no such language, or needs one.
    """
    number = language_number(network, language)
    network, source = network.to(device).eval(), source.float().to(device)
    order = torch.argsort(pieces.lengths, stable=True)
    parts = []
    for some in order.split(BATCH):
        parts.append(network(pieces.take(some).to(device), source, number))
        if progress is not None:
            progress(sum(len(part.rows) for part in parts), len(pieces))

    def joined(some: Sequence[Tensor | None]) -> Tensor | None:
        there = [one.float().cpu() for one in some if one is not None]
        if not there:
            return None
        whole = torch.cat(there)
        return torch.empty_like(whole).index_copy_(0, order, whole)

    rows, output, bias = (joined(some) for some in zip(*parts, strict=True))
    assert rows is not None
    return Predicted(rows, output, bias)


def language_number(network: Hypernet, language: str) -> int | None:
    """The number of a language by name; None for a network without language vectors.

    Raises:
        BadOption: the network lacks it, or none was named and it needs one.
    """
    known = network.config.languages
    if not known and language:
        raise BadOption(f"language is {language}, but this hypernetwork has no languages", hint="leave it out")
    if not known:
        return None
    if not language:
        raise BadOption(
            "this hypernetwork was trained with languages and needs to know which",
            hint=f"language in --init-config is one of: {', '.join(known)}",
        )
    return known.index(choose("language", language, known))


def _rows(pieces: Packed) -> list[list[int]]:
    values, starts = pieces.values.tolist(), pieces.starts.tolist()
    return [values[start:end] for start, end in pairwise(starts)]


def _shares(ids: list[int], size: int) -> dict[int, float]:
    """Equal shares of the pieces; bytes without a source token count as the mean row."""
    shares: dict[int, float] = {}
    for i in ids:
        at = min(i, size)
        shares[at] = shares.get(at, 0.0) + 1 / len(ids)
    return shares
