"""Speed of the engine: a bare loop, our engine and transformers' Trainer on the same model and windows.

    python benchmarks/train/engine.py --steps 20 --repeats 3 --memory

The model is a small Llama with random weights (`--layers`, `--dim`, `--vocab`), the data are random ids. Each turn
trains a fresh copy for `--steps` steps of `--batch` windows in micro-batches of `--micro`; turns go A B C A B C in one
process. Printed, one JSON row each: median wall and CPU seconds of a step, tokens a second, and ratios (of CPU seconds,
which say more on a shared machine); with `--memory` the peak memory of each in a process of its own.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tokenlayer.train.batches import SampleStream
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.engine import Hooks, train
from tokenlayer.train.language import CausalObjective
from tokenlayer.train.objective import Phase, Schedule

KINDS = ("bare", "engine", "trainer")


def model_of(args) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=args.vocab, hidden_size=args.dim, num_hidden_layers=args.layers, intermediate_size=3 * args.dim,
            num_attention_heads=max(1, args.dim // 64), tie_word_embeddings=True, max_position_embeddings=args.window,
        )
    )  # fmt: skip


def windows(args) -> list[list[int]]:
    draw = torch.Generator().manual_seed(1)
    count = args.batch * (args.steps + args.warm)
    return torch.randint(0, args.vocab, (count, args.window), generator=draw).tolist()


class Clock:
    """Wall and CPU seconds at the end of each step."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def __call__(self, *_: object) -> None:  # noqa: D102
        self.at.append((time.perf_counter(), time.process_time()))


def bare(args, model, rows, clock) -> None:
    """What has to be done: forward, backward, clip, step."""
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, weight_decay=0.01)
    ids = torch.tensor(rows)
    for step in range(args.steps + args.warm):
        adam.zero_grad()
        of_step = ids[step * args.batch : (step + 1) * args.batch]
        for some in of_step.split(args.micro):
            logits = model(input_ids=some, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            loss = torch.nn.functional.cross_entropy(logits, some[:, 1:].flatten(), reduction="sum")
            (loss / of_step[:, 1:].numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        clock()


def engine(args, model, rows, clock) -> None:
    sizes = {"batch_tokens": args.batch * args.window, "micro_tokens": args.micro * args.window}
    phase = Phase("train", args.steps + args.warm, Schedule(1e-4, "constant", 0))
    objective = CausalObjective(model, SampleStream(iter(rows), len, **sizes), [phase])
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(weight_decay=0.01, log_every=1)
        train(objective, config, metrics=Path(folder) / "metrics.jsonl", hooks=Hooks(after_step=clock))


def trainer(args, model, rows, clock) -> None:
    class Tick(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            clock()

    data = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        options = TrainingArguments(
            folder, per_device_train_batch_size=args.micro, gradient_accumulation_steps=args.batch // args.micro,
            max_steps=args.steps + args.warm, learning_rate=1e-4, lr_scheduler_type="constant", weight_decay=0.01,
            max_grad_norm=1.0, optim="adamw_torch_fused", logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, use_cpu=True, dataloader_num_workers=0,
        )  # fmt: skip
        Trainer(model=model, args=options, train_dataset=data, callbacks=[Tick()]).train()


def turn(kind: str, args) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each step but the first ones."""
    clock = Clock()
    run = {"bare": bare, "engine": engine, "trainer": trainer}[kind]
    run(args, model_of(args).train(), windows(args), clock)
    between = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(clock.at)]
    return between[args.warm - 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"steps": 20, "repeats": 3, "warm": 2, "layers": 2, "dim": 128, "vocab": 4096}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"window": 128, "batch": 8, "micro": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory", action="store_true", help="peak memory of each, in processes of their own")
    parser.add_argument("--only", choices=KINDS, help="one turn of this kind; prints its peak memory")
    args = parser.parse_args()
    if args.only:
        turn(args.only, args)
        print(json.dumps({"kind": args.only, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
        return
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeats):
        for kind in KINDS:
            found[kind] += turn(kind, args)
    wall, cpu = ({kind: statistics.median(s[i] for s in found[kind]) for kind in KINDS} for i in (0, 1))
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
    for kind in KINDS:
        row = {"kind": kind, "wall_s": round(wall[kind], 4), "cpu_s": round(cpu[kind], 4)}
        row |= {"tokens_per_cpu_second": round(args.batch * args.window / cpu[kind])}
        print(json.dumps(row | {"over_bare": round(cpu[kind] / cpu["bare"], 3), **machine}), flush=True)
    print(json.dumps({"engine_over_trainer": round(cpu["engine"] / cpu["trainer"], 3)}), flush=True)
    if args.memory:
        for kind in KINDS:
            command = [sys.executable, __file__, "--only", kind, "--steps", "4"]
            command += [
                f"--{name}={getattr(args, name)}" for name in ("layers", "dim", "vocab", "window", "batch", "micro")
            ]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
