"""`tokenlayer transfer terms`: typed pieces for domain terms."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer transfer terms ./clinical-bert --terms drug=drugs.txt --terms disease=hp.obo --out k-bert
  tokenlayer transfer terms k-bert --explain "Amoxicillin for acute bronchitis"
"""


def terms(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model with a WordPiece tokenizer.")
    ],
    *,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--terms",
            metavar="[TYPE=]FILE",
            help="A term a line; an .obo ontology; without TYPE, lines term TAB type. Repeat for more.",
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Labelled text (IOB tags); the training split only. Repeat for more."),
    ] = None,
    umls: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of your MRCONSO.RRF and MRSTY.RRF.")] = "",
    semantic_type: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=NAME", help="A UMLS semantic type to read; those of the paper if none. Repeat."),
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the UMLS strings.")] = "ENG",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write. Refused if it exists, see --force.")
    ] = None,
    explain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Show candidates, scores and choice for each word; needs no terms if MODEL was made by this command.",
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Most pieces of a type.")] = 10_000,
    size_of: Annotated[
        list[str] | None, typer.Option(metavar="TYPE=N", help="Most pieces of one type; disease=3000 if none.")
    ] = None,
    rollback: Annotated[
        float, typer.Option(help="A sentence that saves this share of its pieces or more goes back; 1: none does.")
    ] = 1.0,
    min_count: Annotated[int, typer.Option(help="Words rarer than this in the terms keep their pieces.")] = 1000,
    keep_upper: Annotated[bool, typer.Option(help="Words in upper case keep their pieces.")] = True,
    lower_for_lookup: Annotated[bool, typer.Option(help="Look typed pieces up in lower case.")] = True,
    merges: Annotated[int, typer.Option(help="Most merges for one word.")] = 20,
    longest_piece: Annotated[int, typer.Option(help="Longest piece in characters.")] = 5,
    syllables: Annotated[bool, typer.Option(help="Cut a long first piece into (English) syllables.")] = True,
    words: Annotated[str, typer.Option(help="Words of terms: pre-tokens of MODEL, or whitespace.")] = "pre-tokens",
    init: Annotated[
        str, typer.Option(help="Rows of new pieces: pieces (mean of their spelling) or gaussian.")
    ] = "pieces",
    compat: Annotated[bool, typer.Option("--compat", help="Do what the authors' released code does.")] = False,
    seed: common.Seed = 0,
    config: common.Config = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Give MODEL pieces for drugs, diseases or any other types of terms."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.terms(
        model,
        out,
        files=files or [],
        corpora=corpus or [],
        umls=umls,
        semantic_types=semantic_type or [],
        language=language,
        size_of=size_of or [],
        explain=explain or [],
        size=size,
        rollback=rollback,
        min_count=min_count,
        keep_upper=keep_upper,
        lower_for_lookup=lower_for_lookup,
        merges=merges,
        longest_piece=longest_piece,
        syllables=syllables,
        words=words,
        init=init,
        compat=compat,
        seed=seed,
        dry_run=dry_run,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)
