"""Bilingual word lists: pairs of a source word and a target word, one entry a line.

A line is `word TAB translations` (without a tab: up to the first space). FreeDict lists put a whole entry into one
line, `1. flat, dwelling | 2. home (figurative) | where one lives`: each translation makes a pair; numbers, notes in
brackets, cross-references, definitions and examples go.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenlayer.core.errors import BadText
from tokenlayer.data.readers import open_bytes

SHOWN = 3
"""Malformed lines that are kept to be shown."""
LONGEST_LINE = 1 << 16
"""Bytes; a longer line is no dictionary entry."""
_NUMBER = re.compile(r"(?:^|\s)\d{1,2}\.(?=\s|$)")
_STRAY = re.compile(r"(?<=\S)\s+\d{1,2}\.$")
"""`hyppy 2. | instance of falling` gives no second translation."""
_REFERENCE = re.compile(r"^[^:{}]*\{[^{}]*\}:")
"""As in `Plural of {bata}: duck`."""
_NOTE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_MORE = re.compile(r"(?<=\w{3})\s?\.\s.*")
"""After a full stop come idioms: `zararsız. harmlessly zararsız bir şekilde`; a shorter word is an abbreviation."""
_STOP = re.compile(r"(?<=[^\W\d])\s?\.$")
_BETWEEN = re.compile(r"[,;]\s+|[,;]$")


@dataclass(frozen=True)
class Dictionary:
    """Word pairs and what became of the lines they were read from.

    Attributes:
        pairs: (source word, target word), in the order of the file; a pair on two lines is there twice.
        lines: lines that were not blank.
        malformed: lines that were skipped.
        first_malformed: the first three of them, each with its line number and what is wrong.
        where: the file, or `""`.
    """

    pairs: tuple[tuple[str, str], ...]
    lines: int
    malformed: int = 0
    first_malformed: tuple[str, ...] = ()
    where: str = ""

    @staticmethod
    def of(pairs: Iterable[tuple[str, str]]) -> "Dictionary":
        """A dictionary of pairs that are at hand."""
        held = tuple(pairs)
        return Dictionary(held, len(held))

    def __len__(self) -> int:
        return len(self.pairs)

    def swapped(self) -> "Dictionary":
        """The same pairs read from target to source: an English-Swahili list for a Swahili model."""
        turned = tuple((target, source) for source, target in self.pairs)
        return Dictionary(turned, self.lines, self.malformed, self.first_malformed, self.where)

    def warnings(self) -> list[str]:
        """One sentence about the skipped lines, if there are any."""
        if not self.malformed:
            return []
        shown = "; ".join(self.first_malformed)
        return [f"{self.malformed} of {self.lines} dictionary lines of {self.where} were skipped: {shown}"]


def read_dictionary(path: str | Path, *, swap: bool = False) -> Dictionary:
    """Reads a word list, plain, `.gz` or `.zst`.

    Args:
        path: the file.
        swap: read it from target to source.

    Raises:
        BadText: the file is missing or damaged, or no line of it is an entry; the first three lines are shown.
        MissingExtra: a `.zst` file without pyarrow.
    """
    pairs: list[tuple[str, str]] = []
    bad: list[str] = []
    lines = 0
    for number, line in _lines(Path(path)):
        lines += 1
        found = _entry(line)
        if isinstance(found, str):
            bad.append(f"line {number} {found}")
        else:
            pairs += found
    if not pairs:
        raise BadText(
            f"no word pair in {path}: " + ("; ".join(bad[:SHOWN]) if bad else "the file is empty"),
            hint="write one pair a line, source word TAB target word",
        )
    held = Dictionary(tuple(pairs), lines, len(bad), tuple(bad[:SHOWN]), str(path))
    return held.swapped() if swap else held


def translations(text: str) -> list[str]:
    """The single translations of an entry: `1. flat, dwelling | 2. home (figurative) | where one lives` gives three.

    A sense begins with its number. Its first part holds the translations, and so does a part that goes on with `;`;
    the others are definitions and examples in either language.
    """
    found: dict[str, None] = {}
    for sense in _senses(text):
        plain = _REFERENCE.sub("", sense).replace("~", " ")
        while (without := _NOTE.sub(" ", plain)) != plain:
            plain = without
        plain = _MORE.sub("", plain.strip())
        found |= {_STOP.sub("", " ".join(word.split())): None for word in _BETWEEN.split(plain)}
    return [word for word in found if word]


def _senses(text: str) -> Iterator[str]:
    """The parts of an entry that hold translations."""
    told = False
    for part in text.split(" | "):
        body = _STRAY.sub("", _REFERENCE.sub("", part.strip()))
        for n, sense in enumerate(_NUMBER.split(body)):
            told = told and n == 0
            plain = sense.strip()
            if plain and plain[0] != '"' and (not told or plain[0] in ",;"):
                told = True
                yield plain.lstrip(",;")


def _entry(line: bytes) -> list[tuple[str, str]] | str:
    """The pairs of a line, or what is wrong with it."""
    if len(line) > LONGEST_LINE:
        return f"is longer than {LONGEST_LINE} bytes"
    try:
        text = line.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        return f"has a byte at {error.start} that is not UTF-8"
    fields = text.split("\t") if "\t" in text else text.strip().split(" ", 1)
    if len(fields) != 2:
        return f"has {len(fields)} fields, expected 2: {text[:60]!r}"
    word, found = fields[0].strip(), translations(fields[1])
    if not word or not found:
        return f"has an empty side: {text[:60]!r}"
    return [(word, translation) for translation in found]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; of an overlong one only the beginning."""
    number, begun = 0, False
    try:
        with open_bytes(path) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += not begun
                if not begun and number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not begun and line.strip():
                    yield number, line
                begun = not line.endswith(b"\n") and len(line) > LONGEST_LINE
    except (OSError, EOFError) as error:
        raise BadText(f"cannot read {path}: {error}", hint="the file may be cut off; copy it again") from error
