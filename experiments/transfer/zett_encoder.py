"""A hypernetwork for a sentence encoder, and what its rows keep of the sentence vectors with three tokenizers.

    python experiments/transfer/zett_encoder.py --minilm FOLDER --prose PROSE --help-text HELP --tasks DIR \
        --gpt2 tokenizer.json --learn WIKI HELP --out RUNS

`--tasks` holds `stsb/en-{train,dev,test}.csv.zst` and `sst2/{train,dev,test}.tsv`. The hypernetwork learns from prose,
help pages and the *sentences* of the two training splits, without scores or labels and without those that a dev or test
split repeats; it is in `RUNS/hypernet` afterwards (`--hypernet` takes another). Targets: GPT-2's published tokenizer,
and a byte-level BPE and a WordPiece of 16,000 tokens learned from `--learn`. Every run is one line of
`RUNS/encoder.jsonl`; a run that is there is not repeated. `--starts` and `--targets` take some of them, `--quick` runs
the same code in seconds.

Decided before the runs: all numbers of `training()`; the sentence vector is the mean over all tokens, normalised.
Scores without any training: rank correlation of cosines with people on STS-B's test pairs; accuracy on SST-2's test
sentences of a logistic regression (C = 1) that was fitted once, on vectors of its training sentences by the model's own
tokenizer; and the mean cosine with the own tokenizer's vectors. Starts: pieces, focus (vectors of tokens from 1 MB of
`--learn`, 3 seeds), the hypernetwork, the hypernetwork with shared tokens copied, and one before its first step, which
gives the mean of the pieces as the hypernetwork spells tokens: what the spelling of capitals does alone. Matrix
products in bfloat16. A difference under 0.01 is a tie (the standard error of a correlation of 0.8 over 1,379 pairs is
0.010, that of an accuracy of 0.8 over 1,821 sentences 0.009).
"""

import argparse
import csv
import io
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from small_lm import cut
from torch import Tensor, nn

import tokenlayer
from tokenlayer.data.readers import open_bytes
from tokenlayer.models.loading import load_model, opened_model
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.train.batches import padded
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.encoder import pooled
from tokenlayer.transfer.zett.files import save_hypernet
from tokenlayer.transfer.zett.sampler import SamplerConfig
from tokenlayer.transfer.zett.train import HypernetRun, make_network, source_rows, train_hypernet

VOCAB = 16_000
WEIGHTS = {"prose": 4, "help": 2, "sst2": 2, "stsb": 2}
"""Shares of the training texts."""
STARTS = ("pieces", "untrained", "zett", "zett copied", "focus")
TARGETS = ("gpt-2", "bpe", "wordpiece")
VECTOR_BYTES = 1_000_000
BATCH = 64


def training(*, quick: bool = False) -> ZettConfig:
    """The numbers of the training."""
    sampler = SamplerConfig(vocab_size=16_384, queue_texts=1_024, stride=1, noise_median=2e-5, noise_sigma=3.0)
    config = ZettConfig(
        identity_steps=50,
        warmup_steps=25,
        steps=300,
        identity_rate=1e-3,
        rate=1e-3,
        batch=32,
        block=24,
        identity_tokens=512,
        identity="split",
        clip=0.5,
        sampler=sampler,
    )
    if not quick:
        return config
    small = replace(sampler, vocab_size=400, queue_texts=8)
    return replace(config, identity_steps=1, warmup_steps=1, steps=3, batch=4, identity_tokens=16, sampler=small)


