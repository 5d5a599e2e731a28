"""Any tokenizer's vocabulary as bytes: what each id stands for, whatever the file called it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class Kind(StrEnum):
    """What a token is for."""

    NORMAL = "normal"
    """Stands for some text."""
    BYTE = "byte"
    """A byte-fallback token such as `<0x0A>`: one byte, used when no normal token fits."""
    CONTROL = "control"
    """Has a role (bos, eos, a chat marker...) and no text of its own."""
    UNUSED = "unused"
    """A hole: no token has this id, or text can never produce it."""


ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
"""Special roles that configs and tokenizers name by id."""

Speller = Callable[[Sequence[bytes]], list[list[int]]]
"""Spells each byte string with tokens of a vocabulary; an empty list where that is impossible."""


@dataclass(frozen=True, eq=False)
class ByteVocab:
    """A vocabulary in bytes.

    Attributes:
        tokens: for each id the bytes that it adds to a text; `b""` for control and unused ids. A word-start
            token of SentencePiece or WordPiece begins with a space byte.
        kinds: for each id its `Kind`.
        names: for each id the string in the tokenizer file (`Ġthe`, `▁the`, `##ing`, `<s>`), `""` for holes.
        roles: role (`"bos"`, ... see `ROLES`) -> token id, for the roles that are known.
        family: `"byte-level"`, `"sentencepiece"`, `"wordpiece"` or `"plain"`: how names spell bytes.
        model: `"BPE"`, `"Unigram"`, `"WordPiece"` or `"WordLevel"`.
        speller: spells byte strings with the vocabulary's own model, without its pre-tokenizer.
        merges: BPE rules as pairs of ids in rank order; empty for other models.
        lossy: sentences that say what the normaliser or pre-tokenizer loses of a text.
    """

    tokens: tuple[bytes, ...]
    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    roles: Mapping[str, int] = field(default_factory=dict)
    family: str = "plain"
    model: str = "WordLevel"
    speller: Speller | None = None
    merges: tuple[tuple[int, int], ...] = ()
    lossy: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def find(self, data: bytes) -> int | None:
        """Returns the id of the token that stands for exactly `data`, or None.

        Of several, a normal token wins over a byte-fallback token, then the lowest id; control and unused
        ids are never found by bytes.
        """
        return self._id_of_bytes.get(data)

    def find_name(self, name: str) -> int | None:
        """Returns the id of the token with that name in the file, or None."""
        return self._id_of_name.get(name)

    def spell(self, data: bytes) -> list[int]:
        """Returns the ids with which the vocabulary's own model spells `data`; empty when it cannot."""
        return self.spell_all([data])[0]

    def spell_all(self, many: Sequence[bytes]) -> list[list[int]]:
        """Spells each byte string; the pre-tokenizer takes no part. Much faster than one call each."""
        if self.speller is None:
            return [[i] if (i := self.find(data)) is not None else [] for data in many]
        return self.speller(many)

    def label(self, token_id: int) -> str:
        """Returns a token for people: `13 ' the'`, `2 <eos>`."""
        if self.kinds[token_id] in (Kind.CONTROL, Kind.UNUSED):
            return f"{token_id} {self.names[token_id] or '(no token)'}"
        return f"{token_id} {show(self.tokens[token_id])}"

    def text_ids(self) -> list[int]:
        """Ids that stand for bytes (normal and byte-fallback), ascending."""
        return [i for i, kind in enumerate(self.kinds) if kind in (Kind.NORMAL, Kind.BYTE)]

    def control_ids(self) -> list[int]:
        """Ids of control tokens, ascending."""
        return [i for i, kind in enumerate(self.kinds) if kind is Kind.CONTROL]

    def missing_bytes(self) -> list[int]:
        """The bytes (0..255) that no token of this vocabulary stands for alone."""
        return [b for b in range(256) if self.find(bytes([b])) is None]

    def duplicates(self) -> dict[bytes, list[int]]:
        """Byte strings that several normal tokens stand for, with their ids."""
        many = Counter(self.tokens[i] for i, kind in enumerate(self.kinds) if kind is Kind.NORMAL)
        found: dict[bytes, list[int]] = {data: [] for data, n in many.items() if n > 1}
        for i, kind in enumerate(self.kinds):
            if kind is Kind.NORMAL and self.tokens[i] in found:
                found[self.tokens[i]].append(i)
        return found

    @cached_property
    def _id_of_bytes(self) -> dict[bytes, int]:
        ids: dict[bytes, int] = {}
        for wanted in (Kind.NORMAL, Kind.BYTE):
            for i, kind in enumerate(self.kinds):
                if kind is wanted:
                    ids.setdefault(self.tokens[i], i)
        return ids

    @cached_property
    def _id_of_name(self) -> dict[str, int]:
        return {name: i for i, name in reversed(list(enumerate(self.names))) if name}


def show(data: bytes) -> str:
    """Writes bytes for people: quoted text where it is UTF-8, else `b'\\xff'`."""
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)
