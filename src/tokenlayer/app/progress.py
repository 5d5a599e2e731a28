"""Progress bars on stderr for steps that take longer than two seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_SECONDS = 2.0


@contextmanager
def steps(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that takes (name of the step, units done, units in all); each step has a bar of its own.

    Nothing is drawn before two seconds have passed, when `quiet`, or when stderr is not a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name, done, total: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    bars = Progress(*columns, console=console, transient=True)
    begun = time.monotonic()
    tasks: dict[str, Any] = {}

    def tell(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total or None)
        bars.update(tasks[name], completed=done, total=total or None)
        if not bars.live.is_started and time.monotonic() - begun > PATIENCE_SECONDS:
            bars.start()

    try:
        yield tell
    finally:
        bars.stop()


@contextmanager
def progress_bar(total: int | None, description: str, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many more items are done, for one step of `total` items (None: not known)."""
    done = 0
    with steps(quiet) as tell:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            tell(description, done, total or 0)

        yield advance
