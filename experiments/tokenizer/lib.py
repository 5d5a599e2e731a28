"""LiB against words, BPE inside words, BPE across spaces and Unigram across spaces, at equal vocabulary size.

    python experiments/tokenizer/lib.py --texts es=help/es.txt.zst --texts de=help/de.txt.zst \\
        --texts zh=help/zh-cn.txt.zst --out RUNS

The lines of a text are taken once each, shuffled by the seed; a tenth is held out. All tokenizers are of characters,
cut line by line, and as large as LiB's lexicon. LiB counts the bytes of unknown characters, the others one token each.
One line per arm is kept in `RUNS/runs.jsonl`; an arm that is there is not repeated. `--quick` takes 40,000 characters
and one seed. The tables are printed at the end.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tokenlayer.data.documents import Documents
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.files import compare
from tokenlayer.tokenizer.lib.learner import LibLearner, articles
from tokenlayer.tokenizer.lib.tokenizer import LibTokenizer

UNKNOWN = "<unk>"
ABLATIONS = {
    "no forgetting": {"forgets": False},
    "no re-ranking": {"reranks": False},
    "no look at contexts": {"inspect_context": False},
}
LOOKS = 6
"""How often EvalIndex is measured while LiB learns."""


def split(path: str, chars: int, seed: int) -> tuple[list[str], list[str]]:
    """Distinct lines of a file, shuffled, of so many characters: nine tenths to learn from, one held out."""
    lines = list(dict.fromkeys(line for text in Documents([path]).texts() for line in text.split("\n") if line.strip()))
    random.Random(seed).shuffle(lines)
    taken, size = [], 0
    for line in lines:
        taken.append(line)
        size += len(line)
        if size >= chars:
            break
    held = len(taken) // 10
    return taken[held:], taken[:held]


def row_of(tokens: list[str], chars: int, vocab: int, began: float) -> dict:
    return {
        "tokens": len(tokens),
        "types": len(set(tokens)),
        "vocab": vocab,
        "length": chars / len(tokens),
        "seconds": round(time.process_time() - began, 1),
    }


def lib(train: list[str], held: list[str], config: LibConfig, passes: int, look: bool) -> tuple[dict, LibTokenizer]:
    """Learns, and looks at EvalIndex on the held-out lines on the way."""
    steps = max(passes * len(train) // config.article, 1)
    learner, looks, began = LibLearner(config), [], time.process_time()
    for done, article in enumerate(articles(train, config.article, steps), 1):
        learner.partial_fit(article)
        if look and done % max(steps // LOOKS, 1) == 0:
            found = LibTokenizer(learner.chunks).evaluate(held[:200])
            looks.append((done, found.lexicon, round(found.token_length, 2), round(found.eval_index, 3)))
    kept = learner.lexicon if config.forgets else learner.chunks  # without forgetting all stays on probation
    tokenizer = LibTokenizer(kept)
    tokens = [token for line in held for token in tokenizer.tokenize(line)]
    row = row_of(tokens, sum(map(len, held)), len(kept), began)
    row["bytes"] = sum(token not in tokenizer.rank for token in tokens)
    words = sum(len(chunk.split()) > 1 for chunk in kept)
    return {**row, "steps": steps, "looks": looks, "several words": words, "learned": len(learner.chunks)}, tokenizer


def longest_match(held: list[str], tokenizer: LibTokenizer) -> dict:
    """The same lexicon, cut by longest match."""
    began, known, tokens = time.process_time(), tokenizer.rank, []
    most = max(map(len, known))
    for line in held:
        at = 0
        while at < len(line):
            found = next((line[at : at + n] for n in range(most, 0, -1) if line[at : at + n] in known), line[at])
            tokens += [found] if found in known else [f"<{byte}>" for byte in found.encode()]
            at += len(found)
    return row_of(tokens, sum(map(len, held)), len(known), began)


def words(train: list[str], held: list[str], vocab: int) -> dict:
    """Words between white space: a token each, however rare."""
    began = time.process_time()
    tokens = [word for line in held for word in line.split()]
    return row_of(tokens, sum(map(len, held)), len({word for line in train for word in line.split()}), began)


def baseline(kind: str, across: bool, longest: int) -> Callable[[list[str], list[str], int], dict]:
    """A trainer of the `tokenizers` library over characters, inside words (a space begins one) or across spaces."""

    def run(train: list[str], held: list[str], vocab: int) -> dict:
        began = time.process_time()
        given = {"vocab_size": vocab, "special_tokens": [UNKNOWN], "show_progress": False}
        if kind == "bpe":
            tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
            trainer = trainers.BpeTrainer(min_frequency=2, max_token_length=longest, **given)
        else:
            tokenizer = Tokenizer(models.Unigram())
            trainer = trainers.UnigramTrainer(unk_token=UNKNOWN, max_piece_length=longest, **given)
        if not across:
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
        tokenizer.train_from_iterator(train, trainer)
        tokens = [token for line in tokenizer.encode_batch(held) for token in line.tokens]
        return row_of(tokens, sum(map(len, held)), tokenizer.get_vocab_size(), began)

    return run


ARMS = {
    "words": words,
    "BPE inside words": baseline("bpe", False, 64),
    "BPE across spaces": baseline("bpe", True, 64),
    "Unigram across spaces": baseline("unigram", True, 16),
}


class Log:
    """Rows that are kept as they come; what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, *key: object) -> bool:
        """Whether a language, seed and arm are there."""
        return any((row["language"], row["seed"], row["arm"]) == key for row in self.rows)

    def add(self, language: str, seed: int, arm: str, row: dict) -> None:
        """Keeps a row, unless it is there."""
        if self.has(language, seed, arm):
            return
        self.rows.append({"language": language, "seed": seed, "arm": arm, **row})
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1], ensure_ascii=False) + "\n")
        print(self.rows[-1], flush=True)


