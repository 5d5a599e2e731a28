"""The command that repeats a run, from its flags."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


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
