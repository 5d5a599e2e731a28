"""Where texts come from: the one spelling of a source on the command line.

A source is `[GROUP[=WEIGHT]:]PATH`: `file.txt`, `en:texts/en.txt.zst`, `python=2:code/`, `hf:NAME[,CONFIG][:SPLIT]`,
or `-` for standard input. A path that exists is always a path, whatever colons it has.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tokenlayer.core.errors import BadOption, BadText

STDIN = "-"
HUB = "hf:"
COMPRESSED = (".zst", ".gz")
_SPEC = re.compile(r"(?P<group>[^\s/\\:=]+)(?:=(?P<weight>[^/\\:=]*))?:(?P<path>.+)", re.DOTALL)
_LANG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MAX_WEIGHT = 1000.0
"""Far above any real mixture; a larger number is a slip that would run for days."""


@dataclass(frozen=True)
class Source:
    """One place to read documents from.

    Raises:
        BadOption: the weight is not between 0 and 1000.
    """

    path: str
    """File, folder, `hf:NAME[,CONFIG][:SPLIT]`, or `-`."""
    group: str = ""
    """Language or other label; empty means the name of the file."""
    weight: float = 1.0
    """How often each document is read, on average: 2 reads all twice, 0.5 reads half of them."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= MAX_WEIGHT:
            raise BadOption(
                f"source {self.path!r} has weight {self.weight:g}, expected above 0 and at most {MAX_WEIGHT:g}",
                hint="a weight says how often each document is read: python=2:code/ reads it twice",
            )

    @property
    def label(self) -> str:
        """The group, or the bare name of the file or folder."""
        if self.group:
            return self.group
        if self.path == STDIN:
            return "stdin"
        if self.is_hub:
            return self.path.removeprefix(HUB)
        return Path(bare_name(self.path)).stem or Path(self.path).resolve().name or self.path

    @property
    def is_hub(self) -> bool:
        """Whether the path names a Hugging Face data set and not a file."""
        return self.path.startswith(HUB) and not Path(self.path).exists()


def parse_source(spec: str) -> Source:
    """Reads `[GROUP[=WEIGHT]:]PATH`.

    Raises:
        BadOption: an empty text, or a weight that is not a number in range.
    """
    if not spec.strip():
        raise BadOption("a source is empty", hint="give a file, a folder, hf:NAME, or - for standard input")
    if spec == STDIN or spec.startswith(HUB) or Path(spec).exists():
        return Source(spec)
    found = _SPEC.fullmatch(spec)
    if not found:
        return Source(spec)
    return Source(found["path"], found["group"], _weight(spec, found["weight"]))


def parse_eval_spec(spec: str) -> Source:
    """Reads `FILE[:LANG]`, path first; LANG becomes the group.

    Raises:
        BadText: neither the whole text nor the part before the last colon is a file that exists.
    """
    if spec == STDIN or spec.startswith(HUB) or Path(spec).exists():
        return Source(spec)
    path, colon, lang = spec.rpartition(":")
    if colon and _LANG.fullmatch(lang) and (path == STDIN or path.startswith(HUB) or Path(path).exists()):
        return Source(path, lang)
    missing = path if colon and _LANG.fullmatch(lang) and path else spec
    raise BadText(f"{missing} does not exist", hint="the form is FILE or FILE:LANG, for example news.txt:tr")


def bare_name(path: str) -> str:
    """The path without `.zst` or `.gz`."""
    return path.removesuffix(next((end for end in COMPRESSED if path.endswith(end)), ""))


def _weight(spec: str, text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        return float(text)
    except ValueError:
        raise BadOption(
            f"source {spec!r} has weight {text!r}, expected a number", hint="write python=2:code/ or python:code/"
        ) from None
