"""What each entry of a vocabulary is: control, byte, character, beginning or inside of a word, broken UTF-8."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenlayer.core.byte_alphabet import BYTE_OF_CHAR, CHAR_OF_BYTE, from_alphabet_or_none
from tokenlayer.core.tokenizer_json import space_mark, token_family
from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.scripts import (
    ScriptOf,
    is_named,
    script_name,
    script_of_text,
    script_property,
)

CATEGORIES = (
    *("control_tokens", "pure_unicode", "char_alpha", "spaced_alpha", "inner_alpha", "char_other", "spaced_other"),
    *("inner_other", "unicode_flanks", "char_errors", "spaced_errors", "inner_errors"),
)
"""The twelve columns of the paper's tables, in its order."""
HOLES = "holes"
"""Ours: ids that no text can produce because no token has them."""
HTML = frozenset(("br", "h1", "h2", "h3", "h4", "h5", "h6", "b", "img", "li", "tr", "td", "p", "th", "u", "em"))
"""Tags that are text although they look like control tokens."""


@dataclass(frozen=True)
class Entry:
    """One entry of a vocabulary.

    Attributes:
        id: token id.
        data: the bytes that it adds to a text; `b""` for control tokens and holes.
        text: the same as text, None where it is not UTF-8; the name of a control token.
        category: one of `CATEGORIES`, or `HOLES`.
        script: the script of an entry whose category ends in `alpha`, else `""`.
    """

    id: int
    data: bytes
    text: str | None
    category: str
    script: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it stands for bytes."""
        return bool(self.data)

    @property
    def key(self) -> tuple[str, object]:
        """What makes it the same as an entry of another vocabulary: its bytes, or the name of a control token."""
        return ("text", self.data) if self.data else (self.category, self.text)


def classify(tokenizer: LoadedTokenizer, config: QtokConfig | None = None) -> list[Entry]:
    """Classifies the vocabulary of a tokenizer.

    Args:
        tokenizer: any tokenizer.
        config: with `compat`, entries are the distinct strings of `reference_strings`, and their data is the string.

    Returns:
        One entry for each id, ascending; with `compat` one for each string.
    """
    config = config or QtokConfig()
    if config.compat:
        return [_of_string(text, i) for text, i in reference_strings(tokenizer.data).items()]
    script_of = script_property if config.scripts == "property" else script_name
    vocab, unspelled = tokenizer.vocab, _never_spelled(tokenizer)
    byte_level = vocab.family == "byte-level"
    found = []
    for i, (data, kind) in enumerate(zip(vocab.tokens, vocab.kinds, strict=True)):
        if kind in (Kind.CONTROL, Kind.UNUSED):
            found.append(Entry(i, b"", vocab.names[i], "control_tokens" if kind is Kind.CONTROL else HOLES))
            continue
        text = _decoded(data)
        if kind is Kind.BYTE or (byte_level and len(data) == 1):
            found.append(Entry(i, data, text, "pure_unicode"))
        elif text is not None and _looks_like_control(text) and unspelled(i):
            found.append(Entry(i, data, text, "control_tokens"))
        else:
            found.append(Entry(i, data, text, *_category(text, script_of)))
    return found


def _never_spelled(tokenizer: LoadedTokenizer) -> Callable[[int], bool]:
    """Whether the model never spells text with a token: it was added, no merge makes it, or brackets are cut off."""
    vocab = tokenizer.vocab
    added = {token.get("id") for token in tokenizer.data.get("added_tokens") or ()}
    if vocab.model == "WordPiece":
        return lambda i: True
    if vocab.model != "BPE":
        return lambda i: i in added
    made = {vocab.names[left] + vocab.names[right] for left, right in vocab.merges}
    return lambda i: i in added or (len(vocab.names[i]) > 1 and vocab.names[i] not in made)


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _category(text: str | None, script_of: ScriptOf) -> tuple[str, str]:
    """The category and script of an entry that stands for text of its own."""
    if text is None:
        return "unicode_flanks", ""
    place, body = "char" if len(text) == 1 else "inner", text
    if len(text) > 1 and text[0] == " ":
        place, body = "spaced", text[1:]
    if not all(map(is_named, text)):
        return f"{place}_errors", ""
    script = script_of_text(body, script_of)
    return (f"{place}_alpha", script) if script else (f"{place}_other", "")


def _looks_like_control(text: str) -> bool:
    shaped = (text.startswith("<") and text.endswith(">")) or (text.startswith("[") and text.endswith("]"))
    return shaped and text[1:-1].lower().replace("/", "") not in HTML


def reference_strings(data: Mapping[str, Any]) -> dict[str, int]:
    """Returns the strings that the reference makes of a tokenizer.json, with the id that it keeps for each.

    Entries that come out as the same string become one, as there. The encoding is taken from the file's stages,
    which for every file that says them agrees with the reference's search for two letters.
    """
    byte_level, mark = token_family(data) == "byte-level", space_mark(data) or "▁"
    strings: dict[str, int] = {}
    for name, i in _names(data["model"]["vocab"]):
        strings[_reference_string(name, mark, byte_level=byte_level)] = i
    for token in data.get("added_tokens") or ():
        strings.setdefault(token["content"], token["id"])
    return strings


def _names(vocab: Any) -> Iterable[tuple[str, int]]:
    if isinstance(vocab, Mapping):
        return vocab.items()
    return ((name, i) for i, (name, _) in enumerate(vocab))


def _reference_string(name: str, mark: str, *, byte_level: bool) -> str:
    if name.lower().startswith("<0x"):
        return CHAR_OF_BYTE[int(name[1:-1], 16)]
    if byte_level:
        data = from_alphabet_or_none(name)
        text = None if data is None else _decoded(data)
        return f"<0y{name}>" if text is None or "\ufffd" in text else text
    if name.startswith(mark) and len(name) > 1:
        return " " + name[1:]
    return f"0X{BYTE_OF_CHAR[name]:X}" if name in BYTE_OF_CHAR else name


def _of_string(text: str, i: int) -> Entry:
    """The reference's rules on its own strings."""
    data = text.encode("utf-8", "surrogatepass")
    if len(text) == 1 and text in BYTE_OF_CHAR:
        return Entry(i, data, text, "pure_unicode")
    if len(text) > 1 and text[0] != " ":
        if "<0y" not in text and _looks_like_control(text):
            return Entry(i, data, text, "control_tokens")
        if text.startswith("<0y"):
            return Entry(i, data, text, "unicode_flanks")
    return Entry(i, data, text, *_category(text, script_name))
