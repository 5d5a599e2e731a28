"""Flags that every command spells the same, and the `--config` file behind them."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenlayer.core.errors import BadOption, choose


def _read_config(ctx: Any, path: Path | None) -> Path | None:
    """Makes the values of a TOML file the defaults of the command, so that flags win over the file."""
    if path is None or ctx.resilient_parsing:
        return path
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"cannot read --config {path}: {error}", hint="write one `flag = value` a line") from error
    flags = {flag.lstrip("-"): p for p in ctx.command.params for flag in [p.name or "", *p.opts]}
    values: dict[str, Any] = {}
    for key, value in found.items():
        parameter = flags[choose(f"a key of {path}", key.replace("_", "-"), sorted(flags))]
        values[parameter.name or ""] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_read_config, is_eager=True, help="TOML file of flags; typed flags win over it."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write. Refused if it exists, see --force.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same bytes out.")]
Device = Annotated[str, typer.Option("--device", help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Type in which the model runs: float32 on a CPU, else as stored.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace --out if it is a folder that we wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback with an error.")]
