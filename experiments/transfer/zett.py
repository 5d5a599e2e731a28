"""A hypernetwork for a small English model, five tokenizers that it never saw, and the usual ways to start rows.

    python experiments/transfer/zett.py --texts PROSE HELP CODE --other REVIEWS NEWS --german HELP-DE --second UD-EN \
        --out RUNS

The model (byte-level BPE of 4,096 tokens, 4 layers, 128 dimensions, tied) and the hypernetworks learn from `--texts`;
200 kB of the first two are held out, and no long line of them occurs in training. Five targets of 3,000 tokens learn
from `--other`, the German one from `--german`: byte-level BPE, WordPiece (capitals kept), byte-level Unigram, German
BPE, and a Unigram of random log-probabilities over half of the BPE's tokens and as many random substrings. Every run
is one line of `RUNS/runs.jsonl`; a run that is there is not repeated. `--quick` runs the same code in seconds.

Decided before the runs: all numbers of `ZettConfig.small()`, 4 heads; 5 arms and 3 seeds; copy-gaussian and focus
(vectors from 1 MB of the target's own text) with 3 seeds, pieces and mean; windows of 128 tokens for all scores; then
200 steps of all weights (8 windows of 128 tokens, AdamW, constant rate 3e-4, the model's own texts) on BPE and German
BPE from the rows of the arm `paper` and of pieces. `--steps 400` shortens all arms alike: 100 of them identity, 50
warm-up. Claims, for the held-out text and the means over seeds:

    1. `paper` is below every heuristic on each target, and closes at least 25 % of the gap from the best heuristic of
       each target to the original model, in the mean over targets. WordPiece spells no white space, so what it leaves
       out makes its bits fewer than those of the original for a text of the same bytes: the mean is also given
       without it;
    2. without noise the random and the German target are worse;
    3. without the identity stage the loss at equal steps is higher: bits per byte of 8 sampled tokenizers, the same
       for all arms, on held-out text;
    4. 200 steps from the hypernetwork's rows end below 200 steps from those of pieces.

A difference whose sign is not the same in every seed is a tie. `residual` is reported apart. Runs that decide claims
come first, seed by seed, so that a cut-off leaves whole seeds.

The arm `sampled` was added after those runs: all as in `paper`, but the hypernetwork reads text that was sampled from
the model, which is what the model expects by construction, where `paper` reads the texts that the model learned from.
The sampled tokenizers come from that text too. It has a quarter of the characters that the steps ask for, so that it
is gone through four times, with other spans each time; the model reads the first 96 tokens of a span, a seventh of it.
Decided before any score of it was seen, for the mean over the five targets on held-out text:

    5. `sampled` is better (worse) than `paper` if it is lower (higher) by more than 0.02 bits per byte in each seed,
       and a tie otherwise.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from small_lm import cut, loss_of, read, window_batch
from torch import nn
from zett_setting import QUICK_SIZES, TARGETS, Setting, Sizes, prepare, write_sampled
from zett_tables import tables

from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.packing import packed_windows
from tokenlayer.data.static_vectors import StaticVectors, VectorConfig
from tokenlayer.models.loading import OpenedModel, load_model, opened_model
from tokenlayer.models.score import WindowConfig, score_text, start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.train.engine import Hooks, train
from tokenlayer.train.loop import LoopConfig, LossParts, run_loop
from tokenlayer.transfer.comparison import with_tables
from tokenlayer.transfer.focus import Auxiliary, FocusConfig, focus, token_text_vectors
from tokenlayer.transfer.initialisers import INITIALISERS, make_plan
from tokenlayer.transfer.target import Target, prepare_target
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import load_hypernet, save_hypernet
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig
from tokenlayer.transfer.zett.objective import MAIN, MainBatch, SourceRows, ZettObjective
from tokenlayer.transfer.zett.predict import zett
from tokenlayer.transfer.zett.train import (
    ANCHORS,
    CHARS_PER_TOKEN,
    HypernetRun,
    engine_config,
    make_objective,
    source_rows,
)

CLAIMED, OTHER = ("paper", "no noise", "no identity"), ("no aux", "residual", "sampled")
"""Arms that decide claims 1 to 4, and the others."""
SAMPLED_PASSES = 4
"""How often the text that was sampled from the model is gone through."""
HEURISTICS = ("pieces", "mean", "copy-gaussian", "focus")
N_SHOT_TARGETS = ("bpe", "german")
HEAD_WIDTH = 32
VALIDATION_SEED = 1_000
WINDOW = WindowConfig(window=128, stride=96, batch=8)


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    config: ZettConfig
    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: Sizes = field(default_factory=Sizes)
    vectors: VectorConfig = Auxiliary
    """How focus learns vectors of tokens."""
    vector_bytes: int = 1_000_000
    """Of the target's text that it learns them from."""
    validation: int = 8
    """Sampled tokenizers on which all arms are compared."""
    n_shot: int = 200
    n_shot_batch: int = 8
    n_shot_rate: float = 3e-4
    n_shot_bytes: int = 1_500_000


