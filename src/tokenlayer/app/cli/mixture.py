"""`tokenlayer tokenizer mixture`: what a tokenizer was trained on."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Needs: pip install 'tokenlayer\\[lp]' (and 'tokenlayer\\[fast]' for large samples)
Example:
  tokenlayer tokenizer mixture gpt2/tokenizer.json --category en=english.txt --category code=src/ --cache counts
"""


def mixture(
    tokenizer: Annotated[
        str, typer.Argument(metavar="TOKENIZER", help="Folder, tokenizer.json, tiktoken ranks or hub id; a BPE.")
    ],
    *,
    category: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="A kind of text, and a file or folder of it. Repeat.")
    ],
    merges: Annotated[int, typer.Option(min=1, help="Merges to look at, from the first.")] = 30_000,
    first_merge: Annotated[
        int, typer.Option(min=0, help="Only apply the merges before this one: for a list that extends another's.")
    ] = 0,
    unit: Annotated[str, typer.Option(help="What the shares are of: bytes, pairs or tokens.")] = "bytes",
    pre_tokenizer: Annotated[
        str | None, typer.Option(help="gpt2, cl100k, ..., sentencepiece, in place of the tokenizer's own.")
    ] = None,
    drop_space_runs: Annotated[
        bool, typer.Option("--drop-space-runs", help="Leave out merges that make runs of white space.")
    ] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draw the samples again this often, for intervals.")] = 0,
    gap: Annotated[
        float, typer.Option(min=0, help="Stop when the slacks are at most this share above the optimum's.")
    ] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(help="Stop adding constraints after this time, and say what that may cost.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the counts for the next run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that count.")] = 1,
    suffix: Annotated[list[str] | None, typer.Option(help="Only these files of a folder (.py). Repeat.")] = None,
    seed: common.Seed = 0,
    config: common.Config = None,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say which languages and kinds of text TOKENIZER was trained on, and how much of each."""
    from tokenlayer.app import mixture as app
    from tokenlayer.app.render import render

    report = app.mixture(
        tokenizer,
        category,
        merges=merges,
        first_merge=first_merge,
        unit=unit,
        pre_tokenizer=pre_tokenizer,
        drop_space_runs=drop_space_runs,
        bootstrap=bootstrap,
        gap=gap,
        seconds=seconds,
        cache=cache,
        workers=workers,
        suffixes=tuple(suffix or ()),
        seed=seed,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)
