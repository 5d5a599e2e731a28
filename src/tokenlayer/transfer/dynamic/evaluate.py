"""What units save and what they cost: shorter texts against bits per byte of what follows, or against vectors moved.

Decoders: a stretch of text is the prompt, cut into units; the tokens behind it are ordinary ones and are scored.
Encoders: the vector of a text in units is compared with that of the same text in plain tokens.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.report import Report
from tokenlayer.models.compare import EvalText
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.model import DynamicModel, Units
from tokenlayer.transfer.dynamic.rows import METHODS
from tokenlayer.transfer.dynamic.segment import check_reduction

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""
COLUMNS = ("text", "rows", "wanted", "tokens", "units", "shorter", "score", "cost", "cutting", "reading", "hits")
T = TypeVar("T")


@dataclass(frozen=True)
class EvaluateConfig:
    """How texts are read."""

    reductions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of what merging can save in a batch."""
    shorter: tuple[float, ...] = ()
    """Instead: shares of all tokens to save, as far as merging can."""
    methods: tuple[str, ...] = ("hypernet",)
    """Rows of new units, see `rows.METHODS`."""
    batch: int = 32
    """Texts of a batch, whose frequencies decide; the paper's."""
    context: int = 128
    """Decoders: tokens of a prompt. Encoders: tokens of a text at most."""
    continuation: int = 64
    """Decoders: tokens scored behind each prompt."""
    samples: int = 128
    """Prompts or texts of each source at most."""

    def __post_init__(self) -> None:
        for share in (*self.reductions, *self.shorter):
            check_reduction(share)
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise BadOption(f"methods is {list(self.methods)}, expected some of: {', '.join(METHODS)}")
        for name in ("batch", "context", "continuation", "samples"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")

    @property
    def shares(self) -> list[float]:
        """What is asked for, one after the other; plain tokens come first."""
        return sorted({0.0, *(self.shorter or self.reductions)})


class Stretch(NamedTuple):
    """A prompt and the tokens behind it."""

    prompt: str
    behind: list[int]
    size: int
    """UTF-8 bytes of the tokens behind."""


@dataclass
class _Tally:
    """Sums over the batches of one line of the table."""

    tokens: int = 0
    units: int = 0
    score: float = 0.0
    weight: float = 0.0
    cutting: float = 0.0
    reading: float = 0.0

    @property
    def shorter(self) -> float:
        """Share of the tokens that was saved."""
        return 1 - self.units / self.tokens

    @property
    def mean(self) -> float:
        """The score, per byte or per text."""
        return self.score / self.weight


def evaluate(
    model: DynamicModel, texts: Sequence[EvalText], config: EvaluateConfig, *, progress: Progress | None = None
) -> Report:
    """Reads texts in fewer and fewer units.

    Args:
        model: a decoder or an encoder; its own method takes no part, `config.methods` does.
        texts: what to read, each a source of its own.
        config: see `EvaluateConfig`.
        progress: see `Progress`.

    Returns:
        The report: a line for each text, method and wanted share, with the score (decoders: bits per byte of what
        follows, encoders: cosine with the plain vector), what it cost against plain tokens, and seconds.

    Raises:
        BadText: a text is too short for one prompt.
    """
    report = Report(title=f"texts in dynamic units: {len(texts)}")
    kind = "bits per byte of what follows" if model.decoder else "cosine with the plain vector"
    unit = "bits" if model.decoder else ""
    rows: list[tuple[Any, ...]] = []
    jobs = [(text, method) for text in texts for method in config.methods]
    for done, (text, method) in enumerate(jobs):
        reader = model if method == model.config.method else model.with_config(method=method)
        name = text.language or text.name
        plain, most = 0.0, _Tally()
        for share, most in _lines(reader, text, config):
            plain = plain if share else most.mean  # plain tokens are read first
            about = (name, method, share, most.tokens, most.units, most.shorter, most.mean, most.mean - plain)
            rows.append((*about, most.cutting, most.reading, reader.cache.hit_rate))
        report.add("shorter", 100 * most.shorter, "%", source=f"{name}, {method}")
        report.add(kind, most.mean, unit, source=f"{name}, {method}", baseline=plain)
        if progress is not None:
            progress("texts and methods", done + 1, len(jobs))
    note = f"score: {kind}; cutting (with the rows of new units) and reading in seconds; hits: share of the cache"
    report.add_table("units", COLUMNS, rows, note)
    report.data["measured"] = kind
    return report


def stretches(tokenizer: LoadedTokenizer, text: str, config: EvaluateConfig) -> list[Stretch]:
    """Prompts of `context` tokens, each with the `continuation` tokens behind it, one after the other.

    A prompt is only taken where it has, cut alone, the very tokens that it has in the text.

    Raises:
        BadText: the text has no room for one.
    """
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    ids, spans = encoding.ids, encoding.offsets
    found: list[Stretch] = []
    at = 0
    while at + config.context + config.continuation <= len(ids) and len(found) < config.samples:
        end = at + config.context
        prompt = text[spans[at][0] : spans[end][0]]
        if tokenizer.encode(prompt) != ids[at:end]:
            at += 1  # cut alone it has other tokens: a word was cut, or a space was put in front
            continue
        behind = list(ids[end : end + config.continuation])
        found.append(Stretch(prompt, behind, len(tokenizer.decode_bytes(behind))))
        at = end + config.continuation
    if not found:
        raise BadText(
            f"the text has {len(ids)} tokens, expected at least {config.context + config.continuation}",
            hint="give a longer text, or a shorter --context",
        )
    return found


def _lines(model: DynamicModel, text: EvalText, config: EvaluateConfig) -> Iterator[tuple[float, _Tally]]:
    """Each wanted share with what came of it; 0, the plain tokens, first."""
    return (_decoder_lines if model.decoder else _encoder_lines)(model, text, config)


def _decoder_lines(model: DynamicModel, text: EvalText, config: EvaluateConfig) -> Iterator[tuple[float, _Tally]]:
    batches = list(_batches(stretches(model.tokenizer, text.text, config), config.batch))
    for share in config.shares:
        tally = _Tally()
        for some in batches:
            units = _cut(model, [one.prompt for one in some], share, config, tally)
            began = time.perf_counter()
            prefilled = model.prefill(units)
            tally.reading += time.perf_counter() - began
            nats = model.score_after(prefilled, [one.behind for one in some])
            tally.score -= float(sum(one.double().sum() for one in nats)) / math.log(2)
            tally.weight += sum(one.size for one in some)
        yield share, tally


def _encoder_lines(model: DynamicModel, text: EvalText, config: EvaluateConfig) -> Iterator[tuple[float, _Tally]]:
    given = [line for line in text.text.splitlines() if line.strip()][: config.samples]
    if not given:
        raise BadText(f"{text.name} is empty", hint="give a text with one sentence a line")
    plain: list[Tensor] = []
    for share in config.shares:
        tally = _Tally()
        for n, lines in enumerate(_batches(given, config.batch)):
            units = _cut(model, lines, share, config, tally)
            began = time.perf_counter()
            vectors = model.encode(units)
            tally.reading += time.perf_counter() - began
            plain += [vectors] if len(plain) == n else []
            tally.score += float((vectors * plain[n]).sum())
            tally.weight += len(lines)
        yield share, tally


def _cut(model: DynamicModel, texts: Sequence[str], share: float, config: EvaluateConfig, tally: _Tally) -> Units:
    most = None if model.decoder else config.context
    began = time.perf_counter()
    wanted, other = (share, None) if config.shorter else (None, share)
    units = model.prepare(texts, shorter=wanted, reduction=other, max_length=most)
    tally.cutting += time.perf_counter() - began
    tally.tokens += sum(units.segmentation.plain_lengths)
    tally.units += sum(units.segmentation.lengths)
    return units


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
