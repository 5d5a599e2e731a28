"""A vocabulary for each step: our running totals against counting again, at the small and at the paper's size.

    python benchmarks/transfer/zett_sampler.py [--text FILE ...] [--sizes small paper] [--steps 7]

All ways do the same step on the same batch, one after the other (A B C A B C ...): put the batch into the queue, draw
a vocabulary, cut the batch. Medians of wall and CPU seconds; one JSON row for each size and way.

- `ours`: `SubstringPool` and `SampledVocab.encode`;
- `resum`: a table of substrings for each batch, which are added up and sorted at each step, and a `tokenizers`
  pipeline that cuts whole texts: the released code's way, in Python where that is Rust;
- `recount`: counts the substrings of the whole queue at each step, else the same.

The noise is off, so that all give the same tokens and ids, which is checked; ours with noise is timed too (`noisy`).
Peak memory is that of a process that does nothing else, over what imports and texts take.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.documents import Documents
from tokenlayer.transfer.zett.sampler import SPLIT, SamplerConfig, SubstringPool, pre_tokens, whitespace_runs
from tokenlayer.transfer.zett.texts import spans

TEXT = Path(__file__).parents[3] / "shared/data/text/help/en-us.txt.zst"
SIZES = {
    "small": (SamplerConfig(vocab_size=2_048, queue_texts=512, stride=1, noise_median=0.3 / 2_048), 16, 1_500),
    "small-8k": (SamplerConfig(vocab_size=8_192, queue_texts=512, stride=1, noise_median=0.3 / 8_192), 16, 1_500),
    "paper": (SamplerConfig(), 128, 2_048),
}
"""Settings, texts of a batch, characters of a text."""
Vocab = tuple[list[bytes], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=[str(TEXT)])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--memory-of", choices=WAYS, help="Only fills the queue, does two steps and prints the peak.")
    given = parser.parse_args()
    for name in given.sizes:
        config, batch, chars = SIZES[name]
        stream = texts(given.text, chars)
        filled = [[next(stream) for _ in range(batch)] for _ in range(config.queue_texts // batch)]
        batches = [[next(stream) for _ in range(batch)] for _ in range(given.steps)]
        if given.memory_of:
            print(peak_of(given.memory_of, config, filled, batches[:2]))
            continue
        seconds, parts = timed(config, filled, batches)
        for way, (wall, cpu) in seconds.items():
            command = [sys.executable, __file__, "--sizes", name, "--steps", "2", "--memory-of", way]
            said = subprocess.run([*command, "--text", *given.text], capture_output=True, text=True, check=True)
            row = {"size": name, "way": way, "steps": given.steps, "ms": round(1e3 * wall, 1)}
            row |= {"cpu_ms": round(1e3 * cpu, 1), "way / ours": round(wall / seconds["ours"][0], 2)}
            row |= {"peak_MB": int(said.stdout), **(parts if way == "ours" else {})}
            print(json.dumps(row), flush=True)


def texts(paths: list[str], chars: int) -> Iterator[str]:
    """Spans of the texts, pass after pass."""
    turn = 0
    while True:
        yield from spans(Documents(paths).texts(), chars, numpy_generator(0, "bench", turn))
        turn += 1


class Ours:
    """Running totals, and a cut that is kept for each pre-token."""

    def __init__(self, config: SamplerConfig) -> None:
        self.pool = SubstringPool(config)
        self.seconds = {"push": [], "sample": [], "encode": []}
        self.seed = 0

    def fill(self, batch: list[str]) -> None:
        """Puts a batch into the queue before the first step."""
        self.pool.push(batch)

    def step(self, batch: list[str]) -> tuple[Vocab, list[list[int]]]:
        """The vocabulary of a step, and its batch cut by it."""
        marks = [time.perf_counter()]
        self.pool.push(batch)
        marks.append(time.perf_counter())
        vocab = self.pool.sample(self.seed)
        self.seed += 1
        marks.append(time.perf_counter())
        ids = vocab.encode(batch)
        marks.append(time.perf_counter())
        for n, name in enumerate(self.seconds):
            self.seconds[name].append(marks[n + 1] - marks[n])
        return (list(vocab.tokens), vocab.logprobs), ids


class Noisy(Ours):
    """The same with noise."""

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__(replace(config, noise=True))


class Recount:
    """Everything anew."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self.queue: deque[list[str]] = deque()

    def fill(self, batch: list[str]) -> None:
        """Puts a batch into the queue before the first step."""
        self.queue.append(batch)

    def step(self, batch: list[str]) -> tuple[Vocab, list[list[int]]]:
        """The vocabulary of a step, and its batch cut by it."""
        self.queue.append(batch)
        self.queue.popleft()
        vocab = ranked(substrings([text for some in self.queue for text in some], self.config), self.config)
        return vocab, cut_whole(vocab, batch)


