"""The GPT-2 byte alphabet: 256 printable characters that stand for the 256 bytes."""

from tokenlayer.core.errors import BadTokenizer


def _alphabet() -> dict[int, str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shown = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in shown]
    return shown | {b: chr(256 + n) for n, b in enumerate(rest)}


CHAR_OF_BYTE: dict[int, str] = _alphabet()
BYTE_OF_CHAR: dict[str, int] = {c: b for b, c in CHAR_OF_BYTE.items()}
_ENCODE = {b: ord(c) for b, c in CHAR_OF_BYTE.items()}
_DECODE = dict.fromkeys(range(256), "\uffff") | {ord(c): chr(b) for c, b in BYTE_OF_CHAR.items()}
"""Bytes that spell nothing in the alphabet become a character that Latin-1 refuses."""


def to_alphabet(data: bytes) -> str:
    """Writes bytes with one printable character each."""
    return data.decode("latin-1").translate(_ENCODE)


def from_alphabet(text: str) -> bytes:
    """Reads what `to_alphabet` wrote.

    Raises:
        BadTokenizer: a character is outside the alphabet.
    """
    try:
        return bytes([BYTE_OF_CHAR[c] for c in text])
    except KeyError as error:
        raise BadTokenizer(
            f"{text!r} has {error.args[0]!r}, which is not one of the 256 characters of the byte alphabet",
            hint="a byte-level tokenizer spells its tokens in this alphabet; is the pre-tokenizer really ByteLevel?",
        ) from None


def from_alphabet_or_none(text: str) -> bytes | None:
    """Reads what `to_alphabet` wrote, or returns None for any other text."""
    try:
        return text.translate(_DECODE).encode("latin-1")
    except UnicodeEncodeError:
        return None
