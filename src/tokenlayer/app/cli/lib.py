"""`tokenlayer tokenizer lib` and `lib-encode`: learn a LiB tokenizer, cut text with it."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer tokenizer lib es:pages.txt.zst --out lib-es --life 100
  tokenlayer tokenizer lib es:more.txt --start lib-es --out lib-es-2
  tokenlayer tokenizer lib-encode lib-es es:other.txt
Compiled loops for texts of more than a few MB: pip install 'tokenlayer[fast]'
"""
ENCODE_EXAMPLE = """\b
Example:
  tokenlayer tokenizer lib-encode lib-es es:other.txt --out ids.jsonl
"""
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help="[GROUP[=WEIGHT]:]PATH, hf:NAME, or -.")]


def lib(
    sources: Sources,
    *,
    out: common.Out,
    in_rate: Annotated[float | None, typer.Option(help="Chance that two neighbours are memorised: 0.25.")] = None,
    out_rate: Annotated[
        float | None, typer.Option(help="Share of the lexicon's tail put on probation: 0.0001; small texts 0.01.")
    ] = None,
    life: Annotated[int | None, typer.Option(help="Articles on probation: 10; more for more text.")] = None,
    update_rate: Annotated[float | None, typer.Option(help="Share of its rank that a chunk moves: 0.1.")] = None,
    article: Annotated[int | None, typer.Option(help="Lines read before the lexicon is put in order: 500.")] = None,
    longest_chunk: Annotated[int | None, typer.Option(help="Longest chunk in characters: 64.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Articles to read, round and round; the text once if not given.")
    ] = None,
    special_token: Annotated[list[str] | None, typer.Option(help="A control token. Repeat for more.")] = None,
    start: Annotated[str, typer.Option(metavar="DIR", help="Go on from this folder, with its settings.")] = "",
    suffix: Annotated[list[str] | None, typer.Option(help="Only these files of a folder (.py). Repeat.")] = None,
    seed: common.Seed = 0,
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Learn a ranked lexicon of subwords, words and multi-word chunks (LiB) from lines of text."""
    from tokenlayer.app import lib as api
    from tokenlayer.app.render import render

    report = api.lib(
        sources,
        out,
        start=start,
        suffixes=tuple(suffix or ()),
        in_rate=in_rate,
        out_rate=out_rate,
        life=life,
        update_rate=update_rate,
        article=article,
        longest_chunk=longest_chunk,
        steps=steps,
        special_tokens=tuple(special_token) if special_token else None,
        seed=seed,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


def lib_encode(
    tokenizer: Annotated[str, typer.Argument(metavar="DIR", help="A folder that `tokenizer lib` wrote.")],
    sources: Sources,
    *,
    out: Annotated[Path | None, typer.Option("--out", help="File for the ids, one JSON line a document.")] = None,
    deeper: Annotated[bool, typer.Option("--deeper", help="Split chunks into two of better rank, twice.")] = False,
    compat: Annotated[bool, typer.Option("--compat", help="Cut as the reference implementation does.")] = False,
    show: Annotated[int, typer.Option(min=0, help="Lines to show with their tokens.")] = 5,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Cut texts with a LiB tokenizer by its own rule."""
    from tokenlayer.app import lib as api
    from tokenlayer.app.render import render

    report = api.lib_encode(tokenizer, sources, out, deeper=deeper, compat=compat, show=show)
    render(report, as_json=as_json, quiet=quiet)
