"""Tokens of a corpus by counting distinct pre-tokens, against encoding every text.

    python benchmarks/data/bench_counts.py TOKENIZER SOURCE... [--mb 40] [--repeats 3]

`texts` encodes every document with `tokenizers` (`encode_batch_fast`, all cores); `counts` counts distinct
pre-tokens with `Cutter` and tokenises each once, which is how further tokenizers with the same pre-tokenizer get their
totals for almost nothing (`again`). In the order A B A B; the totals must be equal.
"""

import argparse
import os
import statistics
import time

from tokenlayer.data.counts import count_pretokens, token_total
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Documents
from tokenlayer.models.tokenizer_files import load_tokenizer


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer")
    args.add_argument("sources", nargs="+")
    args.add_argument("--mb", type=int, default=40)
    args.add_argument("--repeats", type=int, default=3)
    given = args.parse_args()
    documents = list(Documents(given.sources, limit_bytes=given.mb * 10**6))
    tokenizer = load_tokenizer(given.tokenizer)
    seconds: dict[str, list[float]] = {"texts": [], "counts": [], "again": []}
    for _ in range(given.repeats):
        start = time.perf_counter()
        found = tokenizer.backend.encode_batch_fast([d.text for d in documents], add_special_tokens=False)
        whole = sum(len(one.ids) for one in found)
        seconds["texts"].append(time.perf_counter() - start)
        del found
        start = time.perf_counter()
        cutter = Cutter(tokenizer.backend)
        counts = count_pretokens(documents, cutter)
        total = sum(token_total(counts, cutter.lengths).values())
        seconds["counts"].append(time.perf_counter() - start)
        start = time.perf_counter()
        token_total(counts, cutter.lengths)
        seconds["again"].append(time.perf_counter() - start)
        if total != whole:
            raise SystemExit(f"{total} tokens by counts, {whole} by texts")
    size = sum(len(d.text.encode()) for d in documents) / 1e6
    print(f"{size:.0f} MB, {len(documents)} documents, {whole} tokens; {os.cpu_count()} cores")
    print(f"{counts.total} pre-tokens, {counts.distinct} distinct")
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    for way, value in middle.items():
        print(f"{way:7} {value:6.2f} s  {size / value:7.1f} MB/s  {middle['texts'] / value:6.1f} x texts")


if __name__ == "__main__":
    main()
