"""The command that repeats a run, from its flags, and the versions it ran with."""

import inspect
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SHOWN_VERSIONS = ("tokenlayer", "torch", "transformers", "tokenizers", "safetensors")


def swap_command(flags: Mapping[str, Any]) -> str:
    """Returns the `tokenlayer swap` line of a run; flags that have their default are left out."""
    from tokenlayer.app.cli.transfer import swap

    defaults = {name: p.default for name, p in inspect.signature(swap).parameters.items()}
    rest = {k: v for k, v in flags.items() if k not in ("model", "tokenizer") and v != defaults.get(k)}
    return command_line("swap", [str(flags["model"]), str(flags["tokenizer"])], rest)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for name in SHOWN_VERSIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def command_line(command: str, positional: Sequence[str], flags: Mapping[str, Any]) -> str:
    """Returns what to type: `tokenlayer swap MODEL TOKENIZER --out DIR --dry-run`.

    A flag that is None, false or empty is left out; one that is a list is repeated.
    """
    words = ["tokenlayer", *command.split(), *positional]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False and value not in ("", (), []):
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [flag, str(one)]
    return shlex.join(words)
