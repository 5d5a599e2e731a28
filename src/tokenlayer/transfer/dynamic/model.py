"""A model that reads units instead of tokens: frequent neighbours of a batch are merged, their rows made on the fly.

Paper: Feher, Vulić, Minixhofer, "Retrofitting Large Language Models with Dynamic Tokenization", ACL 2025.
Reference: DariusFeher/dynamic-tokenization.

Shapes: ids, mask and positions `(batch, units)`, embeddings `(batch, units, dim)`; encoders are padded on the right,
decoders on the left.

Errors: `BadOption` for a hypernetwork that is missing or texts that are too long, `BadCheckpoint` for one of another
model or a token table that cannot be fed from outside.

Differences from the paper:
    - the model's own tokens keep their rows, so that no merges give the model's own output, bit for bit; the
      reference predicts those too;
    - units that a hypernetwork could read only in part are not made, where the reference cuts them;
    - pooled vectors weigh a unit by the tokens that it stands for (`pool="units"` weighs all alike).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenlayer.core.errors import BadCheckpoint, BadOption, choose
from tokenlayer.models.loading import PAD_COUNTS_POSITIONS, OpenedModel, load_model, most_positions
from tokenlayer.models.losses import Head, captured_hidden, head_of
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import padded
from tokenlayer.transfer.dynamic.big_vocab import BigVocab
from tokenlayer.transfer.dynamic.cache import CAPACITY, EmbeddingCache
from tokenlayer.transfer.dynamic.generate import GenerateConfig, Generated, PrefillState, decode
from tokenlayer.transfer.dynamic.rows import UnitRows
from tokenlayer.transfer.dynamic.segment import DynamicBPE, Segmentation, check_reduction
from tokenlayer.transfer.zett.files import SavedHypernet, load_hypernet
from tokenlayer.transfer.zett.predict import source_table

POOLS = ("tokens", "units")


@dataclass(frozen=True)
class DynamicConfig:
    """How boundaries are found and rows made; defaults are the paper's."""

    boundary: str = "pretoken"
    """What units never cross: pretoken, word, word_hyphen or sentence (nothing)."""
    per: str = "batch"
    """Whose frequencies decide: those of the batch, or of each sample alone."""
    method: str = "hypernet"
    """Rows of new units: hypernet; or an approximation by name, fvt (mean of the pieces) or random."""
    language: str = ""
    """For a hypernetwork with language vectors."""
    capacity: int = CAPACITY
    """Predicted rows that are kept; the paper trains with 10,000."""
    max_length: int | None = None
    """Tokens of a text before merging; None: what the model can read."""
    seed: int = 0
    """Of random rows."""


@dataclass(frozen=True, eq=False)
class Units:
    """A batch of texts as a model takes them.

    Attributes:
        segmentation: the units with their places in the texts.
        embeds: what the model's token table would give, shape `(batch, units, dim)`.
        mask: 1 where a unit is, 0 for padding, shape `(batch, units)`.
        positions: consecutive over the units of each text.
        types: token types as the tokenizer's template has them, 1 in the second text of a pair.
    """

    segmentation: Segmentation
    embeds: Float[Tensor, "batch units dim"]
    mask: Int[Tensor, "batch units"]
    positions: Int[Tensor, "batch units"]
    types: Int[Tensor, "batch units"]

    def weights(self, pool: str = "tokens") -> Float[Tensor, "batch units"]:
        """How much each unit counts in a mean: by the tokens that it stands for, or all alike; padding 0."""
        found = self.mask.float()
        if choose("pool", pool, POOLS) == "tokens":
            for row, mask, pieces in zip(found, self.mask, self.segmentation.pieces, strict=True):
                row[mask.bool()] = torch.tensor(pieces, dtype=found.dtype, device=found.device)
        return found


@dataclass(frozen=True, eq=False)
class Prefilled:
    """What a decoder knows after a batch of prompts, ready to go on token by token.

    Attributes:
        units: the prompts.
        past: the model's keys and values.
        hidden: what the head is given at the last unit, shape `(batch, dim)`.
        head: the model's own head.
    """

    units: Units
    past: Any
    hidden: Float[Tensor, "batch dim"]
    head: Head

    @property
    def next_positions(self) -> Int[Tensor, " batch"]:
        """Position of the token that comes next."""
        return self.units.positions[:, -1] + 1

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "batch vocab"]:
        """Logits over the ordinary vocabulary for what comes next."""
        return self.head.logits(self.hidden)


