"""Traps of published tokenizers, and what they do to a model: the check of ADT at small scale.

    python experiments/tokenizer/adt.py mining --tokenizers DIR --corpus en=TEXT --lexicon zh=dict.txt --out RUNS
    python experiments/tokenizer/adt.py model --model DIR --corpus en=TEXT --out RUNS

`mining`: for each tokenizer.json one folder below DIR, of some random candidates the share that is really cut wrongly,
the share of them that other tokenizers cut wrongly too, and the share of random pairs of words that is cut wrongly.
`model`: two-choice questions for three draws of instances, glued, with a gap (control), and with the boundary forced;
the same for pairs that are cut right. One line of each run is kept in `RUNS/runs.jsonl`; what is there is not repeated.
`--quick` takes few candidates. The tables are printed at the end and written to docs/results by hand.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from tokenlayer.core.errors import TokenLayerError
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.documents import Documents
from tokenlayer.models.loading import load_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.adt.build import build_instances, matched
from tokenlayer.tokenizer.adt.evaluate import (
    CONTROL,
    FORCED,
    TwoChoices,
    difference_in_difference,
    differences,
    error_rates,
)
from tokenlayer.tokenizer.adt.join import Pair
from tokenlayer.tokenizer.adt.languages import is_word, language
from tokenlayer.tokenizer.adt.lexicon import count_words, read_lexicon
from tokenlayer.tokenizer.adt.mine import AdtConfig, mine_traps, try_pair
from tokenlayer.tokenizer.adt.verify import cut_at, wilson


def lexicons(corpora: list[str], files: list[str], least: int) -> dict[str, dict[str, float]]:
    """Word -> frequency by language; words of a corpus that occur fewer than `least` times are left out."""
    found = {}
    texts: dict[str, list[str]] = {}
    for spec in corpora:
        lang, path = spec.split("=", 1)
        texts.setdefault(lang, []).append(path)
    for lang, paths in texts.items():
        counted = count_words(Documents(paths).texts(), language(lang), load_nothing())
        found[lang] = {word: n for word, n in counted.items() if n >= least}
    for spec in files:
        lang, path = spec.split("=", 1)
        found[lang] = read_lexicon(path, language(lang))
    return found


def load_nothing():
    """Languages with spaces need no vocabulary to be counted."""
    from tokenlayer.core.vocab import ByteVocab

    return ByteVocab((), (), ())


def random_rate(tokenizer, lexicon: dict[str, float], config: AdtConfig, n: int) -> tuple[int, int]:
    """How many of `n` random pairs of frequent words are cut wrongly, and how many were tried."""
    of = language(config.lang)
    words = [w for w in lexicon if is_word(w, of, config.least_letters)]
    words = sorted(words, key=lambda w: (-lexicon[w], w))[: config.top_words]
    picked = numpy_generator(config.seed, "random pairs").integers(0, len(words), size=(n, 2)).tolist()
    sentence = of.templates[0].sentence
    wrong = sum(try_pair(tokenizer, Pair(words[a], words[b], "", 0), sentence).wrong for a, b in picked)
    return wrong, n


def mine_all(args, keep) -> None:
    """Mines every tokenizer in every language, then tries each one's traps on all others."""
    tokenizers = {
        path.parent.name: load_tokenizer(path.parent) for path in sorted(args.tokenizers.glob("*/tokenizer.json"))
    }
    n = 200 if args.quick else args.tried
    for lang, lexicon in lexicons(args.corpus, args.lexicon, 1 if args.quick else 5).items():
        for name, tokenizer in tokenizers.items():
            key = {"part": "mining", "lang": lang, "tokenizer": name}
            if keep.has(key):
                continue
            _ = tokenizer.vocab
            began = time.process_time()
            config = AdtConfig(lang, "lexicon", "entries", order="random", tried=n, per_trap=0, per_word=0)
            try:
                mined = mine_traps(tokenizer, lexicon, config)
            except TokenLayerError as error:
                keep.add(key | {"refused": error.message})
                continue
            seconds = time.process_time() - began
            random, of = random_rate(tokenizer, lexicon, config, n)
            others = {
                other: sum(
                    cut_at(their, t.sentence, t.span, (t.boundary, t.boundary)).wrong for t in mined.confirmed[:500]
                )
                / len(mined.confirmed[:500])
                for other, their in tokenizers.items()
                if mined.confirmed
            }
            keep.add(
                key
                | {
                    "entries": mined.entries,
                    "words": mined.words,
                    "pairs": mined.pairs,
                    "tried": mined.tried,
                    "wrong": mined.wrong,
                    "hit": mined.hit,
                    "random wrong": random,
                    "random tried": of,
                    "CPU seconds": round(seconds, 1),
                    "transfer": others,
                    "examples": [[t.w1, t.w2, t.trap, list(t.tokens)] for t in mined.confirmed[:5]],
                }
            )