def shortened(steps: int) -> ZettConfig:
    """The small profile with fewer steps; a quarter of them show source tokens, an eighth warm up."""
    return replace(ZettConfig.small(), steps=steps, identity_steps=steps // 4, warmup_steps=steps // 8)


def quick() -> Plan:
    """The same in seconds."""
    config = shortened(8)
    sampler = replace(config.sampler, vocab_size=400, queue_texts=8)
    config = replace(config, batch=4, block=24, identity_tokens=64, sampler=sampler)
    vectors = replace(Auxiliary, buckets=1_000, epochs=1)
    return Plan(config, (0,), QUICK_SIZES, vectors, 20_000, validation=1, n_shot=2, n_shot_batch=2, n_shot_bytes=20_000)


class Bench:
    """The loaded model with everything that is put into it."""

    def __init__(self, source: OpenedModel, setting: Setting, plan: Plan, out: Path) -> None:
        self.source, self.setting, self.plan, self.out = source, setting, plan, out
        self.rows: SourceRows = source_rows(source)
        self.targets: dict[str, Target] = {
            name: prepare_target(source.tokenizer, load_tokenizer(folder)) for name, folder in setting.targets.items()
        }
        self.model = self.loaded()
        self._vectors: dict[str, StaticVectors] = {}
        self._validation: tuple[ZettObjective, list[MainBatch]] | None = None

    def loaded(self) -> nn.Module:
        """The source model as it was saved."""
        return load_model(self.source.checkpoint.folder, self.source.checkpoint.kind)[0]

    def original(self) -> dict:
        """Bits per byte with the model's own tokenizer."""
        tokenizer = self.source.tokenizer
        return {"bits": self.scores(self.loaded(), tokenizer, start_token(tokenizer))}

    def heuristic(self, init: str, name: str, seed: int) -> dict:
        """Bits per byte of a target with the rows of an initialiser."""
        pair = self.targets[name].pair
        if init == "focus":
            plan = focus(pair, self.token_vectors(name), FocusConfig(seed=seed))
        else:
            plan = make_plan(init, pair, seed)
        return {"bits": self.zero_shot(name, plan), "origin": plan.counts()}

    def token_vectors(self, name: str) -> StaticVectors:
        """Vectors of a target's tokens, learned once from the text that it was learned from."""
        if name not in self._vectors:
            tokenizer = self.targets[name].tokenizer
            lines = cut(self.setting.other[name].read_text(), self.plan.vector_bytes).splitlines()
            self._vectors[name] = token_text_vectors(lines, tokenizer.vocab, tokenizer.encode, self.plan.vectors)
        return self._vectors[name]

    def zero_shot(self, name: str, plan: RowPlan) -> dict[str, float]:
        """Bits per byte of every text with the rows of a plan, without training."""
        with_tables(self.model, self.source, plan)
        return self.scored_as(self.model, name)

    def scored_as(self, model: nn.Module, name: str) -> dict[str, float]:
        """Bits per byte of every text in the tokens of a target."""
        target = self.targets[name]
        return self.scores(model, target.tokenizer, target.start_token(self.source.tokenizer))

    def scores(self, model: nn.Module, tokenizer: LoadedTokenizer, start: int | None) -> dict[str, float]:
        """Bits per byte and tokens of every text."""
        found = {}
        for name, text in self.setting.held.items():
            scored = score_text(model, tokenizer, text, start_id=start, config=WINDOW).scores
            found |= {name: scored.bits_per_byte, f"{name} tokens": len(scored.token_ids)}
        return found

    def hypernet(self, arm: str, seed: int) -> dict:
        """Trains one arm, scores it on every target, and keeps the network."""
        run = arm_run(arm, seed, self.texts_of(arm), self.plan.config)
        objective = make_objective(self.source, run, tell)
        network = objective.network = new_network(self.source, self.rows, run.arch, seed)
        losses: dict[int, float] = {}

        def validate(done: int) -> None:
            if done % (run.training.steps // 2) == 0:
                losses[done] = self.validation(network)

        metrics = self.out / "metrics" / f"{arm}-{seed}.jsonl"
        trained = train(objective, engine_config(run), metrics=metrics, hooks=Hooks(after_step=validate))
        folder = hypernet_folder(self.out, arm, seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_hypernet(folder, network, self.source.tokenizer, {"arm": arm, "seed": seed}, dtype="float32")
        bits = {name: self.zero_shot(name, self.predicted(name, network)) for name in TARGETS}
        return {"bits": bits, "validation": losses, "train_seconds": round(trained.seconds, 1)}

    def texts_of(self, arm: str) -> tuple[Path, ...]:
        """What an arm learns from; text of the model itself is sampled once for all seeds."""
        if arm != "sampled":
            return self.setting.texts
        path = self.out / "texts" / "sampled.txt"
        if not path.exists():
            began = time.process_time()
            size = chars_read(self.plan.config) // SAMPLED_PASSES
            write_sampled(path, self.loaded(), self.source.tokenizer, size, self.plan.sizes.model.window)
            tell(f"{path.stat().st_size} bytes sampled in {time.process_time() - began:.0f} s of CPU")
        return (path,)

    def predicted(self, name: str, network: Hypernet) -> RowPlan:
        """The rows of a target that a network predicts."""
        return zett(self.targets[name].pair, network, self.rows.table, warn=partial(tell_of, name))

    @torch.no_grad()
    def validation(self, network: Hypernet) -> float:
        """Bits per byte of held-out text in sampled tokenizers that are the same for every arm."""
        if self._validation is None:
            held = str(self.out / "texts" / "held.txt")
            run = HypernetRun((held,), self.plan.config, seed=VALIDATION_SEED)
            made = make_objective(self.source, run, tell)
            self._validation = made, [made.main_batch(step) for step in range(self.plan.validation)]
        objective, batches = self._validation
        objective.network = network
        nats = sum(float(objective.main_loss(batch)[MAIN].total) for batch in batches)
        return nats / math.log(2) / sum(batch.source_bytes for batch in batches)

    def n_shot(self, start: str, name: str, seed: int) -> dict:
        """Trains the whole model with a target from one start."""
        target, plan = self.targets[name], self.plan
        if start == "hypernet":
            rows = self.predicted(name, load_hypernet(hypernet_folder(self.out, "paper", seed)).network)
        else:
            rows = make_plan(start, target.pair)
        model = self.loaded()
        with_tables(model, self.source, rows)
        before = self.scored_as(model, name)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        windows = self.windows(target)

        def batch(step: int) -> Iterator[partial[LossParts]]:
            yield partial(loss_of, model, torch.tensor(window_batch(windows, step, plan.n_shot_batch, seed)))

        model.train()
        loop = LoopConfig(plan.n_shot, plan.n_shot_rate, "constant", warmup=0.0, weight_decay=0.01, seed=seed)
        run_loop(dict(model.named_parameters()), batch, loop)
        model.eval()
        return {"before": before, "bits": self.scored_as(model, name)}

    def windows(self, target: Target) -> list[list[int]]:
        """The model's own texts in the cut of a target, the same documents for every target."""
        documents = [part for path in self.setting.texts for part in read(path)]
        random.Random(0).shuffle(documents)
        text = cut("\n\n".join(documents), self.plan.n_shot_bytes)
        start = target.start_token(self.source.tokenizer)
        return list(packed_windows(text.split("\n\n"), target.tokenizer.encode, WINDOW.window, start_id=start))


def arm_run(arm: str, seed: int, texts: Sequence[Path], config: ZettConfig) -> HypernetRun:
    """The settings of an arm; all have the same number of steps."""
    changed = {
        "no noise": config.without_noise(),
        "no identity": replace(config, identity_steps=0),
        "no aux": replace(config, aux_weight=0.0),
    }
    arch = "residual" if arm == "residual" else "paper"
    sources = tuple(f"en={path.stat().st_size / 1e6:.3f}:{path}" for path in texts)  # each as often as it is long
    return HypernetRun(sources, changed.get(arm, config), arch=arch, seed=seed)


def chars_read(config: ZettConfig) -> int:
    """Characters of the texts of all main steps, and of the queue before the first of them."""
    texts = config.batch * config.main_steps + config.sampler.queue_texts
    return texts * CHARS_PER_TOKEN * config.block


def new_network(source: OpenedModel, rows: SourceRows, arch: str, seed: int) -> Hypernet:
    """As `make_network` makes it, but with heads of 32: the small profile."""
    vocab = source.tokenizer.vocab
    shape = HypernetConfig.for_model(rows.dim, tied=rows.tied, vocab_size=len(vocab))
    decomposer = Decomposer(vocab, shape.longest)
    network = Hypernet(replace(shape, heads=rows.dim // HEAD_WIDTH, arch=arch, extra=decomposer.extra), seed)
    normal = vocab.text_ids()
    chosen = numpy_generator(seed, "zett-anchors").choice(normal, size=min(ANCHORS, len(normal)), replace=False)
    anchors, _ = decomposer.pieces([vocab.tokens[i] for i in chosen])
    network.fit_scalers(rows.table, anchors)
    return network


def hypernet_folder(out: Path, arm: str, seed: int) -> Path:
    return out / "hypernets" / f"{arm.replace(' ', '-')}-{seed}"


def tell(said: str) -> None:
    print("#", said, flush=True)


def tell_of(name: str, said: str) -> None:
    tell(f"{name}: {said}")


class Log:
    """Finished runs; one that is there is not repeated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, about: dict) -> bool:
        """Whether a run is there."""
        return any(about.items() <= row.items() for row in self.rows)

    def add(self, about: dict, found: dict, began: tuple[float, float]) -> None:
        """Keeps a run, with what it cost since `began` (wall and CPU)."""
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        row = json.loads(json.dumps(about | found | {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}))
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def jobs(plan: Plan) -> Iterator[dict]:
    """All runs: what decides the claims, a seed after the other, then the rest in the same order."""
    yield {"kind": "original"}
    for arms in (CLAIMED, OTHER):
        for seed in plan.seeds:
            for arm in arms:
                yield {"kind": "hypernet", "arm": arm, "seed": seed, "steps": plan.config.steps}
            for init in HEURISTICS if arms == CLAIMED else ():
                if seed == plan.seeds[0] or INITIALISERS[init].random:
                    yield from ({"kind": "heuristic", "init": init, "target": name, "seed": seed} for name in TARGETS)
            for name in N_SHOT_TARGETS if arms == CLAIMED else ():
                for start in ("hypernet", "pieces"):
                    yield {"kind": "n-shot", "start": start, "target": name, "seed": seed}


def asked(about: dict, arms: Sequence[str] | None) -> bool:
    """Whether a run is among those that `--only` names; the original and the heuristics always are."""
    return arms is None or (about["kind"] != "n-shot" and about.get("arm", arms[0]) in arms)


def run(bench: Bench, about: dict) -> dict:
    """One run by its kind."""
    if about["kind"] == "original":
        return bench.original()
    if about["kind"] == "hypernet":
        return bench.hypernet(about["arm"], about["seed"])
    name = about["target"]
    if about["kind"] == "n-shot":
        return bench.n_shot(about["start"], name, about["seed"])
    return bench.heuristic(about["init"], name, about["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", type=Path, required=True)
    parser.add_argument("--other", nargs="+", type=Path, required=True, help="Text that English targets learn from.")
    parser.add_argument("--german", type=Path, required=True)
    parser.add_argument("--second", type=Path, required=True, help="A second text to score.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800, help="Of a hypernetwork.")
    parser.add_argument("--only", nargs="+", choices=(*CLAIMED, *OTHER), help="Arms to train, and no model after them.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    small = ZettConfig.small()
    plan = quick() if args.quick else Plan(small if args.steps == small.steps else shortened(args.steps))
    setting = prepare(args, plan.sizes)
    log = Log(args.out / "runs.jsonl")
    with opened_model(setting.model, args.out) as source:
        bench = Bench(source, setting, plan, args.out)
        for about in jobs(plan):
            if not log.has(about) and asked(about, args.only):
                began = time.perf_counter(), time.process_time()
                log.add(about, run(bench, about), began)
    print(tables(log.rows))


if __name__ == "__main__":
    main()
