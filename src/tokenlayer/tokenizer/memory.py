"""How much memory training will need, from a sample: distinct pre-tokens grow by Heaps' law.

Heaps' law: D(n) = k n^b distinct pre-tokens in n bytes (H. S. Heaps, Information Retrieval, 1978, section 7.5).
The trainers hold the distinct pre-tokens, so D decides, not the size of the corpus.
"""

import math
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenlayer.core.report import Report
from tokenlayer.core.seeds import derive_seed
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Documents, ReadOptions, Source
from tokenlayer.data.readers import source_bytes
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.shape import Shape
from tokenlayer.tokenizer.trainers import untrained

SAMPLE_BYTES = 8_000_000
POINTS = 12
"""Sizes at which distinct pre-tokens are counted, evenly spaced in the logarithm."""
FITTED_SHARE = 0.1
"""The law is fitted from this share of the sample on: below, growth is faster than later."""
USABLE = 0.8
"""Share of the free memory that training may take before we warn."""

# Peak memory = BASE + distinct pre-tokens times one number + their UTF-8 bytes times another, fitted to 5 to 40 MB of
# Python code and 18 MB of eight languages with tokenizers 0.23 and a vocabulary of 32 768
# (benchmarks/tokenizer/bench_memory.py). For Unigram the number is an upper one: code took half of it.
BASE_BYTES = 306_000_000
"""236 MB of loaded libraries, torch among them, and 70 MB that training takes for any text."""
PER_PRETOKEN = {"BPE": 280, "WordPiece": 1150, "Unigram": 0}
PER_BYTE = {"BPE": 81, "WordPiece": 0, "Unigram": 330}


@dataclass(frozen=True)
class Estimate:
    """What training would take.

    Attributes:
        corpus_bytes: text that would be read, None for streams of unknown size.
        sample_bytes: text that was read for this.
        sample_distinct: distinct pre-tokens in the sample.
        heaps_exponent: b of Heaps' law.
        distinct: distinct pre-tokens expected in the corpus.
        memory_bytes: expected peak memory.
        available_bytes: free memory of this machine now.
        advised_bytes: a `limit_bytes` that would fit, None if all fits.
    """

    corpus_bytes: int | None
    sample_bytes: int
    sample_distinct: int
    heaps_exponent: float
    distinct: int
    memory_bytes: int
    available_bytes: int
    advised_bytes: int | None

    def tell(self, report: Report) -> None:
        """Adds the numbers to a report, and a warning if memory would not suffice."""
        if self.corpus_bytes is not None:
            report.add("text to read", self.corpus_bytes / 1e6, "MB")
        report.add("distinct pre-tokens, expected", self.distinct, n=self.sample_bytes, source="Heaps' law")
        report.add("peak memory, expected", self.memory_bytes / 1e6, "MB", n=self.sample_bytes)
        report.add("free memory", self.available_bytes / 1e6, "MB")
        if self.corpus_bytes is None:
            report.warn("the size of a source is not known beforehand: memory was estimated for its sample alone")
        if self.advised_bytes is not None:
            report.warn(
                f"training would need about {self.memory_bytes / 1e9:.1f} GB of memory and "
                f"{self.available_bytes / 1e9:.1f} GB are free: --limit-bytes {self.advised_bytes} would fit"
            )


def estimate_training(
    sources: Sequence[Source],
    config: LearnConfig,
    shape: Shape,
    *,
    options: ReadOptions,
    available_bytes: int | None = None,
) -> Estimate:
    """Reads a sample of the sources and says how much memory training will take.

    Args:
        sources: what would be learned from; standard input cannot be sampled.
        config: kind and limit.
        shape: stages of the tokenizer.
        options: how files become documents.
        available_bytes: free memory; None asks the system.
    """
    limit = min(SAMPLE_BYTES, config.limit_bytes or SAMPLE_BYTES)
    texts = list(Documents(sources, options=options, limit_bytes=limit, seed=config.seed).texts())
    random.Random(derive_seed(config.seed, "estimate")).shuffle(texts)
    sizes, distinct, pretoken_bytes = _growth(texts, shape)
    exponent = _heaps_exponent(sizes, distinct)
    total = corpus_bytes(sources, config, options)
    free = available_memory() if available_bytes is None else available_bytes
    per_one = PER_PRETOKEN[shape.kind] + PER_BYTE[shape.kind] * pretoken_bytes / max(distinct[-1], 1)
    factor = max(total or 0, sizes[-1], 1) / max(sizes[-1], 1)
    expected = distinct[-1] * factor**exponent
    memory = BASE_BYTES + expected * per_one
    fits = max(USABLE * free - BASE_BYTES, 0) / max(per_one * distinct[-1], 1)
    advised = None
    if memory > USABLE * free:
        advised = _two_digits(sizes[-1] * fits ** (1 / exponent))
    return Estimate(total, sizes[-1], distinct[-1], exponent, int(expected), int(memory), free, advised)


def available_memory() -> int:
    """Returns the bytes of memory that this process may still take: of the machine, or of its control group."""
    found = [_meminfo(), *_cgroup()]
    return min((n for n in found if n > 0), default=sys.maxsize)


def peak_memory() -> int:
    """Returns the most bytes of memory that this process has held so far; 0 where the system does not say."""
    try:  # ru_maxrss of Linux starts from the parent's peak, VmHWM does not
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _growth(texts: Sequence[str], shape: Shape) -> tuple[list[int], list[int], int]:
    """Bytes read and distinct pre-tokens at growing sizes, and the UTF-8 bytes of all the distinct ones."""
    cutter = Cutter(untrained(shape))
    total = sum(len(t.encode()) for t in texts)
    marks = [total * 2.0 ** -(n / 2) for n in range(POINTS)][::-1]
    seen: set[str] = set()
    sizes, distinct, size = [0], [0], 0
    for text in texts:
        seen.update(cutter(text))
        size += len(text.encode())
        if marks and size >= marks[0]:
            marks = [m for m in marks if m > size]
            sizes.append(size)
            distinct.append(len(seen))
    return sizes, distinct, sum(len(s.encode()) for s in seen)


def _heaps_exponent(sizes: Sequence[int], distinct: Sequence[int]) -> float:
    """Slope of log D over log n, between 0.05 and 1; 1 (the worst) if there is too little to fit."""
    points = [(n, d) for n, d in zip(sizes, distinct, strict=True) if n >= FITTED_SHARE * sizes[-1] and d > 0]
    if len(points) < 3:
        return 1.0
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.clip(np.polyfit(x, y, 1)[0], 0.05, 1.0))


def corpus_bytes(sources: Sequence[Source], config: LearnConfig, options: ReadOptions) -> int | None:
    """Returns the bytes of text that would be read, weights and limit included; None when nobody can know."""
    sizes = [source_bytes(s, options) for s in sources]
    if any(n is None for n in sizes):
        return config.limit_bytes
    total: int = int(sum(s.weight * (n or 0) for s, n in zip(sources, sizes, strict=True)))
    return total if config.limit_bytes is None else min(total, config.limit_bytes)


def _two_digits(value: float) -> int:
    scale: int = 10 ** max(int(math.log10(max(value, 1))) - 1, 0)
    return max(int(value / scale) * scale, 1_000_000)


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _cgroup() -> list[int]:
    base = Path("/sys/fs/cgroup")
    try:
        limit = int((base / "memory.max").read_text(encoding="ascii"))
        return [max(limit - int((base / "memory.current").read_text(encoding="ascii")), 1)]
    except (OSError, ValueError):
        return []
