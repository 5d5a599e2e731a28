"""Entity F1 on NCBI-disease of MiniLM with typed pieces against its own tokenizer, at little training data.

    python experiments/transfer/ktokeniser.py --model MINILM --data shared/data/tasks/bio-ner --out RUNS

Terms are the labelled spans of the training splits of NCBI-disease and BC5CDR (drug, disease), never of a test split.
Arms: `base`; `k f=1` and `k f=0.065` with mean rows; `random` is `k f=1` with drawn rows. Every run is kept as one line
of `RUNS/runs.jsonl`; a run that is there is not repeated. `--quick` takes 40 sentences, one epoch, one seed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tokenlayer.data.readers import open_bytes
from tokenlayer.models.loading import load_model
from tokenlayer.transfer.ktokeniser import KTokeniserConfig, ktokeniser
from tokenlayer.transfer.terms import TermSet, terms_from_corpus

SEEDS = (48, 1024, 2048)  # paper
TAGS = ("O", "B-Disease", "I-Disease")
ARMS = {
    "base": None,
    "k f=1": {"rollback": 1.0},
    "k f=0.065": {"rollback": 0.065},
    "random": {"rollback": 1.0, "init": "gaussian"},
}
NAMES = {"Chemical": "drug", "Disease": "disease"}
Sentence = tuple[list[str], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[500], help="Training sentences.")
    parser.add_argument("--test-items", type=int, default=940)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--min-count", type=int, default=0, help="1000 is made for UMLS; these lists are small.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seeds = SEEDS
    if args.quick:
        args.items, args.test_items, args.epochs, seeds = [40], 40, 1, SEEDS[:1]
    train = sentences(args.data / "NCBI-disease-IOB/train.tsv.zst")
    test = sentences(args.data / "NCBI-disease-IOB/test.tsv.zst")[: args.test_items]
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "runs.jsonl"
    done = {key(json.loads(line)) for line in log.read_text().splitlines()} if log.exists() else set()
    folders = {arm: prepared(arm, args) for arm in ARMS}
    for seed in seeds:
        for items in args.items:
            for arm, (folder, tokenizer) in folders.items():
                about = {"arm": arm, "items": items, "seed": seed, "epochs": args.epochs, "lr": args.lr}
                about |= {"batch": args.batch, "min_count": args.min_count, "test_items": len(test)}
                if key(about) in done:
                    continue
                row = about | run(folder, tokenizer, draw(train, items, seed), test, args, seed)
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    print(table([json.loads(line) for line in log.read_text().splitlines()]))


def key(row: dict) -> tuple:
    names = ("arm", "items", "seed", "epochs", "lr", "batch", "min_count", "test_items")
    return tuple(row[name] for name in names)


def sentences(path: Path) -> list[Sentence]:
    """Words and tag numbers of each sentence."""
    found: list[Sentence] = [([], [])]
    with open_bytes(path) as stream:
        for line in stream.read().decode().splitlines():
            if line.strip():
                word, tag = line.split("\t")[:2]
                found[-1][0].append(word)
                found[-1][1].append(TAGS.index(tag))
            elif found[-1][0]:
                found.append(([], []))
    return [one for one in found if one[0]]


def draw(train: list[Sentence], items: int, seed: int) -> list[Sentence]:
    """The same sentences for every arm of a seed."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    return [train[i] for i in order[:items]]


def prepared(arm: str, args: argparse.Namespace):
    """The checkpoint of an arm (written once) and its tokenizer."""
    from transformers import PreTrainedTokenizerFast

    from tokenlayer.transfer.k_tokenizer import KTokenizer

    changes = ARMS[arm]
    if changes is None:
        return args.model, PreTrainedTokenizerFast.from_pretrained(args.model)
    folder = args.out / f"{arm.replace(' ', '-')}-min{args.min_count}"
    if not folder.exists():
        report = ktokeniser(args.model, terms(args.data), folder, KTokeniserConfig(min_count=args.min_count, **changes))
        print(arm, [(m.name, m.source, m.value, m.baseline) for m in report.metrics], report.warnings, flush=True)
    return folder, KTokenizer.from_pretrained(folder)


def terms(data: Path) -> TermSet:
    """Labelled spans of the two training splits, as drugs and diseases."""
    found = terms_from_corpus([data / f"{name}-IOB/train.tsv.zst" for name in ("BC5CDR", "NCBI-disease")])
    return TermSet({NAMES[kind]: some for kind, some in found.terms.items()})


