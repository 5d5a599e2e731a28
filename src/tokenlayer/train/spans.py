"""Span corruption for encoder-decoders: spans become sentinels, the decoder writes what was there.

Paper: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
section 3.1.4: 15 % of the tokens, mean span 3.

As in the authors' code, both the tokens that go and those that stay are cut into the same number of parts at random
places, and a sample begins with tokens that stay; input and target end with the end token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption
from tokenlayer.train.batches import Sample, SampleStream, padded
from tokenlayer.train.draws import uniform
from tokenlayer.train.language import WindowObjective
from tokenlayer.train.objective import LossParts, Phase


@dataclass(frozen=True)
class SpanConfig:
    """Defaults are the paper's."""

    sentinels: tuple[int, ...]
    """Ids of the tokens that stand for spans, the first span's first."""
    end: int
    """Id of the token that ends inputs and targets."""
    rate: float = 0.15
    """Share of the tokens that go."""
    mean_span: float = 3.0
    """Tokens of a span."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise BadOption(f"span rate is {self.rate:g}, expected a share between 0 and 1")
        if self.mean_span < 1:
            raise BadOption(f"mean_span is {self.mean_span:g}, expected at least 1 token")

    def numbers(self, lengths: Int[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Tokens that go and spans, for samples of these lengths (of at least two tokens)."""
        going = (lengths * self.rate).round().long().clamp(min=1).minimum(lengths - 1)
        spans = (going / self.mean_span).round().long().clamp(min=1)
        return going, spans.minimum(going).minimum(lengths - going)


@dataclass(frozen=True, eq=False)
class Spanned:
    """A corrupted micro-batch.

    Attributes:
        ids: what the encoder reads.
        real: which of them are no padding.
        targets: what the decoder writes.
        wanted: which of those are no padding.
    """

    ids: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    targets: Int[Tensor, "batch out"]
    wanted: Bool[Tensor, "batch out"]


def span_mask(
    lengths: Int[Tensor, " batch"], draws: Float[Tensor, "batch 2 seq"], config: SpanConfig
) -> Bool[Tensor, "batch seq"]:
    """Which tokens go: parts that stay and parts that go in turn.

    Args:
        lengths: tokens of each sample, at least two.
        draws: in [0, 1), for the cuts of what stays and of what goes.
        config: see `SpanConfig`.
    """
    going, spans = config.numbers(lengths)
    stay = _parts(lengths - going, spans, draws[:, 0])
    gone = _parts(going, spans, draws[:, 1])
    both = torch.stack([stay, gone], dim=2).flatten(1)
    ends = both.cumsum(dim=1)
    places = torch.arange(draws.shape[2], device=lengths.device).expand(len(lengths), -1).contiguous()
    part = torch.searchsorted(ends, places, right=True)
    return (part % 2 == 1) & (places < lengths[:, None])


