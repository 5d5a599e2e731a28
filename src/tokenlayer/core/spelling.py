"""How a vocabulary's own model spells a string of bytes, without its pre-tokenizer.

This is the decomposition of a target token into source tokens: the input of every
initialiser that looks at the pieces of a new token (ZeTT, section 2 of the method: "source
model's model-level tokenizer, no pre-tokenization").
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.tokenizer_json import (
    BYTE_TOKEN,
    is_isolated,
    model_type,
    space_mark,
    token_family,
    vocab_from_json,
)
from tokenlayer.core.vocab import ByteVocab, Speller

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BROKEN = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that is not part of a UTF-8 character."""


def read_vocab(data: Mapping[str, Any], backend: "Tokenizer", roles: Mapping[str, int] | None = None) -> ByteVocab:
    """Returns the vocabulary of a tokenizer.json with a speller that runs on `backend`'s model."""
    added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    vocab = vocab_from_json(data, roles, added)
    return replace(vocab, speller=make_speller(data, backend, vocab))


def make_speller(data: Mapping[str, Any], backend: "Tokenizer", vocab: ByteVocab) -> Speller:
    """Returns a function that spells byte strings with the model of `backend`.

    What it returns always concatenates to the bytes that were asked for (after the normaliser, for WordPiece);
    a string that the model cannot spell that way gives an empty list.
    """
    from tokenizers import Tokenizer

    bare = Tokenizer(backend.model)
    family = token_family(data)
    if family == "byte-level":
        return lambda many: _checked(vocab, many, _encode(bare, [to_alphabet(one) for one in many]))
    if family == "wordpiece":
        return _WordPieceSpeller(data, backend, vocab)
    mark = space_mark(data) or " "
    byte_ids = {int(hit[1], 16): i for i, name in enumerate(vocab.names) if (hit := BYTE_TOKEN.fullmatch(name))}
    if model_type(data) == "WordLevel":
        return lambda many: [[i] if (i := vocab.find(one)) is not None else [] for one in many]
    return lambda many: _checked(vocab, many, _spell_text(bare, many, mark, byte_ids))


def _encode(bare: "Tokenizer", texts: list[str]) -> list[list[int]]:
    return [e.ids for e in bare.encode_batch_fast(texts, add_special_tokens=False)]


def _checked(vocab: ByteVocab, many: Sequence[bytes], spelled: list[list[int]]) -> list[list[int]]:
    """Keeps a spelling only where its bytes are the bytes asked for."""
    kept = []
    for data, ids in zip(many, spelled, strict=True):
        kept.append(ids if b"".join([vocab.tokens[i] for i in ids]) == data else [])
    return kept


def _spell_text(bare: "Tokenizer", many: Sequence[bytes], mark: str, byte_ids: Mapping[int, int]) -> list[list[int]]:
    """Whole characters through the model, stray bytes by their byte-fallback tokens."""
    runs: list[str] = []
    recipes: list[list[int | slice]] = []
    for data in many:
        recipe: list[int | slice] = []
        for part, stray in split_broken(data):
            if stray:
                recipe += [byte_ids.get(b, -1) for b in part]
            else:
                recipe.append(slice(len(runs), len(runs) + 1))
                runs.append(part.decode("utf-8").replace(" ", mark))
        recipes.append(recipe)
    encoded = _encode(bare, runs)
    return [_follow(recipe, encoded) for recipe in recipes]


def _follow(recipe: list[int | slice], encoded: list[list[int]]) -> list[int]:
    ids: list[int] = []
    for step in recipe:
        ids += encoded[step][0] if isinstance(step, slice) else [step]
    return [] if -1 in ids else ids


def split_broken(data: bytes) -> list[tuple[bytes, bool]]:
    """Cuts bytes into runs of whole UTF-8 characters (False) and runs of stray bytes (True)."""
    try:
        data.decode("utf-8")
        return [(data, False)] if data else []
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    runs: list[tuple[bytes, bool]] = []
    for stray, part in _runs(text, lambda c: BROKEN.match(c) is not None):
        runs.append((part.encode("utf-8", "surrogateescape"), stray))
    return runs


def _runs(text: str, test: Callable[[str], bool]) -> list[tuple[bool, str]]:
    runs: list[tuple[bool, str]] = []
    for c in text:
        if runs and runs[-1][0] == test(c):
            runs[-1] = (runs[-1][0], runs[-1][1] + c)
        else:
            runs.append((test(c), c))
    return runs


class _WordPieceSpeller:
    """Greedy longest match; a string without a leading space continues a word."""

    def __init__(self, data: Mapping[str, Any], backend: "Tokenizer", vocab: ByteVocab) -> None:
        self.normaliser = backend.normalizer
        self.pre_tokenizer = backend.pre_tokenizer
        self.prefix = data["model"].get("continuing_subword_prefix") or ""
        self.vocab = vocab

    def __call__(self, many: Sequence[bytes]) -> list[list[int]]:
        return [self._one(data) for data in many]

    def _one(self, data: bytes) -> list[int]:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return []
        if self.normaliser is not None:
            text = self.normaliser.normalize_str(text)
        words = [w for w, _ in self.pre_tokenizer.pre_tokenize_str(text)] if self.pre_tokenizer else text.split()
        inside = bool(text) and not text[0].isspace() and not is_isolated(text[0])
        ids: list[int] = []
        for at, word in enumerate(words):
            found = self._word(word, inside=inside and at == 0)
            if not found:
                return []
            ids += found
        return ids

    def _word(self, word: str, *, inside: bool) -> list[int]:
        """Longest match from the left; the first piece starts a word unless `inside`."""
        ids: list[int] = []
        at = 0
        while at < len(word):
            lead = self.prefix if at or inside else ""
            hit = next(
                (i for end in range(len(word), at, -1) if (i := self.vocab.find_name(lead + word[at:end])) is not None),
                None,
            )
            if hit is None:
                return []
            ids.append(hit)
            at += len(self.vocab.names[hit]) - len(lead)
        return ids
