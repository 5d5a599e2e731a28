"""Tokens of a corpus by counting distinct pre-tokens, against encoding every text.

    python benchmarks/data/bench_counts.py TOKENIZER SOURCE... [--also TOKENIZER ...] [--mb 40] [--repeats 3]

`texts` encodes every document with `tokenizers` (`encode_batch_fast`, all cores); `counts` counts distinct
pre-tokens with `Cutter` and tokenises each once; `cutting` is its first part; `again` its second: what a further
tokenizer with the same pre-tokenizer costs. With `--also` all are sums over several tokenizers, none reusing another's
counts. In the order A B A B; the totals must be equal. CPU seconds over all cores, then wall seconds.
"""

import argparse
import os
import statistics
import time

from tokenizers import Tokenizer

from tokenlayer.data.counts import count_pretokens, token_total
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Document, Documents
from tokenlayer.models.tokenizer_files import load_tokenizer

WAYS = ("texts", "counts", "cutting", "again")


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def encode_all(tokenizer: Tokenizer, documents: list[Document]) -> int:
    found = tokenizer.encode_batch_fast([d.text for d in documents], add_special_tokens=False)
    return sum(len(one.ids) for one in found)


def measure(tokenizer: Tokenizer, documents: list[Document]) -> dict[str, tuple[float, float]]:
    times = [now()]
    whole = encode_all(tokenizer, documents)
    times.append(now())
    cutter = Cutter(tokenizer)
    counts = count_pretokens(documents, cutter)
    times.append(now())
    total = sum(token_total(counts, cutter.lengths).values())
    times.append(now())
    if total != whole:
        raise SystemExit(f"{total} tokens by counts, {whole} by texts")
    print(f"{whole} tokens; {counts.total} pre-tokens, {counts.distinct} distinct")

    def between(a: int, b: int) -> tuple[float, float]:
        return times[b][0] - times[a][0], times[b][1] - times[a][1]

    return {"texts": between(0, 1), "counts": between(1, 3), "cutting": between(1, 2), "again": between(2, 3)}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer")
    args.add_argument("sources", nargs="+")
    args.add_argument("--also", nargs="*", default=[])
    args.add_argument("--mb", type=int, default=40)
    args.add_argument("--repeats", type=int, default=3)
    given = args.parse_args()
    documents = list(Documents(given.sources, limit_bytes=given.mb * 10**6))
    size = sum(len(d.text.encode()) for d in documents) / 1e6
    backends = [load_tokenizer(one).backend for one in (given.tokenizer, *given.also)]
    print(f"{size:.0f} MB, {len(documents)} documents, {len(backends)} tokenizers; {os.cpu_count()} cores")
    runs = []
    for _ in range(given.repeats):
        found = [measure(one, documents) for one in backends]
        runs.append({way: [sum(one[way][n] for one in found) for n in (0, 1)] for way in WAYS})
    middle = {way: [statistics.median(run[way][n] for run in runs) for n in (0, 1)] for way in WAYS}
    for way, (cpu, wall) in middle.items():
        print(f"{way:8} {cpu:6.2f} s of CPU  {cpu / middle['texts'][0]:5.2f} x   {wall:6.2f} s wall")


if __name__ == "__main__":
    main()
