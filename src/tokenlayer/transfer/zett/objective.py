"""What a hypernetwork is trained for: rows with which a frozen language model reads texts in freshly made tokens.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024, sections 3.1 to 3.4.

Two stages: identity (a source token, shown as its own piece, gives its own row) and main (a new tokenizer in every
step; the loss of the language model on texts cut by it, and the distance to the source rows of tokens that are one
source piece).

Differences from the paper, off unless asked for:
    - `rows_per_step` predicts the rows of the batch and some others at random, whose logits are raised by the
      logarithm of how many tokens each stands for: the sum over the vocabulary keeps its expected value;
    - `identity="split"` shows three tokens of four cut in two, which asks for more than copying.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenlayer.core.seeds import numpy_generator
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.models.losses import token_logprobs
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.train.loop import LossParts
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.network import Hypernet, Predicted
from tokenlayer.transfer.zett.sampler import SampledVocab
from tokenlayer.transfer.zett.texts import TrainingTexts

OWN_SHARE = 0.25
"""Of the tokens of a split identity step, share shown as their own piece."""


@dataclass(frozen=True, eq=False)
class SourceRows:
    """The rows that predictions start from and are compared with.

    Attributes:
        table: float32, shape `(vocab, dim)`, for untied models `(vocab, 2 * dim)` with output rows behind input rows.
        bias: output bias, shape `(vocab,)`, or None.
        tied: whether both rows are one.
    """

    table: Tensor
    bias: Tensor | None
    tied: bool

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.table.shape[1] // (1 if self.tied else 2)

    def of(self, ids: Tensor) -> Predicted:
        """The rows of some source tokens."""
        found = self.table[ids]
        output = None if self.tied else found[:, self.dim :]
        return Predicted(found[:, : self.dim], output, None if self.bias is None else self.bias[ids])


@dataclass(frozen=True, eq=False)
class IdentityBatch:
    """Source tokens and how they are shown."""

    tokens: Tensor
    pieces: Packed


@dataclass(frozen=True, eq=False)
class MainBatch:
    """Texts in the tokens of a new tokenizer.

    Attributes:
        pieces: of the tokens whose rows are predicted.
        text_rows: row number of each of them.
        special_rows: row numbers of the control tokens.
        correction: what is added to the logit of each row.
        ids: row numbers of the texts' tokens, shape `(texts, seq)`.
        real: which of them are no padding.
        single: which predicted tokens are one source piece, and which.
        source_bytes: bytes of the texts that are scored.
        language: its number, or None.
    """

    pieces: Packed
    text_rows: Tensor
    special_rows: Tensor
    correction: Tensor
    ids: Tensor
    real: Tensor
    single: tuple[Tensor, Tensor]
    source_bytes: int
    language: int | None


class ZettObjective:
    """Losses of both stages.

    Args:
        network: the hypernetwork that is trained.
        model: the frozen language model.
        vocab: its vocabulary.
        source: its rows.
        texts: what main steps read.
        config: see `ZettConfig`.
        start_id: the control token that texts begin with, or None.
        seed: for what a step draws.
    """

    def __init__(
        self,
        network: Hypernet,
        model: nn.Module,
        vocab: ByteVocab,
        source: SourceRows,
        texts: TrainingTexts,
        *,
        config: ZettConfig,
        start_id: int | None,
        seed: int = 0,
    ) -> None:
        self.network, self.vocab, self.texts, self.config = network, vocab, texts, config
        self.model = OutsideRows(model.requires_grad_(False).eval(), len(vocab))
        self.device = self.model.table.device
        self.source = source
        self.seed, self.start_id = seed, start_id
        self.decomposer = Decomposer(vocab, network.config.longest, network.config.vocab_size)
        self.specials = vocab.control_ids()
        self._normal = np.array(vocab.text_ids())

    def identity_batch(self, step: int) -> IdentityBatch:
        """Source tokens drawn uniformly."""
        draw = numpy_generator(self.seed, "zett-identity", step)
        count = min(self.config.identity_tokens, len(self._normal))
        tokens = draw.choice(self._normal, size=count, replace=False)
        shown: list[tuple[int, ...]] = [(int(i),) for i in tokens]
        if self.config.identity == "split":
            shown = self._split(tokens, draw)
        longest = self.network.config.longest
        return IdentityBatch(torch.from_numpy(tokens), Packed.of_lists([ids[:longest] for ids in shown]))

    def _split(self, tokens: np.ndarray, draw: np.random.Generator) -> list[tuple[int, ...]]:
        """Three of four tokens as two halves, cut at a random byte; the others, and single bytes, as they are."""
        data = [self.vocab.tokens[i] for i in tokens]
        places = [int(draw.integers(1, len(one))) if len(one) > 1 else 0 for one in data]
        whole = (draw.random(len(data)) < OWN_SHARE) | (np.array(places) == 0)
        halves = [part for one, at in zip(data, places, strict=True) for part in (one[:at] or one, one[at:])]
        spelled = self.decomposer.spell(halves)
        return [
            (int(token),) if alone else spelled[2 * n] + spelled[2 * n + 1]
            for n, (token, alone) in enumerate(zip(tokens, whole, strict=True))
        ]

    def identity_loss(self, batch: IdentityBatch) -> dict[str, LossParts]:
        """Summed squared error to the true rows, averaged over input and output rows."""
        language = 0 if self.network.config.languages else None
        found = self.network(batch.pieces.to(self.device), self.source.table, language)
        wanted = self.source.of(batch.tokens.to(self.device))
        return {"identity": LossParts(_squared_error(found, wanted).sum(), len(batch.tokens))}

    def main_batch(self, step: int, rank: int = 0, ranks: int = 1) -> MainBatch:
        """The texts of a step, counted from 0 in the main stage, cut by a tokenizer made for it."""
        batch = self.texts.batch(step)
        sampled = batch.pool.sample(numpy_generator(self.seed, "zett-sample", step))
        length = self.config.block - (self.start_id is not None)
        rows = [ids[:length] for ids in sampled.encode(batch.texts[rank::ranks])]
        rows = [ids for ids in rows if len(ids) > 1]
        chosen, correction = self._choose(sampled, rows, numpy_generator(self.seed, "zett-rows", step, rank))
        pieces, _ = self.decomposer.pieces([sampled.tokens[i] for i in chosen])
        text_rows, special_rows = place(len(chosen), self.specials)
        row_of = dict(zip(chosen.tolist(), text_rows.tolist(), strict=True))
        raised = torch.zeros(len(text_rows) + len(special_rows))
        raised[text_rows] = correction
        front = [] if self.start_id is None else [int(special_rows[self.specials.index(self.start_id)])]
        ids, real = _padded([front + [row_of[i] for i in row] for row in rows])
        languages = self.network.config.languages
        return MainBatch(
            pieces,
            text_rows,
            special_rows,
            raised,
            ids,
            real,
            _single(pieces, len(self.vocab)),
            sum(len(sampled.tokens[i]) for row in rows for i in row),
            languages.index(batch.language) if languages else None,
        )

    def _choose(
        self, sampled: SampledVocab, rows: list[list[int]], draw: np.random.Generator
    ) -> tuple[np.ndarray, Tensor]:
        """Which tokens get rows, and by how much their logits are raised."""
        size, most = len(sampled.tokens), self.config.rows_per_step
        if not most or most >= size:
            return np.arange(size), torch.zeros(size)
        seen = np.unique(np.concatenate([np.array(row) for row in rows]))
        others = np.setdiff1d(np.arange(size), seen)
        drawn = draw.choice(others, size=min(max(most - len(seen), 1), len(others)), replace=False)
        raised = torch.zeros(len(seen) + len(drawn))
        raised[len(seen) :] = float(np.log(len(others) / len(drawn)))
        return np.concatenate([seen, drawn]), raised

    def main_loss(self, batch: MainBatch) -> dict[str, LossParts]:
        """Loss of the language model, and the auxiliary loss before its weight."""
        found = self.network(batch.pieces.to(self.device), self.source.table, batch.language)
        table = self.whole(found, batch)
        ids, real = batch.ids.to(self.device), batch.real.to(self.device)
        hidden = self.model.hidden(ids[:, :-1], real[:, :-1], table.rows)
        bias = batch.correction.to(self.device)
        head = self.model.head_with(table.head_rows.to(hidden.dtype), bias if table.bias is None else bias + table.bias)
        keep = real[:, 1:]
        nats = -token_logprobs(head, hidden[keep], ids[:, 1:][keep])
        return {"main": LossParts(nats.sum(), len(nats)), "aux": self.aux_loss(found, batch)}

    def whole(self, found: Predicted, batch: MainBatch) -> Predicted:
        """Predicted rows with the source's own rows for control tokens, each in its place."""
        own = self.source.of(torch.tensor(self.specials, device=self.device))
        size = len(batch.text_rows) + len(batch.special_rows)

        def joined(mine: Tensor, theirs: Tensor) -> Tensor:
            made = mine.new_zeros(size, *mine.shape[1:])
            made = made.index_copy(0, batch.text_rows.to(mine.device), mine)
            return made.index_copy(0, batch.special_rows.to(mine.device), theirs.to(mine.dtype))

        output = None if found.output_rows is None else joined(found.output_rows, _there(own.output_rows))
        bias = None if found.bias is None else joined(found.bias, _there(own.bias))
        return Predicted(joined(found.rows, own.rows), output, bias)

    def aux_loss(self, found: Predicted, batch: MainBatch) -> LossParts:
        """Squared distance to the source rows of tokens that are one piece, by the mean length of those rows."""
        which, ids = (part.to(self.device) for part in batch.single)
        if not len(which):
            return LossParts(found.rows.sum() * 0.0, 0)
        wanted = self.source.of(ids)
        mine = Predicted(found.rows[which], None if found.output_rows is None else found.output_rows[which], None)
        return LossParts(_squared_error(mine, wanted, by_norm=True).sum(), len(which))


