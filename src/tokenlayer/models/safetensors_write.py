"""Writes safetensors files from tensors in memory and byte ranges of other files.

A byte range is copied by the kernel (`copy_file_range`), so memory stays flat however large the body of a model
is. On file systems that share blocks between files (XFS, Btrfs) the kernel need not even copy, provided that both
ranges have the same place within a block of 4096 bytes: the header is filled up with spaces so that this holds
for the longest range (measured on Btrfs: 900 MB in 4 ms and 0.3 MB of disk, against 2 s and 900 MB on ext4).
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.safetensors_io import BITS, BLOCK_BYTES, FLOATS, TensorInfo

DTYPE_NAMES = {dtype: name for name, dtype in FLOATS.items()}
"""From torch to the format's word."""

FILE_BLOCK = 4096
"""Block size of the file systems that can share blocks between files, in bytes."""

NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""What `copy_file_range` answers where it does not work."""


@dataclass(frozen=True)
class _Run:
    """Bytes that lie together in a source file and stay together in the new one."""

    file: Path
    start: int
    stop: int
    at: int
    """First byte of the run, counted from the start of the data of the new file."""

    @property
    def bytes(self) -> int:
        return self.stop - self.start


def write_safetensors(file: Path, parts: Mapping[str, Tensor | TensorInfo], metadata: Mapping[str, str]) -> None:
    """Writes one file that the safetensors library reads.

    Args:
        file: must not exist, so that nothing is ever written into a hard link.
        parts: by stored name: a tensor (F64, F32, F16, BF16), or where the bytes are to be copied from. Tensors
            with wider numbers come first in the file, so that each starts at a multiple of its own width; apart
            from that the order is kept.
        metadata: the `__metadata__` of the header.

    Raises:
        BadCheckpoint: a source file is shorter than it was when its header was read.
    """
    ordered = dict(sorted(parts.items(), key=lambda item: -BITS[_dtype_name(item[1])]))
    steps = _steps(ordered)
    header = build_header(ordered, metadata)
    header = build_header(ordered, metadata, filling=_filling(steps, len(header)))
    with file.open("xb", buffering=0) as target:
        _write_all(target, memoryview(header))
        for step in steps:
            if isinstance(step, _Run):
                _copy_run(step, target)
            else:
                _write_tensor(step, target)


def build_header(parts: Mapping[str, Tensor | TensorInfo], metadata: Mapping[str, str], *, filling: int = 0) -> bytes:
    """Returns the eight bytes of length and the JSON header, together a multiple of eight bytes.

    Args:
        parts: in the order of their bytes.
        metadata: free strings.
        filling: spaces to add at the end, a multiple of eight.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, part in parts.items():
        stop = at + _bytes(part)
        entries[name] = {"dtype": _dtype_name(part), "shape": list(part.shape), "data_offsets": [at, stop]}
        at = stop
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8 + filling)
    return len(raw).to_bytes(8, "little") + raw


def link_or_copy(source: Path, target: Path, *, link: bool = True) -> bool:
    """Gives `target` the content of `source`; returns whether it is a hard link.

    A symbolic link (as in the snapshots of the hub's cache) is followed first. Where no link can be made, because
    of another disk or missing rights, the bytes are copied by the kernel.
    """
    real = source.resolve()
    if link:
        try:
            os.link(real, target)
            return True
        except FileExistsError:
            raise
        except OSError:
            pass
    with target.open("xb", buffering=0) as handle:
        _copy_run(_Run(real, 0, real.stat().st_size, 0), handle)
    shutil.copymode(real, target)
    return False


def _steps(parts: Mapping[str, Tensor | TensorInfo]) -> list[Tensor | _Run]:
    """What to write in which order; neighbours that are neighbours in their source file too become one run."""
    steps: list[Tensor | _Run] = []
    at = 0
    for part in parts.values():
        last = steps[-1] if steps else None
        if isinstance(part, Tensor):
            steps.append(part)
        elif isinstance(last, _Run) and (last.file, last.stop) == (part.file, part.start):
            steps[-1] = _Run(last.file, last.start, part.stop, last.at)
        else:
            steps.append(_Run(part.file, part.start, part.stop, at))
        at += _bytes(part)
    return steps


def _filling(steps: list[Tensor | _Run], header_bytes: int) -> int:
    """Spaces that put the longest run at the same place within a file block as in its source (0 if impossible)."""
    runs = [step for step in steps if isinstance(step, _Run)]
    longest = max(runs, key=lambda run: run.bytes, default=None)
    if longest is None or longest.bytes < FILE_BLOCK * 2:
        return 0
    filling = (longest.start - longest.at - header_bytes) % FILE_BLOCK
    return filling if filling % 8 == 0 else 0


def _copy_run(run: _Run, target: FileIO) -> None:
    """Appends the run; first up to the end of a block, so that the blocks after it can be shared."""
    with run.file.open("rb", buffering=0) as source:
        at = run.start
        first = min(-run.start % FILE_BLOCK, run.bytes)
        for stop in (run.start + first, run.stop):
            while at < stop:
                copied = _copy_some(source, target, at, stop - at)
                if not copied:
                    raise BadCheckpoint(
                        f"{run.file} ended at byte {at} while it was copied, expected {run.stop} bytes",
                        hint="something else is writing to the file; try again when it is done",
                    )
                at += copied


def _copy_some(source: FileIO, target: FileIO, start: int, count: int) -> int:
    """Copies up to `count` bytes from byte `start` to the end of `target`; returns how many."""
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source.fileno(), target.fileno(), count, offset_src=start)
            if copied:
                return copied
        except OSError as error:
            if error.errno not in NO_KERNEL_COPY:
                raise
    source.seek(start)
    block = source.read(min(count, BLOCK_BYTES))
    _write_all(target, memoryview(block))
    return len(block)


def _write_tensor(tensor: Tensor, target: FileIO) -> None:
    """Appends the numbers of the tensor, without a second copy of them if it is contiguous and on the CPU."""
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        _write_all(target, memoryview(flat.numpy()))  # type: ignore[arg-type]  # NumPy's stubs hide its buffer


def _write_all(target: FileIO, view: memoryview) -> None:
    """Linux writes at most 2 GB at a time."""
    while view:
        view = view[target.write(view) :]


def _dtype_name(part: Tensor | TensorInfo) -> str:
    return part.dtype if isinstance(part, TensorInfo) else DTYPE_NAMES[part.dtype]


def _bytes(part: Tensor | TensorInfo) -> int:
    return part.bytes if isinstance(part, TensorInfo) else part.numel() * part.element_size()
