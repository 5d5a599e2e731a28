"""`tokenlayer tokenizer`: make a tokenizer from your own text."""

from typing import Annotated

import typer

from tokenlayer.app.cli import audit as audit_command
from tokenlayer.app.cli import common
from tokenlayer.app.cli import lib as lib_command
from tokenlayer.app.cli import mixture as mixture_command
from tokenlayer.app.cli import traps as traps_command

app = typer.Typer(help="Make a tokenizer from your own text.")

EXAMPLE = """\b
Example:
  tokenlayer tokenizer learn en:news.txt.zst python=2:code/ --out tok --vocab-size 32768
"""


@app.callback()
def tokenizer() -> None:
    """Make a tokenizer from your own text."""


@app.command("learn", epilog=EXAMPLE)
def learn(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="[GROUP[=WEIGHT]:]PATH, hf:NAME[:SPLIT], or - for stdin.")
    ],
    *,
    out: common.Out,
    kind: Annotated[str | None, typer.Option(help="bpe, unigram or wordpiece; bpe if there is no --like.")] = None,
    vocab_size: Annotated[int, typer.Option(min=1, help="All tokens, special ones included.")] = 32_768,
    pre_tokenizer: Annotated[str | None, typer.Option(help="gpt2, cl100k, llama3, qwen2, o200k, metaspace...")] = None,
    normalizer: Annotated[str | None, typer.Option(help="none, nfc, nfkc or lowercase.")] = None,
    special_token: Annotated[list[str] | None, typer.Option(help="A control token. Repeat for more.")] = None,
    like: Annotated[str | None, typer.Option(help="Take stages, special tokens and roles from this one.")] = None,
    digits: Annotated[bool, typer.Option(help="Cut digits one by one.")] = False,
    min_frequency: Annotated[int, typer.Option(min=1, help="A merge must occur this often.")] = 2,
    limit_bytes: Annotated[int | None, typer.Option(min=1, help="Learn from a sample of this size.")] = None,
    trainer: Annotated[str, typer.Option(help="auto, tokenizers or gigabpe.")] = "auto",
    suffix: Annotated[list[str] | None, typer.Option(help="Only these files of a folder (.py). Repeat.")] = None,
    seed: common.Seed = 0,
    config: common.Config = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Learn a tokenizer from texts and write an ordinary tokenizer folder."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.learn(
        sources,
        out,
        like=like,
        suffixes=tuple(suffix or ()),
        kind=kind,
        vocab_size=vocab_size,
        pre_tokenizer=pre_tokenizer,
        normalizer=normalizer,
        special_tokens=tuple(special_token) if special_token else None,
        digits=digits,
        min_frequency=min_frequency,
        limit_bytes=limit_bytes,
        trainer=trainer,
        seed=seed,
        dry_run=dry_run,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


app.command("lib", epilog=lib_command.EXAMPLE)(lib_command.lib)
app.command("lib-encode", epilog=lib_command.ENCODE_EXAMPLE)(lib_command.lib_encode)
app.command("mixture", epilog=mixture_command.EXAMPLE)(mixture_command.mixture)
app.command("traps", epilog=traps_command.EXAMPLE)(traps_command.traps)
app.command("audit", epilog=audit_command.EXAMPLE)(audit_command.audit)
app.command("compare", epilog=audit_command.COMPARE_EXAMPLE)(audit_command.compare)
