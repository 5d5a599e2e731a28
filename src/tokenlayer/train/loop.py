"""A training loop: AdamW, warm-up and decay, gradient sums divided once by the global count, exact resume.

A step's loss is `sum of losses / sum of counts` over all of its micro-batches, so that neither their number nor
padding changes it. Whatever a step draws (dropout, corruption) comes from `seed` and the number of the step: a run
that stops and goes on gives the same weights, bit for bit, as one that does not.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption, VerifyFailed, choose
from tokenlayer.core.seeds import derive_seed

SCHEDULES = ("linear", "cosine", "constant")
Progress = Callable[[int, int], object]
"""Called with steps done and steps in all."""


class LossParts(NamedTuple):
    """The loss of a micro-batch before it is divided.

    Attributes:
        total: sum of losses in nats, with a gradient.
        terms: how many losses were added.
    """

    total: Tensor
    terms: float


@dataclass(frozen=True)
class LoopConfig:
    """How parameters are stepped."""

    steps: int
    """Optimiser steps of the whole run."""
    learning_rate: float = 2e-4
    """At the end of the warm-up."""
    schedule: str = "linear"
    """After the warm-up: linear or cosine to zero, or constant."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises from zero."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    seed: int = 0
    """For what a step draws."""
    save_seconds: float = 300.0
    """Between two savings of the state."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadOption(f"steps is {self.steps}, expected at least 1")
        if not self.learning_rate > 0:
            raise BadOption(f"learning_rate is {self.learning_rate:g}, expected above 0")
        if not 0 <= self.warmup <= 1:
            raise BadOption(f"warmup is {self.warmup:g}, expected a share from 0 to 1")
        choose("schedule", self.schedule, SCHEDULES)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        done = (step - rising) / max(self.steps - rising, 1)
        factor = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.schedule]
        return self.learning_rate * factor


def run_loop(
    parameters: Mapping[str, nn.Parameter],
    micro_batches: Callable[[int], Iterable[Callable[[], LossParts]]],
    config: LoopConfig,
    *,
    state: Path | None = None,
    about: str = "",
    progress: Progress | None = None,
    after_step: Callable[[int], object] | None = None,
) -> list[float]:
    """Runs all steps.

    Args:
        parameters: what is trained, by name. Those without a gradient in a step are left alone by it.
        micro_batches: step -> functions that give the loss of one micro-batch each; they are called one at a time,
            and what they hold is freed before the next.
        config: see `LoopConfig`.
        state: file for parameters, moments and losses; a run whose file is there goes on from it. It is removed by
            whoever called, once the result is safe.
        about: what else decides the result (data, model); a state of another text is refused.
        progress: see `Progress`.
        after_step: called after each step with the steps done.

    Returns:
        The mean loss in nats of each step.

    Raises:
        BadOption: `state` was written by a run of other settings or parameters.
        VerifyFailed: a loss is not finite.
    """
    optimiser = torch.optim.AdamW(parameters.values(), lr=0.0, betas=config.betas, weight_decay=config.weight_decay)
    losses = _load(state, parameters, optimiser, about + _plain(config)) if state is not None and state.exists() else []
    saved = time.monotonic()
    for step in range(len(losses), config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        losses.append(_step(parameters, micro_batches(step), optimiser, config, step))
        if progress is not None:
            progress(step + 1, config.steps)
        if after_step is not None:
            after_step(step + 1)
        if state is not None and time.monotonic() - saved > config.save_seconds:
            _save(state, parameters, optimiser, about + _plain(config), losses)
            saved = time.monotonic()
    return losses


def _step(
    parameters: Mapping[str, nn.Parameter],
    parts: Iterable[Callable[[], LossParts]],
    optimiser: torch.optim.Optimizer,
    config: LoopConfig,
    step: int,
) -> float:
    """One optimiser step; returns its mean loss."""
    optimiser.zero_grad(set_to_none=True)
    total = count = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "step", step))
        for part in parts:
            loss = part()
            loss.total.backward()
            total += float(loss.total.detach())
            count += loss.terms
    mean = total / max(count, 1e-9)
    if not math.isfinite(mean):
        raise VerifyFailed(f"the loss of step {step} is {mean}", hint="try a lower learning rate")
    for parameter in parameters.values():
        if parameter.grad is not None:
            parameter.grad /= count
    if config.clip:
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
    optimiser.step()
    return mean


def _save(
    file: Path,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    about: str,
    losses: list[float],
) -> None:
    """Writes beside and renames, so that a stop in between keeps the older state."""
    from safetensors.torch import save_file

    tensors = {name: parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}:{name}"] = value
    plain = {key: value.contiguous().cpu() for key, value in tensors.items()}
    metadata = {"about": about, "losses": json.dumps(losses)}
    beside = file.with_name(f".{file.name}.partial")
    save_file(plain, beside, metadata)
    beside.replace(file)


def _load(
    file: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, about: str
) -> list[float]:
    """Puts a saved state back; returns the losses so far."""
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        metadata, names = stored.metadata() or {}, set(stored.keys())
        same = metadata.get("about") == about and set(parameters) <= names
        if not same or any(stored.get_slice(n).get_shape() != list(p.shape) for n, p in parameters.items()):
            raise BadOption(
                f"{file} was left by a run with other settings", hint="remove it, or use the settings of that run"
            )
        for name, parameter in parameters.items():
            parameter.data.copy_(stored.get_tensor(name))
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}:{name}" in names:
                    value = stored.get_tensor(f"{key}:{name}")
                    optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    losses: list[float] = json.loads(metadata["losses"])
    return losses


def _plain(config: LoopConfig) -> str:
    return json.dumps({key: value for key, value in asdict(config).items() if key != "save_seconds"})
