"""Where the units of a text end: which of its neighbouring tokens may be merged, by place and by bytes.

By place: tokens merge only inside a run, and a run never crosses a boundary of the text. The boundaries are those of
the real text (for `pretoken` the pieces that the model's own normaliser and pre-tokenizer make of it), not of the
string that a merge would make: cut alone, "67" is one piece of a pre-tokenizer that takes three digits at a time, but
in "4567" a boundary lies inside. A pair can thus be free to merge at one place and not at another; it is counted and
merged where it is free. By bytes: `JoinRule`, the same at all places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import regex  # type: ignore[import-untyped]

from tokenlayer.core.errors import BadOption, BadText, choose
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.zett.decompose import Decomposer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

T = TypeVar("T")
BOUNDARIES = ("pretoken", "word", "word_hyphen", "sentence")
MARKS = b" \n\t\r"
"""White space that begins a unit, or fills it. All are single bytes in UTF-8, also beside a broken character."""
MOST_KEPT = 1_000_000
"""Answers that are remembered at most."""

WORD = regex.compile(r"\s*\S+|\s+")
_SIGN = r"\p{P}!-/:-@\[-`{-~"
_TAIL = rf"(?:[^\s{_SIGN}]|-)"
WORD_HYPHEN = regex.compile(rf"\s*(?:[{_SIGN}]+{_TAIL}*|{_TAIL}+)|\s+")
"""Words, of which a sign other than "-" begins a new one."""


@dataclass(frozen=True, eq=False)
class PlainText:
    """A text as the model's own tokenizer cuts it.

    Attributes:
        ids: token ids, those of the template (bos, eos, ...) included.
        spans: character offsets of each token; (0, 0) for the template's.
        words: number of the word in which each token begins; None for the template's.
        runs: `(start, end)` of neighbouring tokens that may be merged among each other, two at least.
        types: the template's token type of each token; empty where all are 0.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    words: list[int | None]
    runs: list[tuple[int, int]]
    types: Sequence[int] = ()


class PlainCutter:
    """Cuts texts into the model's tokens and finds the runs in which they may be merged.

    Special strings in a text are text; their tokens are in no run, nor are unknown and added tokens.

    Args:
        tokenizer: the model's own.
        boundary: pretoken, the pieces of its pre-tokenizer; word, white space in front and what is up to the next one;
            word_hyphen, a word ends before each sign other than "-"; sentence, the whole text.
        warn: takes a sentence when `pretoken` is asked of a tokenizer whose pre-tokenizer cuts nothing.

    Attributes:
        boundary: what is cut at: `word` after that sentence.

    Raises:
        BadOption: an unknown boundary.
    """

    def __init__(self, tokenizer: LoadedTokenizer, boundary: str, warn: Callable[[str], object]) -> None:
        self.boundary = choose("boundary", boundary, BOUNDARIES)
        self.backend = tokenizer.backend
        if boundary == "pretoken" and _cuts_nothing(self.backend):
            self.boundary = "word"
            warn(
                f"the tokenizer {tokenizer.where or 'given'} has no pre-tokenizer that cuts: units end at words instead"
            )
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        vocab = tokenizer.vocab
        merge = (Kind.NORMAL, Kind.BYTE)
        self._free = np.array(
            [kind in merge and name not in added for kind, name in zip(vocab.kinds, vocab.names, strict=True)]
        )
        names = [vocab.names[i] for i in vocab.control_ids() if vocab.names[i].strip()]
        self._special = regex.compile("|".join(map(regex.escape, sorted(names, key=len, reverse=True))) or r"(?!)")

    def __call__(
        self, texts: Sequence[str], *, max_length: int | None, specials: bool, pairs: Sequence[str] | None = None
    ) -> list[PlainText]:
        """Cuts texts.

        Args:
            texts: any number, also empty ones.
            max_length: tokens of a text at most, the template's included; what is behind is left out, of pairs the
                end of the longer text.
            specials: with the tokens that the tokenizer's template puts around a text.
            pairs: a second text for each, which the template joins to it.

        Raises:
            BadOption: `max_length` has no room for a token of the text, or there are more or fewer pairs than texts.
            BadText: a text holds a lone surrogate.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise BadOption(f"there are {len(texts)} texts and {len(pairs)} second texts, expected one for each")
        template = self.backend.num_special_tokens_to_add(pairs is not None) if specials else 0
        if max_length is not None and max_length <= template:
            raise BadOption(f"max_length is {max_length}, expected more than the {template} tokens around each text")
        whole = [(text,) for text in texts] if pairs is None else list(zip(texts, pairs, strict=True))
        for number, some in enumerate(whole):
            for text in some:
                _check_text(number, text)
        given: Any = list(texts) if pairs is None else whole
        encodings = self.backend.encode_batch(given, add_special_tokens=specials)
        return [self._plain(some, one, max_length) for some, one in zip(whole, encodings, strict=True)]

    def _plain(self, texts: Sequence[str], encoding: "Encoding", max_length: int | None) -> PlainText:
        """One text, or two that the template has joined: words are counted on, and no run is in both."""
        kept = _kept([encoding.sequence_ids, encoding.word_ids], max_length)
        ids, spans, pieces = _at(kept, encoding.ids), _at(kept, encoding.offsets), _at(kept, encoding.word_ids)
        numbers: list[int | None] = [None] * len(ids)
        runs: list[tuple[int, int]] = []
        of, before = _at(kept, encoding.sequence_ids), 0
        for number, text in enumerate(texts):
            places = [at for at, one in enumerate(of) if one == number and pieces[at] is not None]
            if not places:
                continue
            words, found = self._words(text, _at(places, ids), _at(places, spans), _at(places, pieces))
            for at, word in zip(places, words, strict=True):
                numbers[at] = before + word
            before += max(words) + 1
            runs += [(places[begin], places[end - 1] + 1) for begin, end in found]
        types = _at(kept, encoding.type_ids)
        return PlainText(ids, spans, numbers, runs, types if any(types) else ())

    def _words(
        self, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], pieces: Sequence[int | None]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The word of each token of a text, and the runs; the tokens lie side by side."""
        first, last = np.array(spans, np.int64).T
        last = np.maximum(last - 1, first)  # a mark that was put in front of a text may cover none of it
        if self.boundary == "pretoken":
            words = ends = np.array(pieces)
        else:
            starts = word_starts(text, self.boundary)
            words, ends = (np.searchsorted(starts, at, side="right") - 1 for at in (first, last))
        free = self._free[ids]
        for hit in self._special.finditer(text):
            free = free & ((last < hit.start()) | (first >= hit.end()))
        if self.boundary == "sentence":
            return words.tolist(), _runs(np.zeros_like(first), free)
        return words.tolist(), _runs(words, free & (words == ends))


