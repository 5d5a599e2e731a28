"""The library's entries in Python: each command is one of these calls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenlayer.core.report import Report


def swap(
    model: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    eval: Sequence[str] = (),
    eval_bytes: int = 20_000,
    generate: Sequence[str] = (),
    materials: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Gives a model another tokenizer, writes an ordinary folder with report and model card.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizer: folder, tokenizer.json, SentencePiece model, tiktoken ranks, GGUF or hub id.
        out: the folder to write.
        eval: `FILE[:LANG]` of each text to score before and after: text, JSON lines, Parquet, a folder, also .zst.
        eval_bytes: bytes of each text that are scored.
        generate: prompts to continue greedily before and after.
        materials: texts, word vectors, word list or donor that the initialiser needs: the fields of
            `tokenlayer.transfer.materials.Materials`, such as `{"texts": ("sw.txt",)}`.
        force: replace an existing folder.
        dry_run: report the plan, write nothing.
        quiet: no progress bars.
        options: the other fields of `tokenlayer.transfer.swap.SwapConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_report_files
    from tokenlayer.data.sources import parse_eval_spec
    from tokenlayer.transfer.materials import Materials
    from tokenlayer.transfer.swap import SwapConfig, read_texts
    from tokenlayer.transfer.swap import swap as run

    texts = read_texts([parse_eval_spec(spec) for spec in eval], eval_bytes)
    config = SwapConfig(texts=texts, prompts=tuple(generate), materials=Materials(**(materials or {})), **options)
    with steps(quiet) as progress:
        return run(
            model,
            tokenizer,
            Path(out),
            config,
            force=force,
            dry_run=dry_run,
            finish=write_report_files,
            progress=progress,
        )


def learn(
    sources: Sequence[str],
    out: str | Path,
    *,
    like: str | Path | None = None,
    suffixes: tuple[str, ...] = (),
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Learns a tokenizer from texts and writes an ordinary tokenizer folder.

    Args:
        sources: `[GROUP[=WEIGHT]:]PATH` of each file or folder of texts.
        out: the folder to write.
        like: a tokenizer whose stages, special tokens and roles the new one takes over.
        suffixes: only these files of a folder.
        force: replace an existing tokenizer folder.
        dry_run: only estimate memory.
        quiet: no progress bar.
        options: the fields of `tokenlayer.tokenizer.config.LearnConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import progress_bar
    from tokenlayer.data.readers import ReadOptions
    from tokenlayer.tokenizer.config import LearnConfig
    from tokenlayer.tokenizer.learn import learn as run

    with progress_bar(None, "bytes read", quiet) as advance:
        return run(
            sources,
            Path(out),
            LearnConfig(**options),
            like=like,
            options=ReadOptions(suffixes=suffixes),
            force=force,
            dry_run=dry_run,
            progress=advance,
        )


def doctor(what: str | Path) -> Report:
    """Says what is inside a model or tokenizer, and what would break in a swap.

    Raises:
        TokenLayerError: nothing readable is there.
    """
    from tokenlayer.app.doctor import doctor as run

    return run(what)


def load_report(folder: str | Path) -> Report:
    """Reads the report that `swap` or `learn` left in a folder.

    Raises:
        BadText: there is none.
    """
    return Report.load(Path(folder) / "tokenlayer.json")
