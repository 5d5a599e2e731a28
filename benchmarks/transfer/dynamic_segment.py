"""Merging the frequent pairs of a batch: ours against counting all pairs again for each merge.

    python benchmarks/transfer/dynamic_segment.py --model SMOLLM2 --text help-en-us.txt [--repeats 3]

A batch has `--texts` stretches of the file, cut to `--tokens` tokens each. Every way starts from the tokens of the
model's tokenizer and their runs, and gives the units of all texts; all give the same merges and units. Runs alternate
(A B C A B C ...) in one process; times are CPU seconds, medians. One row of JSON for each boundary.

- `ours`: `MergePool`; `all`: the same until nothing can be merged;
- `recount`: as the authors' code does it, all pairs of whole texts with a validity that is remembered for each pair;
- `recount of runs`: the same, but on runs alone, so that it never sees a pair that a boundary parts;
- `tokenizer`: cutting the texts into tokens and finding the runs, for comparison.
"""

import argparse
import json
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.dynamic.boundaries import BOUNDARIES, JoinRule, PlainText
from tokenlayer.transfer.dynamic.merging import MergePool
from tokenlayer.transfer.dynamic.segment import DynamicBPE

Units = list[list[bytes]]
Way = Callable[[], tuple[list[tuple[bytes, bytes]], Units]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--merges", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    vocab = tokenizer.vocab
    whole = args.text.read_text(encoding="utf-8")
    step = len(whole) // args.texts
    texts = [whole[n * step : n * step + min(step, args.tokens * 8)] for n in range(args.texts)]
    for boundary in BOUNDARIES:
        bpe = DynamicBPE(tokenizer, boundary=boundary)
        cut = partial(bpe._cut, texts, max_length=args.tokens, specials=True)
        plain = cut()
        merge: dict[str, Way] = {
            "ours": lambda plain=plain: ours(plain, vocab, args.merges),
            "recount": lambda plain=plain: recount(plain, vocab, args.merges),
            "recount of runs": lambda plain=plain: recount_runs(plain, vocab, args.merges),
        }
        ways: dict[str, Callable[[], Any]] = {
            **merge,
            "all": lambda plain=plain: ours(plain, vocab, None),
            "tokenizer": cut,
        }
        results = {name: way() for name, way in merge.items()}
        seconds = timed(ways, args.repeats)
        row = {
            "boundary": boundary,
            "texts": len(plain),
            "tokens": sum(len(text.ids) for text in plain),
            "tokens in runs": sum(end - begin for text in plain for begin, end in text.runs),
            "merges": len(results["ours"][0]),
            "units": sum(map(len, results["ours"][1])),
            "all merges": len(ways["all"]()[0]),
            "same": all(found == results["ours"] for found in results.values()),
            "seconds": {name: round(some, 4) for name, some in seconds.items()},
            "recount / ours": round(seconds["recount"] / seconds["ours"], 1),
            "recount of runs / ours": round(seconds["recount of runs"] / seconds["ours"], 1),
            "peak MB": {name: peak_mb(way) for name, way in merge.items()},
        }
        print(json.dumps(row), flush=True)


def timed(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(some) for name, some in seconds.items()}


def peak_mb(way: Way) -> float:
    """Most memory that Python held at once for it."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / 1e6, 1)


def ours(plain: Sequence[PlainText], vocab: ByteVocab, most: int | None) -> tuple[list[tuple[bytes, bytes]], Units]:
    pool = MergePool(vocab, JoinRule(vocab, None))
    starts = [[pool.add(text.ids[begin:end]) for begin, end in text.runs] for text in plain]
    pool.merge_frequent(most)
    rows: Units = []
    for text, places in zip(plain, starts, strict=True):
        row, done = [], 0
        for (begin, end), start in zip(text.runs, places, strict=True):
            row += [vocab.tokens[i] for i in text.ids[done:begin]]
            cut = pool.units(start, end - begin, len(pool.made))
            row += [b"".join([vocab.tokens[i] for i in text.ids[begin + a : begin + b]]) for a, b in cut]
            done = end
        rows.append(row + [vocab.tokens[i] for i in text.ids[done:]])
    return pool.made, rows


def recount(plain: Sequence[PlainText], vocab: ByteVocab, most: int) -> tuple[list[tuple[bytes, bytes]], Units]:
    """Each text is a list of (bytes, number of the run, 0 outside of all)."""
    rule = JoinRule(vocab, None)
    rows: list[list[tuple[bytes, int]]] = []
    for text in plain:
        runs = [0] * len(text.ids)
        for number, (begin, end) in enumerate(text.runs, 1):
            runs[begin:end] = [number] * (end - begin)
        rows.append([(vocab.tokens[i], run) for i, run in zip(text.ids, runs, strict=True)])

    @cache
    def valid(left: tuple[bytes, int], right: tuple[bytes, int]) -> bool:
        return bool(left[1] and left[1] == right[1] and rule(left[0] + right[0]))

    made: list[tuple[bytes, bytes]] = []
    while len(made) < most:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for row in rows:
            counts.update((left[0], right[0]) for left, right in pairwise(row) if valid(left, right))
        if not counts:
            break
        made.append(max(counts, key=counts.__getitem__))
        rows = [merged_marked(row, *made[-1]) for row in rows]
    return made, [[data for data, _ in row] for row in rows]


def merged_marked(row: list[tuple[bytes, int]], one: bytes, two: bytes) -> list[tuple[bytes, int]]:
    out, at, last = [], 0, len(row) - 1
    while at <= last:
        data, run = row[at]
        if data == one and at < last and row[at + 1] == (two, run) and run:
            out.append((one + two, run))
            at += 2
        else:
            out.append(row[at])
            at += 1
    return out


def recount_runs(plain: Sequence[PlainText], vocab: ByteVocab, most: int) -> tuple[list[tuple[bytes, bytes]], Units]:
    rule = JoinRule(vocab, None)
    tokens = [[vocab.tokens[i] for i in text.ids] for text in plain]
    runs = [row[begin:end] for row, text in zip(tokens, plain, strict=True) for begin, end in text.runs]
    made: list[tuple[bytes, bytes]] = []
    while len(made) < most:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for run in runs:
            counts.update(pairwise(run))
        allowed = [pair for pair in counts if rule(pair[0] + pair[1])]
        if not allowed:
            break
        one, two = max(allowed, key=counts.__getitem__)
        made.append((one, two))
        for run in runs:
            if one in run:
                merge_run(run, one, two)
    rest = iter(runs)
    rows: Units = []
    for row, text in zip(tokens, plain, strict=True):
        out, done = [], 0
        for begin, end in text.runs:
            out += row[done:begin] + next(rest)
            done = end
        rows.append(out + row[done:])
    return made, rows


def merge_run(run: list[bytes], one: bytes, two: bytes) -> None:
    at = 0
    while at + 1 < len(run):
        if run[at] == one and run[at + 1] == two:
            run[at : at + 2] = [one + two]
        at += 1


if __name__ == "__main__":
    main()