class Resum:
    """A table for each batch, added up anew."""

    def __init__(self, config: SamplerConfig) -> None:
        self.config = config
        self.queue: deque[Counter[bytes]] = deque()

    def fill(self, batch: list[str]) -> None:
        """Puts a batch into the queue before the first step."""
        self.queue.append(substrings(batch, self.config))

    def step(self, batch: list[str]) -> tuple[Vocab, list[list[int]]]:
        """The vocabulary of a step, and its batch cut by it."""
        self.queue.append(substrings(batch, self.config))
        self.queue.popleft()
        total: Counter[bytes] = Counter()
        for some in self.queue:
            total.update(some)
        vocab = ranked(total, self.config)
        return vocab, cut_whole(vocab, batch)


WAYS = {"ours": Ours, "resum": Resum, "recount": Recount, "noisy": Noisy}


def substrings(batch: list[str], config: SamplerConfig) -> Counter[bytes]:
    """Scores of all substrings, each distinct pre-token taken apart once."""
    words = Counter(word for text in batch for word in pre_tokens(text))
    scores: Counter[bytes] = Counter()
    for word, times in words.items():
        data = word.encode()
        starts = [at for at, byte in enumerate(data) if byte & 0xC0 != 0x80]
        for start in starts[:: config.stride]:
            for stop in range(start + 1, min(start + config.longest, len(data)) + 1):
                scores[data[start:stop]] += times * (stop - start)
    return scores


def ranked(scores: Counter[bytes], config: SamplerConfig) -> Vocab:
    total = sum(scores.values())
    tokens = [bytes([b]) for b in range(256)] + whitespace_runs(config.longest)
    shares = [min(scores.values()) / total] * 256 + [1.0] * (len(tokens) - 256)
    for part, score in sorted(scores.items(), key=lambda one: (-one[1], one[0])):
        if len(tokens) == config.vocab_size:
            break
        if len(part) > 1 and part.count(b" ") + part.count(b"\n") + part.count(b"\t") < 2:
            tokens.append(part)
            shares.append(score / total)
    return tokens, np.log(shares)


def cut_whole(vocab: Vocab, batch: list[str]) -> list[list[int]]:
    made = Tokenizer(models.Unigram(list(zip(map(to_alphabet, vocab[0]), vocab[1].tolist(), strict=True))))
    made.normalizer = normalizers.Prepend(" ")
    split = pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return [one.ids for one in made.encode_batch_fast(batch, add_special_tokens=False)]


def timed(
    config: SamplerConfig, filled: list[list[str]], batches: list[list[str]]
) -> tuple[dict[str, tuple[float, float]], dict[str, object]]:
    quiet = replace(config, noise=False)
    ways = {name: kind(config if name == "noisy" else quiet) for name, kind in WAYS.items()}
    for way in ways.values():
        for batch in filled:
            way.fill(batch)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for batch in batches:
        found = {}
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = way.step(batch)
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        check(found)
    medians = {name: tuple(map(statistics.median, zip(*some, strict=True))) for name, some in spent.items()}
    parts: dict[str, object] = {
        f"{n}_ms": round(1e3 * statistics.median(s), 1) for n, s in ways["ours"].seconds.items()
    }
    parts |= {"substrings": len(ways["ours"].pool.totals), "tokens": len(found["ours"][0][0]), "cores": os.cpu_count()}
    return medians, parts


def check(found: dict[str, tuple[Vocab, list[list[int]]]]) -> None:
    """The same tokens, log-probabilities and ids without noise."""
    (tokens, logs), ids = found["ours"]
    for name in ("resum", "recount"):
        (other, other_logs), other_ids = found[name]
        if tokens != other or not np.allclose(logs, other_logs, rtol=1e-12) or ids != other_ids:
            raise SystemExit(f"{name} does not give what ours gives")


def peak_of(name: str, config: SamplerConfig, filled: list[list[str]], batches: list[list[str]]) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory_mb("VmRSS")
    way = WAYS[name](replace(config, noise=name == "noisy"))
    for batch in filled:
        way.fill(batch)
    for batch in batches:
        way.step(batch)
    return memory_mb("VmHWM") - before


def memory_mb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1000


if __name__ == "__main__":
    main()
