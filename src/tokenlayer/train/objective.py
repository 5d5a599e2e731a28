"""What the engine trains: the `Objective` protocol, its phases, schedules, parameter groups and undivided losses.

A step of the engine: the micro-batches of the step -> `corrupt` each -> add up their `counts` over micro-batches and
processes -> `losses` of each, divided by those counts -> one step of the optimiser. A loss of several parts (a
generator's and a discriminator's) thus has for each part the mean over its own count, however the batch was cut.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from tokenlayer.core.errors import BadOption, choose

KINDS = ("linear", "cosine", "constant")


class LossParts(NamedTuple):
    """One loss of a micro-batch before it is divided.

    Attributes:
        total: sum of losses in nats, with a gradient.
        terms: how many losses were added.
        weight: of this part's mean in the loss of the step.
    """

    total: Tensor
    terms: float
    weight: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step of a phase."""

    peak: float = 2e-4
    """The highest rate, at the end of the warm-up."""
    kind: str = "linear"
    """After the warm-up: linear or cosine to the floor, or constant."""
    warmup: float | int = 0.1
    """In which the rate rises from zero: a share of the phase's steps, or, as an `int`, a number of steps."""
    floor: float = 0.0
    """Share of the peak that the decay ends at."""
    multiplied: bool = False
    """Decay from step 0 on, times `min(1, step / warm-up)`: ELECTRA's form, in which step 0 has a rate of zero."""

    def __post_init__(self) -> None:
        choose("schedule", self.kind, KINDS)
        if not self.peak > 0:
            raise BadOption(f"learning_rate is {self.peak:g}, expected above 0")
        if self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup > 1):
            raise BadOption(
                f"warmup is {self.warmup:g}, expected a share from 0 to 1", hint="a whole number (an int) counts steps"
            )
        if not 0 <= self.floor <= 1:
            raise BadOption(f"floor is {self.floor:g}, expected a share from 0 to 1")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of a phase of so many steps."""
        rising = self.warmup if isinstance(self.warmup, int) else round(self.warmup * steps)
        if self.multiplied:
            return self.peak * self._decay(step / steps) * min(1.0, step / max(rising, 1))
        if step < rising:
            return self.peak * (step + 1) / rising
        return self.peak * self._decay((step - rising) / max(steps - rising, 1))

    def _decay(self, done: float) -> float:
        """Factor after a share of the decay."""
        left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.kind]
        return self.floor + (1 - self.floor) * left


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with one schedule, one set of losses and one set of trained parameters."""

    name: str
    """What it does, in a word."""
    steps: int
    """Optimiser steps."""
    schedule: Schedule = field(default_factory=Schedule)
    """Its learning rates: each phase begins its own."""
    fresh: bool = False
    """Begin with empty moments, where parameters were trained in an earlier phase already."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadOption(f"steps is {self.steps}, expected at least 1")


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that are stepped alike.

    Attributes:
        parameters: by names that no other group of the objective has.
        weight_decay: of AdamW; None takes the one of `TrainConfig`.
        rate: factor on the learning rate of the phase.
    """

    parameters: Mapping[str, nn.Parameter]
    weight_decay: float | None = None
    rate: float = 1.0


class Shard(NamedTuple):
    """Which part of a step's data a process takes."""

    rank: int = 0
    ranks: int = 1


@runtime_checkable
class Objective(Protocol):
    """A task that the engine trains; subclass it, and override what the defaults do not fit.

    Attributes:
        phases: trained one after the other.
    """

    phases: Sequence[Phase]

    def modules(self) -> Mapping[str, nn.Module]:
        """Networks by name, on the device where they are trained; those that only read are left out."""
        ...

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterable[Any]:
        """The data of one step (counted from 0 in its phase) for one process, in parts that fit into memory.

        The engine asks for the steps in order, and after a resume for a later one than the last: the answer must
        depend on the phase, the step and the shard alone.
        """
        ...

    def losses(self, phase: Phase, batch: Any) -> Mapping[str, LossParts]:
        """The losses of one micro-batch by name; what they draw (dropout) comes from torch's seeded generator."""
        ...

    def parameter_groups(self, phase: Phase) -> list[ParameterGroup]:
        """What a phase trains; here everything, without decay on biases and on the gains of norms."""
        return decay_groups(self.modules())

    def corrupt(self, phase: Phase, batch: Any, seed: int) -> Any:
        """Makes the input and the labels of a micro-batch; here nothing is changed.

        What it draws must come from `seed` and the samples' own numbers (see `draws.uniform`), so that a sample is
        treated alike in any batch, process and resumed run.
        """
        return batch

    def counts(self, phase: Phase, batch: Any) -> Mapping[str, float] | None:
        """The terms that each part of `losses` will have, for a corrupted batch.

        None: they are known only with the losses; that serves one part, or one micro-batch in one process.
        """
        return None

    def trial(self, phase: Phase) -> Iterable[Any]:
        """Micro-batches like those of a step, for `estimate`; training from the first step stays possible."""
        return self.micro_batches(phase, 0, Shard())

    def tokens(self, batch: Any) -> int:
        """Real (not pad) tokens of a micro-batch; for the speed that is told."""
        return 0

    def flops(self, batch: Any) -> float:
        """Floating-point operations of forward and backward; 0 where nobody counted."""
        return 0.0

    def export(self, folder: Path) -> None:
        """Writes what was trained as ordinary folders.

        Raises:
            BadOption: the objective has nothing to write.
        """
        raise BadOption(f"{type(self).__name__} writes no folder", hint="save its networks yourself")


def decay_groups(modules: Mapping[str, nn.Module]) -> list[ParameterGroup]:
    """All parameters with a gradient in two groups: those with decay, then biases and norms' gains without.

    Names are `MODULE.PARAMETER`. A tensor that several places share is there once.
    """
    matrices: dict[str, nn.Parameter] = {}
    others: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for module_name, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                (matrices if parameter.ndim > 1 else others)[f"{module_name}.{name}"] = parameter
    return [group for group in (ParameterGroup(matrices), ParameterGroup(others, 0.0)) if group.parameters]
