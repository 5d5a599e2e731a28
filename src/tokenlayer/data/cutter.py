"""A tokenizer cut in two at its model: text -> pre-tokens, and pre-token -> number of tokens.

Together they give the same totals as encoding the text. The first half runs a published split pattern through the
`regex` library, which is faster than asking the tokenizer for a list of pieces. The two know different versions of
Unicode, so every character that comes up is classified by both once, and a text with a disputed one takes the slow
way; the first texts are cut both ways.

Before that a text may be cut into chunks, before each space that follows something else: no published pattern
reaches over such a place, from either side. Chunks are found several times faster than pre-tokens and repeat nearly as
often, so that only distinct ones need the pattern. A BPE model without a pre-tokenizer, as Llama's, is cut at the same
places when no token of its vocabulary reaches over one: then no merge does.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import regex  # type: ignore[import-untyped]

from tokenlayer.core.byte_alphabet import from_alphabet, to_alphabet
from tokenlayer.core.errors import BadOption
from tokenlayer.core.pretokenizers import CL100K, O200K, QWEN2
from tokenlayer.core.tokenizer_json import has_component

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern inside the ByteLevel pre-tokenizer; GPT-2, encoder.py."""
DIGITS_GPT2 = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""Digits one by one, then GPT-2, as one pattern."""
CLASSES = (r"\p{L}", r"\p{N}", r"\p{M}", r"\s", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}")
"""The character classes of the published patterns."""
FOLDED = frozenset("ſﬀﬁﬂﬃﬄﬅﬆßẞİı\u212a")
"""Characters whose case folding differs between regular expression libraries."""
CHECKED_TEXTS = 32
"""Texts that are cut both ways first."""
AT_ONCE = 20_000
"""Pre-tokens that are encoded together; each takes about a kilobyte until it is counted."""
BEFORE_SPACE = re.compile("(?<=[^\\s\u180e\u200b-\u200f\u2060\ufeff])(?= )")
"""Where a space follows a character that no library takes for white space."""
CONTINUES = re.compile(" ")
ENDS_OPEN = re.compile(BEFORE_SPACE.pattern.replace("(?= )", r"\Z"))
"""A chunk that may be followed by another that `CONTINUES`, and be cut from it again."""
JOINED = 500
"""Chunks in one text; few, because one character on which the libraries disagree makes all of it take the slow way."""
MARK = "▁"
BEFORE_MARK = re.compile(f"(?<=[^{MARK}])(?={MARK})")


class Cutter:
    """Text -> pre-tokens, and pre-tokens -> how many tokens the model makes of each; picklable.

    A pre-token is written as the text it covers for byte-level tokenizers, else as the model gets it. Added tokens
    that the tokenizer finds in a text are pre-tokens of one token. Call it on texts, and `lengths` on the pre-tokens.

    Attributes:
        by_chunks: whether the pre-tokens of a text are those of its `chunks`, one after the other.

    Raises:
        BadOption: an added token reaches beyond its own text (strips spaces, wants word borders, or is matched
            after normalisation), so that texts cannot be cut apart at it.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._state = (tokenizer.to_str(), bool(tokenizer.encode_special_tokens))
        data = json.loads(self._state[0])
        self._normalizer = tokenizer.normalizer
        self._ascii_as_is = _keeps_ascii(data.get("normalizer"))
        self._pre_tokenizer = tokenizer.pre_tokenizer
        self._find = _finder(data.get("pre_tokenizer"))
        self._marks = _is_cut_at_marks(data)
        self._trusted = True
        self._unchecked = CHECKED_TEXTS
        self._agreed: set[str] = set()
        self._disputed: set[str] = set(FOLDED)
        self._added = _added_tokens(data, literal=self._state[1])
        self._at_added = regex.compile(f"({'|'.join(map(regex.escape, self._added))})") if self._added else None
        self._model = _bare(tokenizer)
        apart = self._find is not None and _leaves_spaces_apart(data.get("normalizer"))
        self.by_chunks = apart and not any(map(BEFORE_SPACE.search, self._added))

    def __getstate__(self) -> tuple[str, bool]:
        return self._state

    def __setstate__(self, state: tuple[str, bool]) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(state[0])
        tokenizer.encode_special_tokens = state[1]
        self.__init__(tokenizer)  # type: ignore[misc]

    def __call__(self, text: str) -> list[str]:
        """Returns the pre-tokens of a text, in order."""
        if self._at_added is None:
            return self._cut(text)
        parts: list[str] = self._at_added.split(text)
        pieces: list[str] = []
        for n, part in enumerate(parts):
            pieces += [part] if n % 2 else self._cut(part) if part else []
        return pieces

    def chunks(self, text: str) -> list[str]:
        """Returns the parts of a text that begin with the spaces after something else; they join to the text."""
        return BEFORE_SPACE.split(text)

    def joined(self, chunks: Iterable[str]) -> Iterator[str]:
        """Yields few texts that have the pre-tokens of all these chunks; cutting them is faster than one by one.

        Chunks with characters of `FOLDED` are joined apart, because they take the slow way.
        """
        plain: list[str] = []
        odd: list[str] = []
        for chunk in chunks:
            (odd if FOLDED.intersection(chunk) else plain).append(chunk)
        yield from _joined(plain)
        yield from _joined(odd)

    def lengths(self, pretokens: Sequence[str]) -> list[int]:
        """Returns the number of tokens of each pre-token that a call gave."""
        alone = set(self._added)
        names = [to_alphabet(p.encode()) if self._find and p not in alone else p for p in pretokens]
        found: list[int] = []
        for start in range(0, len(names), AT_ONCE):
            some = self._model.encode_batch_fast(names[start : start + AT_ONCE], add_special_tokens=False)
            found += [len(one) for one in some]
        return [1 if p in alone else n for p, n in zip(pretokens, found, strict=True)]

    def _cut(self, text: str) -> list[str]:
        if self._normalizer is not None and not (self._ascii_as_is and text.isascii()):
            text = self._normalizer.normalize_str(text)
        if self._marks:
            return BEFORE_MARK.split(text) if text else []
        if self._find is None:
            return self._slow(text)
        if not self._trusted or not (text.isascii() or self._agree_on(text)):
            return [from_alphabet(piece).decode() for piece in self._slow(text)]
        found = self._find(text)
        if self._unchecked:
            self._unchecked -= 1
            slow = [from_alphabet(piece).decode() for piece in self._slow(text)]
            self._trusted = found == slow
            return slow
        return found

    def _slow(self, text: str) -> list[str]:
        if self._pre_tokenizer is None:
            return [text] if text else []
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def _agree_on(self, text: str) -> bool:
        """Whether both libraries put every character of the text into the same classes."""
        chars = set(text)
        new = chars - self._agreed - self._disputed
        if new:
            bad = _disputed("".join(sorted(new)))
            self._disputed |= bad
            self._agreed |= new - bad
        return chars.isdisjoint(self._disputed)


