"""A fresh tokenizer for every training step: frequent substrings of a queue of texts, ranked under noise.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024, section 3.2 and algorithm 1.
Reference implementation: bminixhofer/zett (rust_utils), read, not copied.

A pre-token is cut by the GPT-2 pattern with marks joined to letters. Its substrings start at every `stride`-th
*character* and have 1 to `longest` *bytes*: they never start inside a character, but may end inside one.

Differences from the paper's code: substrings start at true character boundaries also after a non-ASCII character;
a score is count times bytes, where the code counts two for each byte that its alphabet writes with two; a text that
occurs twice in a batch counts twice; where not even the noise tells two substrings apart, the smaller bytes win.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import regex  # type: ignore[import-untyped]

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator

if TYPE_CHECKING:
    from tokenizers.models import Unigram

SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of the pre-tokenizer that all sampled and target tokenizers share; zett/utils.py."""
NEVER = -1e5
"""Log-probability of a substring that noise has made impossible, in nats."""
MARKS = (b" ", b"\n", b"\t")
"""Characters whose runs are tokens of every sampled vocabulary."""
_FIND = regex.compile(SPLIT).findall
_FIND_ASCII = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\t-\r a-zA-Z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
).findall
"""The same for ASCII texts, in a third of the time."""


@dataclass(frozen=True)
class SamplerConfig:
    """Defaults are the paper's.

    Raises:
        BadOption: a number is out of range, or the vocabulary has no room beside bytes and whitespace runs.
    """

    vocab_size: int = 32_768
    """Tokens of a sampled vocabulary, bytes and whitespace runs included, special tokens not."""
    queue_texts: int = 2_048
    """The latest texts whose substrings are counted."""
    stride: int = 4
    """Characters from one start of substrings to the next within a pre-token."""
    longest: int = 15
    """Bytes of the longest substring; a whitespace run may have one more."""
    noise_median: float = 1e-5
    """Median of z, the standard deviation of the noise on probabilities."""
    noise_sigma: float = 4.0
    """Standard deviation of ln z."""
    noise: bool = True
    """False ranks by frequency alone (an ablation)."""

    def __post_init__(self) -> None:
        for name in ("queue_texts", "stride", "longest"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.noise_median > 0 or not self.noise_sigma >= 0:
            raise BadOption(
                f"noise_median is {self.noise_median:g} and noise_sigma {self.noise_sigma:g}, expected a median above 0"
                " and a sigma of at least 0",
                hint="noise=False switches the noise off",
            )
        fixed = 256 + len(whitespace_runs(self.longest))
        if self.vocab_size <= fixed:
            raise BadOption(
                f"vocab_size is {self.vocab_size}, expected more than {fixed}: 256 bytes and {fixed - 256} whitespace"
                f" runs are always there (longest {self.longest})",
                hint="the paper has 32768, small models do with 2048",
            )


@dataclass(frozen=True, eq=False)
class SampledVocab:
    """A vocabulary, and with it a Unigram tokenizer, that was drawn for one step.

    Attributes:
        tokens: 256 bytes, then whitespace runs, then substrings by decreasing probability; no special tokens.
        logprobs: of each token in nats, of probabilities that do not sum to one; float64.
        noise: z, the standard deviation of the noise that was added to the probabilities; 0 without noise.
        wanted: how many tokens were asked for; there are fewer where the texts have fewer substrings.
    """

    tokens: tuple[bytes, ...]
    logprobs: np.ndarray
    noise: float
    wanted: int

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Cuts each pre-token into the tokens whose log-probabilities have the greatest sum.

        Args:
            texts: any texts; one space is put before each that is not empty.

        Returns:
            Positions in `tokens`. Together their bytes are those of the text with its space.

        Raises:
            BadText: a text holds a lone surrogate, which has no bytes.
        """
        cuts = [pre_tokens(text) for text in texts]
        known, find = self._known, self._model.tokenize
        for word in {word: None for cut in cuts for word in cut if word not in known}:
            known[word] = [token.id for token in find(to_alphabet(word.encode()))]
        return [[i for word in cut for i in known[word]] for cut in cuts]

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        return {}

    @cached_property
    def _model(self) -> "Unigram":
        """The Viterbi search of `tokenizers`; every character of the alphabet is a token, so none is unknown."""
        from tokenizers.models import Unigram

        whole, ends = to_alphabet(b"".join(self.tokens)), accumulate(map(len, self.tokens), initial=0)
        names = [whole[start:end] for start, end in pairwise(ends)]
        return Unigram(list(zip(names, self.logprobs.tolist(), strict=True)))


class SubstringPool:
    """Counts of the substrings of the latest texts, kept up to date as texts come and go.

    What `sample` gives depends on the texts in the queue and the seed alone, not on how they got there: the noise of
    a substring comes from its bytes.

    Attributes:
        config: see `SamplerConfig`.
    """

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self._queue: deque[Counter[str]] = deque()
        self._table = _Table(config)

    def __len__(self) -> int:
        """Texts in the queue."""
        return len(self._queue)

    @property
    def totals(self) -> dict[bytes, int]:
        """How often each substring occurs in the queue."""
        return self._table.totals()

    def push(self, texts: Iterable[str]) -> None:
        """Adds texts and drops the oldest beyond `queue_texts`.

        Raises:
            BadText: a text holds a lone surrogate.
        """
        self._swap(self._count(texts))

    def sample(self, seed: int | np.random.Generator) -> SampledVocab:
        """Draws a vocabulary from the texts of the queue.

        Raises:
            BadText: there is no text in the queue.
        """
        draw = numpy_generator(seed, "sampled-vocab") if isinstance(seed, int) else seed
        config = self.config
        z = float(np.exp(np.log(config.noise_median) + config.noise_sigma * draw.standard_normal()))
        return self._table.sample(z if config.noise else 0.0, draw.integers(2**64, dtype=np.uint64))

    def peek(self, texts: Iterable[str], seed: int | np.random.Generator) -> SampledVocab:
        """Draws as if `texts` had just been pushed, and leaves the queue as it was: for validation.

        Raises:
            BadText: a text holds a lone surrogate, or there is no text at all.
        """
        new = self._count(texts)
        dropped = self._swap(new)
        vocab = self.sample(seed)
        added = [self._queue.pop() for _ in new]
        self._queue.extendleft(reversed(dropped))
        self._table.change(dropped, added)
        return vocab

    def _count(self, texts: Iterable[str]) -> list[Counter[str]]:
        return list(deque((Counter(pre_tokens(text)) for text in texts), self.config.queue_texts))

    def _swap(self, new: list[Counter[str]]) -> list[Counter[str]]:
        """Puts texts into the queue; returns those that fall out, oldest first."""
        self._queue.extend(new)
        dropped = [self._queue.popleft() for _ in range(len(self._queue) - self.config.queue_texts)]
        self._table.change(new, dropped)
        return dropped


class _Table:
    """Substrings in numbered slots, so that their counts are one array; the slots of lost ones are used again."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self.pretokens: dict[str, int] = {}
        """Live pre-tokens and how often they occur."""
        self.slots: dict[str, np.ndarray] = {}
        """The slot of each substring of a live pre-token, one that occurs twice given twice."""
        self.slot_of: dict[bytes, int] = {}
        self.names: list[bytes] = []
        self.free: list[int] = []
        self.counts = np.zeros(0, np.int64)
        self.lengths = np.zeros(0, np.int64)
        self.hashes = np.zeros(0, np.uint64)
        self.chosen_from = np.zeros(0, np.bool_)
        """Whether a slot's substring may become a token: no single byte, and less than two whitespace marks."""

    def change(self, added: Iterable[Counter[str]], removed: Iterable[Counter[str]]) -> None:
        """Adds and takes away the pre-tokens of texts."""
        delta: Counter[str] = Counter()
        for text in added:
            delta.update(text)
        for text in removed:
            delta.subtract(text)
        changes = {word: n for word, n in delta.items() if n}
        if not changes:
            return
        self._add_slots([word for word in changes if word not in self.slots])
        touched = [self.slots[word] for word in changes]
        at = np.concatenate(touched)
        times = np.repeat(np.fromiter(changes.values(), np.int64), [len(some) for some in touched])
        np.add.at(self.counts, at, times)
        for word, n in changes.items():
            self.pretokens[word] = left = self.pretokens.get(word, 0) + n
            if not left:
                del self.pretokens[word], self.slots[word]
        self._drop(np.unique(at[self.counts[at] == 0]).tolist())

    def totals(self) -> dict[bytes, int]:
        """Counts by substring."""
        return {name: int(self.counts[slot]) for name, slot in self.slot_of.items()}

    def sample(self, z: float, key: np.uint64) -> SampledVocab:
        """Ranks the substrings under noise of standard deviation `z`."""
        if not self.slot_of:
            raise BadText("there is no text to draw a vocabulary from", hint="push texts into the pool first")
        scores = self.counts * self.lengths
        total = int(scores.sum())
        rarest = float(np.log(scores[scores > 0].min() / total))
        runs = whitespace_runs(self.config.longest)
        slots = np.flatnonzero((self.counts > 0) & self.chosen_from)
        shares = scores[slots] / total
        if z:
            shares += z * _gaussian(self.hashes[slots], key)
        shares = np.maximum(shares, 0.0)
        names, shares = self._first(slots, shares, self.config.vocab_size - 256 - len(runs))
        possible = shares > 0
        logs = np.where(possible, np.log(np.where(possible, shares, 1.0)), NEVER)
        tokens = (*(bytes([b]) for b in range(256)), *runs, *names)
        logprobs = np.concatenate([np.full(256, rarest), np.zeros(len(runs)), logs])
        return SampledVocab(tokens, logprobs, z, self.config.vocab_size)

    def _first(self, slots: np.ndarray, shares: np.ndarray, most: int) -> tuple[list[bytes], np.ndarray]:
        """The `most` likeliest substrings and their probabilities, in order."""
        if len(slots) > most:
            least = np.partition(shares, len(shares) - most)[len(shares) - most]
            above = np.flatnonzero(shares > least)
            ties = nsmallest(most - len(above), ((self.names[slots[i]], i) for i in np.flatnonzero(shares == least)))
            kept = np.concatenate([above, np.array([i for _, i in ties], np.int64)])
            slots, shares = slots[kept], shares[kept]
        order = np.argsort(-shares)
        shares, names = shares[order], [self.names[slot] for slot in slots[order].tolist()]
        steps = [0, *(np.flatnonzero(np.diff(shares)) + 1).tolist(), len(shares)]
        for start, end in pairwise(steps):
            if end > start + 1:
                names[start:end] = sorted(names[start:end])
        return names, shares

    def _add_slots(self, pretokens: list[str]) -> None:
        """Enumerates the substrings of new pre-tokens."""
        slot_of, longest, stride = self.slot_of, self.config.longest, self.config.stride
        new: list[bytes] = []
        new_slots: list[int] = []
        for word in pretokens:
            data = word.encode()
            end = len(data)
            found = []
            for start in _characters(word, data)[::stride]:
                for stop in range(start + 1, min(start + longest, end) + 1):
                    part = data[start:stop]
                    slot = slot_of.get(part)
                    if slot is None:
                        slot = slot_of[part] = self._slot(part)
                        new.append(part)
                        new_slots.append(slot)
                    found.append(slot)
            self.slots[word] = np.array(found, np.int32)
        if new:
            self._describe(new, np.array(new_slots))

    def _slot(self, name: bytes) -> int:
        if self.free:
            slot = self.free.pop()
            self.names[slot] = name
            return slot
        self.names.append(name)
        return len(self.names) - 1

    def _describe(self, names: list[bytes], slots: np.ndarray) -> None:
        """Fills in what is known of new substrings."""
        if len(self.names) > len(self.counts):
            self._grow(max(2 * len(self.counts), len(self.names), 1024))
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        width = -(-self.config.longest // 8) * 8
        table = np.array(names, f"S{width}").view(np.uint8).reshape(len(names), width)
        marks = sum((table == mark[0]).sum(1) for mark in MARKS)
        self.lengths[slots] = lengths
        self.chosen_from[slots] = (lengths > 1) & (marks < 2)
        self.hashes[slots] = _hashes(table.view("<u8"), lengths)

    def _grow(self, size: int) -> None:
        for name in ("counts", "lengths", "hashes", "chosen_from"):
            old = getattr(self, name)
            grown = np.zeros(size, old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)

    def _drop(self, slots: list[int]) -> None:
        """Forgets substrings that no longer occur."""
        for slot in slots:
            del self.slot_of[self.names[slot]]
            self.names[slot] = b""
        self.free += slots


def pre_tokens(text: str) -> list[str]:
    """Puts a space before a text that is not empty, and cuts it.

    Raises:
        BadText: the text holds a lone surrogate.
    """
    if text.isascii():
        return _FIND_ASCII(" " + text) if text else []
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            f"a text has a lone surrogate, {text[error.start]!r}, at character {error.start}: it has no UTF-8 bytes",
            hint="read the text from UTF-8 bytes",
        ) from None
    found: list[str] = _FIND(" " + text)
    return found


def whitespace_runs(longest: int) -> list[bytes]:
    """One mark followed by 1 to `longest` equal marks; they are tokens of log-probability 0, so they always win."""
    return [first + mark * n for mark in MARKS for n in range(1, longest + 1) for first in MARKS]


def _characters(text: str, data: bytes) -> Sequence[int]:
    """Where the characters of a text begin in its bytes."""
    if len(text) == len(data):
        return range(len(data))
    return [at for at, byte in enumerate(data) if byte & 0xC0 != 0x80]


def _hashes(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """64 bits for each row of 64-bit words; padding is told from NUL bytes by the lengths."""
    mixed = _mix(lengths.astype(np.uint64))
    for column in words.T:
        mixed = _mix(mixed ^ column)
    return mixed


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 step: spreads every bit over all 64 (Steele, Lea, Flood, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _gaussian(hashes: np.ndarray, key: np.uint64) -> np.ndarray:
    """A standard normal number for each hash, by Box and Muller; another key, other numbers."""
    bits = _mix(hashes ^ key)
    radius = ((bits >> np.uint64(32)) + 0.5) * 2.0**-32
    angle = (bits & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32)
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(angle))
