"""Prompts in dynamic units: how much shorter they get by language, and what the text behind them costs then.

    python experiments/transfer/dynamic.py --model SMOLLM2 --hypernet HYPERNET --out RUNS \
        --text en=ud-en.txt de=ud-de.txt fi=help-fi.txt ...

A decoder reads prompts of 64 of its tokens cut into units; the 32 ordinary tokens behind each are scored. A batch is
32 prompts, whose frequencies decide together; a run is one batch, one kind of rows, one boundary and one wanted share.
Every run is one line of `RUNS/runs.jsonl`; a run that is there is not repeated. `--quick` runs the same code in
seconds.

Decided before the runs: three batches of each text, each from another third of it, stand for three seeds (nothing else
is drawn). Rows: the hypernetwork's, the mean of the pieces (fvt), and random ones of the same mean and spread (50 and
100 % only). Boundary `pretoken`: 25, 50, 75 and 100 % of what merging can save. Boundary `word` (white space): 10, 20,
30 and 40 % of all tokens, as far as merging can. Claims, on means over batches:

    1. at half of what merging can save, the loss rises by at most half as much with the hypernetwork's rows as with
       fvt, in each language;
    2. units fall with the share asked for, in each batch;
    3. more is saved in Finnish than in English;
    4. random rows are worse than both, in each language.

A difference under 0.01 bits per byte is a tie. The order of kinds alternates between batches.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

from tokenlayer.data.readers import open_bytes
from tokenlayer.models.loading import opened_model
from tokenlayer.transfer.dynamic.evaluate import EvaluateConfig, Stretch, stretches
from tokenlayer.transfer.dynamic.model import DynamicConfig, DynamicModel

BATCHES = 3
SETTINGS = {"pretoken": ("reduction", (0.25, 0.5, 0.75, 1.0)), "word": ("shorter", (0.1, 0.2, 0.3, 0.4))}
METHODS = ("hypernet", "fvt", "random")
RANDOM_SHARES = (0.5, 1.0)


@dataclass(frozen=True)
class Run:
    """What is asked of one batch."""

    text: str
    batch: int
    boundary: str
    method: str
    share: float

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.text} {self.batch} {self.boundary} {self.method} {self.share:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--hypernet", type=Path, required=True)
    parser.add_argument("--text", nargs="+", required=True, metavar="LANGUAGE=FILE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    small = EvaluateConfig(context=12, continuation=6, batch=4, samples=4)
    config = small if args.quick else EvaluateConfig(context=64, continuation=32, batch=32, samples=32)
    texts = dict(one.split("=", 1) for one in args.text)
    Bench(args.model, args.hypernet, args.out, config).run({name: Path(file) for name, file in texts.items()})
    print(tables(read_runs(args.out)))


def runs(languages: Sequence[str]) -> Iterator[Run]:
    """All runs, batch after batch; each begins with plain tokens."""
    for batch in range(BATCHES):
        for text in languages:
            yield Run(text, batch, "pretoken", "plain", 0.0)
            for boundary, (_, shares) in SETTINGS.items():
                for share in shares:
                    for method in METHODS if batch % 2 == 0 else METHODS[::-1]:
                        if method != "random" or share in RANDOM_SHARES:
                            yield Run(text, batch, boundary, method, share)


class Bench:
    """The model with its kinds of rows and boundaries."""

    def __init__(self, model: Path, hypernet: Path, out: Path, config: EvaluateConfig) -> None:
        self.config, self.file = config, out / "runs.jsonl"
        with opened_model(model, out) as source:
            first = DynamicModel.open(source, hypernet, DynamicConfig(method="hypernet"))
        self.models = {("pretoken", "hypernet"): first}
        self.prompts: dict[tuple[str, int], list[Stretch]] = {}

    def run(self, texts: dict[str, Path]) -> None:
        """Every run that is not there yet."""
        done = {row["run"] for row in read_runs(self.file.parent)}
        for one in runs(list(texts)):
            if one.name not in done:
                line = json.dumps({"run": one.name, **vars(one), **self.score(one, texts[one.text])})
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                print(line, flush=True)

    def score(self, run: Run, file: Path) -> dict[str, float]:
        """Units, bits per byte of what follows, and seconds of a batch."""
        some = self.batch(run, file)
        model = self.model(run)
        kind = SETTINGS[run.boundary][0]
        asked = {"merges": 0} if run.method == "plain" else {kind: run.share}
        misses, began = model.cache.misses, time.process_time()
        units = model.prepare([one.prompt for one in some], **asked)
        cut = time.process_time()
        prefilled = model.prefill(units)
        read = time.process_time()
        nats = model.score_after(prefilled, [one.behind for one in some])
        bits = -float(sum(one.double().sum() for one in nats)) / torch.log(torch.tensor(2.0)).item()
        return {
            "tokens": sum(units.segmentation.plain_lengths),
            "units": sum(units.segmentation.lengths),
            "new": len(units.segmentation.new),
            "merges": len(units.segmentation.merges),
            "predicted": model.cache.misses - misses,
            "bits per byte": bits / sum(one.size for one in some),
            "cutting": cut - began,
            "reading": read - cut,
        }

    def batch(self, run: Run, file: Path) -> list[Stretch]:
        """The prompts of one third of a text."""
        key = (run.text, run.batch)
        if key not in self.prompts:
            with open_bytes(file) as opened:
                text = opened.read(2_000_000).decode("utf-8", "ignore")
            third = len(text) // BATCHES
            part = text[run.batch * third : (run.batch + 1) * third]
            self.prompts[key] = stretches(self.models["pretoken", "hypernet"].tokenizer, part, self.config)
        return self.prompts[key]

    def model(self, run: Run) -> DynamicModel:
        """The model with the rows and the boundary of a run."""
        method = "hypernet" if run.method == "plain" else run.method
        key = (run.boundary, method)
        if key not in self.models:
            first = self.models["pretoken", "hypernet"]
            self.models[key] = first.with_config(boundary=run.boundary, method=method)
        return self.models[key]


def read_runs(out: Path) -> list[dict]:
    file = out / "runs.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def tables(rows: Sequence[dict]) -> str:
    """A table for each boundary: saved tokens, and the rise in bits per byte by kind of rows, mean and range."""
    plain = {(row["text"], row["batch"]): row for row in rows if row["method"] == "plain"}
    lines = []
    for boundary, (kind, shares) in SETTINGS.items():
        lines += [
            "",
            f"{boundary} ({kind}):",
            "",
            "| text | plain | asked | shorter | hypernet | fvt | random | reading |",
        ]
        lines.append("|---|---|---|---|---|---|---|---|")
        for text in dict.fromkeys(row["text"] for row in rows):
            for share in shares:
                cells = [_cell(rows, plain, (text, boundary, method, share)) for method in METHODS]
                some = _some(rows, (text, boundary, "hypernet", share))
                if not some:
                    continue
                shorter = 100 * (1 - mean(row["units"] / row["tokens"] for row in some))
                own = mean(plain[text, row["batch"]]["bits per byte"] for row in some)
                faster = mean(plain[text, row["batch"]]["reading"] / row["reading"] for row in some)
                name = f"{text} | {own:.3f} | {100 * share:.0f} % | {shorter:.1f} %"
                lines.append(f"| {name} | {' | '.join(cells)} | {faster:.2f} x |")
    return "\n".join(lines)


def _some(rows: Sequence[dict], key: tuple[str, str, str, float]) -> list[dict]:
    return [row for row in rows if (row["text"], row["boundary"], row["method"], row["share"]) == key]


def _cell(rows: Sequence[dict], plain: dict, key: tuple[str, str, str, float]) -> str:
    rises = [row["bits per byte"] - plain[row["text"], row["batch"]]["bits per byte"] for row in _some(rows, key)]
    if not rises:
        return ""
    return f"{mean(rises):+.3f} ({min(rises):+.3f} to {max(rises):+.3f})"


if __name__ == "__main__":
    main()
