"""Bits per byte of SmolLM2-135M after a swap: real target tokenizers x every plain initialiser.

    python experiments/transfer/pieces.py --model SmolLM2.gguf --tokenizers DIR --texts en=FILE --out RUNS

`DIR/NAME/tokenizer.json` are the targets. Every run is kept as one line of `RUNS/runs.jsonl`; a run that is there is
not repeated. `--quick` takes one target, two initialisers and 1 kB of text. The table is printed at the end and
written to docs/results by hand together with what it shows.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from tokenlayer.models.loading import load_model, opened_model
from tokenlayer.models.score import WindowConfig, score_text, start_token
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.initialisers import INITIALISERS, make_plan
from tokenlayer.transfer.target import prepare_target

SEEDS = (0, 1, 2)


def with_rows(model: nn.Module, rows: torch.Tensor) -> None:
    """Puts a new tied table into the model."""
    table = nn.Parameter(rows, requires_grad=False)
    model.get_input_embeddings().weight = table
    model.get_output_embeddings().weight = table
    model.config.vocab_size = len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--texts", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--text-bytes", type=int, default=6000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    size = 1000 if args.quick else args.text_bytes
    texts = {name: cut(Path(path), size) for name, path in (t.split("=", 1) for t in args.texts)}
    targets = args.targets or sorted(p.parent.name for p in args.tokenizers.glob("*/tokenizer.json"))
    inits, seeds = [name for name, one in INITIALISERS.items() if not one.needs], SEEDS
    if args.quick:
        targets, inits, seeds = targets[:1], ["pieces", "copy"], SEEDS[:1]
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "runs.jsonl"
    done = {key(json.loads(line)) for line in log.read_text().splitlines()} if log.exists() else set()
    with (
        tempfile.TemporaryDirectory() as scratch,
        opened_model(args.model, Path(scratch)) as source,
        log.open("a") as file,
    ):
        old = source.checkpoint.read(source.checkpoint.rows.input)
        model, _ = load_model(source.checkpoint.folder, source.checkpoint.kind)

        def run(tokenizer, start, **about):
            if key(about) in done:
                return
            began = time.perf_counter()
            row = {**about, "seconds": 0.0}
            for name, text in texts.items():
                found = score_text(model, tokenizer, text, start_id=start, config=WindowConfig(512, 256)).scores
                row[name] = found.bits_per_byte
                row[f"{name} tokens"] = len(found.token_ids)
            row["seconds"] = round(time.perf_counter() - began, 1)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)

        start = start_token(source.tokenizer)
        run(source.tokenizer, start, target="source", init="-", seed=0)
        for target in targets:
            ready = prepare_target(source.tokenizer, load_tokenizer(args.tokenizers / target))
            for init in inits:
                for seed in seeds if INITIALISERS[init].random else SEEDS[:1]:
                    if key({"target": target, "init": init, "seed": seed}) in done:
                        continue
                    plan = make_plan(init, ready.pair, seed)
                    with_rows(model, plan.apply(old))
                    about = {"target": target, "init": init, "seed": seed, "copied": plan.counts().get("copy", 0)}
                    run(ready.tokenizer, ready.token_map[start], **about)
    print(table([json.loads(line) for line in log.read_text().splitlines()], list(texts)))


def key(row: dict) -> tuple:
    return row["target"], row["init"], row["seed"]


def cut(path: Path, size: int) -> str:
    return path.read_bytes()[:size].decode("utf-8", "ignore")


def table(rows: list[dict], names: list[str]) -> str:
    """Markdown: mean over seeds, range in brackets where there are several."""
    lines = ["| target | init | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for target, init in dict.fromkeys((r["target"], r["init"]) for r in rows):
        same = [r for r in rows if (r["target"], r["init"]) == (target, init)]
        cells = []
        for name in names:
            values = [r[name] for r in same]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {target} | {init} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
