"""Encoders without a language-model head as readers: the model with its own tokenizer is the teacher.

Ours, not of the paper, which trains for a classification encoder on the masked language model that it was made from.
Sentence encoders are often further from theirs than a loss of masked tokens can tell, and come without it.

The model reads a text twice: cut by its own tokenizer with its own rows, and cut by the sampled tokenizer with
predicted rows. Losses are one minus the cosine

    - of the two sentence vectors (pooled as the folder of the model says, the mean over all tokens otherwise);
    - of the two mean states of each stretch between byte offsets where both cuts have a boundary, control tokens left
      out: a sentence vector says little of a single token, these say what each word should have become.

Only input rows are asked for. Both sides read the same bytes: a text is cut to the block in sampled tokens first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tokenlayer.core.errors import BadCheckpoint, choose
from tokenlayer.models.loading import most_positions
from tokenlayer.models.outside_rows import input_table
from tokenlayer.models.safetensors_io import read_json
from tokenlayer.models.score import token_ends
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import Sample, padded
from tokenlayer.train.objective import LossParts
from tokenlayer.transfer.distill import span_numbers
from tokenlayer.transfer.target import surroundings
from tokenlayer.transfer.zett.network import Predicted
from tokenlayer.transfer.zett.reading import MAIN, StepRows

POOLINGS = ("mean", "cls", "max")
SPANS = "spans"
SPAN_WEIGHT = 1.0
"""Of the stretches' mean loss beside the sentences'; ours."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """Texts in new tokens and in the teacher's.

    Attributes:
        ids: row numbers.
        real: which positions are no padding.
        spans: number of the stretch that a position belongs to, counted over all texts; -1 for none.
        their_ids: the teacher's token ids.
        their_real: which of its positions are no padding.
        their_spans: like `spans`.
        count: stretches.
    """

    ids: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    spans: Int[Tensor, "batch seq"]
    their_ids: Int[Tensor, "batch their_seq"]
    their_real: Bool[Tensor, "batch their_seq"]
    their_spans: Int[Tensor, "batch their_seq"]
    count: int


class SentenceReader:
    """An encoder that should say of a text in new tokens what it says of it in its own.

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        pooling: how a sentence vector comes from the last states: mean, cls (the first one) or max.
        span_weight: of the loss of stretches; 0 leaves it out.

    Raises:
        BadCheckpoint: the token table is not a plain one.
        BadOption: another pooling.
    """

    every_row = False

    def __init__(
        self, model: nn.Module, tokenizer: LoadedTokenizer, *, pooling: str = "mean", span_weight: float = SPAN_WEIGHT
    ) -> None:
        self.pooling = choose("pooling", pooling, POOLINGS)
        self.model = model.requires_grad_(False).eval()
        self._name, self.table = input_table(model)
        self.tokenizer, self.span_weight = tokenizer, span_weight
        self.front, self.back = surroundings(tokenizer)
        self._most = most_positions(model)
        self._body = sum(p.numel() for p in model.parameters()) - self.table.numel()

    def read(self, samples: Sequence[Sample], rows: StepRows) -> Sentences:
        """The texts in both cuts."""
        room = None if self._most is None else self._most - len(self.front) - len(self.back)
        mine, theirs, their_ids, count = [], [], [], 0
        for sample in samples:
            pieces = [rows.tokens[row] for row in sample.item[len(self.front) : len(sample.item) - len(self.back)]]
            text = b"".join(pieces).decode("utf-8", "ignore")  # the cut may have left part of a character
            ids = self.tokenizer.encode(text)[:room]
            ends = token_ends(self.tokenizer, text, ids)[: len(ids)]
            spans, their_spans, found = span_numbers(np.cumsum([len(one) for one in pieces]), ends)
            mine.append(self._numbered(spans, count))
            theirs.append(self._numbered(their_spans, count))
            their_ids.append([*self.front, *ids, *self.back])
            count += found
        cpu = torch.device("cpu")
        shown, known = padded([sample.item for sample in samples], cpu), padded(their_ids, cpu)
        numbers, their_numbers = (padded(some, cpu, fill=-1)[0] for some in (mine, theirs))
        return Sentences(*shown, numbers, *known, their_numbers, count)

    def _numbered(self, spans: np.ndarray, first: int) -> list[int]:
        """Numbers of stretches counted from `first`; the marks around a text belong to none."""
        inner = np.where(spans >= 0, spans + first, -1).tolist()
        return [*[-1] * len(self.front), *inner, *[-1] * len(self.back)]

    def terms(self, read: Sentences) -> dict[str, float]:
        """Texts, and stretches."""
        found = {MAIN: float(len(read.ids))}
        return found | {SPANS: float(read.count)} if self.span_weight else found

    def asked(self, read: Sentences) -> Tensor:
        """Row numbers of all tokens of the texts."""
        places = torch.arange(read.ids.shape[1])
        ends = read.real.sum(dim=1, keepdim=True) - len(self.back)
        return read.ids[(places >= len(self.front)) & (places < ends)]

    def losses(self, table: Predicted, read: Sentences, correction: Tensor) -> dict[str, LossParts]:
        """One minus the cosine, summed over the texts, and over the stretches."""
        device = self.table.device
        real, their_real = read.real.to(device), read.their_real.to(device)
        with torch.no_grad():
            wanted = self.states(read.their_ids.to(device), their_real)
        found = self.states(read.ids.to(device), real, table.rows)
        gaps = _gaps(pooled(found, real, self.pooling), pooled(wanted, their_real, self.pooling))
        losses = {MAIN: LossParts(gaps.sum(), len(gaps))}
        if self.span_weight:
            mine = span_means(found, read.spans.to(device), read.count)
            theirs = span_means(wanted, read.their_spans.to(device), read.count)
            losses[SPANS] = LossParts(_gaps(mine, theirs).sum(), read.count, self.span_weight)
        return losses

    def states(
        self, ids: Int[Tensor, "batch seq"], real: Bool[Tensor, "batch seq"], rows: Tensor | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """Last states in float32.

        Args:
            ids: token ids, or row numbers of `rows`.
            real: which positions are no padding.
            rows: input rows from outside; None takes the model's own.
        """
        given: dict[str, Any] = {} if rows is None else {self._name: rows.to(self.table.dtype)}
        inputs = {"input_ids": ids, "attention_mask": real.long()}
        made = torch.func.functional_call(self.model, given, kwargs=inputs, tie_weights=False)
        states: Tensor = made.last_hidden_state
        return states.float()

    def flops(self, read: Sentences, rows: int) -> float:
        """Two a weight and token for the teacher, and for the model's forward and backward each."""
        return self._body * (4.0 * int(read.real.sum()) + 2.0 * int(read.their_real.sum()))


