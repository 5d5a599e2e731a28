"""Training texts by language, and the queue of each: a step can be asked for again after a stop, and is the same.

A step draws one language by weight and takes its next texts. A text is a random span of documents that were joined,
with an empty line between two (where the paper joins token ids by the end-of-text token), until they were long enough.
A document of many times that length gives a span for each `PART_SPANS` of it, where the paper takes a single one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from warnings import warn as _warn

import numpy as np

from tokenlayer.core.errors import BadOption, BadText, choose
from tokenlayer.core.seeds import derive_seed, numpy_generator
from tokenlayer.data.documents import Documents, Source, parse_source
from tokenlayer.data.packing import PARTED, mixed
from tokenlayer.data.sources import STDIN
from tokenlayer.transfer.zett.sampler import SampledVocab, SamplerConfig, SubstringPool

PART_SPANS = 16
"""Spans that would fit into the part of a long document from which one is taken."""


@dataclass(frozen=True, eq=False)
class TextBatch:
    """The texts of a step.

    Attributes:
        step: counted from 0.
        language: the group of their sources.
        texts: in the order in which they are read.
        pool: of that language, with these texts as the latest. The next step of the language changes it.
    """

    step: int
    language: str
    texts: list[str]
    pool: SubstringPool


class TrainingTexts:
    """Endless batches of texts, a language each, that depend on the sources, the settings and the seed alone.

    Args:
        sources: `Source`s or their spelling, `[GROUP[=WEIGHT]:]PATH`. Sources of one group are one language: its
            weight is the sum of theirs, and each of its texts comes from one of them, drawn by weight.
        batch_texts: texts of a step.
        text_chars: characters of a text; the last one of a pass over a source may be shorter.
        sampler: see `SamplerConfig`. A language that has fewer texts than the queue gets a shorter one.
        seed: another seed, other languages at each step and other spans.
        tempering: draws a language with a probability proportional to its share of the weights to this power; None
            takes the weights as they are. The paper has 0.1 for its 26 languages.
        warn: takes one sentence for each language with a shorter queue.

    Attributes:
        languages: in the order of the sources.
        shares: the probability of each language.

    Raises:
        BadOption: no source, standard input, or a number out of range.
        BadText: a source is missing, damaged, empty, or not UTF-8.
    """

    def __init__(
        self,
        sources: Sequence[Source | str],
        *,
        batch_texts: int,
        text_chars: int,
        sampler: SamplerConfig,
        seed: int,
        tempering: float | None = None,
        warn: Callable[[str], object] = _warn,
    ) -> None:
        _check(batch_texts, text_chars, sampler, tempering)
        groups = _groups(sources)
        self.batch_texts = batch_texts
        self.languages = tuple(groups)
        self.shares = _shares([sum(one.weight for one in some) for some in groups.values()], tempering)
        self._of = {
            name: _Language(_Spans(name, tuple(some), text_chars, seed), batch_texts, sampler, warn)
            for name, some in groups.items()
        }
        self._draw = numpy_generator(seed, "language-of-step")
        self._next_step = 0

    def batch(self, step: int) -> TextBatch:
        """Gives the texts of a step and updates their language's pool.

        A step further on than the next one reads the texts between, but counts only those that are still in the queue.

        Args:
            step: counted from 0; later than at the call before.

        Raises:
            BadOption: an earlier step.
            BadText: a source cannot be read further.
        """
        if step < self._next_step:
            raise BadOption(
                f"step {step} was asked for after step {self._next_step - 1}: texts come in order",
                hint="make new TrainingTexts to go back",
            )
        for _ in range(step - self._next_step):
            self._of[self._next()].skip(self.batch_texts)
        language = self._next()
        self._next_step = step + 1
        texts = self._of[language].take(self.batch_texts)
        return TextBatch(step, language, texts, self._of[language].pool)

    def peek(self, language: str, texts: Sequence[str], seed: int | np.random.Generator) -> SampledVocab:
        """Draws a vocabulary for texts that are not trained on, as if they were the latest; they leave no trace.

        Raises:
            BadOption: an unknown language.
            BadText: a text holds a lone surrogate.
        """
        return self._of[choose("language", language, self.languages)].up_to_date().peek(texts, seed)

    def _next(self) -> str:
        return self.languages[int(self._draw.choice(len(self.languages), p=self.shares))]


@dataclass(frozen=True)
class _Spans:
    """Where the texts of a language come from."""

    name: str
    sources: tuple[Source, ...]
    chars: int
    seed: int

    def of_source(self, number: int, turn: int) -> Iterator[str]:
        """One pass over a source; each pass takes other spans."""
        source = self.sources[number]
        draw = numpy_generator(self.seed, "spans", self.name, number, turn)
        return spans(Documents([Source(source.path, source.group)]).texts(), self.chars, draw)

    def endless(self) -> Iterator[str]:
        """Texts of all sources by weight, each begun again at its end."""
        streams = [partial(self.of_source, number) for number in range(len(self.sources))]
        return mixed(streams, [one.weight for one in self.sources], derive_seed(self.seed, "sources", self.name))

    def count(self, most: int) -> int:
        """Texts of one pass over all sources, `most` at most.

        Raises:
            BadText: a source is empty.
        """
        total = 0
        for number, source in enumerate(self.sources):
            found = sum(1 for _ in islice(self.of_source(number, 0), most))
            if not found:
                raise BadText(f"the text {source.path} is empty", hint="give a file with some text in it")
            total += found
        return min(total, most)


class _Language:
    """The stream of a language and its pool, which is brought up to date only when it is needed."""

    def __init__(self, source: _Spans, batch_texts: int, sampler: SamplerConfig, warn: Callable[[str], object]) -> None:
        queue = sampler.queue_texts
        there = source.count(queue)
        if there < queue:
            shorter = max(there, batch_texts)
            warn(
                f"{source.name}: the queue is shortened from {queue} to {shorter} texts, "
                f"one pass over the sources gives {there}"
            )
            queue = shorter
        self.pool = SubstringPool(replace(sampler, queue_texts=queue))
        self._source = source
        self._texts = source.endless()
        self._unread = queue

    def skip(self, count: int) -> None:
        """Passes over texts; those that are still in the queue are counted when it is next needed."""
        self._unread += count

    def take(self, count: int) -> list[str]:
        """The next texts, which are then the latest of the pool."""
        self.up_to_date()
        texts = list(islice(self._texts, count))
        self.pool.push(texts)
        return texts

    def up_to_date(self) -> SubstringPool:
        """The pool with all texts that were passed over."""
        kept = deque(islice(self._texts, self._unread), self.pool.config.queue_texts)
        self._unread = 0
        self.pool.push(kept)
        return self.pool


def spans(texts: Iterable[str], chars: int, draw: np.random.Generator) -> Iterator[str]:
    """Joins documents until they have `chars` characters, and takes a random span of that many from each such block.

    The documents at the end that do not fill a block give a shorter text.
    """
    held: list[str] = []
    size = -len(PARTED)
    for text in texts:
        held.append(text)
        size += len(PARTED) + len(text)
        if size >= chars:
            yield from _of_block(PARTED.join(held), chars, draw)
            held, size = [], -len(PARTED)
    if held:
        yield from _of_block(PARTED.join(held), chars, draw)


def _of_block(block: str, chars: int, draw: np.random.Generator) -> Iterator[str]:
    parts = max(len(block) // (PART_SPANS * chars), 1)
    for number in range(parts):
        start, end = (len(block) * at // parts for at in (number, number + 1))
        start += int(draw.integers(max(end - start - chars, 0) + 1))
        yield block[start : min(start + chars, end)]


def _groups(sources: Sequence[Source | str]) -> dict[str, list[Source]]:
    groups: dict[str, list[Source]] = {}
    for spec in sources:
        source = parse_source(spec) if isinstance(spec, str) else spec
        if source.path == STDIN:
            raise BadOption("training texts cannot come from standard input", hint="they are read more than once")
        groups.setdefault(source.label, []).append(source)
    if not groups:
        raise BadOption("no source was given", hint="give files as [LANGUAGE[=WEIGHT]:]PATH")
    return groups


def _shares(weights: Sequence[float], tempering: float | None) -> np.ndarray:
    shares = np.asarray(weights, np.float64) / sum(weights)
    powers = shares if tempering is None else shares**tempering
    return np.asarray(powers / powers.sum())


def _check(batch_texts: int, text_chars: int, sampler: SamplerConfig, tempering: float | None) -> None:
    if batch_texts < 1 or text_chars < 1:
        raise BadOption(f"batch_texts is {batch_texts} and text_chars {text_chars}, expected at least 1 each")
    if batch_texts > sampler.queue_texts:
        raise BadOption(
            f"batch_texts is {batch_texts} and queue_texts {sampler.queue_texts}: the queue must hold the batch"
        )
    if tempering is not None and not 0 <= tempering <= 1:
        raise BadOption(f"tempering is {tempering:g}, expected 0 (all languages alike) to 1 (by weight)")