def ask_model(args, keep) -> None:
    """Asks one model about three draws of instances, with matched pairs whose cut is right."""
    n = 4 if args.quick else args.instances
    tokenizer = load_tokenizer(args.model)
    (lang, lexicon), *_ = lexicons(args.corpus, args.lexicon, 1 if args.quick else 5).items()
    chooser = None
    for seed in range(args.seeds):
        key = {"part": "model", "lang": lang, "model": args.model.name, "seed": seed}
        if keep.has(key):
            continue
        chooser = chooser or TwoChoices(load_model(args.model, "decoder", dtype="float32")[0], tokenizer)
        began = time.process_time()
        mined = mine_traps(tokenizer, lexicon, AdtConfig(lang, order="random", tried=20 * n, seed=seed))
        wrong = build_instances(mined.confirmed, tokenizer, lang=lang, seed=seed).instances[:n]
        right = matched(wrong, build_instances(mined.right, tokenizer, lang=lang, seed=seed).instances)
        answers = chooser.ask(wrong) + chooser.ask(right, forced=False)
        ids = {"wrong": [i.id for i in wrong], "right": [i.id for i in right]}
        keep.add(
            key
            | {
                "rates": [
                    [cut, condition, asdict(rate)] for _, cut, condition, rate in error_rates([*wrong, *right], answers)
                ],
                "glued - control": {cut: differences(some, answers, CONTROL) for cut, some in ids.items()},
                "glued - forced": differences(ids["wrong"], answers, FORCED),
                "answers": [[a.id, a.condition, a.verdict, round(a.margin, 4)] for a in answers],
                "CPU seconds": round(time.process_time() - began, 1),
            }
        )


class Kept:
    """Lines of `runs.jsonl`."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "runs.jsonl"
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def has(self, key: dict) -> bool:
        """Whether a run was made."""
        return any(key.items() <= row.items() for row in self.rows)

    def add(self, row: dict) -> None:
        """Keeps a run."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_mining(rows: list[dict]) -> None:
    print(
        "| language | tokenizer | entries | candidates | cut wrongly | by the trap | random pairs | transfer | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "refused" in row:
            print(f"| {row['lang']} | {row['tokenizer']} | refused: {row['refused']} ||||||||")
            continue
        low, high = wilson(row["wrong"], row["tried"])
        others = [rate for name, rate in row["transfer"].items() if name != row["tokenizer"]]
        spread = f"{min(others):.0%} to {max(others):.0%}" if others else "-"
        random = row["random wrong"] / row["random tried"]
        print(
            f"| {row['lang']} | {row['tokenizer']} | {row['entries']:,} | {row['pairs']:,} | "
            f"{row['wrong'] / row['tried']:.1%} ({low:.1%} to {high:.1%}) | {row['hit'] / row['tried']:.1%} | "
            f"{random:.2%} | {spread} | {row['CPU seconds']} |"
        )


def print_model(rows: list[dict]) -> None:
    print("| seed | cut | condition | error rate | n |\n|---|---|---|---|---|")
    for row in rows:
        for cut, condition, rate in row["rates"]:
            shown = f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
            print(f"| {row['seed']} | {cut} | {condition} | {shown} | {rate['n']} |")
    wrong = [v for row in rows for v in row["glued - control"]["wrong"]]
    right = [v for row in rows for v in row["glued - control"]["right"]]
    if wrong and right:
        for name, one, other in (("wrong", wrong, [0.0] * len(wrong)), ("right", right, [0.0] * len(right))):
            print(f"all draws, cut {name}, glued - control: {shown_rate(difference_in_difference(one, other))}")
        forced = [v for row in rows for v in row["glued - forced"]]
        print(f"all draws, glued - forced: {shown_rate(difference_in_difference(forced, [0.0] * len(forced)))}")
        print(f"difference in difference: {shown_rate(difference_in_difference(wrong, right))}")


def shown_rate(rate) -> str:
    return f"{rate.value:+.1%} ({rate.low:+.1%} to {rate.high:+.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("mining", "model"))
    parser.add_argument("--tokenizers", type=Path, default=Path())
    parser.add_argument("--corpus", action="append", default=[], metavar="LANG=TEXT", help="Counted for its words.")
    parser.add_argument("--lexicon", action="append", default=[], metavar="LANG=FILE")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tried", type=int, default=4000, help="Candidates of each tokenizer and language.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=100, help="Of each draw and kind of cut.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    keep = Kept(args.out)
    (mine_all if args.part == "mining" else ask_model)(args, keep)
    rows = [row for row in keep.rows if row["part"] == args.part]
    (print_mining if args.part == "mining" else print_model)(rows)


if __name__ == "__main__":
    main()
