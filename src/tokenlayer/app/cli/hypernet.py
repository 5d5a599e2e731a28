"""`tokenlayer transfer hypernet`: trains one network that serves any tokenizer."""

from typing import Annotated

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer transfer hypernet ./model --texts en=14:news.parquet --texts python:code.jsonl --out hn
  tokenlayer swap ./model ./turkish/tokenizer.json --init zett --hypernet hn --out model-tr
"""


def hypernet(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, .gguf file or hub id.")],
    *,
    texts: Annotated[
        list[str], typer.Option(metavar="[LANGUAGE[=WEIGHT]:]FILE", help="Text to train on. Repeat for more.")
    ],
    out: common.Out,
    preset: Annotated[
        str, typer.Option(help="paper: its numbers, days on a large GPU. small: for small models on a CPU.")
    ] = "paper",
    arch: Annotated[
        str, typer.Option(help="paper, or residual: begins at the mean of the pieces instead of at random.")
    ] = "paper",
    steps: Annotated[
        int | None, typer.Option(min=1, help="All steps; the other stages shrink or grow with it.")
    ] = None,
    identity: Annotated[str, typer.Option(help="First stage: own (the paper's) or split, see the docs.")] = "own",
    rate: Annotated[float | None, typer.Option(help="Highest learning rate of the main stage.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Texts of a step.")] = None,
    block: Annotated[int | None, typer.Option(help="Tokens of a text.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens of a sampled tokenizer.")] = None,
    rows_per_step: Annotated[
        int | None, typer.Option(help="Predict only so many rows a step, which stand for all; 0: all.")
    ] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the network; that of the model if not given.")] = None,
    layers: Annotated[int, typer.Option(help="Transformer layers of the network.")] = 3,
    languages: Annotated[bool, typer.Option("--languages", help="A vector for each language.")] = False,
    tempering: Annotated[
        float | None, typer.Option(help="Draw languages by weight to this power; the paper has 0.1 for 26.")
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="HYPERNET", help="Go on from this one, in its shape and without an identity stage.")
    ] = "",
    keep_single: Annotated[
        bool, typer.Option("--keep-single", help="Residual networks: tokens that MODEL has keep their rows.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Of matrix products: float32, bfloat16.")] = "float32",
    device: common.Device = "cpu",
    seed: common.Seed = 0,
    config: common.Config = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Train a hypernetwork for MODEL, once for all tokenizers; a stopped run goes on when it is run again."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.hypernet(
        model,
        texts,
        out,
        preset=preset,
        steps=steps,
        changes={
            "identity": identity,
            "rate": rate,
            "batch": batch,
            "block": block,
            "vocab_size": vocab_size,
            "rows_per_step": rows_per_step,
        },
        arch=arch,
        hidden=hidden,
        layers=layers,
        languages=languages,
        tempering=tempering,
        start=start,
        keep_single=keep_single,
        precision=dtype,
        device=device,
        seed=seed,
        force=force,
        dry_run=dry_run,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)
