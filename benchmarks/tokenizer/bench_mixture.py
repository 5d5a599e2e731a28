"""Mixture inference: merges applied to counted text, the program, and memory while counting.

    python benchmarks/tokenizer/bench_mixture.py replay TEXT [--merges 1000] [--repeats 3]
    python benchmarks/tokenizer/bench_mixture.py solve CATEGORY=TEXT... --tokenizer T [--merges 3000] [--gap 0]
    python benchmarks/tokenizer/bench_mixture.py memory TEXT --mb 10

`replay` trains a tokenizer on TEXT and applies its merges to the counts of its pre-tokens: `plain` in the released
code's way, with a copy of the table of all pairs after each merge and a comparison of all keys, in Python; `ours`
compiled and not, in the order plain, compiled, uncompiled, plain, ... in one process. The changes must be equal.
`solve` counts first and times the program alone. `memory` repeats TEXT to a file of that size and counts it; run it
for two sizes. All times are CPU seconds of one thread.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.data.documents import Documents, ReadOptions, Source
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.tokenizer.memory import peak_memory
from tokenlayer.tokenizer.mixture.competition import Competition
from tokenlayer.tokenizer.mixture.config import MixtureConfig
from tokenlayer.tokenizer.mixture.counting import count_categories, count_texts, cut_of, model_words
from tokenlayer.tokenizer.mixture.program import solve
from tokenlayer.tokenizer.mixture.replay import Transcript, replay
from tokenlayer.tokenizer.mixture.rules import MergeRules, read_rules

Changes = list[dict[tuple[int, int], int]]


def plain(words: dict[str, int], rules: MergeRules) -> Changes:
    """The changes after each merge: words are visited where the pair is, the table is copied and compared whole."""
    spelled = {word: rules.symbols(word) for word in words}
    table: dict[tuple[int, int], int] = {}
    where: dict[tuple[int, int], set[str]] = {}
    for word, times in words.items():
        note(spelled[word], times, word, table, where)
    found = [dict(table)]
    for left, right, made in zip(rules.left, rules.right, rules.result, strict=True):
        before = dict(table)
        for word in list(where.get((left, right), ())):
            note(spelled[word], -words[word], word, table, where)
            spelled[word] = merged(spelled[word], left, right, made)
            note(spelled[word], words[word], word, table, where)
        keys = before.keys() | table.keys()
        found.append({k: table.get(k, 0) for k in keys if before.get(k, 0) != table.get(k, 0)})
    return found


def note(symbols: list[int], times: int, word: str, table: dict, where: dict) -> None:
    for pair in pairwise(symbols):
        if min(pair) >= 0:
            table[pair] = table.get(pair, 0) + times
            where.setdefault(pair, set()).add(word)


def merged(symbols: list[int], left: int, right: int, made: int) -> list[int]:
    out, at = [], 0
    while at < len(symbols):
        both = symbols[at : at + 2] == [left, right]
        out.append(made if both else symbols[at])
        at += 2 if both else 1
    return out


def changes(found: Transcript) -> Changes:
    """The same of a transcript; changes to the count there was are left out."""
    out: Changes = [{} for _ in range(found.merges + 1)]
    keys = found.pairs.tolist()
    last: dict[int, int] = {}
    for pair, step, count in zip(found.pair.tolist(), found.step.tolist(), found.count.tolist(), strict=True):
        if last.get(pair, 0) != count:
            out[step][keys[pair] >> 32, keys[pair] & 0xFFFFFFFF] = count
        last[pair] = count
    return out


def timed(work, *given, **named):
    began = time.process_time()
    return work(*given, **named), time.process_time() - began


def trained(texts: list[str], merges: int) -> LoadedTokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    data = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer("gpt2")}
    tokenizer = Tokenizer.from_str(json.dumps({**data, "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    tokenizer.model = models.BPE()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return LoadedTokenizer(json.loads(tokenizer.to_str()), where="bench")


def bench_replay(path: str, merges: int, repeats: int) -> None:
    texts = list(Documents([path]).texts())
    tokenizer = trained(texts, merges)
    rules, cut = read_rules(tokenizer), cut_of(tokenizer)
    words = model_words(count_texts(texts, cut), cut)
    replay({"ab": 1}, rules.first(1), compiled=True)
    seconds: dict[str, list[float]] = {"plain": [], "compiled": [], "uncompiled": []}
    for _ in range(repeats):
        slow, took = timed(plain, words, rules)
        seconds["plain"].append(took)
        for name in ("compiled", "uncompiled"):
            fast, took = timed(replay, words, rules, compiled=name == "compiled")
            seconds[name].append(took)
            assert changes(fast) == slow, name
    size = sum(len(t.encode()) for t in texts)
    row = {"bytes": size, "words": len(words), "merges": len(rules), "pairs": len(fast.pairs)}
    print(json.dumps(row | {name: statistics.median(took) for name, took in seconds.items()}))


def bench_solve(specs: list[str], where: str, merges: int, gap: float) -> None:
    tokenizer = load_tokenizer(where)
    rules, cut = read_rules(tokenizer).first(merges), cut_of(tokenizer)
    transcripts, count_s, replay_s = {}, 0.0, 0.0
    for spec in specs:
        name, _, path = spec.partition("=")
        counts, took = timed(count_texts, Documents([path]).texts(), cut)
        count_s += took
        transcripts[name], took = timed(replay, model_words(counts, cut), rules)
        replay_s += took
    competition, built = timed(Competition, transcripts, rules)
    found, took = timed(solve, competition, MixtureConfig(gap=gap, range_slack=0.0))
    row = {"categories": len(specs), "merges": len(rules), "count": count_s, "replay": replay_s, "build": built}
    row |= {"solve": took, "rounds": found.rounds, "rows": found.rows, "slack": found.objective, "gap": found.gap}
    print(json.dumps(row | {"peak_mb": peak_memory() / 1e6}))


def bench_memory(path: str, mb: int) -> None:
    text = "\n\n".join(Documents([path]).texts())
    cut = cut_of(trained(["a b"], 1))
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder) / "big.txt"
        with big.open("w", encoding="utf-8") as file:
            written = 0
            while written < mb * 10**6:
                written += file.write(f"{text}\n\n")
        del text
        before = peak_memory()
        sources = {"big": [Source(str(big))]}
        counts, took = timed(count_categories, sources, cut, Path(folder) / "counts", options=ReadOptions())
        row = {"mb": os.path.getsize(big) / 1e6, "distinct": counts["big"].distinct, "cpu": took}
    print(json.dumps(row | {"peak_mb_before": before / 1e6, "peak_mb": peak_memory() / 1e6}))


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", choices=("replay", "solve", "memory"))
    args.add_argument("texts", nargs="+")
    args.add_argument("--tokenizer")
    args.add_argument("--merges", type=int, default=1000)
    args.add_argument("--repeats", type=int, default=3)
    args.add_argument("--gap", type=float, default=0.0)
    args.add_argument("--mb", type=int, default=10)
    given = args.parse_args()
    if given.what == "replay":
        bench_replay(given.texts[0], given.merges, given.repeats)
    elif given.what == "solve":
        bench_solve(given.texts, given.tokenizer, given.merges, given.gap)
    else:
        bench_memory(given.texts[0], given.mb)


if __name__ == "__main__":
    main()
