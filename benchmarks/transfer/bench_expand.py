"""Seconds and memory of `expand` on LibreOffice help text in many languages.

    python benchmarks/transfer/bench_expand.py [--data shared/data] [--tokenizer gpt-2] [--add 10000] [--mb 50]

One JSON row: size of the text, distinct pre-tokens, seconds (wall and CPU) of counting and of all, tokens before and
after, and how many English texts are cut otherwise (with `drop_ascii` only some that hold dashes, quotes or letters
beyond ASCII). Add `--ascii` for no such limit.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from tokenlayer.data.documents import Documents
from tokenlayer.data.readers import open_bytes
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.expand import ExpandConfig, count_words, expand, recut


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    args.add_argument("--tokenizer", default="gpt-2")
    args.add_argument("--add", type=int, default=10_000)
    args.add_argument("--mb", type=float, default=50)
    args.add_argument("--ascii", action="store_true")
    given = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        with open_bytes(given.data / "tokenizers" / f"{given.tokenizer}.tokenizer.json.zst") as stream:
            path.write_bytes(stream.read())
        tokenizer = load_tokenizer(path)
    help_texts = given.data / "text" / "help"
    sources = sorted(str(p) for p in help_texts.glob("*.txt.zst") if not p.name.startswith("en"))
    texts = list(Documents(sources, limit_bytes=int(given.mb * 1e6)).texts())
    english = list(Documents([str(help_texts / "en-us.txt.zst")], limit_bytes=2_000_000).texts())
    start = time.perf_counter()
    words = count_words(tokenizer, texts, print)
    counting = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    found = expand(tokenizer, texts, given.add, ExpandConfig(drop_ascii=not given.ascii), warn=print)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    harm = recut(tokenizer, found.tokenizer, english)
    ascii_harm = recut(tokenizer, found.tokenizer, [text for text in english if text.isascii()])
    row = {
        "tokenizer": given.tokenizer,
        "MB": round(sum(len(t.encode()) for t in texts) / 1e6, 1),
        "distinct_pretokens": len(words),
        "added": len(found.added),
        "counting_s": round(counting, 1),
        "all_s": round(seconds, 1),
        "cpu_s": round(cpu, 1),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "tokens_before": found.tokens_before,
        "tokens_after": found.tokens_after,
        "unspelled": len(found.unspelled),
        "unused": len(found.unused),
        "lost": len(found.lost),
        "present": len(found.present),
        "english_changed": f"{harm.changed}/{harm.texts}",
        "english_ascii_changed": f"{ascii_harm.changed}/{ascii_harm.texts}",
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
