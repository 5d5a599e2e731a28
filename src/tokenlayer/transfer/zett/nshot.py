"""Training goes on with one tokenizer: the language model and the hypernetwork together.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024, section 3.4 and the released configs: a
constant rate of 3e-6, the auxiliary loss now towards the zero-shot predictions of all tokens. Afterwards only the
rows are kept, not the network.

Differences from the paper: none known, but for the texts, which are the user's.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.models.losses import token_logprobs
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.train.batches import Sample, SampleStream, padded
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Shard, decay_groups
from tokenlayer.transfer.zett.network import Hypernet, Predicted
from tokenlayer.transfer.zett.objective import SourceRows, squared_error

AUX_WEIGHT = 0.5
"""Of the distance to the zero-shot predictions (configs/nshot of the reference)."""
RATE = 3e-6
"""Constant learning rate (configs/nshot)."""


class NShotObjective(Objective):
    """The next token in the target's tokens, with rows that the hypernetwork predicts anew for each micro-batch.

    Args:
        network: the hypernetwork as it was trained zero-shot; on the device of the model.
        model: the causal model right after the swap; its own rows serve for control tokens.
        source: the rows of the model before the swap, on the same device.
        predicted: ids of the predicted tokens, ascending, and their pieces.
        stream: windows of target tokens.
        phase: steps and rate.
        vocab: target tokens.
        language: number of the hypernetwork's language, or None.
    """

    def __init__(
        self,
        network: Hypernet,
        model: nn.Module,
        source: SourceRows,
        predicted: tuple[Tensor, Packed],
        stream: SampleStream[list[int]],
        *,
        phase: Phase,
        vocab: int,
        language: int | None = None,
    ) -> None:
        self.network, self.source, self.stream, self.language = network.train(), source, stream, language
        self.model = OutsideRows(model.train(), vocab)
        self.device = self.model.table.device
        self.ids, self.pieces = predicted[0].to(self.device), predicted[1].to(self.device)
        self.phases = [phase]
        head = self.model.head.module
        bias = getattr(head, "bias", None)
        for table in (self.model.table, head.weight, bias):
            if table is not None:
                table.requires_grad_(False)
        output = None if head.weight is self.model.table else head.weight[:vocab]
        self._own = Predicted(self.model.table[:vocab], output, None if bias is None else bias[:vocab])
        with torch.no_grad():
            self.zero_shot = network(self.pieces, source.table, language)

    def modules(self) -> Mapping[str, nn.Module]:
        """Both networks."""
        return {"hypernet": self.network, "model": self.model.model}

    def parameter_groups(self, phase: Phase) -> list[ParameterGroup]:
        """All but the model's own token tables, which the predictions replace."""
        return decay_groups(self.modules())

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterable[list[Sample]]:
        """Windows of the step."""
        return self.stream.step(step, shard)

    def corrupt(self, phase: Phase, batch: list[Sample], seed: int) -> tuple[Tensor, Tensor]:
        """Padded ids, and which are real."""
        return padded([sample.item for sample in batch], self.device)

    def counts(self, phase: Phase, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Tokens that are predicted; rows that are held near the first prediction."""
        return {"nats": float(batch[1][:, 1:].sum()), "aux": float(len(self.ids))}

    def losses(self, phase: Phase, batch: tuple[Tensor, Tensor]) -> Mapping[str, LossParts]:
        """The loss of the model, and the distance to the zero-shot predictions by their mean length."""
        ids, real = batch
        found = self.network(self.pieces, self.source.table, self.language)
        table = self.whole(found)
        hidden = self.model.hidden(ids[:, :-1], real[:, :-1], table.rows)
        head = self.model.head_with(
            table.head_rows.to(hidden.dtype), None if table.bias is None else table.bias.to(hidden.dtype)
        )
        keep = real[:, 1:]
        nats = -token_logprobs(head, hidden[keep], ids[:, 1:][keep])
        error = squared_error(found, self.zero_shot, by_norm=True).sum()
        return {"nats": LossParts(nats.sum(), len(nats)), "aux": LossParts(error, len(self.ids), AUX_WEIGHT)}

    def whole(self, found: Predicted) -> Predicted:
        """The predicted rows in their places, the swap's rows for all other tokens."""

        def joined(own: Tensor | None, mine: Tensor | None) -> Tensor | None:
            return own if own is None or mine is None else own.index_copy(0, self.ids, mine.to(own.dtype))

        rows = joined(self._own.rows, found.rows)
        assert rows is not None
        return Predicted(rows, joined(self._own.output_rows, found.output_rows), joined(self._own.bias, found.bias))

    def tokens(self, batch: tuple[Tensor, Tensor]) -> int:
        """Tokens that are no padding."""
        return int(batch[1].sum())

    @torch.no_grad()
    def put_tables(self) -> None:
        """Writes the rows that the network predicts now into the model's own tables."""
        made = self.whole(self.network(self.pieces, self.source.table, self.language))
        head = self.model.head.module
        tables = (self.model.table, head.weight, getattr(head, "bias", None))
        for own, new in zip(tables, made, strict=True):
            if own is not None and new is not None:
                own[: len(new)] = new
