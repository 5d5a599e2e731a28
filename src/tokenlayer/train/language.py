"""Language models as objectives: the next token, and masked tokens.

Paper of the masks: Devlin et al., "BERT", NAACL 2019, section 3.1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption
from tokenlayer.core.outputs import fresh_folder
from tokenlayer.models.losses import TILE_BYTES, Head, captured_hidden, head_of, model_inputs, token_logprobs
from tokenlayer.train.batches import Sample, SampleStream, padded
from tokenlayer.train.draws import uniform
from tokenlayer.train.objective import LossParts, Objective, Phase, Shard
from tokenlayer.train.processes import is_main, whole

KEPT, RANDOM = 0.1, 0.1
"""Of the tokens to predict, shares that stay and that become another token."""


class LanguageModel:
    """A Hugging Face model with an output head, whose logits are made only where they are asked for.

    Args:
        model: causal, masked or encoder-decoder.
        vocab: tokens; rows of the table behind them are padding and get no probability.

    Raises:
        BadCheckpoint: the model has no output head.
    """

    def __init__(self, model: nn.Module, vocab: int) -> None:
        self.model = model
        self.head: Head = head_of(model, vocab)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    def hidden(self, ids: Int[Tensor, "batch seq"], real: Bool[Tensor, "batch seq"] | None, **more: Tensor) -> Tensor:
        """Inputs of the head, shape `(batch, seq, dim)`; `real` is None where no position is padding."""
        with captured_hidden(self.head) as seen:
            self.model(**model_inputs(self.model, ids, real, **more))
        return seen[0]

    def nats(self, hidden: Float[Tensor, "tokens dim"], targets: Int[Tensor, " tokens"]) -> Float[Tensor, ""]:
        """Summed loss; logits are made in tiles, and kept for the gradient only if all fit into one."""
        if 4 * self.head.vocab * len(targets) > TILE_BYTES:
            return -token_logprobs(self.head, hidden, targets).sum()
        return nn.functional.cross_entropy(self.head.logits(hidden), targets, reduction="sum")

    def flops(self, tokens: int, length: int) -> float:
        """Operations of forward and backward: six a weight and token, and those of attention."""
        table = self.model.get_input_embeddings().weight.numel()  # type: ignore[operator]
        tied = self.head.module.weight is self.model.get_input_embeddings().weight  # type: ignore[operator]
        weights = sum(p.numel() for p in self.model.parameters()) - (0 if tied else table)
        text: Any = getattr(self.model.config, "text_config", self.model.config)
        layers, dim = getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)
        return float(tokens * (6 * weights + 12 * layers * dim * length))


@dataclass(frozen=True, eq=False)
class Masked:
    """A corrupted micro-batch of tokens.

    Attributes:
        ids: what the model reads.
        targets: the tokens that were there.
        real: which positions are no padding.
        chosen: which positions are predicted.
    """

    ids: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    chosen: Bool[Tensor, "batch seq"]


class WindowObjective(Objective):
    """What the objectives here share: a model, and samples of token ids for all phases.

    Args:
        model: a Hugging Face model with an output head, on the device where it is trained.
        samples: token ids.
        phases: see `Phase`.
        vocab: tokens of the tokenizer; None takes all rows of the table.
        tokenizer: written beside the model by `export`, if it is given (anything with `save_pretrained`).

    Raises:
        BadCheckpoint: the model has no output head.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: SampleStream[list[int]],
        phases: Sequence[Phase],
        *,
        vocab: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.net = LanguageModel(model, vocab or rows_of(model))
        self.samples, self.phases, self.tokenizer = samples, phases, tokenizer

    def modules(self) -> Mapping[str, nn.Module]:
        """The model."""
        return {"model": self.net.model}

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterable[list[Sample]]:
        """Windows of the step."""
        return self.samples.step(before(self.phases, phase) + step, shard)

    def trial(self, phase: Phase) -> Iterable[list[Sample]]:
        """The first windows, whatever the phase."""
        return self.samples.step(0)

    def export(self, folder: Path) -> None:
        """Writes the model, and the tokenizer if there is one."""
        save_model(self.net.model, folder, self.tokenizer)


