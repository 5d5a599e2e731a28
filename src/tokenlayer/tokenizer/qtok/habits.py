"""Entries that no text can use, entries that look never trained, and what happens to digits and white space."""

import unicodedata
from collections.abc import Sequence

from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.qtok.classify import Entry
from tokenlayer.tokenizer.qtok.scripts import script_property

NUMBERS = ("7", "42", "2024", "1234567", "3.14159", "٣٤٥")
SPACES = {
    "2 spaces": "a  b",
    "4 spaces": "a    b",
    "8 spaces": "a        b",
    "16 spaces": f"a{' ' * 16}b",
    "tab": "a\tb",
    "2 tabs": "a\t\tb",
    "line end": "a\nb",
    "empty line": "a\n\nb",
    "Windows line end": "a\r\nb",
    "indented line": "a\n    b",
    "no-break space": "a\u00a0b",
    "ideographic space": "a\u3000b",
}
"""What is tried between two letters."""
HARD = {
    "control character": "a\x00b\x07",
    "decomposed accents": "cafe\u0301 n\u0303",
    "ligature and fullwidth": "ﬁne ＡＢ ½ ℌ",
    "emoji sequence": "👩‍👩‍👧 🇫🇮 👍🏽",
    "rare script": "𐎠𐏁 𓀀 ᚠᚢ",
    "private use": "\ue000\uf8ff",
    "lines and indents": " x\r\n\ty \n\n  z ",
    "letter case": "İstanbul ǅ Straße",
}
"""Short texts that tokenizers change."""
LONG_RUN = 8
"""An entry that repeats one character this often, or more, was learnt from tables and rulers."""


def unreachable(tokenizer: LoadedTokenizer, entries: Sequence[Entry]) -> dict[int, str]:
    """Returns the entries that their own text does not give, with the reason.

    Each is encoded alone, without its leading space, and after a letter; one that comes up in any of the three can be
    used. Entries that are not whole characters are left out: they come up inside characters.

    Returns:
        Id -> `"merges"` (the model spells those bytes otherwise) or `"pre-tokenizer"` (it could, but never gets them
        in one piece, or changed by the normaliser).
    """
    left = {e.id: e.text for e in entries if e.is_text and e.text is not None and e.category != "control_tokens"}
    left = {i: text for i, text in left.items() if tokenizer.vocab.kinds[i] is Kind.NORMAL}
    for context in ("{}", "{stripped}", "a{}", "\n{}"):
        asked = [context.format(text, stripped=text.removeprefix(" ")) for text in left.values()]
        coded = tokenizer.encode_batch(asked)
        left = {i: text for (i, text), ids in zip(left.items(), coded, strict=True) if i not in ids}
    spelled = tokenizer.vocab.spell_all([tokenizer.vocab.tokens[i] for i in left])
    return {i: "pre-tokenizer" if ids == [i] else "merges" for i, ids in zip(left, spelled, strict=True)}


def suspects(entries: Sequence[Entry], used: set[int] | None = None) -> dict[str, list[Entry]]:
    """Entries that look as if a model had seen them seldom or never, by kind; from their text alone.

    Args:
        entries: classified.
        used: ids that came up in the texts of this run, if there were some.
    """
    found: dict[str, list[Entry]] = {
        "a character without a name": [],
        "U+FFFD, what broken text becomes": [],
        "letters of two scripts": [],
        f"one character {LONG_RUN} times or more": [],
    }
    for entry in entries:
        text = entry.text or ""
        if not entry.is_text or not text:
            continue
        if any(unicodedata.category(c) in ("Co", "Cn") for c in text):
            found["a character without a name"].append(entry)
        if "\ufffd" in text:
            found["U+FFFD, what broken text becomes"].append(entry)
        if len({s for c in text if (s := script_property(c))} - {"Hiragana", "Katakana"}) > 1:
            found["letters of two scripts"].append(entry)
        body = text.strip(" ")
        if len(body) >= LONG_RUN and len(set(body)) == 1:
            found[f"one character {LONG_RUN} times or more"].append(entry)
    if used is not None:
        found["never used in the texts given"] = [e for e in entries if e.is_text and e.id not in used]
    return found


def pieces_of(tokenizer: LoadedTokenizer, text: str) -> str:
    """The tokens of a text, written one after the other with bars."""
    return " | ".join(data.decode("utf-8", "backslashreplace") for data in _bytes(tokenizer, text))


def space_tokens(tokenizer: LoadedTokenizer) -> dict[str, int]:
    """How many tokens each kind of white space adds between two letters."""
    plain = len(tokenizer.encode("a")) + len(tokenizer.encode("b"))
    return {name: len(tokenizer.encode(text)) - plain for name, text in SPACES.items()}


def digit_rule(tokenizer: LoadedTokenizer) -> str:
    """Says in words how numbers are cut."""
    pieces = [len(data.strip(b" ")) for data in _bytes(tokenizer, "1234567") if data.strip(b" ")]
    if pieces == [1] * 7:
        return "digit by digit"
    if pieces == [3, 3, 1]:
        return "in threes from the left"
    if pieces == [1, 3, 3]:
        return "in threes from the right"
    return "as learnt"


def losses(tokenizer: LoadedTokenizer) -> dict[str, tuple[str, str]]:
    """The texts of `HARD` that encoding and decoding changes: name -> (text, what came back)."""
    found = {}
    for name, text in HARD.items():
        back = tokenizer.backend.decode(tokenizer.encode(text), skip_special_tokens=False)
        if back != text:
            found[name] = (text, back)
    return found


def _bytes(tokenizer: LoadedTokenizer, text: str) -> list[bytes]:
    return tokenizer.token_bytes(tokenizer.encode(text))