class DynamicModel:
    """Any Hugging Face model around which texts become units.

    Args:
        model: an encoder, with or without a task head or peft adapters, or a decoder; it is only read.
        tokenizer: the tokenizer of its rows.
        hypernet: the hypernetwork of the model.
        config: see `DynamicConfig`.
        decoder: pads on the left and reads from left to right.
        merges: a fixed list instead of what is frequent: the same text has the same units in every batch.
        where: what errors call the hypernetwork.
        warn: takes a sentence about what falls back.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: LoadedTokenizer,
        hypernet: SavedHypernet | None = None,
        config: DynamicConfig | None = None,
        *,
        decoder: bool = False,
        merges: Sequence[tuple[bytes, bytes]] | None = None,
        where: str = "hypernetwork",
        warn: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        self.model, self.tokenizer, self.hypernet, self.decoder = model, tokenizer, hypernet, decoder
        self.config, self._where = config or DynamicConfig(), where
        self._embed = model.get_input_embeddings()  # type: ignore[operator]
        self._scale = embedding_scale(self._embed)
        self._accepted = set(inspect.signature(_base(model).forward).parameters)
        self.rows = self._make_rows()
        self.segmenter = DynamicBPE(
            tokenizer,
            boundary=self.config.boundary,
            per=self.config.per,
            longest=self.rows.longest,
            merges=merges,
            warn=warn,
        )
        weight = self._embed.weight
        self.cache = EmbeddingCache(self.rows, self.config.capacity, device=weight.device, dtype=weight.dtype)
        self._stamp = self._weights_stamp()

    @staticmethod
    def open(
        source: OpenedModel,
        hypernet: Path | None = None,
        config: DynamicConfig | None = None,
        *,
        merges: Sequence[tuple[bytes, bytes]] | None = None,
        dtype: str | None = None,
        device: str = "cpu",
        warn: Callable[[str], object] = lambda sentence: None,
    ) -> "DynamicModel":
        """Loads an opened model, and a hypernetwork from a folder.

        Raises:
            TokenLayerError: a subclass that says what is wrong.
        """
        saved = None if hypernet is None else load_hypernet(hypernet)
        checkpoint = source.checkpoint
        model, _ = load_model(checkpoint.folder, checkpoint.kind, dtype=dtype, device=device)
        return DynamicModel(
            model,
            source.tokenizer,
            saved,
            config,
            decoder=checkpoint.kind == "decoder",
            merges=merges,
            where=str(hypernet),
            warn=warn,
        )

    def prepare(
        self,
        texts: Sequence[str],
        *,
        merges: int | None = None,
        reduction: float | None = None,
        shorter: float | None = None,
        max_length: int | None = None,
        pairs: Sequence[str] | None = None,
    ) -> Units:
        """Cuts a batch of texts into units and makes what the model takes.

        Args:
            texts: at least one.
            merges: at most so many; 0 is the plain tokenizer. A fixed list is made whole where nothing is asked.
            reduction: instead, the share of the shortening that can be reached in this batch, from 0 to 1.
            shorter: instead, the share of all tokens of the batch to save, from 0 to 1, as far as merging can.
            max_length: tokens of a text before merging; None: the config's, or what the model can read.
            pairs: a second text for each, which the tokenizer's template joins to it (premise and hypothesis).

        Raises:
            BadOption: none or several of merges, reduction and shorter, no texts, or more tokens than the model can
                read.
        """
        if not texts:
            raise BadOption("a batch needs at least one text")
        most = most_positions(self.model)
        given = max_length or self.config.max_length
        if given is not None and most is not None and given > most:
            raise BadOption(f"max_length is {given}, the model reads at most {most} tokens", hint="leave it out")
        if self.segmenter.merges is not None and merges is None and reduction is None and shorter is None:
            merges = len(self.segmenter.merges)
        if shorter is not None and merges is None and reduction is None:
            merges = self._merges_to_save([*texts, *(pairs or ())], shorter, given or most)
        elif shorter is not None:
            raise BadOption("shorter stands for merges and reduction", hint="give one of the three")
        segmentation = self.segmenter.segment(
            texts, merges=merges, reduction=reduction, max_length=given or most, pairs=pairs
        )
        return self.units(segmentation)

    def _merges_to_save(self, texts: Sequence[str], share: float, max_length: int | None) -> int:
        """The first number of merges that saves a share of a batch's tokens, or all that there are."""
        check_reduction(share)
        if self.config.per != "batch":
            raise BadOption("shorter counts over a batch, and per is sample", hint="give a reduction")
        (lengths,) = self.segmenter.lengths_by_merges(texts, max_length=max_length)
        reached = (count for count, length in enumerate(lengths) if length <= (1 - share) * lengths[0])
        return next(reached, len(lengths) - 1)

    @torch.no_grad()
    def units(self, segmentation: Segmentation) -> Units:
        """Embeddings, mask and positions of a batch that is cut already."""
        self._refresh()
        rows, size = segmentation.rows, len(self.tokenizer.vocab)
        longest = max(1, *map(len, rows)) if rows else 1
        pad = self.tokenizer.vocab.roles.get("pad", 0)
        device = self._embed.weight.device
        ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
        mask, types = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
        for n, (row, of) in enumerate(zip(rows, segmentation.types, strict=True)):
            place = slice(longest - len(row), None) if self.decoder else slice(len(row))
            ids[n, place], mask[n, place] = torch.tensor(row, dtype=torch.int64), 1
            types[n, place] = torch.tensor(of, dtype=torch.int64)
        ids, mask, types = ids.to(device), mask.to(device), types.to(device)
        embeds = self._embed(ids.clamp(max=size - 1))
        new = ids >= size
        if segmentation.new:
            made = self.cache.get_many(segmentation.new)
            embeds[new] = (made * self._scale.to(made.dtype) if self._scale is not None else made)[ids[new] - size]
        return Units(segmentation, embeds, mask, self._positions(mask), types)

    def inputs(self, units: Units) -> dict[str, Tensor]:
        """What the model's `forward` takes: embeddings, mask and, where it has them, positions and token types."""
        found = {"inputs_embeds": units.embeds, "attention_mask": units.mask}
        if "position_ids" in self._accepted:
            found["position_ids"] = units.positions
        if "token_type_ids" in self._accepted and bool(units.types.any()):
            found["token_type_ids"] = units.types
        return found

    def __call__(self, units: Units, **more: Any) -> Any:
        """Runs the model on a batch of units; a task head sees what it always sees.

        Args:
            units: what `prepare` made.
            more: further inputs of the model's `forward`, such as labels.

        Returns:
            The model's own output; its states and logits have one position for each unit.
        """
        return self.model(**self.inputs(units), **more)

    @torch.no_grad()
    def encode(self, units: Units, *, pool: str = "tokens", normalise: bool = True) -> Float[Tensor, "batch dim"]:
        """One vector for each text: the mean of the last hidden states.

        Args:
            units: a batch.
            pool: tokens weighs a unit by the tokens that it stands for; units weighs all alike.
            normalise: to length 1.
        """
        base = _base(self.model)
        state = getattr(base, "base_model", base)(**self.inputs(units)).last_hidden_state.float()
        weights = units.weights(pool)[:, :, None]
        vectors: Tensor = (state * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(vectors, dim=1) if normalise else vectors

    @torch.no_grad()
    def prefill(self, units: Units) -> Prefilled:
        """Reads a batch of prompts; only they are shorter, what follows may be ordinary tokens.

        Raises:
            BadOption: the model is no decoder.
        """
        if not self.decoder:
            raise BadOption("only a decoder can go on from a prompt", hint="use encode")
        head = head_of(self.model, len(self.tokenizer.vocab))
        with captured_hidden(head) as seen:
            out = self.model(**self.inputs(units), use_cache=True)
        return Prefilled(units, out.past_key_values, seen[0][:, -1], head)

    @torch.no_grad()
    def score_after(self, prefilled: Prefilled, continuations: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities, in nats, of ordinary tokens after each prompt.

        Args:
            prefilled: the prompts; their keys and values are used up.
            continuations: own token ids that follow each, at least one.
        """
        device = prefilled.hidden.device
        ids, real = padded(continuations, device)
        more: dict[str, Tensor] = {"attention_mask": torch.cat([prefilled.units.mask, real.long()], dim=1)}
        if "position_ids" in self._accepted:
            more["position_ids"] = prefilled.next_positions[:, None] + torch.arange(ids.shape[1], device=device)
        hidden = prefilled.hidden[:, None]
        if ids.shape[1] > 1:
            more = {name: part[:, :-1] for name, part in more.items()}
            with captured_hidden(prefilled.head) as seen:
                self.model(input_ids=ids[:, :-1], past_key_values=prefilled.past, use_cache=True, **more)
            hidden = torch.cat([hidden, seen[0]], dim=1)
        found = []
        for states, row in zip(hidden, continuations, strict=True):
            logprobs = torch.log_softmax(prefilled.head.logits(states[: len(row)]), dim=-1)
            found.append(logprobs.gather(1, torch.tensor(list(row), device=device)[:, None])[:, 0].cpu())
        return found

    def generate(
        self, units: Units, config: GenerateConfig | None = None, vocab: BigVocab | None = None
    ) -> list[Generated]:
        """Reads a batch of prompts in units, and goes on in ordinary tokens or in those of a very large vocabulary.

        Args:
            units: the prompts.
            config: see `GenerateConfig`.
            vocab: what to choose from; None: the model's own tokens.

        Raises:
            BadOption: the model is no decoder, or has too few positions left.
            VocabMismatch: the vocabulary was built for another model.
        """
        prefilled = self.prefill(units)
        outside = OutsideRows(self.model, len(self.tokenizer.vocab))
        chosen = vocab or BigVocab.of_model(outside, self.tokenizer.vocab)
        state = PrefillState(prefilled.past, prefilled.hidden, prefilled.next_positions, units.mask.bool())
        return decode(outside, chosen, state, config)

    def _positions(self, mask: Tensor) -> Tensor:
        """Consecutive over the units; RoBERTa and its kin count from behind their pad id."""
        counted = (mask.cumsum(dim=1) - 1).clamp(min=0)
        config: Any = getattr(self.model.config, "text_config", self.model.config)
        if config.model_type not in PAD_COUNTS_POSITIONS:
            return counted if self.decoder else torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        pad = int(config.pad_token_id)
        return torch.where(mask.bool(), counted + pad + 1, pad)

    def _make_rows(self) -> UnitRows:
        output = None if not self.decoder else self.model.get_output_embeddings()  # type: ignore[operator]
        weight = self._embed.weight
        own = None if output is None or output.weight is weight else output.weight.detach().cpu()
        table = source_table(weight.detach().cpu(), own)
        config = self.config
        return UnitRows(
            self.tokenizer.vocab,
            table,
            tied=own is None,
            method=config.method,
            hypernet=self.hypernet,
            language=config.language,
            device=str(weight.device),
            seed=config.seed,
            where=self._where,
        )

    def _weights_stamp(self) -> tuple[Any, ...]:
        """Changes whenever weights that decide rows are written to."""
        tensors = [self._embed.weight, *(() if self.hypernet is None else self.hypernet.network.parameters())]
        return tuple((one.data_ptr(), one._version) for one in tensors)

    def _refresh(self) -> None:
        """Drops rows of weights that have changed since."""
        stamp = self._weights_stamp()
        if stamp != self._stamp:
            self.rows = self._make_rows()
            self.cache.renew(self.rows)
            self._stamp = stamp

    def with_config(self, **changes: Any) -> "DynamicModel":
        """The same model and hypernetwork with other settings, and a cache of its own."""
        return DynamicModel(
            self.model,
            self.tokenizer,
            self.hypernet,
            replace(self.config, **changes),
            decoder=self.decoder,
            merges=self.segmenter.merges,
            where=self._where,
        )


def word_labels(segmentation: Segmentation, labels: Sequence[Sequence[int]], ignored: int = -100) -> list[list[int]]:
    """Labels of words as labels of units: the first unit of a word has its label, the others are ignored.

    Args:
        segmentation: the units.
        labels: of the words of each text.
        ignored: label of control tokens and of a word's further units.

    Raises:
        BadOption: a text has more words than labels.
    """
    found = []
    for words, given in zip(segmentation.words, labels, strict=True):
        known = [word for word in words if word is not None]
        if known and max(known) >= len(given):
            raise BadOption(f"a text has {max(known) + 1} words and {len(given)} labels")
        seen: set[int] = set()
        row = []
        for word in words:
            first = word is not None and word not in seen
            row.append(given[word] if first and word is not None else ignored)
            seen |= set() if word is None else {word}
        found.append(row)
    return found


def embedding_scale(module: nn.Module) -> Tensor | None:
    """By what a token table multiplies its rows (Gemma: the root of the width), or None.

    Raises:
        BadCheckpoint: the table does something else with its rows.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        raise BadCheckpoint(f"{type(module).__name__} is no token table that rows could be fed beside")
    scale = getattr(module, "embed_scale", None)
    factor = None if scale is None else torch.as_tensor(scale, device=weight.device)
    with torch.no_grad():
        ids = torch.arange(min(8, len(weight)), device=weight.device)
        plain = weight[ids] if factor is None else weight[ids] * factor.to(weight.dtype)
        if not torch.equal(module(ids), plain):
            raise BadCheckpoint(
                f"{type(module).__name__} does more than look rows up and scale them, so none can be fed beside it"
            )
    return factor


def _base(model: nn.Module) -> nn.Module:
    """The model below peft's adapters, whose `forward` names what it takes."""
    get: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if get is None else get()
