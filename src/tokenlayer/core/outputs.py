"""Outputs that are there whole or not at all: written beside, then renamed.

The one place of `core` that touches the disk, because every floor above writes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenlayer.core.errors import BadOption, NoRoom, OutputExists

OURS = ("tokenlayer.json", "config.json", "tokenizer.json")
"""A folder with one of these (or an empty one) may be replaced by `--force`; any other may not."""


@contextmanager
def fresh_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `out` that becomes `out` when the block ends without an error.

    On an error, or an interrupt, the folder is removed and an existing `out` is untouched. Leftovers of
    a killed run with the same `out` are removed first.

    Raises:
        OutputExists: `out` exists and `force` is off, or is not a folder that we would have written.
        BadOption: the parent cannot be written to.
    """
    check_free(out, force=force)
    out = out.absolute()
    _remove_leftovers(out)
    beside = _make_beside(out)
    try:
        yield beside
        _put_in_place(beside, out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def clear_folder(folder: Path) -> None:
    """Removes all that is in a folder that we made, and keeps the folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_free(out: Path, *, force: bool = False) -> None:
    """Refuses an output folder that is taken.

    Raises:
        OutputExists: with what is there and what to type.
    """
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise OutputExists(f"{out} exists and is not a folder", hint="choose another --out")
    names = sorted(p.name for p in out.iterdir())
    if not force and names:
        raise OutputExists(
            f"{out} exists and holds {len(names)} files ({', '.join(names[:3])}...)",
            hint="add --force to replace it, or choose another --out",
        )
    if names and not set(OURS) & set(names):
        raise OutputExists(
            f"{out} exists and does not look like a checkpoint or tokenizer folder, so --force does not remove it",
            hint=f"it has none of {', '.join(OURS)}; choose another --out",
        )


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuses to start when the disk of `folder` has fewer than `needed_bytes` free.

    Raises:
        NoRoom: with both numbers.
    """
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise NoRoom(
            f"{what} needs {needed_bytes / 1e6:,.0f} MB under {existing}, {free / 1e6:,.0f} MB are free",
            hint="free some space or choose an --out on another disk",
        )


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside `path` and renames it, so that readers never see half of it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _make_beside(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        beside.chmod(0o755)
        return beside
    except OSError as error:
        raise BadOption(f"cannot write into {out.parent}: {error.strerror}", hint="choose another --out") from error


def _remove_leftovers(out: Path) -> None:
    for old in out.parent.glob(f".{out.name}.partial-*"):
        shutil.rmtree(old, ignore_errors=True)


def _put_in_place(beside: Path, out: Path) -> None:
    """Renames; a replaced folder is moved away first, so that `out` is never half old and half new."""
    if not out.exists():
        beside.rename(out)
        return
    away = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    out.rename(away / "replaced")
    beside.rename(out)
    shutil.rmtree(away)
