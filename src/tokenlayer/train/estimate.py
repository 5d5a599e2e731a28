"""What a run would need, from trial steps that leave no trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenlayer.core.report import Report
from tokenlayer.core.seeds import derive_seed
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Shard
from tokenlayer.train.run import Run


@dataclass(frozen=True)
class Estimate:
    """What a run would need on one device.

    Attributes:
        trained: parameters that any phase trains.
        frozen: parameters of the networks that none trains.
        weight_bytes: of the networks.
        gradient_bytes: of the phase that trains most.
        moment_bytes: state of the optimiser.
        activation_bytes: kept between forward and backward of the largest micro-batch tried.
        step_seconds: of one step, by phase.
        run_seconds: of all steps.
        tokens_per_second: real tokens, over the whole run.
    """

    trained: int
    frozen: int
    weight_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int
    step_seconds: dict[str, float]
    run_seconds: float
    tokens_per_second: float

    @property
    def memory_bytes(self) -> int:
        """All of them together."""
        return self.weight_bytes + self.gradient_bytes + self.moment_bytes + self.activation_bytes

    def add_to(self, report: Report) -> None:
        """Puts the numbers into a report."""
        report.add("trained parameters", self.trained)
        report.add("frozen parameters", self.frozen)
        report.add("training memory", self.memory_bytes / 1e6, "MB")
        parts = ("weight_bytes", "gradient_bytes", "moment_bytes", "activation_bytes")
        rows = [(name.removesuffix("_bytes"), round(getattr(self, name) / 1e6, 1)) for name in parts]
        report.add_table("training memory", ("of what", "MB"), rows)
        for phase, seconds in self.step_seconds.items():
            report.add(f"seconds of a step, {phase}", seconds, "s")
        report.add("tokens per second", self.tokens_per_second, "tokens/s")
        report.add("time of the run", self.run_seconds / 3600, "h")


def estimate(objective: Objective, config: TrainConfig = TrainConfig(), *, trials: int = 2) -> Estimate:
    """Tries steps of each phase on the first data, and puts all weights back.

    Args:
        objective: what would be trained.
        config: how.
        trials: timed steps of each phase, after one that is not; the fastest counts.

    Raises:
        VerifyFailed: a loss of a trial step is not finite.
    """
    tried = _Trial(objective)
    run = Run(tried, config)
    named: dict[str, nn.Parameter] = {}
    kept, gradients, seconds, tokens = 0, 0, dict[str, float](), 0.0
    with _put_back(objective.modules()):
        for phase in objective.phases:
            tried.batches = list(objective.trial(phase))
            kept = max(kept, *(_kept_bytes(objective, phase, batch, config) for batch in tried.batches))
            with run.training(phase, 0):
                held = {n: p for group in objective.parameter_groups(phase) for n, p in group.parameters.items()}
                steps = [run.step(phase, 0) for _ in range(1 + max(trials, 1))][1:]
            named |= held
            gradients = max(gradients, _bytes(held.values()))
            seconds[phase.name] = min(step.seconds for step in steps)
            tokens += steps[0].tokens * phase.steps
        moments = _bytes(value for state in run.moments.values() for value in state.values())
    everything = [p for module in objective.modules().values() for p in module.parameters()]
    distinct = {id(p): p for p in [*everything, *named.values()]}
    trained = sum(p.numel() for p in named.values())
    whole = sum(seconds[phase.name] * phase.steps for phase in objective.phases)
    return Estimate(
        trained=trained,
        frozen=sum(p.numel() for p in distinct.values()) - trained,
        weight_bytes=_bytes(distinct.values()),
        gradient_bytes=gradients,
        moment_bytes=moments,
        activation_bytes=kept,
        step_seconds=seconds,
        run_seconds=whole,
        tokens_per_second=tokens / whole,
    )


class _Trial(Objective):
    """An objective that is given its data."""

    def __init__(self, real: Objective) -> None:
        self.real, self.phases = real, real.phases
        self.batches: list[Any] = []

    def modules(self) -> Mapping[str, nn.Module]:
        return self.real.modules()

    def parameter_groups(self, phase: Phase) -> list[ParameterGroup]:
        return self.real.parameter_groups(phase)

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> list[Any]:
        return self.batches

    def corrupt(self, phase: Phase, batch: Any, seed: int) -> Any:
        return self.real.corrupt(phase, batch, seed)

    def counts(self, phase: Phase, batch: Any) -> Mapping[str, float] | None:
        return self.real.counts(phase, batch)

    def losses(self, phase: Phase, batch: Any) -> Mapping[str, LossParts]:
        return self.real.losses(phase, batch)

    def tokens(self, batch: Any) -> int:
        return self.real.tokens(batch)


@contextmanager
def _put_back(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """When it closes, parameters and buffers are what they were, and gradients are gone."""
    held = [(t, t.detach().clone()) for one in modules.values() for t in [*one.parameters(), *one.buffers()]]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in held:
                tensor.copy_(value)
                tensor.grad = None


def _kept_bytes(objective: Objective, phase: Phase, batch: Any, config: TrainConfig) -> int:
    """What the forward of a micro-batch keeps for its backward, parameters left out; each storage once."""
    weights = {p.untyped_storage().data_ptr() for one in objective.modules().values() for p in one.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = torch.device(config.device)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with torch.random.fork_rng([device] if device.type == "cuda" else []), mixed:
        torch.manual_seed(derive_seed(config.seed, "trial"))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            parts = objective.losses(phase, objective.corrupt(phase, batch, config.seed))
    del parts
    return sum(storages.values())


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
