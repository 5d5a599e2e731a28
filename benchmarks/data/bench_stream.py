"""Counts the pre-tokens of a long stream in bounded memory.

    python benchmarks/data/bench_stream.py TOKENIZER SOURCE... [--gb 1]

The documents of the sources are read round and round until `--gb` 10^9 bytes have passed, as one stream; nothing of it
is kept but the counts. Printed: CPU and wall time, pre-tokens, distinct ones, tokens, and the peak memory.
"""

import argparse
import resource
import time
from collections.abc import Iterator

from tokenlayer.data.counts import count_pretokens, token_total
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Document, Documents
from tokenlayer.models.tokenizer_files import load_tokenizer


def stream(sources: list[str], most: float) -> Iterator[Document]:
    passed = 0
    while passed < most:
        for document in Documents(sources):
            yield document
            passed += len(document.text.encode())
            if passed >= most:
                return


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tokenizer")
    args.add_argument("sources", nargs="+")
    args.add_argument("--gb", type=float, default=1.0)
    given = args.parse_args()
    cutter = Cutter(load_tokenizer(given.tokenizer).backend)
    before, begun, clock = peak_mb(), time.process_time(), time.perf_counter()
    counts = count_pretokens(stream(given.sources, given.gb * 1e9), cutter)
    used, passed = time.process_time() - begun, time.perf_counter() - clock
    counted = peak_mb()
    total = sum(token_total(counts, cutter.lengths).values())
    size = counts.bytes.total() / 1e6
    print(f"{size:.0f} MB, {counts.documents.total()} documents, {total} tokens")
    print(f"{counts.total} pre-tokens, {counts.distinct} distinct")
    print(f"{used:.1f} s of CPU ({size / used:.1f} MB/s), {passed:.1f} s in all")
    print(f"peak memory {before:.0f} MB before, {counted:.0f} MB after counting, {peak_mb():.0f} MB after encoding")


if __name__ == "__main__":
    main()