@dataclass(frozen=True)
class Tasks:
    """Sentences with scores or labels."""

    pairs: list[tuple[str, str, float]]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]

    @property
    def sentences(self) -> list[str]:
        """All that are scored: both of each pair, then those with labels."""
        paired = [one for first, second, _ in self.pairs for one in (first, second)]
        return paired + [text for text, _ in self.test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--prose", type=Path, required=True)
    parser.add_argument("--help-text", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--learn", type=Path, nargs="+", required=True)
    parser.add_argument("--hypernet", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS)
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tasks = read_tasks(args.tasks, 12 if args.quick else None)
    needed = any(start.startswith("zett") for start in args.starts)
    hypernet = args.hypernet or (train(args, args.out) if needed else args.out)
    targets = {name: target for name, target in ({"gpt-2": args.gpt2} | learned(args)).items() if name in args.targets}
    Bench(args, tasks, targets, hypernet).run()
    print(table(args.out / "encoder.jsonl"))


def train(args: argparse.Namespace, out: Path) -> Path:
    """Trains the hypernetwork, or goes on with it, in a folder."""
    folder = out / "hypernet"
    if folder.exists():
        return folder
    texts = training_texts(args, out / "texts")
    named = tuple(f"en={WEIGHTS[name]}:{file}" for name, file in texts.items())
    config = HypernetRun(named, training(quick=args.quick), arch="residual", precision="bfloat16")
    report = train_hypernet(args.minilm, folder, config, progress=_tell)
    print(json.dumps({one.name: one.value for one in report.metrics}))
    return folder


def untrained(args: argparse.Namespace) -> Path:
    """A residual network before its first step: the mean of the pieces."""
    folder = args.out / "untrained"
    if not folder.exists():
        with opened_model(args.minilm, args.out) as source:
            network = make_network(source, source_rows(source), HypernetRun(("none",), arch="residual"))
            folder.mkdir()
            save_hypernet(folder, network, source.tokenizer, {})
    return folder


def _tell(name: str, done: int, steps: int) -> None:
    if done % 10 == 0:
        print(f"{name} {done} of {steps}, {time.process_time():.0f} s of CPU", flush=True)


def training_texts(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Prose, help, and the sentences of the two training splits that no dev or test split repeats."""
    folder.mkdir(exist_ok=True)
    held = {one for split in ("dev", "test") for first, second, _ in stsb(args.tasks, split) for one in (first, second)}
    held |= {text for split in ("dev", "test") for text, _ in sst2(args.tasks, split)}
    sentences = {
        "sst2": [text for text, _ in sst2(args.tasks, "train") if len(text.split()) >= 4],
        "stsb": [one for first, second, _ in stsb(args.tasks, "train") for one in (first, second)],
    }
    files = {"prose": args.prose, "help": args.help_text}
    for name, lines in sentences.items():
        files[name] = folder / f"{name}.txt"
        kept = [line for line in dict.fromkeys(lines) if line not in held]
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0)).tolist()
        files[name].write_text("\n\n".join(kept[at] for at in order), encoding="utf-8")
    return files


def read_tasks(folder: Path, most: int | None) -> Tasks:
    return Tasks(stsb(folder, "test")[:most], sst2(folder, "train")[:most], sst2(folder, "test")[:most])


def stsb(folder: Path, split: str) -> list[tuple[str, str, float]]:
    with open_bytes(folder / "stsb" / f"en-{split}.csv.zst") as opened:
        data = opened.read().decode("utf-8")
    return [(one.strip(), other.strip(), float(score)) for one, other, score in csv.reader(io.StringIO(data))]


def sst2(folder: Path, split: str) -> list[tuple[str, int]]:
    lines = (folder / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.rsplit("\t", 1) for line in lines if "\t" in line]
    return [(text.strip(), int(label)) for text, label in rows if label.isdigit()]


def learned(args: argparse.Namespace) -> dict[str, Path]:
    """Tokenizers learned from `--learn`; those in the folder stay, as a WordPiece is another one in each process."""
    found = {}
    for kind in ("bpe", "wordpiece"):
        found[kind] = args.out / kind
        if not found[kind].exists():
            tokenlayer.learn(
                [str(file) for file in args.learn], out=found[kind], kind=kind, vocab_size=600 if args.quick else VOCAB
            )
    return found


class Bench:
    """The encoder with every tokenizer and start."""

    def __init__(self, args: argparse.Namespace, tasks: Tasks, targets: dict[str, Path], hypernet: Path) -> None:
        self.args, self.tasks, self.targets, self.hypernet = args, tasks, targets, hypernet
        self.file = args.out / "encoder.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.done = {json.loads(line)["run"] for line in lines}
        self.copied = args.out / "copied.toml"
        self.copied.write_text("copy_shared = true\n", encoding="utf-8")
        self.vector_text = args.out / "vectors.txt"
        whole = "\n".join(open_text(file) for file in args.learn)
        self.vector_text.write_text(cut(whole, 20_000 if args.quick else VECTOR_BYTES), encoding="utf-8")

    def run(self) -> None:
        """Every run that is not there yet; those of one seed first."""
        own, classifier = self.own()
        for seed in (0, 1, 2):
            for name, target in self.targets.items():
                for start in self.args.starts:
                    if f"{name} {start} {seed}" in self.done or (seed and (start != "focus" or self.args.quick)):
                        continue
                    self.add(f"{name} {start} {seed}", self.swapped(target, start, seed), own, classifier)

    def own(self) -> tuple[Tensor, "Classifier"]:
        """Vectors of the scored sentences by the model's own tokenizer, and what was fitted on its training ones."""
        model, tokenizer = load_model(self.args.minilm, "encoder")[0], load_tokenizer(self.args.minilm)
        kept = self.args.out / "own.pt"
        if not kept.exists():
            known = vectors(model, tokenizer, [text for text, _ in self.tasks.train])
            torch.save((vectors(model, tokenizer, self.tasks.sentences), known), kept)
        own, known = torch.load(kept)
        classifier = Classifier.fitted(known, torch.tensor([label for _, label in self.tasks.train]))
        if "own" not in self.done:
            self.add("own", self.args.minilm, own, classifier)
        return own, classifier

    def swapped(self, target: Path, start: str, seed: int) -> Path:
        """The encoder with a target's tokenizer."""
        out = self.args.out / "swapped"
        if out.exists():
            shutil.rmtree(out)
        more: dict[str, object] = {"focus": {"texts": [str(self.vector_text)]}}.get(start, {})
        if start.startswith("zett") or start == "untrained":
            more = {"hypernet": self.hypernet if start.startswith("zett") else untrained(self.args)}
        if start == "zett copied":
            more["init_config"] = self.copied
        init = start if start in ("pieces", "focus") else "zett"
        tokenlayer.swap(self.args.minilm, target, out, init=init, seed=seed, **more)
        return out

    def add(self, run: str, folder: Path, own: Tensor, classifier: "Classifier") -> None:
        """Scores a folder and keeps the line."""
        began = time.process_time()
        model, tokenizer = load_model(folder, "encoder")[0], load_tokenizer(folder)
        made = own if run == "own" else vectors(model, tokenizer, self.tasks.sentences)
        line = json.dumps({"run": run} | self.scores(made, own, classifier) | {
            "tokens": sum(map(len, tokenizer.encode_batch(self.tasks.sentences))),
            "cpu_s": round(time.process_time() - began),
        })  # fmt: skip
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def scores(self, made: Tensor, own: Tensor, classifier: "Classifier") -> dict[str, float]:
        """Correlations, accuracy, and the cosine with the own tokenizer's vectors."""
        from scipy.stats import spearmanr

        some = made[: 2 * len(self.tasks.pairs)]
        cosine = (some[0::2] * some[1::2]).sum(dim=1)
        labels = torch.tensor([label for _, label in self.tasks.test])
        found = {
            "stsb": float(spearmanr(cosine.numpy(), [score for _, _, score in self.tasks.pairs]).statistic),
            "sst2": classifier.accuracy(made[len(some) :], labels),
        }
        found["cosine"] = float((made * own).sum(dim=1).mean())
        return {name: round(value, 4) for name, value in found.items()}


@dataclass(frozen=True)
class Classifier:
    """A logistic regression with two classes."""

    weight: Tensor
    bias: Tensor

    @staticmethod
    def fitted(x: Tensor, labels: Tensor) -> "Classifier":
        """Least sum of losses plus half the squared weights (C = 1), by L-BFGS."""
        weight, bias = (torch.zeros(n, requires_grad=True) for n in (x.shape[1], 1))
        solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            wrong = nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, labels.float(), reduction="sum")
            total = wrong + weight.square().sum() / 2
            total.backward()
            return total

        solver.step(loss)
        return Classifier(weight.detach(), bias.detach())

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Share of the labels that it finds."""
        return float(((x @ self.weight + self.bias > 0).long() == labels).float().mean())


@torch.inference_mode()
def vectors(model: nn.Module, tokenizer: LoadedTokenizer, lines: Sequence[str]) -> Tensor:
    """Mean last state of each line, marks included, normalised; in batches of lines of like length."""
    rows = [list(one.ids)[:512] for one in tokenizer.backend.encode_batch(list(lines))]
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    made = torch.zeros(len(rows), model.config.hidden_size)
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        ids, real = padded([rows[at] for at in some], torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16):
            states = model(input_ids=ids, attention_mask=real.long()).last_hidden_state.float()
        made[some] = nn.functional.normalize(pooled(states, real, "mean"), dim=1)
    return made


def open_text(file: Path) -> str:
    with open_bytes(file) as opened:
        return opened.read().decode("utf-8")


def table(file: Path) -> str:
    """The runs as a table: mean and range over seeds."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(row["run"].rstrip(" 012") for row in rows))
    lines = ["| run | STS-B | SST-2 | cosine | tokens |", "|---|---|---|---|---|"]
    for name in names:
        some = [row for row in rows if row["run"].rstrip(" 012") == name]
        cells = [spread([row[key] for row in some]) for key in ("stsb", "sst2", "cosine")]
        lines.append(f"| {name} | {' | '.join(cells)} | {some[0]['tokens']:,} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
