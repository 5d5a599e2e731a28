"""The command that repeats a run, from its flags, and the versions it ran with."""

import inspect
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SHOWN_VERSIONS = ("tokenlayer", "torch", "transformers", "tokenizers", "safetensors")


def swap_command(flags: Mapping[str, Any]) -> str:
    """Returns the `tokenlayer swap` line of a run; flags that have their default are left out."""
    from tokenlayer.app.cli.transfer import swap

    return _without_defaults("swap", swap, [str(flags["model"]), str(flags["tokenizer"])], flags)


def terms_command(flags: Mapping[str, Any]) -> str:
    """Returns the `tokenlayer transfer terms` line of a run, likewise."""
    from tokenlayer.app.cli.terms import terms

    return _without_defaults("transfer terms", terms, [str(flags["model"])], flags)


def port_command(flags: Mapping[str, Any]) -> str:
    """Returns the `tokenlayer transfer port` line of a run, likewise."""
    from tokenlayer.app.cli.port import port

    return _without_defaults("transfer port", port, [str(flags["model"])], flags)


def hypernet_command(flags: Mapping[str, Any]) -> str:
    """Returns the `tokenlayer transfer hypernet` line of a run, likewise."""
    from tokenlayer.app.cli.hypernet import hypernet

    return _without_defaults("transfer hypernet", hypernet, [str(flags["model"])], flags)


def _without_defaults(command: str, of: Callable[..., Any], positional: list[str], flags: Mapping[str, Any]) -> str:
    defaults = {name: p.default for name, p in inspect.signature(of).parameters.items()}
    rest = {k: v for k, v in flags.items() if k not in ("model", "tokenizer") and v != defaults.get(k)}
    off = {f"no_{k}": True for k, v in rest.items() if v is False and defaults.get(k) is True}
    return command_line(command, positional, rest | off)


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
