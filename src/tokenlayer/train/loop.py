"""The engine for callers that have parameters and functions: one phase, one loss, one process."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tokenlayer.train.config import TrainConfig
from tokenlayer.train.engine import Hooks, Progress, train
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Schedule, Shard

__all__ = ["LoopConfig", "LossParts", "Progress", "run_loop"]


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
        self.phase()

    def phase(self) -> Phase:
        """The only phase of the run."""
        return Phase("train", self.steps, Schedule(self.learning_rate, self.schedule, self.warmup))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.phase().schedule.rate(step, self.steps)


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
        state: folder from which a stopped run goes on, see `train`.
        about: what else decides the result (data, model); a state of another text is refused.
        progress: see `Progress`.
        after_step: called after each step with the steps done.

    Returns:
        The mean loss in nats of each step.

    Raises:
        BadOption: `state` was written by a run of other settings or parameters.
        VerifyFailed: a loss is not finite.
    """
    device = str(next(iter(parameters.values())).device) if parameters else "cpu"
    engine = TrainConfig(
        seed=config.seed,
        weight_decay=config.weight_decay,
        clip=config.clip,
        betas=config.betas,
        device=device,
        save_seconds=config.save_seconds,
    )
    objective = _Functions(parameters, micro_batches, config.phase())
    hooks = Hooks(progress, after_step)
    return train(objective, engine, state=state, about={"about": about}, hooks=hooks).losses


class _Functions(Objective):
    """Parameters and functions as an objective."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        steps: Callable[[int], Iterable[Callable[[], LossParts]]],
        phase: Phase,
    ) -> None:
        self.parameters, self.of_step = parameters, steps
        self.phases = [phase]

    def modules(self) -> Mapping[str, nn.Module]:
        return {}

    def parameter_groups(self, phase: Phase) -> list[ParameterGroup]:
        return [ParameterGroup(self.parameters)]

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterable[Any]:
        return self.of_step(step)

    def losses(self, phase: Phase, batch: Any) -> Mapping[str, LossParts]:
        return {"loss": batch()}