def pooled(
    states: Float[Tensor, "batch seq dim"], real: Bool[Tensor, "batch seq"], pooling: str
) -> Float[Tensor, "batch dim"]:
    """Sentence vectors, control tokens included, as sentence-transformers pools them; not normalised."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return states.masked_fill(~real[..., None], -torch.inf).amax(dim=1)
    return (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)


def span_means(
    states: Float[Tensor, "batch seq dim"], spans: Int[Tensor, "batch seq"], count: int
) -> Float[Tensor, "spans dim"]:
    """Mean state of each stretch; positions numbered -1 belong to none."""
    inside = spans >= 0
    numbers = spans[inside]
    total = states.new_zeros(count, states.shape[-1]).index_add(0, numbers, states[inside])
    return total / torch.bincount(numbers, minlength=count)[:, None]


def pooling_of(folder: Path) -> str:
    """How the folder of a sentence encoder says that its states are pooled; mean where it does not say.

    Raises:
        BadCheckpoint: it says something else than mean, cls or max, or several at once.
    """
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = read_json(file)
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    found = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if isinstance(config.get("pooling_mode"), str):
        found = [config["pooling_mode"]]
    pooling = named.get(found[0], found[0]) if len(found) == 1 else ""
    if pooling not in POOLINGS:
        raise BadCheckpoint(
            f"{file} asks for {' and '.join(found) or 'no pooling'}, expected one of: {', '.join(POOLINGS)}",
            hint="a hypernetwork is trained towards one vector of a sentence",
        )
    return pooling


def _gaps(one: Float[Tensor, "rows dim"], other: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
    return 1.0 - functional.cosine_similarity(one, other, dim=1)
