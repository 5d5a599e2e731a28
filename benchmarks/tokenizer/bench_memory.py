"""Expected against measured peak memory of training, each run in its own process.

    python benchmarks/tokenizer/bench_memory.py FOLDER... [--kinds bpe unigram] [--mb 5 20 50]

Prints distinct pre-tokens, their characters and the peak, which is how the numbers of `tokenizer/memory.py` were
found, and the error of the estimate.
"""

import argparse
import json
import subprocess
import sys

from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Documents, ReadOptions, parse_source
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.memory import estimate_training, peak_memory
from tokenlayer.tokenizer.shape import shape_of
from tokenlayer.tokenizer.trainers import train_model, untrained


def config_of(kind: str, limit: int) -> LearnConfig:
    return LearnConfig(kind=kind, limit_bytes=limit, trainer="tokenizers")


def train(sources: list[str], kind: str, limit: int) -> None:
    config = config_of(kind, limit)
    documents = Documents(sources, limit_bytes=limit)
    before = peak_memory()
    train_model(documents.texts, shape_of(config), config)
    print(json.dumps({"before_mb": before / 1e6, "peak_mb": peak_memory() / 1e6, "bytes": documents.tally.bytes}))


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("sources", nargs="+")
    args.add_argument("--kinds", nargs="+", default=["bpe", "unigram", "wordpiece"])
    args.add_argument("--mb", nargs="+", type=int, default=[5, 20, 50])
    args.add_argument("--train", action="store_true")
    given = args.parse_args()
    if given.train:
        train(given.sources, given.kinds[0], given.mb[0] * 10**6)
        return
    for kind in given.kinds:
        for mb in given.mb:
            config = config_of(kind, mb * 10**6)
            shape = shape_of(config)
            command = [sys.executable, __file__, *given.sources, "--train", "--kinds", kind, "--mb", str(mb)]
            row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            cutter, seen = Cutter(untrained(shape)), set()
            for text in Documents(given.sources, limit_bytes=mb * 10**6).texts():
                seen.update(cutter(text))
            expected = estimate_training([parse_source(s) for s in given.sources], config, shape, options=ReadOptions())
            row |= {"kind": kind, "distinct": len(seen), "characters": sum(map(len, seen))}
            row |= {"expected_mb": expected.memory_bytes / 1e6, "expected_distinct": expected.distinct}
            row |= {"exponent": expected.heaps_exponent, "error": expected.memory_bytes / 1e6 / row["peak_mb"] - 1}
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