def place(count: int, specials: list[int]) -> tuple[Tensor, Tensor]:
    """Row numbers for text tokens and control tokens: the latter keep the source's ids where there are so many rows.

    Models know some of them by number (RoBERTa counts positions from its pad id).
    """
    total = count + len(specials)
    kept = [i for i in specials if i < total]
    free = np.setdiff1d(np.arange(total), kept)
    late = iter(free[count:].tolist())
    rows = [i if i < total else next(late) for i in specials]
    return torch.from_numpy(free[:count].copy()), torch.tensor(rows, dtype=torch.int64)


def _squared_error(found: Predicted, wanted: Predicted, *, by_norm: bool = False) -> Tensor:
    """Squared error of each token's rows, the mean of input and output rows."""
    pairs = [(found.rows, wanted.rows)]
    if found.output_rows is not None and wanted.output_rows is not None:
        pairs.append((found.output_rows, wanted.output_rows))
    sums = [
        (mine - theirs).square().sum(dim=1) / (theirs.norm(dim=1).mean() if by_norm else 1.0) for mine, theirs in pairs
    ]
    return torch.stack(sums).mean(dim=0)


def _single(pieces: Packed, vocab_size: int) -> tuple[Tensor, Tensor]:
    alone = torch.nonzero(pieces.lengths == 1).flatten()
    ids = pieces.values[pieces.starts[alone]]
    known = ids < vocab_size
    return alone[known], ids[known]


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    real = torch.zeros(ids.shape, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        real[at, : len(row)] = True
    return ids, real


def _there(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


Losses = Mapping[str, LossParts]
Batch = Any
