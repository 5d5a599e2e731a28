"""Typed pieces against a model's own tokenizer at little training data: disease names and chapters of diagnoses.

    python experiments/transfer/ktokeniser.py --model MINILM --data shared/data/tasks/bio-ner --hpo hp.obo --out RUNS

The second task needs `pip install simple-icd-10-cm` and `--hpo`. What was decided before the runs:

- tasks: `entities`, disease names in NCBI-disease (exact-span F1 on all 940 test sentences); `chapters`, the chapter of
  an ICD-10-CM description (macro-F1 over 21 chapters, 10,000 training and 1,000 test items);
- training sizes 5 and 20 % with base, `k f=1` and `random` first, the other arms at 5 %, then 1 and 100 % if time is
  left; seeds 48, 1024, 2048 (paper), which draw the items (the same ones for every arm), the head and the order;
- arms: `base`; `k f=1` and `k f=0.065` with the paper's sizes (10,000 drug and 3,000 disease pieces) and mean rows;
  `random`, which is `k f=1` with drawn rows; `k part`, which selects the paper's shares (43 % and 24 % of the pieces
  found, by probability); `as released`, with the same sizes but `compat=True` (alphabetical selection, marks in the
  lookup); `frequent`, as many most frequent pieces of a WordPiece trained on the training texts, untyped, longest match
  (after AVocaDo);
- terms come from training splits (and HPO), of the whole split at every size: the paper's UMLS is that free, too;
  `min_count` is 0, for 1,000 is made for UMLS;
- learning rate: the better of 1e-4 and 3e-4 for `base` on the held-out items of seed 48, then the same for every arm;
- claims: K is at least 0.5 F1 over the base at 5 and 20 %, and better in each seed (a mean within 0.5, or seeds of
  both signs, is a tie); at least 15 % fewer pieces per domain word; drawn rows at least 0.5 F1 worse than mean rows.

Changed while it ran, to fit the time, before any run of `chapters`: the order of `PLAN`, two epochs at 20 % instead of
three, and the learning rate that was chosen on `entities` for both tasks.

Every run is kept as one line of `RUNS/runs.jsonl`; a run that is there is not repeated. `--quick` takes 40 items, 300
terms of a type, one epoch, one seed, four arms.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ktokeniser_tasks import Item, Task, batches, chapters, entities, forward, measure, pieces_per_word
from torch import nn

from tokenlayer.models.loading import load_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.ktokeniser import KTokeniserConfig, ktokeniser, term_words
from tokenlayer.transfer.swap import SwapConfig, swap
from tokenlayer.transfer.terms import TermSet
from tokenlayer.transfer.typed_pieces import typed_pieces

SEEDS = (48, 1024, 2048)
SHARES = {"drug": 10_000 / 23_407, "disease": 3000 / 12_322}
ALL = ("base", "k f=1", "k f=0.065", "random", "k part", "as released", "frequent")
MAIN = ALL[:4]
THREE = ("base", "k f=1", "random")
PLAN = (  # task, share of the training items, epochs, arms
    ("entities", 0.05, 6, THREE),
    ("chapters", 0.05, 6, THREE[:2]),
    ("chapters", 0.2, 2, THREE[:2]),
    ("chapters", 0.05, 6, THREE),
    ("entities", 0.05, 6, MAIN),
    ("chapters", 0.05, 6, MAIN),
    ("chapters", 0.05, 6, ALL),
    ("chapters", 0.2, 2, THREE),
    ("entities", 0.2, 2, THREE),
    ("entities", 0.05, 6, ALL),
    ("chapters", 0.01, 20, MAIN),
    ("entities", 1.0, 2, THREE[:2]),
    ("chapters", 1.0, 2, THREE[:2]),
)
BATCH = {"entities": 8, "chapters": 16}
RATES = (1e-4, 3e-4)
HELD_OUT = 150
LOOKS = 3
"""How often the held-out items are measured on the way."""


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "runs.jsonl"
    tasks = {"entities": entities(args.data)} | ({"chapters": chapters(args.hpo)} if args.hpo else {})
    seeds = SEEDS
    plan: Sequence[tuple[str, float, int, Sequence[str]]] = [step for step in PLAN[: args.steps] if step[0] in tasks]
    if args.quick:
        seeds = SEEDS[:1]
        tasks = {name: replace(task, terms=some_terms(task.terms)) for name, task in tasks.items()}
        plan = [(name, 40 / len(task.train), 1, MAIN) for name, task in tasks.items()]
    folders: dict[tuple[str, str], tuple[Path, Any]] = {}
    for name, share, epochs, arms in plan:
        task = tasks[name]
        lr = RATES[0] if args.quick else rate(tasks["entities"], args, log)
        for seed in seeds:
            for arm in arms:
                about = {"task": name, "share": share, "arm": arm, "seed": seed, "epochs": epochs, "lr": lr}
                if key(about) in {key(row) for row in read(log)}:
                    continue
                if (name, arm) not in folders:
                    folders[name, arm] = prepared(task, arm, args)
                keep(log, about | run(task, *folders[name, arm], about, args))
    rows = read(log)
    print(table([row for row in rows if row["arm"] != "rate"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hpo", type=Path, help="hp.obo of the Human Phenotype Ontology; without it no `chapters`.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=len(PLAN), help="Lines of the plan to run.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def some_terms(terms: TermSet) -> TermSet:
    return TermSet({kind: some[:300] for kind, some in terms.terms.items()})


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def keep(log: Path, row: dict[str, Any]) -> None:
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("task", "share", "arm", "seed", "epochs", "lr"))


def rate(task: Task, args: argparse.Namespace, log: Path) -> float:
    """The learning rate that is best for the base on held-out items."""
    epochs = next(epochs for name, _, epochs, _ in PLAN if name == task.name)
    for lr in RATES:
        about = {"task": task.name, "share": 0.05, "arm": "rate", "seed": SEEDS[0], "epochs": epochs, "lr": lr}
        if key(about) not in {key(row) for row in read(log)}:
            keep(log, about | run(task, *prepared(task, "base", args), about, args, test=False))
    tried = [row for row in read(log) if row["task"] == task.name and row["arm"] == "rate"]
    return float(max(tried, key=lambda row: row["held-out F1"][-1])["lr"])


def prepared(task: Task, arm: str, args: argparse.Namespace) -> tuple[Path, Any]:
    """The checkpoint of an arm (written once) and its tokenizer."""
    from transformers import PreTrainedTokenizerFast

    from tokenlayer.transfer.k_tokenizer import KTokenizer

    folder = args.out / f"{task.name}-{arm.replace(' ', '-')}"
    if arm == "base":
        return args.model, PreTrainedTokenizerFast.from_pretrained(args.model)
    if arm == "frequent":
        if not folder.exists():
            swap(args.model, frequent(task, args), folder, SwapConfig(init="pieces"))
        return folder, PreTrainedTokenizerFast.from_pretrained(folder)
    if not folder.exists():
        report = ktokeniser(args.model, task.terms, folder, KTokeniserConfig(min_count=0, **changes(task, arm, args)))
        seen = [(m.name, m.source, m.value, m.baseline) for m in report.metrics]
        print(arm, seen, report.table("pieces by type").rows, report.warnings, flush=True)
    return folder, KTokenizer.from_pretrained(folder)


def changes(task: Task, arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """What an arm sets."""
    if arm in ("k part", "as released"):
        base = load_tokenizer(str(args.model))
        found = {
            kind: len(typed_pieces(some, split=term_words(base)).pieces) for kind, some in task.terms.terms.items()
        }
        return {"sizes": {kind: round(SHARES[kind] * n) for kind, n in found.items()}, "compat": arm == "as released"}
    return {"k f=1": {}, "k f=0.065": {"rollback": 0.065}, "random": {"init": "gaussian"}}[arm]


def frequent(task: Task, args: argparse.Namespace) -> Path:
    """The base tokenizer with the most frequent pieces of the training texts, as many as `k f=1` has."""
    from tokenizers import Tokenizer, models, trainers

    folder, _ = prepared(task, "k f=1", args)
    base = load_tokenizer(str(args.model))
    size = len(load_tokenizer(str(folder)).vocab) - len(base.vocab)
    texts = [item.text if isinstance(item.text, str) else " ".join(item.text) for item in task.train]
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = base.backend.normalizer, base.backend.pre_tokenizer
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=10_000, special_tokens=["[UNK]"], show_progress=False)
    )
    counts = Counter(piece for one in made.encode_batch(texts) for piece in one.tokens)
    known = set(base.vocab.names)
    new = [piece for piece, _ in counts.most_common() if piece not in known][:size]
    vocab = base.data["model"]["vocab"] | {piece: len(base.vocab) + n for n, piece in enumerate(new)}
    target = args.out / f"{task.name}-frequent-tokenizer"
    target.mkdir(exist_ok=True)
    data = {**base.data, "model": {**base.data["model"], "vocab": vocab}, "truncation": None, "padding": None}
    (target / "tokenizer.json").write_text(json.dumps(data))
    return target


def run(
    task: Task, folder: Path, tokenizer: Any, about: dict[str, Any], args: argparse.Namespace, *, test: bool = True
) -> dict[str, Any]:
    """Fine-tunes encoder and head, then measures."""
    began, seed = time.process_time(), about["seed"]
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed)).tolist()
    train = [task.train[at] for at in order[: round(about["share"] * len(task.train))]]
    held_out, tested = (
        some[: 40 if args.quick else size] for some, size in ((task.held_out, HELD_OUT), (task.test, None))
    )
    torch.manual_seed(seed)
    encoder, _ = load_model(folder, "encoder", device=args.device)
    parts = encoder, nn.Linear(encoder.config.hidden_size, len(task.labels)).to(args.device)
    curve = []
    steps = trained(parts, tokenizer, train, BATCH[task.name], about, args.device)
    total = about["epochs"] * -(-len(train) // BATCH[task.name])
    for step in steps:
        if step in {round(total * n / LOOKS) for n in range(1, LOOKS + 1)}:
            encoder.eval()
            curve.append(measure(task, parts, tokenizer, held_out, args.device))
            encoder.train()
    encoder.eval()
    found: dict[str, Any] = {"items": len(train), "steps": total, "held-out F1": curve}
    if test:
        found["F1"] = measure(task, parts, tokenizer, tested, args.device)
        found |= pieces_per_word(task, tokenizer)
    return found | {"cpu_s": round(time.process_time() - began, 1)}


def trained(
    parts: tuple[nn.Module, nn.Module],
    tokenizer: Any,
    train: Sequence[Item],
    size: int,
    about: dict[str, Any],
    device: str,
):
    """Trains; yields the number of each step when it is done."""
    encoder, head = parts
    weights = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=about["lr"], weight_decay=0.01, fused=True)
    total = about["epochs"] * -(-len(train) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)
    encoder.train()
    step = 0
    for epoch in range(about["epochs"]):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(about["seed"] + epoch)).tolist()
        for batch in batches(train, size, order):
            logits, labels, _ = forward(parts, tokenizer, batch, device)
            nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.flatten()).backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            step += 1
            yield step


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean over seeds, range in brackets, difference to the base of the same seed."""
    lines = ["| task | items | arm | pieces per domain word | F1 | F1 - base | steps to base's best | seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    base = {(row["task"], row["share"], row["seed"]): row for row in rows if row["arm"] == "base"}
    for task, share, arm in dict.fromkeys((row["task"], row["share"], row["arm"]) for row in rows):
        same = [row for row in rows if (row["task"], row["share"], row["arm"]) == (task, share, arm)]
        own = [base[task, share, row["seed"]] for row in same]
        scores = [row["F1"] for row in same]
        gains = [row["F1"] - other["F1"] for row, other in zip(same, own, strict=True)]
        needed = [reached(row, max(other["held-out F1"])) for row, other in zip(same, own, strict=True)]
        lines.append(
            f"| {task} | {same[0]['items']} | {arm} | {same[0]['pieces per domain word']:.3f} | "
            f"{statistics.mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f}) | {statistics.mean(gains):+.2f} "
            f"({min(gains):+.2f} to {max(gains):+.2f}) | {', '.join(needed)} of {same[0]['steps']} | {len(same)} |"
        )
    return "\n".join(lines)


def reached(row: dict[str, Any], goal: float) -> str:
    """Steps after which a run first was as good on the held-out items as the base ever was."""
    looks = row["held-out F1"]
    return next((str(round(row["steps"] * (n + 1) / len(looks))) for n, f1 in enumerate(looks) if f1 >= goal), "-")


if __name__ == "__main__":
    main()
