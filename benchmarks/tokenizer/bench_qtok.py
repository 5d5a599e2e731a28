"""The paper's tables for several tokenizers against the reference implementation (PyPI qtok 0.11.0).

    python -m venv PEER && PEER/bin/pip install --no-deps qtok==0.11.0 && PEER/bin/pip install tqdm
    python benchmarks/tokenizer/bench_qtok.py PEER/lib/python3.11/site-packages TOKENIZER.json... [--repeats 2]

`reference` reads the files, classifies the union and makes the tables of categories and scripts with the peer's own
functions, on these tokenizers alone (without the 13 shipped vocabularies, figures and report); `compat` makes the same
tables by the same rules; `ours` classifies bytes, by Unicode's Script. A B C A B C in one process, CPU seconds; the
tables of categories must be equal. The peer asks for a key when two entries come out as the same string: answered here.
"""

import argparse
import builtins
import contextlib
import io
import json
import statistics
import sys
import time
from pathlib import Path

from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.qtok.classify import CATEGORIES, classify
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.tables import category_counts, folded, script_percents, union

Table = dict[str, dict[str, int]]


def reference(paths: list[str]) -> Table:
    from qtok.qtoklib.classification import get_classification
    from qtok.qtoklib.tables import get_stats_table, get_unicode_tables
    from qtok.qtoklib.tokenizer import load_vocab

    vocabularies = {Path(path).stem: load_vocab(path) for path in paths}
    everything = {token: [] for one in vocabularies.values() for token in one}
    meta, _ = get_classification(everything)
    table, _ = get_stats_table(vocabularies, everything, meta)
    get_unicode_tables(vocabularies, everything, meta)
    return {row[0]: dict(zip(CATEGORIES, row[1:], strict=True)) for row in table[1:] if row[0] != "Qtok"}


def ours(paths: list[str], config: QtokConfig) -> Table:
    entries = {
        Path(path).stem: classify(LoadedTokenizer(json.loads(Path(path).read_text()), where=path), config)
        for path in paths
    }
    rows = {"union": union(entries)} | entries
    folded({label: script_percents(some) for label, some in rows.items()}, 1.0)
    return {label: category_counts(some) for label, some in rows.items() if label != "union"}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("peer")
    args.add_argument("tokenizers", nargs="+")
    args.add_argument("--repeats", type=int, default=2)
    given = args.parse_args()
    sys.path.append(given.peer)
    builtins.input = lambda *_: ""
    ways = {
        "reference": reference,
        "compat": lambda paths: ours(paths, QtokConfig(compat=True)),
        "ours": lambda paths: ours(paths, QtokConfig()),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found = {}
    for _ in range(given.repeats):
        for way, run in ways.items():
            begun = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found[way] = run(given.tokenizers)
            seconds[way].append(time.process_time() - begun)
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    same = sum(found["compat"][label][name] == row[name] for label, row in found["reference"].items() for name in row)
    print(f"{same} of {len(found['reference']) * len(CATEGORIES)} cells are equal")
    for way, value in middle.items():
        print(f"{way:10} {value:7.2f} s of CPU   {value / middle['reference']:.2f} x   {seconds[way]}")


if __name__ == "__main__":
    main()
