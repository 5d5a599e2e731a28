"""What is told while training: a row of numbers every few steps, as JSON lines and as one line to read."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tokenlayer.train.run import Told

PEAKS = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
    "4090": (165e12, 82.6e12),
    "3090": (71e12, 35.6e12),
}
"""Floating-point operations a second of GPUs by a part of their name, bfloat16 (dense) and float32: data sheets."""
MATMUL = 1024
"""Side of the matrices that measure a device which is not in the table."""


@cache
def peak_flops(device: str, precision: str) -> float:
    """Operations a second that a device could do: from the table for known GPUs, else by a short product of matrices.

    Args:
        device: as for `torch.device`.
        precision: float32 or bfloat16.
    """
    place = torch.device(device)
    if place.type == "cuda":
        name = torch.cuda.get_device_name(place)
        found = next((both for part, both in PEAKS.items() if part in name), None)
        if found is not None:
            return found[precision != "bfloat16"]
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one = torch.ones(MATMUL, MATMUL, dtype=kind, device=place)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((one @ one)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * MATMUL**3 / best


class Meter:
    """Adds up the steps between two rows.

    Args:
        file: gets one JSON line a row; rows of steps after `step` are removed first. None writes nothing.
        step: steps that were done before.
        peak: operations a second that a device could do, see `peak_flops`; asked once, if operations are counted.
        devices: how many work.
    """

    def __init__(self, file: Path | None, step: int, peak: Callable[[], float], devices: int = 1) -> None:
        self.file, self.peak, self.devices = file, peak, devices
        self._held: list[Told] = []
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read_rows(file) if row["step"] <= step]
            beside = file.with_name(f".{file.name}.partial")
            beside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            beside.replace(file)

    def add(self, told: Told) -> None:
        """Takes in one step."""
        self._held.append(told)

    def row(self, step: int, phase: str, seconds: float) -> dict[str, Any]:
        """Numbers since the last row, means where they are of a step; written to the file.

        Args:
            step: steps done.
            phase: of the last one.
            seconds: of all steps so far.
        """
        held, self._held = self._held, []
        spent = max(sum(one.seconds for one in held), 1e-9)
        flops = sum(one.flops for one in held)
        found = {
            "step": step,
            "phase": phase,
            "loss": sum(one.loss for one in held) / len(held),
            "parts": {name: _mean(one.parts.get(name) for one in held) for name in held[-1].parts},
            "rate": held[-1].rate,
            "norm": sum(one.norm for one in held) / len(held),
            "tokens_per_second": sum(one.tokens for one in held) / spent,
            "data_wait": sum(one.waited for one in held) / spent,
            "mfu": flops / spent / self.peak() / self.devices if flops else None,
            "seconds": seconds,
        }
        if self.file is not None:
            with open(self.file, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(found) + "\n")
        return found


def _mean(values: Iterable[float | None]) -> float:
    """Of those that are there."""
    held = [value for value in values if value is not None]
    return sum(held) / len(held)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; none where there is no file. A last line that was cut off is left out."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def told(row: Mapping[str, Any], steps: int) -> str:
    """A row as one line to read.

    Args:
        row: see `Meter.row`.
        steps: of the whole run.
    """
    parts = row["parts"]
    losses = f"loss {row['loss']:.4f}"
    if len(parts) > 1:
        losses += " (" + ", ".join(f"{name} {value:.4f}" for name, value in parts.items()) + ")"
    line = f"step {row['step']:,} of {steps:,}  {row['phase']}  {losses}  rate {row['rate']:.2e}"
    line += f"  {row['tokens_per_second']:,.0f} tokens/s  waits {row['data_wait']:.0%}"
    return line if row["mfu"] is None else f"{line}  mfu {row['mfu']:.0%}"
