"""The loops of `kernel`, `ranked` and `segment`, as they stand or compiled by numba, which the extra `fast` brings."""

import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from tokenlayer.core.errors import MissingExtra
from tokenlayer.tokenizer.lib import kernel, ranked, segment

MODULES = (kernel, ranked, segment)


def available() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


@cache
def loops(compiled: bool) -> SimpleNamespace:
    """Returns all functions of the three modules by name; compiled ones are built when they are first called.

    Raises:
        MissingExtra: they are to be compiled and numba is not installed.
    """
    found = {name: f for module in MODULES for name, f in vars(module).items() if inspect.isfunction(f)}
    names: dict[str, Any] = {}
    for module in MODULES:
        names |= vars(module)
    with _compiler() if compiled else nullcontext(lambda function: function) as wrap:
        for name, function in found.items():
            bare = inspect.unwrap(function)  # without the type checks that tests put around every function
            names[name] = wrap(FunctionType(bare.__code__, names, name))
    return SimpleNamespace(**{name: names[name] for name in found})


@contextmanager
def _compiler() -> Iterator[Any]:
    """Yields numba's compiler, which keeps its work in a folder named after these sources, if it can be written."""
    if not available():
        raise MissingExtra("numba", "fast", "a compiled learner")
    import numba

    before = numba.config.CACHE_DIR
    folder = _kept()
    try:
        if folder is not None:
            numba.config.CACHE_DIR = str(folder)
        yield numba.njit(cache=folder is not None)
    finally:
        numba.config.CACHE_DIR = before


def _kept() -> Path | None:
    """The folder for compiled code; its name changes with the sources, since numba only looks at one file each."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in MODULES)
    name = f"lib-{hashlib.sha256(sources).hexdigest()[:16]}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tokenlayer", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
