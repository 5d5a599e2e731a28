"""The training engine: phases, schedules, accumulation by global counts, exact resume, one process or several.

Whatever a step draws (dropout) comes from the seed, the number of the step and the rank, and its data from the phase
and the step: a run that stops and goes on gives the same weights, bit for bit, as one that does not.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenlayer.train.config import NEUTRAL, TrainConfig
from tokenlayer.train.memory import give_back_large
from tokenlayer.train.metrics import Meter, peak_flops
from tokenlayer.train.objective import Objective, Phase
from tokenlayer.train.run import MakeOptimiser, Run
from tokenlayer.train.state import load_state

Progress = Callable[[int, int], object]
"""Called with steps done and steps in all."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run did.

    Attributes:
        losses: loss of each step, the weighted sum of its parts.
        rows: the rows of numbers of this run, see `Meter.row`.
        tokens: real tokens that were trained on.
        seconds: of all steps, those before a resume included.
    """

    losses: list[float]
    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Hooks:
    """What is called while a run goes on.

    Attributes:
        progress: see `Progress`.
        after_step: with the steps done, after each.
        on_row: with each row of numbers; of several processes, in the first.
    """

    progress: Progress | None = None
    after_step: Callable[[int], object] | None = None
    on_row: Callable[[Mapping[str, Any]], object] | None = None


def train(
    objective: Objective,
    config: TrainConfig = TrainConfig(),
    *,
    state: Path | None = None,
    metrics: Path | None = None,
    about: Mapping[str, Any] | None = None,
    hooks: Hooks = Hooks(),
    optimiser: MakeOptimiser | None = None,
) -> Trained:
    """Runs all phases of an objective.

    Args:
        objective: what is trained, see `Objective`; its networks are changed in place.
        config: see `TrainConfig`.
        state: folder for what a stopped run goes on from; a run whose folder has a state goes on from the last. It
            is removed by whoever called, once the result is safe.
        metrics: file for rows of numbers, one JSON object a line.
        about: what else decides the result (data, model), by name; a state of other values is refused.
        hooks: see `Hooks`.
        optimiser: see `MakeOptimiser`; None takes AdamW.

    Raises:
        BadOption: `state` is of a run with other settings; several losses without counts; a step without data.
        BadCheckpoint: the last state cannot be read.
        VerifyFailed: a loss or gradient is not finite, or a loss has another count than was announced.
        MissingExtra: several processes without accelerate.
    """
    run = Run(objective, config, optimiser)
    if run.processes.device.type == "cpu":
        give_back_large()
    settings = _settings(objective, config, about or {})
    found = None if state is None else load_state(state, settings)
    if found is not None and state is not None:
        run.restore(found, state)
    peak = partial(peak_flops, str(run.processes.device), config.precision)
    meter = Meter(metrics if run.processes.main else None, run.done, peak, run.processes.shard.ranks)
    rows: list[dict[str, Any]] = []
    saved = time.monotonic()
    for phase, first in _ahead(objective.phases, run.done):
        with run.training(phase, first):
            for step in range(first, phase.steps):
                wanted = state is not None and time.monotonic() - saved > config.save_seconds
                told = run.step(phase, step, save=wanted)
                meter.add(told)
                if run.done % config.log_every == 0 or step == phase.steps - 1:
                    rows.append(meter.row(run.done, phase.name, seconds=run.seconds))
                    _call(hooks.on_row if run.processes.main else None, rows[-1])
                _call(hooks.progress, run.done, run.steps)
                _call(hooks.after_step, run.done)
                if told.save and state is not None:
                    run.save(state, settings, keep=config.keep)
                    saved = time.monotonic()
    return Trained(run.losses, rows, int(run.tokens), run.seconds)


def _ahead(phases: Sequence[Phase], done: int) -> Iterator[tuple[Phase, int]]:
    """The phases that are left, each with its first step that is left."""
    for phase in phases:
        if done < phase.steps:
            yield phase, done
        done = max(done - phase.steps, 0)


def _settings(objective: Objective, config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the result, flat, so that a difference has a name."""
    found: dict[str, Any] = {name: value for name, value in asdict(config).items() if name not in NEUTRAL}
    for phase in objective.phases:
        schedule = asdict(phase.schedule)
        found |= {f"{phase.name}: {name}": value for name, value in ({"steps": phase.steps} | schedule).items()}
        found[f"{phase.name}: fresh"] = phase.fresh
    return found | dict(about)


def _call(hook: Callable[..., object] | None, *values: Any) -> None:
    if hook is not None:
        hook(*values)