def _joined(chunks: list[str]) -> Iterator[str]:
    """Joins each chunk that begins with a space to the one before it, where a text is cut again between them."""
    block: list[str] = []
    for chunk in chunks:
        if len(block) == JOINED or not (block and CONTINUES.match(chunk)):
            yield from ["".join(block)] * bool(block)
            block = []
        block.append(chunk)
        if not ENDS_OPEN.search(chunk):
            yield "".join(block)
            block = []
    yield from ["".join(block)] * bool(block)


def _finder(stage: Any) -> Callable[[str], list[str]] | None:
    """A function that cuts as a known byte-level pre-tokenizer does, or None."""
    parts = stage.get("pretokenizers", [stage]) if isinstance(stage, dict) else []
    last = parts[-1] if parts else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or len(parts) > 2:
        return None
    with_regex = last.get("use_regex", True)
    if len(parts) == 1:
        return _compiled(GPT2) if with_regex else None
    first = parts[0]
    if first.get("type") == "Digits" and first.get("individual_digits") and with_regex:
        return _compiled(DIGITS_GPT2)
    keeps = (first.get("behavior"), first.get("invert")) in (("Isolated", False), ("Removed", True))
    pattern = first.get("pattern", {}).get("Regex") if first.get("type") == "Split" and keeps else None
    return _compiled(pattern) if pattern in (CL100K, QWEN2, O200K) and not with_regex else None


def _compiled(pattern: str) -> Callable[[str], list[str]]:
    find: Callable[[str], list[str]] = regex.compile(pattern).findall
    return find


def _disputed(chars: str) -> set[str]:
    """The characters that the two libraries classify differently."""
    from tokenizers import pre_tokenizers

    bad: set[str] = set()
    for name, split in _class_splits().items():
        bad |= {c for piece, _ in split.pre_tokenize_str(chars) for c in piece} ^ set(regex.findall(name, chars))
    spaced = "a" + "a".join(chars) + "a"
    digits = {p for p, _ in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(spaced) if len(p) == 1}
    return bad | (digits & set(chars)) ^ set(regex.findall(r"\p{N}", chars))


@lru_cache(maxsize=1)
def _class_splits() -> dict[str, Any]:
    from tokenizers import Regex, pre_tokenizers

    return {name: pre_tokenizers.Split(Regex(name), "removed", invert=True) for name in CLASSES}


def _is_cut_at_marks(data: Mapping[str, Any]) -> bool:
    """Whether a BPE model gets whole texts, marks for spaces, and has no token with a mark after something else."""
    if data.get("pre_tokenizer") is not None or data["model"].get("type") != "BPE":
        return False
    vocab = data["model"]["vocab"]
    return MARK in vocab and not any(map(BEFORE_MARK.search, vocab))


def _leaves_spaces_apart(normalizer: Any) -> bool:
    """Whether the parts around a space are normalised as they are in the text: a space composes with nothing before."""
    return normalizer is None or _keeps_ascii(normalizer)


def _keeps_ascii(normalizer: Any) -> bool:
    return isinstance(normalizer, dict) and normalizer.get("type") in ("NFC", "NFD", "NFKC", "NFKD")


def _added_tokens(data: Mapping[str, Any], *, literal: bool) -> list[str]:
    """Added tokens that are looked for in texts, longest first (the tokenizer prefers the longest too)."""
    found = []
    for token in data.get("added_tokens") or ():
        if literal and token.get("special"):
            continue
        reaches = [flag for flag in ("single_word", "lstrip", "rstrip") if token.get(flag)]
        if token.get("normalized") and not _matches_as_written(token["content"], data.get("normalizer")):
            reaches.append("normalized")
        if has_component(data.get("pre_tokenizer"), "Metaspace"):
            reaches.append("beside a Metaspace pre-tokenizer")
        if reaches:
            raise BadOption(
                f"added token {token['content']!r} is {', '.join(reaches)}: texts cannot be cut at it exactly",
                hint="encode the whole text with this tokenizer",
            )
        found.append(str(token["content"]))
    return sorted(found, key=lambda t: (-len(t), t))


def _matches_as_written(content: str, normalizer: Any) -> bool:
    """Whether a token is found in a text where it is found in the normalised text: nothing becomes spaces by NFC."""
    return normalizer is None or (not content.strip(" ") and normalizer.get("type") in ("NFC", "NFD"))


def _bare(tokenizer: "Tokenizer") -> "Tokenizer":
    """The model alone, shared, not copied: it takes pre-tokens as they come."""
    from tokenizers import Tokenizer

    return Tokenizer(tokenizer.model)
