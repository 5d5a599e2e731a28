"""A sentence encoder that reads units: what is saved, what its vectors and its adapters lose, and the time.

    python experiments/transfer/dynamic_encoder.py --minilm FOLDER --hypernet HYPERNET --tasks DIR --out RUNS \
        --languages en de fr ru

`--tasks` holds `stsb/LANGUAGE-test.csv.zst` and `sst2/{train,test}.tsv`. Every run is one line of `RUNS/runs.jsonl`; a
run that is there is not repeated. `--parts` takes some of lengths, features, epoch and adapters; `--quick` runs the
same code in seconds.

Decided before any score was seen. Batches of 32 sentences of like length: texts are drawn in pools of 256, sorted in
each and cut into batches. Three seeds are three orders of drawing (merges depend on the batch). All kinds of rows are
given the same units, those that the hypernetwork can read. The model runs in bfloat16, on one thread; times are CPU
seconds, as others use the machine. Rows are made from an empty cache.

    lengths: share of the tokens that merging can save, in 512 sentences of STS-B's test split by language.
    features: Spearman correlation of cosines with people on STS-B's first test pairs (English 384, others 256), and
        accuracy of a logistic regression on SST-2 (first 768 test sentences), fitted on plain vectors and applied
        unchanged. Boundary `pretoken`, and `word` for English and German; 25, 50, 75 and 100 % of what merging can
        save in a batch (`word`: 50 and 100 %); rows hypernet and fvt, and random at 100 %.
    epoch: 1,344 sentences of SST-2's training split, plain and at 50 and 100 %: CPU and wall clock of cutting, rows
        and reading, and how many of a batch's distinct units had been seen, over the first 20 batches and the 22
        behind them.
    adapters: LoRA and a classification head on 2,048 training sentences of SST-2, one epoch, in three ways: plain
        tokens; at 50 %; or with a number of merges drawn for each batch (uniform over reductions). Rank 16, alpha 32,
        dropout 0.1, rate 1e-3 that falls to zero; the paper has rank 128, alpha 256, dropout 0.3, 15 epochs and 1e-4.
        Each is scored on the first 1,024 test sentences at 0, 50 and 100 %. Seeds draw the adapters, the head, the
        order and the merges; no gradient goes into rows.

Claims, on means over seeds; a difference of a score under 0.01 is a tie:

    1. at 100 % with the hypernetwork's rows, scores fall by less than 0.02 (the paper: less than 2 points);
    2. at 50 %, the hypernetwork's rows move the vectors (1 - cosine) at most half as far as fvt does, in each text;
    3. random rows are worse than both at 100 %, in each text;
    4. German saves more than English;
    5. at 100 %, cutting, rows and reading together take less CPU time than reading plain tokens, in each text;
    6. adapters with drawn merges are at least as good as plain ones at 100 %, a tie counting as that;
    7. behind 20 batches, more than 80 % of a batch's distinct units have been seen.
"""

import argparse
import csv
import io
import json
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from zett_encoder import Classifier, sst2, vectors

from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.readers import open_bytes
from tokenlayer.models.loading import opened_model
from tokenlayer.transfer.dynamic.cache import EmbeddingCache
from tokenlayer.transfer.dynamic.lengths import LengthTable, lengths_by_merges
from tokenlayer.transfer.dynamic.model import DynamicConfig, DynamicModel
from tokenlayer.transfer.dynamic.segment import DynamicBPE, Segmentation

PARTS = ("lengths", "features", "epoch", "adapters")
SEEDS = (0, 1, 2)
BATCH = 32
RATE = 1e-3
POOL = 8
"""Batches that are drawn together and sorted by length."""
SHARES = (0.5, 1.0, 0.25, 0.75)
WORDS = {("en", 0.5), ("en", 1.0), ("de", 0.5), ("de", 1.0)}
"""Also cut at white space only."""
BOUNDARIES = ("pretoken", "word", "sentence")
ROWS = ("hypernet", "fvt", "random")
ARMS = ("plain", "fixed", "sampled")
TESTED = (0.0, 0.5, 1.0)
FIRST = 20
"""Batches behind which the claim on the cache is checked."""