def compared(log: Log, language: str, path: str, seed: int, args: argparse.Namespace) -> None:
    """LiB and its baselines on one language and seed."""
    if all(log.has(language, seed, arm) for arm in ("LiB", "LiB, tokenizer.json", "LiB, longest match", *ARMS)):
        return
    train, held = split(path, args.chars, seed)
    row, tokenizer = lib(train, held, LibConfig(seed=seed, **numbers(args)), args.passes, seed == args.seeds[0])
    log.add(language, seed, "LiB", {**row, "lines": len(train), "held": sum(map(len, held))})
    cut = compare(tokenizer, held)
    share = cut.other / cut.lines
    log.add(language, seed, "LiB, tokenizer.json", {"tokens": cut.json_tokens, "vocab": row["vocab"], "other": share})
    log.add(language, seed, "LiB, longest match", longest_match(held, tokenizer))
    for arm, run in ARMS.items():
        if not log.has(language, seed, arm):
            log.add(language, seed, arm, run(train, held, row["vocab"]))


def ablated(log: Log, language: str, path: str, seed: int, args: argparse.Namespace) -> None:
    """LiB with one part switched off at a time."""
    train, held = split(path, args.chars, seed)
    for arm, changes in ABLATIONS.items():
        if not log.has(language, seed, arm):
            config = LibConfig(seed=seed, **numbers(args), **changes)
            log.add(language, seed, arm, lib(train, held, config, args.passes, False)[0])


def numbers(args: argparse.Namespace) -> dict:
    return {"article": args.article, "life": args.life, "out_rate": args.out_rate}


def table(rows: list[dict]) -> None:
    """Means over seeds, and each arm's tokens against LiB's of the same seed."""
    print("| language | arm | tokens | against LiB | range | vocabulary | types used | characters a token |")
    print("|---|---|---|---|---|---|---|---|")
    for language in dict.fromkeys(row["language"] for row in rows):
        mine = [row for row in rows if row["language"] == language]
        base = {row["seed"]: row["tokens"] for row in mine if row["arm"] == "LiB"}
        for arm in dict.fromkeys(row["arm"] for row in mine):
            some = [row for row in mine if row["arm"] == arm]
            ratios = [100 * (row["tokens"] / base[row["seed"]] - 1) for row in some]
            mean = {k: statistics.mean(row.get(k, 0) for row in some) for k in ("tokens", "vocab", "types", "length")}
            cells = [f"{mean['tokens']:,.0f}", f"{statistics.mean(ratios):+.1f} %"]
            cells += [f"{min(ratios):+.1f} to {max(ratios):+.1f}", f"{mean['vocab']:,.0f}"]
            cells += [f"{mean['types']:,.0f}", f"{mean['length']:.2f}"] if mean["types"] else ["", ""]
            print(f"| {language} | {arm} | " + " | ".join(cells) + " |")
    print("\n| language | seed | step: lexicon, characters a token, EvalIndex |\n|---|---|---|")
    for row in rows:
        if row["arm"] == "LiB" and row["looks"]:
            looks = "; ".join(f"{n}: {size:,}, {length}, {index}" for n, size, length, index in row["looks"])
            print(f"| {row['language']} | {row['seed']} | {looks} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", action="append", required=True, metavar="LANGUAGE=PATH")
    parser.add_argument("--chars", type=int, default=200_000, help="Characters of each text.")
    parser.add_argument("--passes", type=int, default=10, help="How often LiB reads the text.")
    parser.add_argument("--article", type=int, default=50)
    parser.add_argument("--life", type=int, default=10)
    parser.add_argument("--out-rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.chars, args.seeds, args.passes, args.article, args.life = 30_000, [0], 2, 40, 4
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.out / "runs.jsonl")
    for part in (compared, ablated):
        for seed in args.seeds:
            for spec in args.texts:
                part(log, *spec.split("=", 1), seed, args)
    table(log.rows)


if __name__ == "__main__":
    main()
