"""A run between its first and last step: networks, optimiser and position; one step of it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption, VerifyFailed
from tokenlayer.core.seeds import derive_seed
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase
from tokenlayer.train.processes import Processes, like, put, whole
from tokenlayer.train.state import State, save_state

MakeOptimiser = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Gives an optimiser for groups with `params`, `lr` and `weight_decay`."""


class Told(NamedTuple):
    """One step in numbers.

    Attributes:
        loss: the weighted sum of its parts.
        parts: mean of each part by name, before its weight.
        rate: learning rate.
        norm: of the gradient, before it was clipped.
        tokens: real tokens, of all processes.
        flops: operations, of all processes.
        waited: seconds until the data were there.
        seconds: of the whole step.
        save: whether any process asked for a saving.
    """

    loss: float
    parts: dict[str, float]
    rate: float
    norm: float
    tokens: float
    flops: float
    waited: float
    seconds: float
    save: bool


class _Data(NamedTuple):
    """The micro-batches of a step, and sums over all processes."""

    batches: list[Any]
    turns: int
    mine: dict[str, float]
    counts: dict[str, float] | None
    tokens: float
    flops: float
    save: bool


class _Losses(nn.Module):
    """All networks of an objective as one, whose forward is the loss: what DDP and FSDP2 wrap."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(objective.modules())
        self._objective = objective

    def forward(self, phase: Phase, batch: Any) -> dict[str, LossParts]:
        return dict(self._objective.losses(phase, batch))


class Run:
    """An objective that is trained.

    Args:
        objective: see `Objective`.
        config: see `TrainConfig`.
        optimiser: see `MakeOptimiser`; None takes AdamW.

    Attributes:
        done: steps over all phases.
        steps: of all phases.
        losses: of each step so far.
        tokens: trained on so far.
        seconds: of all steps so far.
        moments: state of the optimiser by parameter and key, as it was when a phase or a state was closed.
    """

    def __init__(self, objective: Objective, config: TrainConfig, optimiser: MakeOptimiser | None = None) -> None:
        self.objective, self.config = objective, config
        self.processes = Processes(torch.device(config.device))
        self._whole = _Losses(objective)
        self._whole.to(self.processes.device)
        self.processes.split(self._whole)
        self._module: nn.Module = self._whole
        self._make = optimiser or self._adamw
        self._named: dict[str, nn.Parameter] = {}
        self._trained: dict[str, nn.Parameter] = {}
        self.moments: dict[str, dict[str, Tensor]] = {}
        self._rates: list[float] = []
        self._optimiser: torch.optim.Optimizer | None = None
        self.done = 0
        self.steps = sum(phase.steps for phase in objective.phases)
        self.losses: list[float] = []
        self.tokens = self.seconds = 0.0

    @contextmanager
    def training(self, phase: Phase, first: int) -> Iterator[None]:
        """While open, the optimiser steps what a phase trains, and all else is frozen.

        Args:
            phase: the one that goes on.
            first: its step that comes next; moments of earlier phases are kept unless it begins fresh.
        """
        groups = [group for group in self.objective.parameter_groups(phase) if group.parameters]
        self._named = _named(groups, phase)
        self._trained |= self._named
        frozen = self._freeze_others()
        self._rates = [group.rate for group in groups]
        decays = [self.config.weight_decay if g.weight_decay is None else g.weight_decay for g in groups]
        self._optimiser = self._make(
            [
                {"params": list(group.parameters.values()), "lr": 0.0, "weight_decay": decay}
                for group, decay in zip(groups, decays, strict=True)
            ]
        )
        if first or not phase.fresh:
            self._give_moments(self._optimiser)
        self._module = self.processes.wrapped(self._whole)
        try:
            yield
        finally:
            self._keep_moments()
            self._optimiser, self._module = None, self._whole
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _adamw(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW; fused where that serves, which is the same arithmetic in fewer passes."""
        fused = all(type(p) is nn.Parameter and p.is_floating_point() for group in groups for p in group["params"])
        return torch.optim.AdamW(groups, betas=self.config.betas, eps=self.config.eps, fused=fused)

    def _freeze_others(self) -> list[nn.Parameter]:
        """Parameters of the networks that the phase does not train; returns those that were not frozen before."""
        trained = {id(parameter) for parameter in self._named.values()}
        others = [p for p in self._whole.parameters() if p.requires_grad and id(p) not in trained]
        for parameter in others:
            parameter.requires_grad_(False)
        return others

    def _give_moments(self, optimiser: torch.optim.Optimizer) -> None:
        """What earlier phases or runs left; step counters stay on the CPU unless the optimiser wants them elsewhere."""
        moved = {id(p) for g in optimiser.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
        for name, parameter in self._named.items():
            for key, value in self.moments.get(name, {}).items():
                stays = key == "step" and id(parameter) not in moved
                optimiser.state[parameter][key] = value.cpu() if stays else like(parameter, value)

    def _keep_moments(self) -> None:
        assert self._optimiser is not None
        for name, parameter in self._named.items():
            held = self._optimiser.state.get(parameter, {})
            self.moments[name] = {key: value for key, value in held.items() if isinstance(value, Tensor)}

    def step(self, phase: Phase, step: int, *, save: bool = False) -> Told:
        """One step of the optimiser.

        Args:
            phase: see `training`.
            step: counted from 0 in the phase.
            save: whether this process wants the state to be saved after it.

        Raises:
            VerifyFailed: a loss or gradient is not finite, or a loss has another count than was announced.
            BadOption: several losses without counts, or a step without data.
        """
        assert self._optimiser is not None
        began = time.perf_counter()
        data = self._data(phase, step, save)
        waited = time.perf_counter() - began
        rate = phase.schedule.rate(step, phase.steps)
        for group, factor in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimiser.zero_grad(set_to_none=True)
        with torch.random.fork_rng(self._cuda()):
            torch.manual_seed(self._step_seed())
            sums, counts, weights = self._gradients(phase, data)
        norm = self._clip()
        names = list(sums)
        numbers = torch.stack([*(value.double() for value in sums.values()), norm.double()]).tolist()
        totals = self.processes.sums(numbers[:-1])
        parts = {name: total / counts[name] if counts[name] else 0.0 for name, total in zip(names, totals, strict=True)}
        self._check_finite(phase, parts, numbers[-1])
        self._optimiser.step()
        loss = sum(weights[name] * value for name, value in parts.items())
        self._advance(loss, data.tokens, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        return Told(loss, parts, rate, numbers[-1], data.tokens, data.flops, waited, seconds, data.save)

    def _advance(self, loss: float, tokens: float, seconds: float) -> None:
        self.done += 1
        self.losses.append(loss)
        self.tokens += tokens
        self.seconds += seconds

    def _step_seed(self) -> int:
        rank = self.processes.shard.rank
        return derive_seed(self.config.seed, "step", self.done, *([rank] if rank else []))

    def _cuda(self) -> list[torch.device]:
        return [self.processes.device] if self.processes.device.type == "cuda" else []

    def _data(self, phase: Phase, step: int, save: bool) -> _Data:
        """Corrupted micro-batches, and their sums over processes."""
        drawn = self.objective.micro_batches(phase, step, self.processes.shard)
        batches = [self.objective.corrupt(phase, batch, self.config.seed) for batch in drawn]
        counted = [self.objective.counts(phase, batch) for batch in batches]
        turns, fewest, save_now = self.processes.largest([float(len(batches)), -float(len(batches)), float(save)])
        if not fewest:
            raise BadOption(
                f"step {step} of phase {phase.name!r} has no data for one of {self.processes.shard.ranks} processes",
                hint="give more data a step, or start fewer processes",
            )
        known = [one for one in counted if one is not None]
        names = sorted({name for one in known for name in one})
        mine = [float(sum(one.get(name, 0.0) for one in known)) for name in names]
        work = [float(sum(map(count, batches))) for count in (self.objective.tokens, self.objective.flops)]
        *counts, tokens, flops = self.processes.sums([*mine, *work])
        announced = dict(zip(names, counts, strict=True)) if len(known) == len(batches) else None
        return _Data(batches, int(turns), dict(zip(names, mine, strict=True)), announced, tokens, flops, bool(save_now))

    def _gradients(self, phase: Phase, data: _Data) -> tuple[dict[str, Tensor], dict[str, float], dict[str, float]]:
        """Adds up the gradients of the step; returns sum, count and weight of each part."""
        sums: dict[str, Tensor] = {}
        seen: dict[str, float] = {}
        weights: dict[str, float] = {}
        for turn in range(data.turns):
            spare = turn >= len(data.batches)  # another process has more: the same number of passes, without effect
            last = turn == data.turns - 1
            batch = data.batches[-1 if spare else turn]
            with nullcontext() if last else self.processes.apart(self._module):
                with self._autocast():
                    parts = self._module(phase, batch)
                divisors = self._divisors(phase, data, parts)
                loss = torch.stack([part.weight * divisors[name] * part.total for name, part in parts.items()]).sum()
                (loss * 0.0 if spare else loss).backward()
            for name, part in () if spare else parts.items():
                sums[name] = sums.get(name, 0.0) + part.total.detach().float()
                seen[name] = seen.get(name, 0.0) + part.terms
                weights[name] = part.weight
        return sums, self._counted(data, seen), weights

    def _autocast(self) -> torch.autocast:
        wanted = self.config.precision == "bfloat16"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=wanted)

    def _divisors(self, phase: Phase, data: _Data, parts: Mapping[str, LossParts]) -> dict[str, float]:
        """What each part is multiplied by before its gradient; processes are averaged, hence their number."""
        ranks = self.processes.shard.ranks
        if data.counts is not None:
            other = parts.keys() ^ data.counts.keys()
            if other:
                raise VerifyFailed(f"phase {phase.name!r}: only one of losses and counts has {sorted(other)}")
            return {name: ranks / count if count else 0.0 for name, count in data.counts.items()}
        if data.turns == ranks == 1:
            return {name: 1 / part.terms if part.terms else 0.0 for name, part in parts.items()}
        if len(parts) == 1:
            return dict.fromkeys(parts, float(ranks))  # divided when all is counted
        raise BadOption(
            f"{type(self.objective).__name__} gives several losses ({', '.join(parts)}) for {data.turns} micro-batches "
            f"in {ranks} processes without counts",
            hint="give it a method counts(phase, batch), or one micro-batch a step",
        )

    def _counted(self, data: _Data, seen: Mapping[str, float]) -> dict[str, float]:
        """The count of each part over micro-batches and processes."""
        if data.counts is not None:
            for name, count in seen.items():
                if not math.isclose(count, data.mine[name], rel_tol=1e-6):
                    raise VerifyFailed(
                        f"step {self.done}: the loss {name!r} has {count:g} terms, counts announced {data.mine[name]:g}"
                    )
            return data.counts
        totals = dict(zip(seen, self.processes.sums([float(count) for count in seen.values()]), strict=True))
        if not data.turns == self.processes.shard.ranks == 1:
            for parameter in self._named.values():
                if parameter.grad is not None:
                    parameter.grad /= max(*totals.values(), 1e-9)
        return totals

    def _clip(self) -> Tensor:
        """Shortens the gradient; returns its norm before."""
        trained = [parameter for parameter in self._named.values() if parameter.grad is not None]
        if self.config.clip:
            return whole(nn.utils.clip_grad_norm_(trained, self.config.clip))
        return whole(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))

    def _check_finite(self, phase: Phase, parts: Mapping[str, float], norm: float) -> None:
        where = f"step {self.done}"
        for name, value in parts.items():
            if not math.isfinite(value):
                raise VerifyFailed(
                    f"the loss of {where} is {value} (part {name!r}, phase {phase.name!r})",
                    hint="try a lower learning rate",
                )
        if not math.isfinite(norm):
            raise VerifyFailed(
                f"the loss of {where} is finite, but its gradient has the norm {norm} (phase {phase.name!r})",
                hint="try a lower learning rate",
            )

    def save(self, folder: Path, settings: Mapping[str, Any], *, keep: int) -> None:
        """Writes a state, see `save_state`; all processes must call it."""
        self._keep_moments()
        parameters = {name: whole(parameter.detach()) for name, parameter in self._trained.items()}
        moments = {
            name: {key: whole(value) for key, value in held.items()} for name, held in self.moments.items() if held
        }
        if self.processes.main:
            losses = torch.tensor(self.losses, dtype=torch.float64)
            state = State(self.done, parameters, moments, self._buffers(), losses, self.tokens, self.seconds)
            save_state(folder, state, settings, keep)
        self.processes.wait()

    def restore(self, state: State, folder: Path) -> None:
        """Puts a state back.

        Args:
            state: of a run with the same settings.
            folder: where it was read, for messages.

        Raises:
            BadOption: it has other parameters.
        """
        begins = 0
        for phase in self.objective.phases:
            if begins < state.step:
                self._trained |= _named(self.objective.parameter_groups(phase), phase)
            begins += phase.steps
        self._check_shapes(state, folder)
        for name, parameter in self._trained.items():
            put(parameter, state.parameters[name])
        for name, buffer in self._buffers().items():
            put(buffer, state.buffers[name])
        self.moments = dict(state.moments)
        self.done, self.losses = state.step, state.losses.tolist()
        self.tokens, self.seconds = state.tokens, state.seconds

    def _buffers(self) -> dict[str, Tensor]:
        """What networks keep beside parameters, such as running means."""
        stored = {name for name, _ in self._whole.named_buffers()} & self._whole.state_dict().keys()
        return {name: buffer for name, buffer in self._whole.named_buffers() if name in stored}

    def _check_shapes(self, state: State, folder: Path) -> None:
        now = {name: tuple(p.shape) for name, p in self._trained.items()}
        before = {name: tuple(p.shape) for name, p in state.parameters.items()}
        now |= {name: tuple(p.shape) for name, p in self._buffers().items()}
        before |= {name: tuple(p.shape) for name, p in state.buffers.items()}
        for name in [*now, *before]:
            if now.get(name) != before.get(name):
                raise BadOption(
                    f"{folder} was left by a run with other settings: {name} had the shape {before.get(name)}, "
                    f"now it is {now.get(name)}",
                    hint=f"remove {folder}, or use the settings of that run",
                )


def _named(groups: Sequence[ParameterGroup], phase: Phase) -> dict[str, nn.Parameter]:
    """The parameters of all groups.

    Raises:
        BadOption: there are none, or one is in two groups or under two names.
    """
    found: dict[str, nn.Parameter] = {}
    for group in groups:
        for name, parameter in group.parameters.items():
            if name in found:
                raise BadOption(f"the parameter {name} is in two groups of phase {phase.name!r}")
            found[name] = parameter
    if not found:
        raise BadOption(
            f"phase {phase.name!r} trains no parameter", hint="call requires_grad_(True) on what is trained"
        )
    if len({id(parameter) for parameter in found.values()}) < len(found):
        raise BadOption(f"phase {phase.name!r} has one parameter under two names")
    return found
