"""Frozen models that read texts with rows from outside, and what they say of these rows: language models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption
from tokenlayer.models.losses import token_logprobs
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.models.score import start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import Sample, padded
from tokenlayer.train.language import Masked, Masking
from tokenlayer.train.objective import LossParts
from tokenlayer.transfer.zett.network import Predicted

MAIN = "main"
"""The loss that a reader is asked for first of all."""


@dataclass(frozen=True, eq=False)
class StepRows:
    """What the rows of a step stand for.

    Attributes:
        tokens: bytes by row number; `b""` for control tokens.
        text: row numbers of tokens that stand for text.
        special: row number of each control token, by the source's ids.
    """

    tokens: Sequence[bytes]
    text: Tensor
    special: Mapping[int, int]


@runtime_checkable
class Reader(Protocol):
    """A frozen model that reads texts in new tokens, and the losses that it gives for their rows.

    Attributes:
        model: the model; it is only read.
        table: its own input rows.
        front: control tokens before a text, by the source's ids.
        back: control tokens after it.
        every_row: rows of tokens that no text has count too, as those of logits do.
    """

    model: nn.Module
    table: Tensor
    front: list[int]
    back: list[int]
    every_row: bool

    def read(self, samples: Sequence[Sample], rows: StepRows) -> Any:
        """A micro-batch: whatever `losses` takes, with `ids` and `real` among its fields.

        Args:
            samples: row numbers of each text, marks included.
            rows: see `StepRows`.
        """
        ...

    def terms(self, read: Any) -> dict[str, float]:
        """The terms that each part of `losses` will have."""
        ...

    def asked(self, read: Any) -> Tensor:
        """Row numbers of the tokens that the losses are about."""
        ...

    def losses(self, table: Predicted, read: Any, correction: Tensor) -> dict[str, LossParts]:
        """The losses of a micro-batch, `MAIN` among them.

        Args:
            table: rows by row number.
            read: what `read` gave.
            correction: what is added to the logit of each row.
        """
        ...

    def flops(self, read: Any, rows: int) -> float:
        """Operations of forward and backward with so many rows."""
        ...


class LanguageReader:
    """A language model: the loss of the next token, or of masked ones, in nats each.

    Args:
        model: causal or masked.
        tokenizer: its tokenizer.
        masked: the model predicts masked tokens.
        mask_rate: share of the tokens to predict.
        seed: for what is masked.

    Raises:
        BadOption: a masked model whose tokenizer has no mask token.
    """

    every_row = True

    def __init__(
        self, model: nn.Module, tokenizer: LoadedTokenizer, *, masked: bool, mask_rate: float, seed: int
    ) -> None:
        self.outside = OutsideRows(model.requires_grad_(False).eval(), len(tokenizer.vocab))
        self.model, self.table = model, self.outside.table
        self.front, self.back, self.mask = _marks(tokenizer, masked=masked)
        self.mask_rate, self.seed = mask_rate, seed
        self._body = sum(p.numel() for p in model.parameters()) - self.table.numel()

    def read(self, samples: Sequence[Sample], rows: StepRows) -> Masked:
        """What the model reads and what is asked: masked tokens, or of causal models all but the first."""
        if self.mask is not None:
            edges = (len(self.front), len(self.back))
            masking = Masking(rows.special[self.mask], rows.text.tolist(), edges=edges, rate=self.mask_rate)
            return masking(samples, self.seed, torch.device("cpu"))
        ids, real = padded([sample.item for sample in samples], torch.device("cpu"))
        return Masked(ids, ids, real, real & (torch.arange(ids.shape[1]) > 0))

    def terms(self, read: Masked) -> dict[str, float]:
        """Tokens that are predicted."""
        return {MAIN: float(read.chosen.sum())}

    def asked(self, read: Masked) -> Tensor:
        """Row numbers of the tokens that are predicted."""
        return read.targets[read.chosen]

    def losses(self, table: Predicted, read: Masked, correction: Tensor) -> dict[str, LossParts]:
        """The loss of the tokens that are predicted."""
        device = self.table.device
        shown, real, ids, asked = (x.to(device) for x in (read.ids, read.real, read.targets, read.chosen))
        if self.mask is None:  # what a causal model says of a token, it says one place before
            shown, real, ids, asked = shown[:, :-1], real[:, :-1], ids[:, 1:], asked[:, 1:]
        hidden = self.outside.hidden(shown, real, table.rows)
        raised = correction.to(device)
        bias = raised if table.bias is None else raised + table.bias
        head = self.outside.head_with(table.head_rows.to(hidden.dtype), bias.to(hidden.dtype))
        nats = -token_logprobs(head, hidden[asked], ids[asked])
        return {MAIN: LossParts(nats.sum(), len(nats))}

    def flops(self, read: Masked, rows: int) -> float:
        """The frozen model's forward and backward cost two a weight and token each, the head's six."""
        return 4.0 * self._body * int(read.real.sum()) + 6.0 * self.table.shape[1] * rows * int(read.chosen.sum())


def _marks(tokenizer: LoadedTokenizer, *, masked: bool) -> tuple[list[int], list[int], int | None]:
    """Control tokens before and after a text, and the mask token of a masked model."""
    roles = tokenizer.vocab.roles
    if not masked:
        start = start_token(tokenizer)
        return ([] if start is None else [start]), [], None
    if "mask" not in roles:
        raise BadOption(f"{tokenizer.where} has no mask token, so no hypernetwork can be trained for a masked model")
    front = [roles[role] for role in ("cls", "bos") if role in roles][:1]
    return front, [roles[role] for role in ("sep", "eos") if role in roles][:1], roles["mask"]
