"""The online learner: reads articles, keeps the ranked lexicon and what is on probation."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from tokenlayer.core.errors import BadText
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.tokenizer.lib.compiled import available
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.kernel import LEXICON, REWARDS, STEP, TRIALS, Rules
from tokenlayer.tokenizer.lib.memory import BATCH_CHARS, Memory

COMPILE_CHARS = 300_000
"""Compiling takes as long as reading so many characters without."""
LONGEST_SENTENCE = 10_000
"""Longer sentences are cut: one sentence must fit into memory eight times over."""
NO_LIMIT = 1 << 40
SLOW = "without numba the learner reads some 20,000 characters a second: pip install 'tokenlayer[fast]'"


class Trial(NamedTuple):
    """A chunk on probation: the articles it has left, and the chunks around it when it was memorised, if they count."""

    life: int
    context: tuple[str, str] | None


class LibLearner:
    """Learns a ranked lexicon of subwords, words and multi-word chunks, one article after the other.

    Args:
        config: see `LibConfig`.
        compiled: run compiled loops; None does so from `COMPILE_CHARS` characters on where numba is installed. The
            lexicon is the same.

    Raises:
        MissingExtra: `compiled` is true and numba is not installed.
    """

    def __init__(self, config: LibConfig | None = None, *, compiled: bool | None = None) -> None:
        self.config = config or LibConfig()
        self.chars = 0
        self.drawn = 0
        self.cut = 0
        self._choose = compiled is None
        self._memory = Memory(bool(compiled))
        self._generator = numpy_generator(self.config.seed, "lib")
        self._draws: Any = self._generator.random(0)
        self._rules = _rules(self.config)

    def change(self, config: LibConfig) -> None:
        """Goes on with other settings; the draws stay those of the seed that it began with."""
        self.config = replace(config, seed=self.config.seed)
        self._rules = _rules(self.config)

    @staticmethod
    def from_state(state: Mapping[str, Any], *, compiled: bool | None = None) -> "LibLearner":
        """Rebuilds a learner from what `state` gave; it goes on with the same draws."""
        learner = LibLearner(LibConfig(**state["config"]), compiled=compiled)
        memory = learner._memory
        nodes = dict(zip(state["lexicon"], memory.add(state["lexicon"]), strict=True))
        memory.tables.counts[STEP] = state["steps"]
        for chunk, (life, context) in state["probation"].items():
            memory.begin_trial(nodes[chunk], int(life) + learner.steps, context)
        learner.chars, learner.drawn = int(state["chars"]), int(state["drawn"])
        bits: Any = learner._generator.bit_generator
        bits.advance(learner.drawn)
        return learner

    def state(self) -> dict[str, Any]:
        """All that the learner knows between two articles, as plain data."""
        return {
            "config": asdict(self.config),
            "steps": self.steps,
            "chars": self.chars,
            "drawn": self.drawn,
            "lexicon": self.chunks,
            "probation": {chunk: list(trial) for chunk, trial in self.probation.items()},
        }

    @property
    def steps(self) -> int:
        """Articles read so far."""
        return int(self._memory.tables.counts[STEP])

    @property
    def chunks(self) -> list[str]:
        """The lexicon by rank, what is on probation included."""
        t = self._memory.tables
        return [self._memory.chunk(int(t.order[i])) for i in range(t.counts[LEXICON])]

    @property
    def lexicon(self) -> list[str]:
        """The lexicon by rank without what is on probation: what a tokenizer is made of."""
        t = self._memory.tables
        nodes = [int(t.order[i]) for i in range(t.counts[LEXICON])]
        return [self._memory.chunk(node) for node in nodes if t.expires[node] == 0]

    @property
    def probation(self) -> dict[str, Trial]:
        """The chunks on probation."""
        t, memory = self._memory.tables, self._memory
        found = {}
        for i in range(t.counts[TRIALS]):
            node = int(t.trial[i])
            if t.expires[node] > 0:
                left, right = int(t.left[node]), int(t.right[node])
                context = None if left < 0 else (memory.chunk(left), memory.chunk(right))
                found[memory.chunk(node)] = Trial(int(t.expires[node]) - self.steps, context)
        return found

    @property
    def rewards(self) -> list[tuple[str, int]]:
        """What the article that is being read has rewarded (-1: towards the head) and punished (1), in order."""
        t = self._memory.tables
        signed = [int(t.rewards[i]) for i in range(t.counts[REWARDS])]
        return [(self._memory.chunk(abs(node)), -1 if node > 0 else 1) for node in signed]

    def partial_fit(self, article: Sequence[str | bytes]) -> "LibLearner":
        """Reads one article and puts the lexicon in order.

        Args:
            article: its sentences. White space is an ordinary character.

        Raises:
            BadText: a sentence is bytes that are not UTF-8.
        """
        self.read(article)
        self.end_article()
        return self

    def fit(self, sentences: Iterable[str | bytes]) -> "LibLearner":
        """Reads sentences in articles, once or for `config.steps` articles.

        Raises:
            BadText: there is nothing to read.
        """
        if self.config.steps is not None and isinstance(sentences, Iterator):
            sentences = list(sentences)  # to begin again after the last
        for article in articles(sentences, self.config.article, self.config.steps):
            self.partial_fit(article)
        if not self.chars:
            raise BadText("there is no text to learn from: all sentences are empty", hint="check the sources")
        return self

    def read(self, article: Sequence[str | bytes]) -> None:
        """Reads an article without putting the lexicon in order; `end_article` must follow."""
        sentences = [part for sentence in article for part in self._parts(sentence)]
        if self._choose and not self._memory.compiled and self.chars > COMPILE_CHARS:
            self._choose = False
            if available():
                self._memory.compile()
            else:
                warnings.warn(SLOW, stacklevel=3)
        joined = "".join(sentences)
        _check_characters(joined)
        text = self._memory.codes(joined)
        starts = [0]
        for sentence in sentences:
            starts.append(starts[-1] + len(sentence))
            if starts[-1] - starts[0] >= BATCH_CHARS:
                self._read(text, starts)
                starts = starts[-1:]
        self._read(text, starts)

    def end_article(self) -> None:
        """Forgets, moves what was rewarded or punished, and puts the tail on probation."""
        self._memory.end_article(self._rules)

    def _read(self, text: Any, starts: list[int]) -> None:
        size = starts[-1] - starts[0]
        if not size:
            return
        if len(self._draws) < size:
            self._draws = np.concatenate([self._draws, self._generator.random(max(size, BATCH_CHARS))])
        draws = self._draws[:size] if self._memory.compiled else self._draws[:size].tolist()
        used = self._memory.read(text, starts, draws, self._rules)
        self._draws = self._draws[used:]
        self.drawn += used
        self.chars += size

    def _parts(self, sentence: str | bytes) -> Iterator[str]:
        text = sentence if isinstance(sentence, str) else _decoded(sentence)
        for line in text.split("\n"):
            if len(line) > LONGEST_SENTENCE:
                self.cut += 1
                if self.cut == 1:
                    warnings.warn(f"a sentence of {len(line)} characters is cut after {LONGEST_SENTENCE}", stacklevel=4)
            for at in range(0, len(line), LONGEST_SENTENCE):
                yield line[at : at + LONGEST_SENTENCE]


def _rules(config: LibConfig) -> Rules:
    return Rules(
        float(config.in_rate),
        float(config.out_rate),
        float(config.update_rate),
        config.life,
        config.longest_chunk or NO_LIMIT,
        config.inspect_context,
        config.forgets,
        config.reranks,
    )


def articles(sentences: Iterable[str | bytes], size: int, steps: int | None) -> Iterator[list[str | bytes]]:
    """Cuts sentences into articles: once through, or `steps` of them, from the beginning again after the last."""
    article: list[str | bytes] = []
    done = 0
    while steps is None or done < steps:
        any_text = False
        for sentence in sentences:
            any_text = any_text or bool(sentence)
            article.append(sentence)
            if len(article) == size:
                yield article
                article, done = [], done + 1
                if done == steps:
                    return
        if article:
            yield article
            article, done = [], done + 1
        if steps is None or not any_text:
            return


def _decoded(sentence: bytes) -> str:
    try:
        return sentence.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadText(
            f"a sentence is not UTF-8 at byte {error.start}: 0x{sentence[error.start]:02x} in {sentence[:40]!r}",
            hint="convert the text to UTF-8, or decode it with the encoding that it has",
        ) from error


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            f"an article holds {text[error.start]!r} at character {error.start}, which is no character but half of one",
            hint="decode the text as UTF-8 with errors='replace'",
        ) from error