class CausalObjective(WindowObjective):
    """The next token of windows, in nats a token; see `WindowObjective`. The first token of each is only read."""

    def corrupt(self, phase: Phase, batch: list[Sample], seed: int) -> tuple[Tensor, Tensor]:
        """Padded ids, and which are real."""
        return padded([sample.item for sample in batch], self.net.device)

    def counts(self, phase: Phase, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Tokens that are predicted."""
        return {"nats": float(batch[1][:, 1:].sum())}

    def losses(self, phase: Phase, batch: tuple[Tensor, Tensor]) -> Mapping[str, LossParts]:
        """The loss of each token but the first of its window."""
        ids, real = batch
        keep = real[:, 1:]
        full = bool(real.all())
        hidden = self.net.hidden(ids[:, :-1], None if full else real[:, :-1])
        found, targets = hidden.flatten(0, 1), ids[:, 1:].flatten()
        if not full:
            found, targets = found[keep.flatten()], targets[keep.flatten()]
        return {"nats": LossParts(self.net.nats(found, targets), len(targets))}

    def tokens(self, batch: tuple[Tensor, Tensor]) -> int:
        """Tokens that are no padding."""
        return int(batch[1].sum())

    def flops(self, batch: tuple[Tensor, Tensor]) -> float:
        """See `LanguageModel.flops`."""
        return self.net.flops(self.tokens(batch), batch[0].shape[1] // 2)  # a token sees half of its window


class MaskedObjective(WindowObjective):
    """Masked tokens of windows, in nats each.

    Args:
        model: a masked language model, on the device where it is trained.
        samples: windows of token ids, with the marks around them.
        phases: see `Phase`.
        masking: see `Masking`.
        vocab: see `WindowObjective`.
        tokenizer: see `WindowObjective`.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: SampleStream[list[int]],
        phases: Sequence[Phase],
        *,
        masking: "Masking",
        vocab: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(model, samples, phases, vocab=vocab, tokenizer=tokenizer)
        self.masking = masking

    def corrupt(self, phase: Phase, batch: list[Sample], seed: int) -> Masked:
        """See `Masking`."""
        return self.masking(batch, seed, self.net.device)

    def counts(self, phase: Phase, batch: Masked) -> Mapping[str, float]:
        """Tokens that are predicted."""
        return {"nats": float(batch.chosen.sum())}

    def losses(self, phase: Phase, batch: Masked) -> Mapping[str, LossParts]:
        """The loss of each chosen token."""
        hidden = self.net.hidden(batch.ids, None if batch.real.all() else batch.real)
        targets = batch.targets[batch.chosen]
        return {"nats": LossParts(self.net.nats(hidden[batch.chosen], targets), len(targets))}

    def tokens(self, batch: Masked) -> int:
        """Tokens that are no padding."""
        return int(batch.real.sum())

    def flops(self, batch: Masked) -> float:
        """See `LanguageModel.flops`."""
        return self.net.flops(self.tokens(batch), batch.ids.shape[1])


class Masking:
    """Masks tokens as BERT does: of those to predict 80 % masked, 10 % another token, 10 % kept.

    A sample is masked alike in any batch, process and resumed run.

    Args:
        mask: id of the mask token.
        replacements: ids that a random token is drawn from: none of them a control token.
        edges: control tokens at the front and at the end of each sample, which stay.
        rate: share of tokens to predict; of each sample at least one.

    Raises:
        BadOption: the rate is no share between 0 and 1, or there are no replacements.
    """

    def __init__(
        self, mask: int, replacements: Sequence[int], *, edges: tuple[int, int] = (0, 0), rate: float = 0.15
    ) -> None:
        if not 0 < rate < 1:
            raise BadOption(f"mask rate is {rate:g}, expected a share between 0 and 1")
        if not len(replacements):
            raise BadOption("there are no tokens to replace others by", hint="give the ids of all tokens with text")
        self.mask, self.edges, self.rate = mask, edges, rate
        self.replacements = torch.as_tensor(replacements)

    def __call__(self, samples: Sequence[Sample], seed: int, device: torch.device) -> Masked:
        """A micro-batch, masked.

        Args:
            samples: token ids with their numbers.
            seed: of the run.
            device: where the result is.
        """
        ids, real = padded([sample.item for sample in samples], device)
        numbers = torch.tensor([sample.number for sample in samples], device=device)
        ends = real.sum(dim=1, keepdim=True)
        places = torch.arange(ids.shape[1], device=device)
        inner = (places >= self.edges[0]) & (places < ends - self.edges[1])
        draws = uniform(seed, "mask", numbers, ids.shape[1], turns=3)
        chosen = self.choose(inner, draws[:, 0])
        return Masked(self.corrupt(ids, chosen, draws[:, 1:]), ids, real, chosen)

    def choose(self, inner: Bool[Tensor, "batch seq"], draw: Float[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
        """Which positions to predict: those with a draw below the rate, of each sample at least the lowest."""
        open_draw = draw.masked_fill(~inner, 2.0)
        lowest = open_draw.min(dim=1, keepdim=True).values
        return inner & ((open_draw < self.rate) | (open_draw == lowest))

    def corrupt(
        self, ids: Int[Tensor, "batch seq"], chosen: Bool[Tensor, "batch seq"], draws: Float[Tensor, "batch 2 seq"]
    ) -> Int[Tensor, "batch seq"]:
        """Ids with the chosen positions masked, random, or as they were."""
        kind, which = draws[:, 0], draws[:, 1]
        others = self.replacements.to(ids.device)
        other = others[(which * len(others)).long().clamp(max=len(others) - 1)]
        found = torch.where(chosen & (kind >= KEPT + RANDOM), self.mask, ids)
        return torch.where(chosen & (kind >= KEPT) & (kind < KEPT + RANDOM), other, found)


def before(phases: Sequence[Phase], phase: Phase) -> int:
    """Steps of the phases before this one: what a stream that serves all phases counts from."""
    total = 0
    for one in phases:
        if one is phase:
            return total
        total += one.steps
    raise BadOption(f"{phase.name!r} is no phase of this objective")


def rows_of(model: nn.Module) -> int:
    """Rows of the token table."""
    found: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    return found


def save_model(model: nn.Module, folder: Path, tokenizer: Any = None) -> None:
    """Writes a Hugging Face folder beside its place and renames it; of several processes, all must call it.

    Raises:
        OutputExists: the folder is there already.
    """
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    if not is_main():
        return
    with fresh_folder(folder) as beside:
        model.save_pretrained(beside, state_dict=weights)  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(beside)
