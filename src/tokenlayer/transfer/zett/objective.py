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

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadText
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import Sample
from tokenlayer.train.objective import LossParts, Objective, Phase, Schedule, Shard
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import save_hypernet
from tokenlayer.transfer.zett.network import Hypernet, Predicted
from tokenlayer.transfer.zett.reading import MAIN, LanguageReader, Reader, StepRows
from tokenlayer.transfer.zett.sampler import SampledVocab
from tokenlayer.transfer.zett.texts import TextBatch, TrainingTexts

IDENTITY = "identity"
ALONE = Shard()
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

    def to(self, device: torch.device | str) -> "SourceRows":
        """The same on another device."""
        return SourceRows(self.table.to(device), None if self.bias is None else self.bias.to(device), self.tied)

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
        texts: what the reader made of them, in row numbers.
        single: which predicted tokens are one source piece, and which.
        source_bytes: bytes of the tokens that the losses are about.
        asked: how many these are.
        language: its number, or None.
    """

    pieces: Packed
    text_rows: Tensor
    special_rows: Tensor
    correction: Tensor
    texts: Any
    single: tuple[Tensor, Tensor]
    source_bytes: int
    asked: int
    language: int | None


class ZettObjective(Objective):
    """Losses of both stages.

    Args:
        network: the hypernetwork that is trained.
        model: the frozen language model, causal or masked; of encoders, a reader.
        tokenizer: its tokenizer.
        source: its rows.
        texts: what main steps read.
        config: see `ZettConfig`.
        masked: the model predicts masked tokens.
        seed: for what a step draws.
        warn: takes a sentence for each language whose texts have too few substrings.

    Raises:
        BadOption: a masked model whose tokenizer has no mask token.
    """

    def __init__(
        self,
        network: Hypernet,
        model: "nn.Module | Reader",
        tokenizer: LoadedTokenizer,
        source: SourceRows,
        texts: TrainingTexts,
        *,
        config: ZettConfig,
        masked: bool = False,
        seed: int = 0,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.warn, self._told = warn, set[str]()
        self.network, self.tokenizer, self.texts, self.config = network, tokenizer, texts, config
        self.vocab = tokenizer.vocab
        if isinstance(model, nn.Module):
            model = LanguageReader(model, tokenizer, masked=masked, mask_rate=config.mask_rate, seed=seed)
        self.reader: Reader = model
        self.device = self.reader.table.device
        self.source = source
        self.seed = seed
        self.decomposer = Decomposer(self.vocab, network.config.longest, network.config.vocab_size)
        self.specials = self.vocab.control_ids()
        self.front, self.back = self.reader.front, self.reader.back
        self._normal = np.array(self.vocab.text_ids())
        self._size = sum(p.numel() for name, p in network.named_parameters() if "fallback" not in name)
        self.phases = phases(config)

    def modules(self) -> Mapping[str, nn.Module]:
        """The hypernetwork; the language model is only read."""
        return {"hypernet": self.network}

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterator["IdentityBatch | MainBatch"]:
        """One batch: all rows of a step are predicted together."""
        yield self.identity_batch(step, shard) if phase.name == IDENTITY else self.main_batch(step, shard)

    def losses(self, phase: Phase, batch: "IdentityBatch | MainBatch") -> dict[str, LossParts]:
        """The identity loss, or the model's and the auxiliary one."""
        return self.identity_loss(batch) if isinstance(batch, IdentityBatch) else self.main_loss(batch)

    def counts(self, phase: Phase, batch: "IdentityBatch | MainBatch") -> dict[str, float]:
        """Source tokens; or what the reader counts, and tokens of one piece."""
        if isinstance(batch, IdentityBatch):
            return {IDENTITY: float(len(batch.tokens))}
        told = {"one piece": float(len(batch.pieces)), "bytes per token": float(batch.asked)}
        return {**self.reader.terms(batch.texts), "aux": float(len(batch.single[0])), **told}

    def tokens(self, batch: "IdentityBatch | MainBatch") -> int:
        """Tokens that the frozen model reads; source tokens of an identity step."""
        return len(batch.tokens) if isinstance(batch, IdentityBatch) else int(batch.texts.real.sum())

    def flops(self, batch: "IdentityBatch | MainBatch") -> float:
        """Twice a parameter and piece forward, four times backward; and what the frozen model costs."""
        network = 6.0 * self._size * len(batch.pieces.values)
        if isinstance(batch, IdentityBatch):
            return network
        return network + self.reader.flops(batch.texts, len(batch.pieces))

    def export(self, folder: Path) -> None:
        """Writes the hypernetwork as a folder."""
        save_hypernet(folder, self.network, self.tokenizer, {"steps": self.config.steps, "texts": self.texts.languages})

    def identity_batch(self, step: int, shard: Shard = ALONE) -> IdentityBatch:
        """Source tokens drawn uniformly."""
        draw = numpy_generator(self.seed, "zett-identity", step)
        count = min(self.config.identity_tokens, len(self._normal))
        tokens = draw.choice(self._normal, size=count, replace=False)
        shown: list[tuple[int, ...]] = [(int(i),) for i in tokens]
        if self.config.identity == "split":
            shown = self._split(tokens, draw)
        longest = self.network.config.longest
        mine = slice(shard.rank, None, shard.ranks)
        return IdentityBatch(torch.from_numpy(tokens[mine]), Packed.of_lists([ids[:longest] for ids in shown[mine]]))

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
        return {IDENTITY: LossParts(squared_error(found, wanted).sum(), len(batch.tokens))}

    def main_batch(self, step: int, shard: Shard = ALONE) -> MainBatch:
        """The texts of a step, counted from 0 in the main stage, cut by a tokenizer made for it."""
        batch = self.texts.batch(step)
        sampled = batch.pool.sample(numpy_generator(self.seed, "zett-sample", step))
        self._tell_size(sampled, batch)
        room = self.config.block - len(self.front) - len(self.back)
        mine = range(shard.rank, len(batch.texts), shard.ranks)
        cut = [ids[:room] for ids in sampled.encode([batch.texts[n] for n in mine])]
        kept = [(n, ids) for n, ids in zip(mine, cut, strict=True) if len(ids) > 1]
        rows = [ids for _, ids in kept]
        if not rows:
            raise BadText(
                f"the texts of {batch.language} at step {step} hold nothing that can be predicted",
                hint="give texts with more than one token each",
            )
        chosen, correction = self._choose(sampled, rows, numpy_generator(self.seed, "zett-rows", step, shard.rank))
        pieces, _ = self.decomposer.pieces([sampled.tokens[i] for i in chosen])
        text_rows, special_rows = place(len(chosen), self.specials)
        row_of = dict(zip(chosen.tolist(), text_rows.tolist(), strict=True))
        special_of = dict(zip(self.specials, special_rows.tolist(), strict=True))
        raised = torch.zeros(len(text_rows) + len(special_rows))
        raised[text_rows] = correction
        front, back = ([special_of[i] for i in marks] for marks in (self.front, self.back))
        samples = [Sample(step * len(batch.texts) + n, [*front, *(row_of[i] for i in row), *back]) for n, row in kept]
        tokens = [b""] * len(raised)
        for row, i in zip(text_rows.tolist(), chosen.tolist(), strict=True):
            tokens[row] = sampled.tokens[i]
        texts = self.reader.read(samples, StepRows(tokens, text_rows, special_of))
        asked = self.reader.asked(texts).tolist()
        languages = self.network.config.languages
        return MainBatch(
            pieces,
            text_rows,
            special_rows,
            raised,
            texts,
            _single(pieces, self.network.config.vocab_size),
            sum(len(tokens[row]) for row in asked),
            len(asked),
            languages.index(batch.language) if languages else None,
        )

    def _tell_size(self, sampled: SampledVocab, batch: TextBatch) -> None:
        """Says once of a language that its texts have too few substrings."""
        if len(sampled) < sampled.wanted and batch.language not in self._told:
            self._told.add(batch.language)
            self.warn(
                f"{batch.language}: the texts gave {len(sampled)} tokens at step {batch.step}, where a sampled "
                f"vocabulary has {sampled.wanted}"
            )

    def _choose(
        self, sampled: SampledVocab, rows: list[list[int]], draw: np.random.Generator
    ) -> tuple[np.ndarray, Tensor]:
        """Which tokens get rows, and by how much their logits are raised."""
        size, most = len(sampled.tokens), self.config.rows_per_step
        seen = np.unique(np.concatenate([np.array(row) for row in rows]))
        if not self.reader.every_row:
            return seen, torch.zeros(len(seen))
        if not most or most >= size:
            return np.arange(size), torch.zeros(size)
        others = np.setdiff1d(np.arange(size), seen)
        drawn = draw.choice(others, size=min(max(most - len(seen), 1), len(others)), replace=False)
        raised = torch.zeros(len(seen) + len(drawn))
        raised[len(seen) :] = float(np.log(len(others) / len(drawn)))
        return np.concatenate([seen, drawn]), raised

    def main_loss(self, batch: MainBatch) -> dict[str, LossParts]:
        """Losses of the frozen model and the auxiliary loss; beside them, with no weight, what describes the step."""
        found = self.network(batch.pieces.to(self.device), self.source.table, batch.language)
        table = self.whole(found, batch)
        losses = self.reader.losses(table, batch.texts, batch.correction)
        aux = self.aux_loss(found, batch)
        alone, size = aux.total.new_tensor([float(len(batch.single[0])), float(batch.source_bytes)]).unbind()
        return {
            **losses,
            "aux": aux._replace(weight=self.config.aux_weight),
            "one piece": LossParts(alone, len(batch.pieces), 0.0),  # told, not trained
            "bytes per token": LossParts(size, batch.asked, 0.0),
        }

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
        return LossParts(squared_error(mine, wanted, by_norm=True).sum(), len(which))


def phases(config: ZettConfig) -> tuple[Phase, ...]:
    """The identity steps, whose rate only rises, and the main ones, whose rate rises again and falls to the floor."""
    identity = Phase(IDENTITY, max(config.identity_steps, 1), Schedule(config.identity_rate, "constant", 1.0))
    main = Schedule(config.rate, "cosine", config.warmup_steps, config.floor)
    stages = [identity] if config.identity_steps else []
    return (*stages, *([Phase(MAIN, config.main_steps, main)] if config.main_steps else []))


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


def squared_error(found: Predicted, wanted: Predicted, *, by_norm: bool = False) -> Tensor:
    """Squared error of each token's rows, the mean of input and output rows.

    Args:
        found: predicted rows.
        wanted: what they should be.
        by_norm: divide by the mean length of the wanted rows.

    Returns:
        Shape `(tokens,)`.
    """
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


def _there(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