def _parts(
    totals: Int[Tensor, " batch"], counts: Int[Tensor, " batch"], draw: Float[Tensor, "batch seq"]
) -> Int[Tensor, "batch parts"]:
    """Cuts each total into so many parts of at least one, at places of the lowest draws; rows end with zeros."""
    places = torch.arange(draw.shape[1], device=draw.device)
    inside = places < totals[:, None] - 1  # a cut behind each token but the last
    rank = draw.masked_fill(~inside, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    cut = inside & (rank < counts[:, None] - 1)
    part = (cut.cumsum(dim=1) - cut.long()) * (places < totals[:, None])
    sizes = torch.zeros(len(totals), int(counts.max()), dtype=torch.int64, device=draw.device)
    return sizes.scatter_add_(1, part, (places < totals[:, None]).long())


def corrupt_spans(
    ids: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"], gone: Bool[Tensor, "batch seq"], config: SpanConfig
) -> Spanned:
    """Inputs and targets for spans that go.

    Args:
        ids: padded samples.
        lengths: their tokens.
        gone: see `span_mask`.
        config: see `SpanConfig`.

    Raises:
        BadOption: there are more spans than sentinels.
    """
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    stays = real & ~gone
    inputs = _with_sentinels(ids, stays, gone, config)
    targets = _with_sentinels(ids, gone, stays, config)
    return Spanned(*_ended(*inputs, config.end), *_ended(*targets, config.end))


def _with_sentinels(
    ids: Int[Tensor, "batch seq"],
    kept: Bool[Tensor, "batch seq"],
    replaced: Bool[Tensor, "batch seq"],
    config: SpanConfig,
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Ids in which each run of replaced positions is one sentinel, and which positions are left."""
    before = nn.functional.pad(replaced[:, :-1], (1, 0))
    first = replaced & ~before
    number = first.cumsum(dim=1)
    most = int(number.max())
    if most > len(config.sentinels):
        raise BadOption(
            f"a sample has {most} spans, there are {len(config.sentinels)} sentinels",
            hint="take shorter windows, a larger mean_span, or a tokenizer with more sentinels",
        )
    marks = torch.tensor(config.sentinels, device=ids.device)[(number - 1).clamp(min=0)]
    return torch.where(first, marks, ids), kept | first


def _ended(
    ids: Int[Tensor, "batch seq"], left: Bool[Tensor, "batch seq"], end: int
) -> tuple[Int[Tensor, "batch out"], Bool[Tensor, "batch out"]]:
    """Moves what is left to the front and puts the end token behind it."""
    order = (~left).long().argsort(dim=1, stable=True)
    counts = left.sum(dim=1, keepdim=True)
    width = int(counts.max()) + 1
    moved = nn.functional.pad(ids.gather(1, order), (0, 1))[:, :width]
    places = torch.arange(width, device=ids.device)
    moved = torch.where(places < counts, moved, 0)
    return torch.where(places == counts, end, moved), places <= counts


class SpanObjective(WindowObjective):
    """Span corruption of windows, in nats a token that the decoder writes.

    Args:
        model: an encoder-decoder with an output head, on the device where it is trained.
        samples: windows of token ids of at least two tokens, without marks.
        phases: see `Phase`.
        spans: see `SpanConfig`.
        vocab: see `WindowObjective`.
        tokenizer: see `WindowObjective`.

    Raises:
        BadOption: the model has no encoder.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: SampleStream[list[int]],
        phases: Sequence[Phase],
        *,
        spans: SpanConfig,
        vocab: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(model, samples, phases, vocab=vocab, tokenizer=tokenizer)
        if not getattr(model.config, "is_encoder_decoder", False):
            raise BadOption(
                f"{type(model).__name__} has no encoder, span corruption needs one",
                hint="take a T5",
            )
        self.spans = spans

    def corrupt(self, phase: Phase, batch: list[Sample], seed: int) -> Spanned:
        """See `span_mask` and `corrupt_spans`.

        Raises:
            BadOption: a sample has fewer than two tokens, or more spans than there are sentinels.
        """
        short = next((sample for sample in batch if len(sample.item) < 2), None)
        if short is not None:
            raise BadOption(f"sample {short.number} has {len(short.item)} tokens, spans need at least 2")
        ids, real = padded([sample.item for sample in batch], self.net.device)
        numbers = torch.tensor([sample.number for sample in batch], device=ids.device)
        lengths = real.sum(dim=1)
        draws = uniform(seed, "spans", numbers, ids.shape[1], turns=2)
        return corrupt_spans(ids, lengths, span_mask(lengths, draws, self.spans), self.spans)

    def counts(self, phase: Phase, batch: Spanned) -> Mapping[str, float]:
        """Tokens that the decoder writes."""
        return {"nats": float(batch.wanted.sum())}

    def losses(self, phase: Phase, batch: Spanned) -> Mapping[str, LossParts]:
        """The loss of each token that the decoder writes."""
        begin: int = self.net.model.config.decoder_start_token_id  # type: ignore[assignment,union-attr]
        given = nn.functional.pad(batch.targets[:, :-1], (1, 0), value=begin)
        hidden = self.net.hidden(
            batch.ids, batch.real, decoder_input_ids=given, decoder_attention_mask=batch.wanted.long()
        )
        targets = batch.targets[batch.wanted]
        return {"nats": LossParts(self.net.nats(hidden[batch.wanted], targets), len(targets))}

    def tokens(self, batch: Spanned) -> int:
        """Tokens that are read or written, without padding."""
        return int(batch.real.sum() + batch.wanted.sum())

    def flops(self, batch: Spanned) -> float:
        """About: each token passes through half of the weights."""
        return self.net.flops(self.tokens(batch), batch.ids.shape[1]) / 2