def run(folder: Path, tokenizer, train: list[Sentence], test: list[Sentence], args, seed: int) -> dict:
    """Fine-tunes encoder and head, then measures entity F1 on the test sentences."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    encoder, _ = load_model(folder, "encoder", device=args.device)
    head = nn.Linear(encoder.config.hidden_size, len(TAGS)).to(args.device)
    weights = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.01)
    steps = args.epochs * -(-len(train) // args.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    encoder.train()
    for epoch in range(args.epochs):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for batch in batches([train[i] for i in order], args.batch):
            logits, words = forward(encoder, head, tokenizer, batch, args.device)
            labels = torch.full(words.shape, -100)
            for row, (_, tags) in enumerate(batch):
                known = words[row] >= 0
                labels[row, known] = torch.tensor(tags)[words[row, known]]  # on all pieces of a word, as in the paper
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten().to(args.device))
            loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    encoder.eval()
    scores, pieces, count = evaluate(encoder, head, tokenizer, test, args)
    return scores | {"pieces per word": pieces / count, "seconds": round(time.perf_counter() - began, 1)}


def batches(items: list[Sentence], size: int) -> Iterator[list[Sentence]]:
    yield from (items[at : at + size] for at in range(0, len(items), size))


def forward(
    encoder: nn.Module, head: nn.Module, tokenizer, batch: list[Sentence], device: str
) -> tuple[Tensor, Tensor]:
    """Logits, and for each piece the number of its word (-1 for none)."""
    found = tokenizer(
        [words for words, _ in batch],
        is_split_into_words=True,
        padding=True,
        truncation=True,
        max_length=256,
        return_tensors="pt",
    )
    words = [[-1 if word is None else word for word in found.word_ids(row)] for row in range(len(batch))]
    inputs = {name: found[name].to(device) for name in ("input_ids", "attention_mask")}
    return head(encoder(**inputs).last_hidden_state), torch.tensor(words)


@torch.inference_mode()
def evaluate(encoder: nn.Module, head: nn.Module, tokenizer, test: list[Sentence], args) -> tuple[dict, int, int]:
    """Exact-span precision, recall and F1; a word's tag is that of its first piece. Also pieces and words."""
    right = guessed = true = pieces = count = 0
    for batch in batches(sorted(test, key=lambda one: len(one[0])), 32):
        logits, words = forward(encoder, head, tokenizer, batch, args.device)
        best = logits.argmax(-1).cpu()
        for row, (text, tags) in enumerate(batch):
            said = [0] * len(text)
            for at in reversed(range(words.shape[1])):
                if words[row, at] >= 0:
                    said[words[row, at]] = int(best[row, at])
            found, wanted = spans(said), spans(tags)
            right, guessed, true = right + len(found & wanted), guessed + len(found), true + len(wanted)
            pieces, count = pieces + int((words[row] >= 0).sum()), count + len(text)
    scores = {"precision": right / max(guessed, 1), "recall": right / max(true, 1)}
    return scores | {"F1": 200 * right / max(guessed + true, 1)}, pieces, count


def spans(tags: list[int]) -> set[tuple[int, int]]:
    """First word and the word after the last, of each entity."""
    found, start = set(), None
    for at, tag in enumerate([*tags, 0]):
        if start is not None and tag != 2:
            found.add((start, at))
            start = None
        if tag == 1 or (tag == 2 and start is None):
            start = at
    return found


def table(rows: list[dict]) -> str:
    """Markdown: mean over seeds, range in brackets, difference to the base of the same seed and size."""
    lines = ["| items | arm | pieces per word | F1 | F1 - base | seeds |", "|---|---|---|---|---|---|"]
    base = {(r["items"], r["seed"]): r["F1"] for r in rows if r["arm"] == "base"}
    for items, arm in dict.fromkeys((r["items"], r["arm"]) for r in rows):
        same = [r for r in rows if (r["items"], r["arm"]) == (items, arm)]
        scores = [r["F1"] for r in same]
        gains = [r["F1"] - base[r["items"], r["seed"]] for r in same if (r["items"], r["seed"]) in base]
        gain = f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})" if gains else ""
        lines.append(
            f"| {items} | {arm} | {same[0]['pieces per word']:.3f} | {statistics.mean(scores):.2f} "
            f"({min(scores):.2f}-{max(scores):.2f}) | {gain} | {len(same)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
