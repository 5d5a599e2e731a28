"""Learning a byte-level BPE: `tokenlayer.learn` with both trainers, against the bare `tokenizers` library.

    python benchmarks/tokenizer/bench_learn.py SOURCE... [--mb 40] [--vocab-size 32000] [--repeats 3]

`bare` is `BpeTrainer` over the same texts, from memory; `ours` is the whole command (reads, trains, measures, writes
the folder) with `trainer=tokenizers` and `trainer=gigabpe`. Each run is a process of its own, in the order A B C A B C.
The merges of all three must be equal. gigabpe cuts like GPT-2 and line by line, so every line is a document here and
the pre-tokenizer is GPT-2's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenlayer.data.documents import Documents
from tokenlayer.tokenizer.memory import peak_memory

WAYS = ("bare", "tokenizers", "gigabpe")


def bare(source: str, vocab_size: int) -> list[object]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from tokenlayer.tokenizer.config import LearnConfig
    from tokenlayer.tokenizer.shape import shape_of
    from tokenlayer.tokenizer.trainers import untrained

    texts = list(Documents([source]).texts())
    shape = shape_of(LearnConfig(vocab_size=vocab_size, pre_tokenizer="gpt2"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = untrained(shape).pre_tokenizer
    names = [str(token["content"]) for token in shape.special]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return list(json.loads(tokenizer.to_str())["model"]["merges"])


def ours(trainer: str, source: str, vocab_size: int) -> list[object]:
    import tokenlayer

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        tokenlayer.learn([source], out=out, trainer=trainer, vocab_size=vocab_size, pre_tokenizer="gpt2")
        return list(json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"])


def write_lines(sources: list[str], out: Path, limit: int) -> None:
    """Every line that is not empty as a document, without spaces at its end."""
    with out.open("w", encoding="utf-8") as file:
        for text in Documents(sources, limit_bytes=limit).texts():
            for line in text.splitlines():
                if line.strip():
                    file.write(json.dumps({"text": line.rstrip()}, ensure_ascii=False) + "\n")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("sources", nargs="+")
    args.add_argument("--mb", type=int, default=40)
    args.add_argument("--vocab-size", type=int, default=32_000)
    args.add_argument("--repeats", type=int, default=3)
    args.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    given = args.parse_args()
    if given.measure:
        start = time.perf_counter()
        work = (given.sources[0], given.vocab_size)
        merges = bare(*work) if given.measure == "bare" else ours(given.measure, *work)
        row = {"seconds": time.perf_counter() - start, "peak_mb": peak_memory() / 1e6}
        print(json.dumps(row | {"merges": hash(json.dumps(merges))}))
        return
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.jsonl"
        write_lines(given.sources, lines, given.mb * 10**6)
        for _ in range(given.repeats):
            for way in WAYS:
                options = ["--vocab-size", str(given.vocab_size), "--measure", way]
                done = subprocess.run(
                    [sys.executable, __file__, str(lines), *options],
                    capture_output=True,
                    text=True,
                    env=os.environ | {"PYTHONHASHSEED": "0"},
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows[way].append(json.loads(done.stdout.splitlines()[-1]))
    same = len({row["merges"] for found in rows.values() for row in found}) == 1
    print(f"{given.mb} MB, vocabulary {given.vocab_size}, {os.cpu_count()} cores; merges equal: {same}")
    base = statistics.median(row["seconds"] for row in rows["bare"])
    for way, found in rows.items():
        seconds = statistics.median(row["seconds"] for row in found)
        memory = statistics.median(row["peak_mb"] for row in found)
        print(f"{way:10} {seconds:6.1f} s  {memory:6.0f} MB  {base / seconds:5.2f} x bare")


if __name__ == "__main__":
    main()
