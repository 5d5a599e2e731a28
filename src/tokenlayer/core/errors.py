"""Errors that say what, where, found, expected, and the next thing to type."""

from collections.abc import Iterable
from difflib import get_close_matches


class TokenLayerError(Exception):
    """Base of every error that the user can do something about (exit code 2).

    Args:
        message: one sentence: what is wrong, where, what was found, what was expected.
        hint: the next thing to type or to check; attached with `add_note`.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")


class BadTokenizer(TokenLayerError, ValueError):
    """A tokenizer file is missing, damaged, or of a kind that we do not read."""


class BadCheckpoint(TokenLayerError, ValueError):
    """A checkpoint folder is missing, damaged, unsafe, or of a kind that we do not write."""


class VocabMismatch(TokenLayerError, ValueError):
    """A tokenizer and an embedding table do not describe the same ids."""


class BadText(TokenLayerError, ValueError):
    """A text or a file of documents cannot be read as it was announced."""


class BadVectors(TokenLayerError, ValueError):
    """Vectors are missing, damaged, of the wrong width, or of a kind that a method cannot use."""


class BadOption(TokenLayerError, ValueError):
    """An argument has a value that is not among its choices, or two arguments exclude each other."""


class OutputExists(TokenLayerError, FileExistsError):
    """The place to write to is taken, and `--force` was not given."""


class NoRoom(TokenLayerError, OSError):
    """Disk or memory would not suffice; nothing was written."""


class VerifyFailed(TokenLayerError, RuntimeError):
    """What was written does not read back as planned; nothing was kept."""


class MissingExtra(TokenLayerError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str, what: str) -> None:
        super().__init__(f"{what} needs {library}, which is not installed", hint=f"pip install 'tokenlayer[{extra}]'")


def choose(name: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        BadOption: with the choices and the nearest match.
    """
    known = list(choices)
    if value in known:
        return value
    near = get_close_matches(value, known, n=1)
    raise BadOption(
        f"{name} is {value!r}, expected one of: {', '.join(known)}",
        hint=f"did you mean {near[0]!r}?" if near else f"pick one of the {len(known)} choices",
    )
