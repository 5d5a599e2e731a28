"""Dynamic units as one call each: what the commands of `tokenlayer transfer dynamic` do."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenlayer.core.report import Report

STATE_TEXTS = 64
"""Texts whose hidden states an index is built for."""


@contextmanager
def _opened(
    model: str | Path, hypernet: str | Path | None, settings: Mapping[str, Any], report_to: list[str]
) -> Iterator[Any]:
    """A `DynamicModel`; what it warns of is collected."""
    from tokenlayer.models.loading import opened_model
    from tokenlayer.transfer.dynamic.merge_list import read_merges
    from tokenlayer.transfer.dynamic.model import DynamicConfig, DynamicModel

    own = dict(settings)
    dtype, device, frozen = own.pop("dtype", None), own.pop("device", "cpu"), own.pop("frozen", None)
    config = DynamicConfig(**{name: value for name, value in own.items() if value is not None})
    with tempfile.TemporaryDirectory() as scratch, opened_model(model, Path(scratch)) as source:
        yield DynamicModel.open(
            source,
            None if hypernet is None else Path(hypernet),
            config,
            merges=None if frozen is None else read_merges(Path(frozen)),
            dtype=dtype,
            device=device,
            warn=report_to.append,
        )


def _asked(merges: int | None, reduction: float | None, shorter: float | None, settings: Mapping[str, Any]) -> Any:
    """What is asked of a batch; half of what can be saved if nothing is."""
    given = {"merges": merges, "reduction": reduction, "shorter": shorter}
    given = {name: value for name, value in given.items() if value is not None}
    return given or ({} if settings.get("frozen") else {"reduction": 0.5})


def encode(
    model: str | Path,
    texts: str | Path,
    out: str | Path,
    *,
    hypernet: str | Path | None = None,
    merges: int | None = None,
    reduction: float | None = None,
    shorter: float | None = None,
    batch: int = 32,
    pool: str = "tokens",
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Writes a vector for each line of a file, read in dynamic units.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        texts: one text a line of a text file (empty lines are left out), or the records of JSON lines or Parquet.
        out: folder for `vectors.safetensors`, `units.jsonl`, `merges.txt` and the report.
        hypernet: folder of the model's hypernetwork.
        merges: at most so many merges in a batch.
        reduction: instead, the share of what merging can save (0.5 if nothing is given).
        shorter: instead, the share of all tokens to save.
        batch: texts whose frequencies decide together.
        pool: how hidden states are averaged: tokens or units.
        force: replace an existing folder.
        quiet: no progress bars.
        settings: fields of `tokenlayer.transfer.dynamic.model.DynamicConfig`, `dtype`, `device`, and `frozen`, a
            merges.txt whose merges are made instead of frequent ones.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_comparison
    from tokenlayer.transfer.dynamic.run import encode_texts

    asked, said = _asked(merges, reduction, shorter, settings), list[str]()
    lines = _texts(texts)

    def finish(report: Report, folder: Path) -> None:
        _describe(report, said, model=model, texts=texts, hypernet=hypernet, out=out, batch=batch, **asked, **settings)
        write_comparison(report, folder)

    with steps(quiet) as progress, _opened(model, hypernet, settings, said) as dynamic:
        return encode_texts(
            dynamic,
            lines,
            Path(out),
            asked=asked,
            batch=batch,
            pool=pool,
            force=force,
            finish=finish,
            progress=progress,
        )


def evaluate(
    model: str | Path,
    eval: Sequence[str],
    *,
    hypernet: str | Path | None = None,
    out: str | Path | None = None,
    eval_bytes: int = 200_000,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Says how much shorter texts get in dynamic units, and what that costs.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        eval: `FILE[:LANG]` of each text.
        hypernet: folder of the model's hypernetwork.
        out: folder for the report, or None.
        eval_bytes: bytes of each text that are looked at, at most.
        options: fields of `tokenlayer.transfer.dynamic.evaluate.EvaluateConfig`; None keeps the default.
        force: replace an existing folder.
        quiet: no progress bars.
        settings: as for `encode`.

    Raises:
        TokenLayerError: a subclass that says what is wrong.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_comparison
    from tokenlayer.core.outputs import check_free, fresh_folder
    from tokenlayer.data.sources import parse_eval_spec
    from tokenlayer.transfer.dynamic.evaluate import EvaluateConfig
    from tokenlayer.transfer.dynamic.evaluate import evaluate as run
    from tokenlayer.transfer.swap import read_texts

    given = {name: value for name, value in (options or {}).items() if value is not None}
    config, said = EvaluateConfig(**given), list[str]()
    if out is not None:
        check_free(Path(out), force=force)
    texts = read_texts([parse_eval_spec(spec) for spec in eval], eval_bytes)
    first = {"method": config.methods[0], **settings}
    with steps(quiet) as progress, _opened(model, hypernet, first, said) as dynamic:
        report = run(dynamic, texts, config, progress=progress)
    _describe(report, said, model=model, eval=list(eval), hypernet=hypernet, **given, **settings)
    if out is not None:
        with fresh_folder(Path(out), force=force) as folder:
            write_comparison(report, folder)
    return report


def generate(
    model: str | Path,
    prompts: Sequence[str],
    *,
    hypernet: str | Path | None = None,
    vocab: str | Path | None = None,
    merges: int | None = None,
    reduction: float | None = None,
    shorter: float | None = None,
    options: Mapping[str, Any] | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Reads prompts in dynamic units and goes on from them.

    Args:
        model: checkpoint folder, GGUF file or hub id of a decoder.
        prompts: texts to go on from.
        hypernet: folder of the model's hypernetwork.
        vocab: folder of a very large vocabulary to choose from, which `build_index` wrote; None: the model's own.
        merges: at most so many merges in the prompts.
        reduction: instead, the share of what merging can save (0.5 if nothing is given).
        shorter: instead, the share of all tokens to save.
        options: fields of `tokenlayer.transfer.dynamic.generate.GenerateConfig`; None keeps the default.
        quiet: no progress bars.
        settings: as for `encode`.

    Raises:
        TokenLayerError: a subclass that says what is wrong.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.transfer.dynamic.big_vocab import BigVocab
    from tokenlayer.transfer.dynamic.generate import GenerateConfig
    from tokenlayer.transfer.dynamic.run import generate_texts

    given = {name: value for name, value in (options or {}).items() if value is not None}
    config, said = GenerateConfig(**given), list[str]()
    asked = _asked(merges, reduction, shorter, settings)
    big = None if vocab is None else BigVocab.load(Path(vocab))
    with steps(quiet) as progress, _opened(model, hypernet, settings, said) as dynamic:
        report = generate_texts(dynamic, prompts, asked=asked, config=config, vocab=big, progress=progress)
    _describe(report, said, model=model, hypernet=hypernet, vocab=vocab, **asked, **given, **settings)
    return report


def build_index(
    model: str | Path,
    out: str | Path,
    *,
    hypernet: str | Path | None = None,
    texts: Sequence[str] = (),
    size: int | None = None,
    tokens_of: str | Path | None = None,
    index: str = "auto",
    states: str | Path | None = None,
    rows_dtype: str = "float32",
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Predicts rows for many new tokens and writes them, with an index, as a vocabulary to generate from.

    Args:
        model: checkpoint folder, GGUF file or hub id of a decoder.
        out: the folder to write.
        hypernet: folder of the model's hypernetwork.
        texts: `[GROUP[=WEIGHT]:]PATH` of texts on which the model's BPE goes on learning.
        size: tokens in all, for texts.
        tokens_of: instead of texts a tokenizer whose tokens are taken.
        index: auto, exact, screen, ivf or hnsw.
        states: texts like those to generate (the first 64 of a file), for a faster index of kind `screen`.
        rows_dtype: of the rows: float32, bfloat16, float16.
        force: replace an existing folder.
        quiet: no progress bars.
        settings: as for `encode`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.core.outputs import check_free
    from tokenlayer.data.documents import Documents
    from tokenlayer.models.tokenizer_files import load_tokenizer
    from tokenlayer.transfer.dynamic.run import build_big_vocab, new_tokens

    check_free(Path(out), force=force)
    said = list[str]()
    documents = Documents(list(texts)).texts() if texts else None
    other = None if tokens_of is None else load_tokenizer(tokens_of)
    with steps(quiet) as progress, _opened(model, hypernet, settings, said) as dynamic:
        found = new_tokens(dynamic.tokenizer, documents, size, other, said.append)
        report = build_big_vocab(
            dynamic,
            Path(out),
            tokens=found,
            index=index,
            states=_texts(states)[:STATE_TEXTS] if states else (),
            dtype=rows_dtype,
            force=force,
            progress=progress,
        )
    _describe(report, said, model=model, hypernet=hypernet, out=out, index=index, **settings)
    given = "" if hypernet is None else f" --hypernet {hypernet}"
    report.next_command = f'tokenlayer transfer dynamic generate {model} "PROMPT"{given} --vocab {out}'
    return report


def _texts(file: str | Path) -> list[str]:
    """One text a line, or the records of a data file."""
    from tokenlayer.data.documents import Documents
    from tokenlayer.data.readers import ReadOptions

    return list(Documents([str(file)], options=ReadOptions(document="line")).texts())


def _describe(report: Report, warnings: Sequence[str], **settings: Any) -> None:
    from tokenlayer.app.report.command import versions

    for sentence in warnings:
        report.warn(sentence)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    report.settings |= {name: value for name, value in plain.items() if value is not None} | {"versions": versions()}
