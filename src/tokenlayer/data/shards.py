"""One step over many shards: a file out per shard, and a finished shard is never done again."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadOption, TokenLayerError, choose

BACKENDS = ("local",)
Step = Callable[[Any, Path], None]
"""Reads one shard and writes the file that it is given; with several workers it must be picklable."""


class ShardFailed(TokenLayerError, RuntimeError):
    """A step broke on one shard; the finished shards are kept."""


def map_shards(
    step: Step, shards: Mapping[str, Any], out: Path, *, workers: int = 1, backend: str = "local"
) -> list[Path]:
    """Runs `step(shard, path)` for every shard and returns the files, in the order of `shards`.

    A file gets its name only when its step has ended: a name that is there is a finished shard and is not done
    again. The files are the same for any number of workers.

    Args:
        step: see `Step`.
        shards: file name -> what the step needs to find the shard's input.
        out: folder of the results, made if missing.
        workers: processes; 1 runs in this one.
        backend: only "local" exists.

    Raises:
        BadOption: an unknown backend, no worker, or a name that is not a plain file name.
        ShardFailed: names the shard; run again to go on from the finished ones.
    """
    choose("backend", backend, BACKENDS)
    if workers < 1:
        raise BadOption(f"workers is {workers}, expected at least 1")
    for name in shards:
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise BadOption(f"shard name {name!r} is not a plain file name", hint="use names such as 'part-0001.npz'")
    out.mkdir(parents=True, exist_ok=True)
    todo = {name: shard for name, shard in shards.items() if not (out / name).exists()}
    if workers == 1 or len(todo) < 2:
        for name, shard in todo.items():
            _one(step, name, shard, out)
    else:
        _in_processes(step, todo, out, workers)
    return [out / name for name in shards]


def _in_processes(step: Step, todo: Mapping[str, Any], out: Path, workers: int) -> None:
    """Spawned, not forked: tokenizers and torch hold threads that a fork would break."""
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=get_context("spawn")) as pool:
        running: dict[Future[None], str] = {pool.submit(_one, step, n, shard, out): n for n, shard in todo.items()}
        try:
            for done in as_completed(running):
                _result(done, running[done])
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _result(done: "Future[None]", name: str) -> None:
    try:
        done.result()
    except ShardFailed:
        raise
    except Exception as error:  # a killed worker, a step that does not pickle
        raise _failed(name, error) from error


def _one(step: Step, name: str, shard: Any, out: Path) -> None:
    beside = out / f".{name}.partial-{os.getpid()}"
    try:
        step(shard, beside)
        if not beside.exists():
            raise FileNotFoundError(f"the step wrote nothing to {beside}")
        os.replace(beside, out / name)
    except Exception as error:
        raise _failed(name, error) from error
    finally:
        beside.unlink(missing_ok=True)


def _failed(name: str, error: Exception) -> ShardFailed:
    said = error.message if isinstance(error, TokenLayerError) else f"{type(error).__name__}: {error}"
    hint = getattr(error, "hint", "") or "finished shards are kept: repair the cause and run the same command again"
    return ShardFailed(f"shard {name}: {said}", hint=hint)