def word_starts(text: str, boundary: str) -> list[int]:
    """Offsets at which the words of a text begin; white space belongs to the word behind it. Pieces of none."""
    pattern = WORD_HYPHEN if boundary == "word_hyphen" else WORD
    return [hit.start() for hit in pattern.finditer(text)]


class JoinRule:
    """Says whether some bytes may be one unit, wherever they stand.

    White space may stand at the front only, or fill the unit; two line ends never become one. So that a hypernetwork
    can read a unit, its bytes must be spelled by few enough of the model's tokens, or be one of them.
    """

    def __init__(self, vocab: ByteVocab, longest: int | None) -> None:
        if longest is not None and longest < 1:
            raise BadOption(f"longest is {longest}, expected at least 1 token, or None for no bound")
        self._vocab = vocab
        self._longest = longest
        self._spelled = None if longest is None else Decomposer(vocab, longest)
        self._known: dict[bytes, bool] = {}

    def __call__(self, joined: bytes) -> bool:
        """Whether two units that make these bytes may be merged."""
        known = self._known.get(joined)
        if known is None:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            known = self._known[joined] = white_space_in_front(joined) and self._readable(joined)
        return known

    def _readable(self, joined: bytes) -> bool:
        if self._spelled is None or self._longest is None or len(joined) <= self._longest:
            return True
        return self._vocab.find(joined) is not None or len(self._spelled.spell([joined])[0]) <= self._longest


def white_space_in_front(joined: bytes) -> bool:
    """Whether white space stands at most at the front, or everywhere (but not as an empty line)."""
    if not any(mark in joined[1:] for mark in MARKS):
        return True
    return joined != b"\n\n" and not joined.strip(MARKS)


def _cuts_nothing(backend: "Tokenizer") -> bool:
    """Whether two words stay one piece: no pre-tokenizer, or one that looks for what the normaliser took away."""
    if backend.pre_tokenizer is None:
        return True
    two: Any = "a b"
    if backend.normalizer is not None:
        two = backend.normalizer.normalize_str(two)
    return len(backend.pre_tokenizer.pre_tokenize_str(two)) < 2


def _check_text(number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            f"text {number} of the batch has a lone surrogate at character {error.start}: it has no UTF-8 bytes",
            hint="decode the text again with errors='replace'",
        ) from None


def _kept(of: Sequence[Sequence[int | None]], max_length: int | None) -> Sequence[int]:
    """Places of the tokens that stay: all of the template's, and the first ones of each text.

    Args:
        of: the text of each token, and its pre-token; None for the template's.
        max_length: tokens at most.
    """
    texts, pieces = of
    if max_length is None or len(pieces) <= max_length:
        return range(len(pieces))
    inside = [
        [at for at, (text, piece) in enumerate(zip(texts, pieces, strict=True)) if text == n and piece is not None]
        for n in (0, 1)
    ]
    for _ in range(len(pieces) - max_length):
        max(inside, key=len).pop()
    left = {at for some in inside for at in some}
    return [at for at, piece in enumerate(pieces) if piece is None or at in left]


def _at(places: Sequence[int], values: Sequence[T]) -> list[T]:
    return [values[at] for at in places]


def _runs(words: np.ndarray, free: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of at least two free tokens of one word."""
    joined = np.zeros(len(words) + 1, np.int8)
    joined[1:-1] = (words[1:] == words[:-1]) & free[1:] & free[:-1]
    turns = np.flatnonzero(np.diff(joined))
    return [(begin, end + 1) for begin, end in zip(turns[::2].tolist(), turns[1::2].tolist(), strict=True)]
