"""A list of merges as a text file: one `left right` a line in the byte alphabet, like the merges.txt of a BPE."""

from collections.abc import Sequence
from pathlib import Path

from tokenlayer.core.byte_alphabet import from_alphabet_or_none, to_alphabet
from tokenlayer.core.errors import BadText

HEADER = "#version: 0.2"
"""First line of every merges.txt."""

Merges = tuple[tuple[bytes, bytes], ...]


def write_merges(file: Path, merges: Sequence[tuple[bytes, bytes]]) -> None:
    """Writes merges in their order."""
    lines = [HEADER, *(f"{to_alphabet(left)} {to_alphabet(right)}" for left, right in merges)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_merges(file: Path) -> Merges:
    """Reads what `write_merges` wrote.

    Raises:
        BadText: there is no such file, or a line is no merge.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadText(f"cannot read the merges in {file}: {error}", hint="give a merges.txt") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        sides = [from_alphabet_or_none(side) for side in line.split(" ")]
        if len(sides) != 2 or not all(sides):
            raise BadText(
                f"line {number} of {file} is {line[:60]!r}, expected two sides of a merge parted by a space",
                hint="give the merges.txt that `tokenlayer transfer dynamic encode` wrote",
            )
        found.append((sides[0] or b"", sides[1] or b""))
    return tuple(found)
