"""Cuts text into the longest tokens from the left: what is left where a vocabulary has no consistent merges.

Dynamic tokenization, section on generation: a vocabulary that was grown far beyond its tokenizer is read by longest
prefix, which is WordPiece without a mark of continuation.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tokenlayer.core.byte_alphabet import from_alphabet_or_none, to_alphabet
from tokenlayer.core.errors import BadText, BadTokenizer
from tokenlayer.core.spelling import split_broken
from tokenlayer.core.tokenizer_json import token_family
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer

MAX_WORD = 1_000
"""Characters of a pre-token that a tokenizer.json of ours takes: the library's time grows with their cube."""
NO_TOKEN = "\x00"
"""Named as the unknown token of a tokenizer.json: no vocabulary has it, so that a failure is an error."""


class LongestPrefix:
    """Cuts bytes, or what the pre-tokenizer of a model hands over, into the longest tokens from the left.

    Args:
        vocab: all tokens; control tokens are never found in bytes.
        tokenizer: the model's own, whose pre-tokenizer cuts words; without it bytes are one word.
    """

    def __init__(self, vocab: ByteVocab, tokenizer: LoadedTokenizer | None = None) -> None:
        self.vocab, self.tokenizer = vocab, tokenizer
        there = {vocab.tokens[i] for i in vocab.text_ids()} - {b""}
        self._ids = {token: found for token in there if (found := vocab.find(token)) is not None}
        lengths: dict[bytes, set[int]] = defaultdict(set)
        for token in self._ids:
            lengths[token[:2]].add(len(token))
        self._lengths = {start: sorted(some, reverse=True) for start, some in lengths.items()}
        self._by_words = tokenizer is not None and token_family(tokenizer.data) == "byte-level"
        self._known: dict[bytes, list[int]] = {}

    def encode(self, data: bytes) -> list[int]:
        """Ids of the longest tokens from the left, as one word.

        Time grows with the length of the data times the number of token lengths, at worst.

        Raises:
            BadText: no token begins with a byte.
        """
        ids, at = [], 0
        while at < len(data):
            found = self._first(data, at)
            if found is None:
                raise BadText(
                    f"byte 0x{data[at]:02x} at {at} has no token in a vocabulary of {len(self.vocab):,}",
                    hint="clean the text, or build the vocabulary with a token for this byte",
                )
            ids.append(found)
            at += len(self.vocab.tokens[found])
        return ids

    def _first(self, data: bytes, at: int) -> int | None:
        for start in (data[at : at + 2], data[at : at + 1]):
            for length in self._lengths.get(start, ()):
                found = self._ids.get(data[at : at + length])
                if found is not None:
                    return found
        return None

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in the form and the words of the model's own tokenizer, without special tokens.

        Raises:
            BadTokenizer: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise BadTokenizer("a text is cut into words by the model's own tokenizer, and none was given")
        return self.recut(self.tokenizer.encode(text))

    def recut(self, ids: Sequence[int]) -> list[int]:
        """The same bytes in the longest tokens; control tokens stay where they are.

        Args:
            ids: of the model's own tokens or of this vocabulary, in which these are the same.
        """
        found: list[int] = []
        run: list[bytes] = []
        for i in [*ids, None]:
            if i is not None and self.vocab.kinds[i] in (Kind.NORMAL, Kind.BYTE):
                run.append(self.vocab.tokens[i])
                continue
            for word in self._words(b"".join(run)):
                found += self._cut(word)
            found += [] if i is None else [i]
            run = []
        return found

    def _cut(self, word: bytes) -> list[int]:
        if word not in self._known:
            if len(self._known) > 1_000_000:
                self._known.clear()
            self._known[word] = self.encode(word)
        return self._known[word]

    def _words(self, data: bytes) -> list[bytes]:
        """What the pre-tokenizer cuts apart; all of it where that does not give the same bytes."""
        if not self._by_words or self.tokenizer is None:
            return [data]
        words: list[bytes | None] = []
        for part, stray in split_broken(data):
            if stray:
                words.append(part)
                continue
            pieces = self.tokenizer.backend.pre_tokenizer.pre_tokenize_str(part.decode("utf-8"))
            words += [from_alphabet_or_none(piece) for piece, _ in pieces]
        whole = [word for word in words if word is not None]
        return whole if b"".join(whole) == data else [data]


def longest_prefix_json(tokenizer: LoadedTokenizer, vocab: ByteVocab, samples: Sequence[str]) -> dict[str, Any] | None:
    """The same as a tokenizer.json for the `tokenizers` library, or None where it would cut otherwise.

    It is exact for byte-level tokenizers whose added tokens are all control tokens. Pre-tokens with more than
    `MAX_WORD` bytes, and bytes without a token, make the library fail.

    Args:
        tokenizer: the model's own.
        vocab: all tokens, the model's own first.
        samples: texts on which both are compared.
    """
    from tokenizers import Tokenizer

    own = tokenizer.vocab
    added = {token["content"]: own.find_name(token["content"]) for token in tokenizer.data.get("added_tokens") or ()}
    control = {i for i in added.values() if i is not None and own.kinds[i] is Kind.CONTROL}
    if token_family(tokenizer.data) != "byte-level" or len(control) != len(added) or NO_TOKEN in own.names:
        return None
    names = {i: own.names[i] for i in own.control_ids()}
    names |= {i: to_alphabet(vocab.tokens[i]) for i in vocab.text_ids() if vocab.find(vocab.tokens[i]) == i}
    entries = {name: i for i, name in names.items()}
    if len(entries) != len(names) or sorted(names) != list(range(len(vocab))):
        return None  # two tokens of one name, or ids without a token, which the library would number otherwise
    model = {
        "type": "WordPiece",
        "unk_token": NO_TOKEN,
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": MAX_WORD,
        "vocab": entries,
    }
    data = {**tokenizer.data, "model": model, "truncation": None, "padding": None}
    backend = Tokenizer.from_str(json.dumps(data))
    backend.encode_special_tokens = True
    ours = LongestPrefix(vocab, tokenizer)
    for text in [*samples, *(own.names[i] for i in sorted(control))]:
        if backend.encode(text, add_special_tokens=False).ids != ours.encode_text(text):
            return None
    return data
