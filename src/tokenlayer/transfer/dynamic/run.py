"""Whole jobs in dynamic units: vectors of many texts, texts that go on from prompts, a very large vocabulary."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.outputs import check_free, check_room, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.models.losses import head_of
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.models.safetensors_write import write_safetensors
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.big_vocab import BigVocab, grow_vocabulary
from tokenlayer.transfer.dynamic.generate import GenerateConfig, read_states
from tokenlayer.transfer.dynamic.index import IndexConfig
from tokenlayer.transfer.dynamic.longest_prefix import LongestPrefix
from tokenlayer.transfer.dynamic.merge_list import write_merges
from tokenlayer.transfer.dynamic.model import DynamicModel, Units

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""
Finish = Callable[[Report, Path], None]
"""Called with the report and the unfinished folder, to put files beside the others."""
VECTORS, UNITS, MERGES = "vectors.safetensors", "units.jsonl", "merges.txt"


def encode_texts(
    model: DynamicModel,
    texts: Sequence[str],
    out: Path,
    *,
    asked: dict[str, Any],
    batch: int = 32,
    pool: str = "tokens",
    force: bool = False,
    finish: Finish | None = None,
    progress: Progress | None = None,
) -> Report:
    """Writes one vector for each text, with the units that it was read in.

    Args:
        model: an encoder, or a decoder whose last hidden states are averaged.
        texts: in the order of the vectors.
        out: folder for `vectors.safetensors` (`vectors`, shape `(texts, dim)`), `units.jsonl` (spans of each unit in
            characters) and `merges.txt` (all merges, in the order in which they were first made).
        asked: `merges`, `reduction` or `shorter` of `DynamicModel.prepare`.
        batch: texts whose frequencies decide together.
        pool: see `DynamicModel.encode`.
        force: replace a folder that we wrote.
        finish: see `Finish`.
        progress: see `Progress`.

    Returns:
        The report: tokens saved, seconds, share of the cache.

    Raises:
        BadText: there are no texts.
        OutputExists: `out` is taken.
    """
    check_free(out, force=force)
    if not texts:
        raise BadText("there are no texts to encode", hint="give a file with one text a line")
    if batch < 1:
        raise BadOption(f"batch is {batch}, expected at least 1 text")
    check_room(out, 4 * len(texts) * model.rows.dim, "the vectors")
    report = Report(title=f"texts in dynamic units: {len(texts)}")
    with fresh_folder(out, force=force) as folder:
        vectors, tally = [], _Tally()
        merges: dict[tuple[bytes, bytes], None] = {}
        with (folder / UNITS).open("w", encoding="utf-8") as file:
            for start in range(0, len(texts), batch):
                units = tally.prepare(model, texts[start : start + batch], asked)
                vectors.append(tally.read(partial(model.encode, units, pool=pool)).cpu())
                merges |= dict.fromkeys(units.segmentation.merges)
                file.writelines(_units_lines(units, start))
                if progress is not None:
                    progress("encoding texts", min(start + batch, len(texts)), len(texts))
        write_safetensors(folder / VECTORS, {"vectors": torch.cat(vectors)}, {"format": "pt"})
        write_merges(folder / MERGES, list(merges))
        report.add("texts", len(texts))
        tally.tell(report, model)
        if finish is not None:
            finish(report, folder)
    return report


def generate_texts(
    model: DynamicModel,
    prompts: Sequence[str],
    *,
    asked: dict[str, Any],
    config: GenerateConfig,
    vocab: BigVocab | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> Report:
    """Reads prompts in units and goes on from them.

    Args:
        model: a decoder.
        prompts: texts to go on from.
        asked: `merges`, `reduction` or `shorter` of `DynamicModel.prepare`.
        config: see `GenerateConfig`.
        vocab: a very large vocabulary to choose from; None: the model's own.
        batch: prompts at a time; their frequencies decide together.
        progress: see `Progress`.

    Returns:
        The report: the texts in `data["texts"]` and as a table, tokens saved, tokens per second.

    Raises:
        BadOption: no decoder, or too few positions.
        BadText: no prompts, or an empty one.
    """
    if not prompts or not all(prompts):
        raise BadText("a prompt is empty", hint="give a text to go on from")
    report = Report(title=f"prompts in dynamic units: {len(prompts)}")
    tally, rows, made = _Tally(), [], 0
    began = time.perf_counter()
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        units = tally.prepare(model, some, asked)
        found = tally.read(partial(model.generate, units, config, vocab))
        for prompt, one, length in zip(some, found, units.segmentation.lengths, strict=True):
            rows.append((prompt, one.text, one.finish, length, len(one.ids), len(one.data)))
            made += len(one.ids)
        if progress is not None:
            progress("generating", min(start + batch, len(prompts)), len(prompts))
    seconds = time.perf_counter() - began
    report.add_table("texts", ("prompt", "text", "finish", "units", "tokens", "bytes"), rows)
    report.data["texts"] = [row[1] for row in rows]
    tally.tell(report, model)
    report.add("generated", made / seconds, "tokens/s")
    report.add("bytes per generated token", sum(row[5] for row in rows) / made, "bytes")
    return report


def build_big_vocab(
    model: DynamicModel,
    out: Path,
    *,
    tokens: Sequence[bytes],
    index: str = "auto",
    states: Sequence[str] = (),
    dtype: str = "float32",
    force: bool = False,
    finish: Finish | None = None,
    progress: Progress | None = None,
) -> Report:
    """Predicts rows for new tokens and writes them with the model's own and an index.

    Args:
        model: a decoder.
        out: the folder to write.
        tokens: new tokens; those that the model has take no part.
        index: auto, exact, screen, ivf or hnsw.
        states: texts like those to generate; an index of kind `screen` looks in the main directions of their hidden
            states alone, which is about twice as fast.
        dtype: of the rows.
        force: replace a folder that we wrote.
        finish: see `Finish`.
        progress: see `Progress`.

    Returns:
        The report: tokens, how many were cut because the hypernetwork cannot read them whole, seconds.

    Raises:
        BadOption: no decoder, no new tokens, or an unknown index.
        OutputExists: `out` is taken.
        MissingExtra: the index needs faiss, which is not installed.
    """
    check_free(out, force=force)
    if not model.decoder:
        raise BadOption("only a decoder generates from a vocabulary")
    began = time.perf_counter()

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress("predicting rows", done, total)

    head = head_of(model.model, len(model.tokenizer.vocab)).module
    bias = getattr(head, "bias", None)
    big = BigVocab.build(model.rows, tokens, bias=bias, dtype=dtype, progress=tell)
    if len(big) == big.own:
        raise BadOption("none of the tokens is new to the model", hint="give texts or a tokenizer of another kind")
    predicted = time.perf_counter()
    kind = IndexConfig.named(index, len(big))
    big = big.index(kind, _states(model, big, states) if states and kind.kind == "screen" else None)
    report = Report(title=f"a vocabulary of {len(big):,} tokens")
    report.add("tokens", len(big), baseline=big.own)
    report.add("cut to what the hypernetwork reads", len(model.rows.cut(big.vocab.tokens[big.own :])))
    report.add("predicting", predicted - began, "s")
    report.add("indexing", time.perf_counter() - predicted, "s")
    big.save(out, model.tokenizer, force=force)
    if finish is not None:
        finish(report, out)
    return report


def _states(model: DynamicModel, big: BigVocab, texts: Sequence[str]) -> Tensor:
    """Hidden states of texts, cut as generation cuts them."""
    cut = LongestPrefix(big.vocab, model.tokenizer)
    outside = OutsideRows(model.model, len(model.tokenizer.vocab))
    return read_states(outside, big, [cut.encode_text(text) for text in texts if text])


def new_tokens(
    tokenizer: LoadedTokenizer,
    texts: Iterable[str] | None,
    size: int | None,
    other: LoadedTokenizer | None,
    warn: Callable[[str], object],
) -> list[bytes]:
    """Tokens for a very large vocabulary: learned on texts, or those of another tokenizer.

    Args:
        tokenizer: the model's own.
        texts: what to go on with BPE training on.
        size: tokens in all when texts are given.
        other: a tokenizer whose tokens are taken.
        warn: takes a sentence for each thing that is unusual.

    Raises:
        BadOption: neither texts with a size nor another tokenizer, or both.
    """
    if (texts is None) == (other is None) or (texts is not None and size is None):
        raise BadOption(
            "new tokens come either from texts and a size, or from another tokenizer",
            hint="--texts FILE --size 200000, or --tokens-of TOKENIZER",
        )
    if other is not None:
        return [other.vocab.tokens[i] for i in other.vocab.text_ids() if other.vocab.tokens[i]]
    return grow_vocabulary(tokenizer, texts or (), size or 0, warn=warn)


class _Tally:
    """Counts and seconds over batches."""

    def __init__(self) -> None:
        self.tokens = self.units = 0
        self.cutting = self.reading = 0.0

    def prepare(self, model: DynamicModel, texts: Sequence[str], asked: dict[str, Any]) -> Units:
        began = time.perf_counter()
        units = model.prepare(texts, **asked)
        self.cutting += time.perf_counter() - began
        self.tokens += sum(units.segmentation.plain_lengths)
        self.units += sum(units.segmentation.lengths)
        return units

    def read(self, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        found = step()
        self.reading += time.perf_counter() - began
        return found

    def tell(self, report: Report, model: DynamicModel) -> None:
        report.add("units", self.units, baseline=self.tokens)
        report.add("shorter", 100 * (1 - self.units / max(self.tokens, 1)), "%")
        report.add("cutting and rows", self.cutting, "s")
        report.add("reading", self.reading, "s")
        report.add("rows found in the cache", 100 * model.cache.hit_rate, "%")


def _units_lines(units: Units, first: int) -> list[str]:
    found = units.segmentation
    return [
        json.dumps({"text": first + n, "spans": spans, "tokens": pieces}) + "\n"
        for n, (spans, pieces) in enumerate(zip(found.spans, found.pieces, strict=True))
    ]