@dataclass(frozen=True)
class Sizes:
    """How much of the data is read."""

    lengths: int = 512
    english: int = 384
    others: int = 256
    sentences: int = 768
    fit: int = 10**9
    epoch: int = 1_344
    train: int = 2_048
    test: int = 1_024
    rank: int = 16


QUICK = Sizes(lengths=8, english=4, others=4, sentences=8, fit=16, epoch=16, train=16, test=8, rank=2)


@dataclass(frozen=True)
class Run:
    """One line of the results."""

    part: str
    text: str
    seed: int
    boundary: str = "pretoken"
    method: str = "hypernet"
    share: float = 0.0

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.part} {self.text} {self.seed} {self.boundary} {self.method} {self.share:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--hypernet", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=["en", "de", "fr", "ru"])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(args.minilm, args.hypernet, args.tasks, args.out, QUICK if args.quick else Sizes())
    for one in runs(args.languages, available(args.tasks), SEEDS[:1] if args.quick else SEEDS):
        if one.part in args.parts:
            bench.run(one)
    print(tables(bench.rows))


def available(tasks: Path) -> list[str]:
    """The languages of STS-B that are there."""
    return sorted(file.name.split("-")[0] for file in (tasks / "stsb").glob("*-test.csv.zst"))


def runs(languages: Sequence[str], measured: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """All runs; those that the claims are on come first, and plain tokens before units."""
    yield from (Run("lengths", text, 0, boundary) for text in measured for boundary in BOUNDARIES)
    for shares in (SHARES[:2], SHARES[2:]):
        for seed in seeds:
            for text in ("sst2", *languages):
                yield from feature_runs(text, seed, shares)
            if shares == SHARES[:2]:
                yield from (Run("adapters", arm, seed) for arm in ARMS)
                yield from (Run("epoch", "sst2", seed, share=share) for share in TESTED)


def feature_runs(text: str, seed: int, shares: Sequence[float]) -> Iterator[Run]:
    """One text in one order."""
    if SHARES[0] in shares:
        yield Run("features", text, seed, method="plain")
    for share in shares:
        for boundary in ("pretoken", "word") if (text, share) in WORDS else ("pretoken",):
            for method in ROWS if share == 1 else ROWS[:2]:
                yield Run("features", text, seed, boundary, method, share)


class Bench:
    """The encoder, its kinds of rows, and the tasks."""

    def __init__(self, minilm: Path, hypernet: Path, tasks: Path, out: Path, sizes: Sizes) -> None:
        self.minilm, self.tasks, self.out, self.sizes = minilm, tasks, out, sizes
        with opened_model(minilm, out) as source:
            first = DynamicModel.open(source, hypernet, DynamicConfig())
        self.models = {"hypernet": first, "plain": first}
        longest = first.rows.longest
        self.cutters = {name: DynamicBPE(first.tokenizer, boundary=name, longest=longest) for name in BOUNDARIES}
        self.file = out / "runs.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def run(self, run: Run) -> None:
        """One run, unless it is there."""
        if run.name in {row["run"] for row in self.rows}:
            return
        measure = {"lengths": self.lengths, "features": self.features, "epoch": self.epoch, "adapters": self.adapters}
        row = {"run": run.name, **vars(run), **measure[run.part](run)}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        self.rows.append(row)

    def lengths(self, run: Run) -> dict[str, float]:
        """Tokens before and after all merges."""
        some = [one for pair in stsb(self.tasks, run.text) for one in pair[:2]][: self.sizes.lengths]
        table = lengths_by_merges(self.cutters[run.boundary], some, batch_texts=BATCH)
        return {"tokens": table.totals[0], "units": table.totals[-1], "merges": len(table.totals) - 1}

    def features(self, run: Run) -> dict[str, float]:
        """Score, cosine with the plain vectors, and seconds."""
        texts = self.texts(run.text)
        plain = self.plain(run.text, texts)
        reader = Reader(self.model(run.method), self.cutters[run.boundary], run.share)
        made = reader.read(texts, run.seed)
        cosine = (made * plain).sum(dim=1)
        found = {"score": self.score(run.text, made), "cosine": float(cosine.mean()), "worst": float(cosine.min())}
        return {name: round(value, 5) for name, value in found.items()} | reader.numbers()

    def epoch(self, run: Run) -> dict[str, float]:
        """Time of reading many sentences, and how often a unit had been seen before."""
        texts = [text for text, _ in sst2(self.tasks, "train")]
        random.Random(f"epoch {run.seed}").shuffle(texts)
        reader = Reader(self.model(run.method), self.cutters[run.boundary], run.share)
        reader.read(texts[: self.sizes.epoch], run.seed)
        first, behind = reader.hits[:FIRST], reader.hits[FIRST:]
        found = {f"{which} {name}": ratio(part, at) for which, part in (("first", first), ("behind", behind))
                 for name, at in (("all", 0), ("new", 2))}  # fmt: skip
        return reader.numbers() | found | {"cache": round(reader.model.cache.hit_rate, 4)}

    def adapters(self, run: Run) -> dict[str, float]:
        """Trains adapters in one way and scores them on all."""
        began = time.process_time()
        learner = Learner(self, run.seed)
        loss = learner.learn(run.text, self.arm(run))
        found = {f"score {share:g}": learner.score(share) for share in TESTED}
        return found | {"loss": round(loss, 4), "cpu_s": round(time.process_time() - began, 1)}

    def arm(self, run: Run) -> Iterator[dict[str, float]]:
        """What each batch of the training is asked for."""
        draws, table = numpy_generator(run.seed, "merges"), self.table if run.text == "sampled" else None
        while True:
            if table is not None:
                yield {"merges": table.draw(draws)}
            else:
                yield {"merges": 0} if run.text == "plain" else {"reduction": 0.5}

    @cached_property
    def table(self) -> LengthTable:
        """Merges by reduction on the training sentences."""
        texts = [text for text, _ in sst2(self.tasks, "train")][: self.sizes.train]
        return lengths_by_merges(self.cutters["pretoken"], texts, batch_texts=BATCH)

    def model(self, method: str) -> DynamicModel:
        """The encoder with a kind of rows, and nothing kept of them."""
        if method not in self.models:
            self.models[method] = self.models["hypernet"].with_config(method=method)
        model = self.models[method]
        model.cache = EmbeddingCache(model.rows, model.config.capacity)
        return model

    def texts(self, name: str) -> list[str]:
        """What is read: both sentences of each pair, or sentences with labels."""
        if name == "sst2":
            return [text for text, _ in sst2(self.tasks, "test")][: self.sizes.sentences]
        return [one for pair in self.pairs(name) for one in pair[:2]]

    def pairs(self, name: str) -> list[tuple[str, str, float]]:
        """Pairs with scores."""
        return stsb(self.tasks, name)[: self.sizes.english if name == "en" else self.sizes.others]

    def plain(self, name: str, texts: Sequence[str]) -> Tensor:
        """Vectors of the plain tokens, kept."""
        file = self.out / f"plain-{name}.pt"
        if not file.exists():
            model = self.models["plain"]
            torch.save(vectors(model.model, model.tokenizer, texts), file)
        found: Tensor = torch.load(file)
        return found

    def score(self, name: str, made: Tensor) -> float:
        """Accuracy, or rank correlation with people."""
        from scipy.stats import spearmanr

        if name == "sst2":
            labels = [label for _, label in sst2(self.tasks, "test")][: len(made)]
            return self.classifier.accuracy(made, torch.tensor(labels))
        cosine = (made[0::2] * made[1::2]).sum(dim=1)
        return float(spearmanr(cosine.numpy(), [score for _, _, score in self.pairs(name)]).statistic)

    @cached_property
    def classifier(self) -> Classifier:
        """Fitted on plain vectors of the training sentences."""
        known = sst2(self.tasks, "train")[: self.sizes.fit]
        made = self.plain("fit", [text for text, _ in known])
        return Classifier.fitted(made, torch.tensor([label for _, label in known]))


class Reader:
    """Reads texts batch after batch and counts."""

    def __init__(self, model: DynamicModel, cutter: DynamicBPE, share: float) -> None:
        self.model, self.cutter, self.share = model, cutter, share
        self.tokens = self.units = self.places = 0
        self.seconds = {"cutting": 0.0, "rows": 0.0, "reading": 0.0, "wall": 0.0}
        self.seen: set[bytes | int] = set()
        self.hits: list[tuple[int, int, int, int]] = []
        """Of each batch: distinct units that had been seen, distinct units, and the same of new units."""

    def read(self, texts: Sequence[str], seed: int) -> Tensor:
        """Vectors of texts that fall into batches in a drawn order."""
        made = torch.zeros(len(texts), self.model.rows.dim)
        wall = time.perf_counter()
        for some in batches(texts, seed):
            clock = time.process_time()
            cut = self.cutter.segment([texts[at] for at in some], reduction=self.share)
            clock = self._lap("cutting", clock)
            units = self.model.units(cut)
            clock = self._lap("rows", clock)
            with torch.autocast("cpu", torch.bfloat16):
                made[some] = self.model.encode(units)
            self._lap("reading", clock)
            self.places += units.mask.numel()
            self._count(cut)
        self.seconds["wall"] = time.perf_counter() - wall
        return made

    def numbers(self) -> dict[str, float]:
        """Tokens, units, places with padding, rows that were made, and seconds."""
        counts = {"tokens": self.tokens, "units": self.units, "places": self.places, "made": self.model.cache.misses}
        return counts | {name: round(value, 3) for name, value in self.seconds.items()}

    def _lap(self, name: str, since: float) -> float:
        now = time.process_time()
        self.seconds[name] += now - since
        return now

    def _count(self, cut: Segmentation) -> None:
        self.tokens += sum(cut.plain_lengths)
        self.units += sum(cut.lengths)
        own = {number for row in cut.rows for number in row if number < len(self.model.tokenizer.vocab)}
        everything: set[bytes | int] = own | set(cut.new)
        fresh = sum(token in self.seen for token in cut.new)
        self.hits.append((len(everything & self.seen), len(everything), fresh, len(cut.new)))
        self.seen |= everything


class Learner:
    """Adapters and a head around the encoder."""

    def __init__(self, bench: Bench, seed: int) -> None:
        import transformers
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        self.bench, self.seed = bench, seed
        kept = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # a head that is not in the checkpoint is what we want
        model = transformers.AutoModelForSequenceClassification.from_pretrained(bench.minilm, num_labels=2)
        transformers.logging.set_verbosity(kept)
        rank = bench.sizes.rank
        wanted = LoraConfig("SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.1, target_modules="all-linear")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
            adapted = get_peft_model(model, wanted)
        first = bench.models["hypernet"]
        self.model = DynamicModel(adapted, first.tokenizer, first.hypernet, DynamicConfig(capacity=10_000))
        self.cutter = bench.cutters["pretoken"]

    def learn(self, name: str, asked: Iterator[dict[str, float]]) -> float:
        """One epoch; the mean loss of its last tenth."""
        known = sst2(self.bench.tasks, "train")
        random.Random(f"learn {self.seed}").shuffle(known)
        steps = batches([text for text, _ in known[: self.bench.sizes.train]], self.seed)
        learned = [one for one in self.model.model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
        rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: min((at + 1) / 10, 1 - at / len(steps)))
        losses = []
        self.model.model.train()
        for some in steps:
            logits = self._logits([known[at][0] for at in some], next(asked))
            loss = nn.functional.cross_entropy(logits, torch.tensor([known[at][1] for at in some]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            rates.step()
            losses.append(loss.item())
        self.model.model.eval()
        return mean(losses[-max(1, len(losses) // 10) :])

    @torch.no_grad()
    def score(self, share: float) -> float:
        """Accuracy on the test sentences."""
        known = sst2(self.bench.tasks, "test")[: self.bench.sizes.test]
        right = 0
        for some in batches([text for text, _ in known], self.seed):
            found = self._logits([known[at][0] for at in some], {"reduction": share}).argmax(dim=1)
            right += int((found == torch.tensor([known[at][1] for at in some])).sum())
        return round(right / len(known), 5)

    def _logits(self, texts: Sequence[str], asked: dict[str, float]) -> Tensor:
        units = self.model.units(self.cutter.segment(texts, **asked))
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.model(units).logits.float()
        return logits


def batches(texts: Sequence[str], seed: int) -> list[list[int]]:
    """Texts by number, drawn in pools, in batches of like length; the batches in a drawn order."""
    draw, order = random.Random(f"order {seed}"), list(range(len(texts)))
    draw.shuffle(order)
    pools = [order[start : start + POOL * BATCH] for start in range(0, len(order), POOL * BATCH)]
    ordered = [at for pool in pools for at in sorted(pool, key=lambda at: len(texts[at]))]
    found = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    draw.shuffle(found)
    return found


def stsb(tasks: Path, language: str) -> list[tuple[str, str, float]]:
    """Test pairs of a language with scores of people."""
    with open_bytes(tasks / "stsb" / f"{language}-test.csv.zst") as opened:
        data = opened.read().decode("utf-8")
    return [(one.strip(), other.strip(), float(score)) for one, other, score in csv.reader(io.StringIO(data))]


def ratio(hits: Sequence[tuple[int, int, int, int]], at: int) -> float:
    """Share of units that had been seen, over some batches."""
    asked = sum(one[at + 1] for one in hits)
    return round(sum(one[at] for one in hits) / asked, 4) if asked else 0.0


def tables(rows: Sequence[dict]) -> str:
    """What the results page shows."""
    made = (lengths_table, features_table, adapters_table, epoch_table)
    return "\n\n".join(table for one in made if (table := one(rows)))


def lengths_table(rows: Sequence[dict]) -> str:
    some = [row for row in rows if row["part"] == "lengths"]
    lines = ["| text | tokens | pretoken | word | sentence |", "|---|---|---|---|---|"] if some else []
    for text in dict.fromkeys(row["text"] for row in some):
        own = [row for row in some if row["text"] == text]
        cells = [f"{100 * (1 - row['units'] / row['tokens']):.1f} % ({row['merges']})" for row in own]
        lines.append(f"| {text} | {own[0]['tokens']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def features_table(rows: Sequence[dict]) -> str:
    some = [row for row in rows if row["part"] == "features"]
    plain = {(row["text"], row["seed"]): row for row in some if row["method"] == "plain"}
    lines = ["| text | boundary | asked | rows | shorter | score | 1 - cosine | cutting + rows | reading | plain |",
             "|---|---|---|---|---|---|---|---|---|---|"] if some else []  # fmt: skip
    keys = sorted({(row["text"], row["boundary"], row["share"], row["method"]) for row in some})
    for text, boundary, share, method in keys:
        own = [row for row in some if (row["text"], row["boundary"], row["share"], row["method"]) ==
               (text, boundary, share, method)]  # fmt: skip
        cells = [
            f"{100 * mean(1 - row['units'] / row['tokens'] for row in own):.1f} %",
            spread([row["score"] for row in own]),
            spread([1 - row["cosine"] for row in own]),
            f"{mean(row['cutting'] + row['rows'] for row in own):.2f} s",
            f"{mean(row['reading'] for row in own):.2f} s",
            f"{mean(plain[text, row['seed']]['reading'] for row in own):.2f} s",
        ]
        lines.append(f"| {text} | {boundary} | {100 * share:.0f} % | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def adapters_table(rows: Sequence[dict]) -> str:
    some = [row for row in rows if row["part"] == "adapters"]
    lines = ["| trained on | 0 % | 50 % | 100 % |", "|---|---|---|---|"] if some else []
    for arm in dict.fromkeys(row["text"] for row in some):
        own = [row for row in some if row["text"] == arm]
        cells = [spread([row[f"score {share:g}"] for row in own]) for share in TESTED]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def epoch_table(rows: Sequence[dict]) -> str:
    some = [row for row in rows if row["part"] == "epoch"]
    names = ("first all", "behind all", "first new", "behind new", "cutting", "rows", "reading", "wall")
    lines = [f"| asked | shorter | places | {' | '.join(names)} |", "|---" * 11 + "|"] if some else []
    for share in dict.fromkeys(row["share"] for row in some):
        own = [row for row in some if row["share"] == share]
        shorter = f"{100 * mean(1 - row['units'] / row['tokens'] for row in own):.1f} %"
        cells = [spread([row[name] for row in own], 2) for name in names]
        places = f"{mean(row['places'] for row in own):.0f}"
        lines.append(f"| {100 * share:.0f} % | {shorter} | {places} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 3) -> str:
    low, middle, high = min(values), mean(values), max(values)
    only = f"{middle:.{digits}f}"
    return only if len(values) == 1 else f"{only} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
