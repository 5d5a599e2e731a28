"""What training after a swap brings back: rows, new rows, LoRA, everything, and the source model as a teacher.

    python experiments/transfer/heal.py --model SMALL_LM --tokenizer TOK --train NEW.txt --eval NAME=FILE ... --out RUNS

Decided before the runs: SMALL_LM is the English model of small_lm.py, TOK a tokenizer of the same size learned on
another language, rows start from `pieces`; every arm sees the same windows of NEW.txt for `--budget` tokens, three
seeds. Measured: bits per byte of held-out text in the new language, and in English (what is forgotten). Expected, and
said either way: any training beats none by more than 10 %; `all` and `lora` beat `rows` on the new language by at
least 1 %; `rows` forgets less English than `all`; a teacher that does not know the language does not help in it
but keeps English. Differences within the range of the seeds are ties.

Every run is one line of `RUNS/runs.jsonl`; a run that is there is not repeated. `--quick` takes 2,000 tokens and one
seed.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from tokenlayer.app import api

SEEDS = (0, 1, 2)
ARMS = {
    "none": {},
    "rows": {"heal_train": "rows"},
    "new-rows": {"heal_train": "new-rows"},
    "lora": {"heal_train": "lora"},
    "all": {"heal_train": "all"},
    "rows, half from the teacher": {"heal_train": "rows", "distill": 0.5},
    "all, half from the teacher": {"heal_train": "all", "distill": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--eval-bytes", type=int, default=20_000)
    parser.add_argument("--budget", type=int, default=300_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seeds = SEEDS
    if args.quick:
        args.budget, args.eval_bytes, seeds = 2000, 1000, SEEDS[:1]
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "runs.jsonl"
    done = {key(json.loads(line)) for line in log.read_text().splitlines()} if log.exists() else set()
    for seed in seeds:
        for arm, changes in ARMS.items():
            about = {"arm": arm, "seed": seed, "budget": args.budget}
            if key(about) in done or (arm == "none" and seed != seeds[0]):
                continue
            row = about | run(args, changes, seed)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    print(table([json.loads(line) for line in log.read_text().splitlines()], args.budget))


def key(row: dict) -> tuple:
    return row["arm"], row["seed"], row["budget"]


def run(args: argparse.Namespace, changes: dict, seed: int) -> dict:
    """Swaps and trains; returns bits per byte by text."""
    texts = dict(one.split("=", 1) for one in args.eval)
    heal = {"heal": [args.train], "budget": args.budget, **changes} if changes else {}
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        out = Path(scratch) / "out"
        report = api.swap(
            args.model, args.tokenizer, out, eval=list(texts.values()), eval_bytes=args.eval_bytes, seed=seed, **heal
        )
        shutil.rmtree(out)
    found = {}
    for name, path in texts.items():
        metric = report.metric("bits per byte", Path(path).name)
        found[name] = {"source": metric.baseline, "bits per byte": metric.value}
    seconds = dict(report.table("healing").rows)["seconds"] if changes else 0.0
    return {"texts": found, "seconds": seconds}


def table(rows: list[dict], budget: int) -> str:
    """Markdown: mean over seeds and range."""
    rows = [row for row in rows if row["budget"] == budget]
    names = list(rows[0]["texts"])
    lines = [f"| trained on {budget:,} tokens | {' | '.join(names)} | seconds |", "|---" * (len(names) + 2) + "|"]
    lines.append(f"| source model | {' | '.join(format(rows[0]['texts'][n]['source'], '.3f') for n in names)} | |")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        same = [row for row in rows if row["arm"] == arm]
        cells = []
        for name in names:
            values = [row["texts"][name]["bits per byte"] for row in same]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        seconds = statistics.mean(row["seconds"] for row in same)
        lines.append(f"| {arm} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
