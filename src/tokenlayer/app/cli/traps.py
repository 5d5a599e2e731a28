"""`tokenlayer tokenizer traps`: words that a tokenizer cuts wrongly when they stand together."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer tokenizer traps gpt2/tokenizer.json --texts news.txt --out traps --against llama3/tokenizer.json
  tokenlayer tokenizer traps qwen3/tokenizer.json --lang zh --lexicon dict.txt --words lexicon --traps entries
  tokenlayer tokenizer traps ./model --questions traps/adt.jsonl --model ./model
  tokenlayer tokenizer traps ./model --questions own
"""


def traps(
    tokenizer: Annotated[
        str, typer.Argument(metavar="TOKENIZER", help="Folder, hub id, tokenizer.json or another tokenizer file.")
    ],
    *,
    lang: Annotated[str, typer.Option(help="Language of the words: en, zh, ja or th.")] = "en",
    lexicon: Annotated[str, typer.Option(metavar="FILE", help="A word a line, its frequency after a space.")] = "",
    texts: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Count words in this text. Repeat for more.")
    ] = None,
    questions: Annotated[
        str, typer.Option(metavar="FILE", help="Mine nothing: an adt.jsonl, or `own` for our hand-made set.")
    ] = "",
    against: Annotated[
        list[str] | None, typer.Option(metavar="TOKENIZER", help="Try the sentences on this one too. Repeat for more.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help="A causal model that answers the questions.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write. Refused if it exists, see --force.")
    ] = None,
    words: Annotated[
        str, typer.Option(help="vocabulary: both words are entries (the paper); lexicon: any.")
    ] = "vocabulary",
    trap_kind: Annotated[
        str, typer.Option("--traps", help="words: traps are words of the lexicon; entries: any entry.")
    ] = "words",
    order: Annotated[str, typer.Option(help="Candidates to try: frequent or random.")] = "frequent",
    tried: Annotated[int, typer.Option(help="Candidates to encode.")] = 4000,
    top_words: Annotated[int, typer.Option(help="Only the most frequent words take part.")] = 8000,
    shortest: Annotated[int, typer.Option(help="Shortest word and trap in characters; 0: 2, in English 3.")] = 0,
    per_seam: Annotated[int, typer.Option(help="Most frequent candidates of a trap and cut.")] = 20,
    per_trap: Annotated[int, typer.Option(help="Most questions with the same trap; 0: no bound.")] = 3,
    per_word: Annotated[int, typer.Option(help="Most questions with the same first or second word.")] = 3,
    instances: Annotated[int, typer.Option(help="Most questions from traps, and from pairs cut right.")] = 231,
    seed: common.Seed = 0,
    device: common.Device = "cpu",
    dtype: common.Dtype = None,
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Find words that TOKENIZER cuts wrongly when they stand together, and ask a model about them."""
    from tokenlayer.app import traps as app
    from tokenlayer.app.render import render

    report = app.traps(
        tokenizer,
        out,
        lang=lang,
        lexicon=lexicon,
        texts=texts or [],
        questions=questions,
        against=against or [],
        model=model,
        words=words,
        traps=trap_kind,
        order=order,
        tried=tried,
        top_words=top_words,
        shortest=shortest,
        per_seam=per_seam,
        per_trap=per_trap,
        per_word=per_word,
        instances=instances,
        seed=seed,
        device=device,
        dtype=dtype,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)
