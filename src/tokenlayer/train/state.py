"""What a stopped run goes on from: folders `step-N` with `state.safetensors` and `state.json`."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint, BadOption

FORMAT = "tokenlayer-train/1"
TENSORS, NUMBERS = "state.safetensors", "state.json"


@dataclass(frozen=True, eq=False)
class State:
    """A run between two steps.

    Attributes:
        step: steps done over all phases.
        parameters: values by name.
        moments: state of the optimiser by parameter name and key.
        buffers: what networks keep beside parameters, by name.
        losses: loss of each step so far, float64.
        tokens: tokens that were trained on.
        seconds: that it took.
    """

    step: int
    parameters: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    buffers: dict[str, Tensor]
    losses: Tensor
    tokens: float = 0.0
    seconds: float = 0.0


def save_state(folder: Path, state: State, settings: Mapping[str, Any], keep: int) -> None:
    """Writes a state beside the others, renames it into place, and removes all but the last `keep`.

    Args:
        folder: of all states of a run.
        state: what is written.
        settings: all that decides the result; a run of others is refused this state.
        keep: how many states stay.
    """
    from safetensors.torch import save_file

    place, beside = folder / f"step-{state.step:09d}", folder / f".step-{state.step:09d}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors = {f"parameter:{name}": value for name, value in state.parameters.items()}
    tensors |= {f"buffer:{name}": value for name, value in state.buffers.items()}
    for name, moments in state.moments.items():
        tensors |= {f"moment:{key}:{name}": value for key, value in moments.items()}
    save_file(_plain(tensors | {"losses": state.losses}), beside / TENSORS)
    numbers = {"format": FORMAT, "step": state.step, "tokens": state.tokens, "seconds": state.seconds}
    text = json.dumps(numbers | {"settings": dict(settings)}, indent=2, ensure_ascii=False)
    (beside / NUMBERS).write_text(text + "\n", encoding="utf-8")
    _flushed(beside / TENSORS)
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
    for older in _places(folder)[: -max(keep, 1)]:
        shutil.rmtree(older)


def load_state(folder: Path, settings: Mapping[str, Any]) -> State | None:
    """Reads the last state.

    Args:
        folder: of all states of a run.
        settings: of the run that wants to go on.

    Returns:
        None where there is no state.

    Raises:
        BadOption: the state is of a run with other settings.
        BadCheckpoint: the state cannot be read.
    """
    places = _places(folder)
    if not places:
        return None
    place = places[-1]
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    unreadable = f"the state in {place} cannot be read"
    hint = "remove that folder: the run then goes on from the state before it, or begins"
    try:
        numbers = json.loads((place / NUMBERS).read_text(encoding="utf-8"))
        stored = dict(numbers["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{unreadable}: {NUMBERS}: {error}", hint=hint) from error
    _check_same(place, stored, json.loads(json.dumps(dict(settings))))
    try:
        return _from_tensors(numbers, load_file(place / TENSORS))
    except (OSError, KeyError, SafetensorError) as error:
        raise BadCheckpoint(f"{unreadable}: {TENSORS}: {error}", hint=hint) from error


def _from_tensors(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
    parameters, buffers, moments = {}, {}, dict[str, dict[str, Tensor]]()
    for stored, value in tensors.items():
        kind, _, name = stored.partition(":")
        if kind == "parameter":
            parameters[name] = value
        elif kind == "buffer":
            buffers[name] = value
        elif kind == "moment":
            key, _, name = name.partition(":")
            moments.setdefault(name, {})[key] = value
    losses = tensors["losses"]
    return State(numbers["step"], parameters, moments, buffers, losses, numbers["tokens"], numbers["seconds"])


def _check_same(place: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in [*wanted, *(name for name in stored if name not in wanted)]:
        before, now = stored.get(name), wanted.get(name)
        if before != now:
            raise BadOption(
                f"{place} was left by a run with other settings: {name} was {_short(before)}, now it is {_short(now)}",
                hint=f"remove {place.parent}, or use the settings of that run",
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _places(folder: Path) -> list[Path]:
    """Whole states, the latest last."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors wants them."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        here = value.detach().cpu().contiguous()
        pointer = here.untyped_storage().data_ptr()
        found[name] = here.clone() if pointer in seen else here
        seen.add(pointer)
    return found


def _flushed(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
