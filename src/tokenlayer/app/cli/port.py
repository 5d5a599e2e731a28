"""`tokenlayer transfer port`: a swap of a base model, ported to its fine-tunes."""

from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer swap ./base ./turkish/tokenizer.json --out base-tr
  tokenlayer transfer port ./chat --base ./base --swapped base-tr --out chat-tr
"""


def port(
    model: Annotated[str, typer.Argument(metavar="FINETUNE", help="Folder or hub id of the fine-tune.")],
    *,
    base: Annotated[str, typer.Option(metavar="MODEL", help="The model that FINETUNE was tuned from.")],
    swapped: Annotated[str, typer.Option(metavar="MODEL", help="What `tokenlayer swap` made of the base.")],
    out: common.Out,
    lam: Annotated[
        float, typer.Option("--lambda", help="Share of what --heal did to the body that is added, 0 to 1.")
    ] = 0.5,
    config: common.Config = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Give FINETUNE the tokenizer that its base model was given."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.port(model, base, swapped, out, lam=lam, force=force, dry_run=dry_run, quiet=quiet or as_json)
    render(report, as_json=as_json, quiet=quiet)
