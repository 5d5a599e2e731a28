"""The safetensors format: headers checked before anything is allocated, tensors read by byte range.

Format: eight bytes of little-endian length, a JSON header of that length, then the tensors without gaps
(README of huggingface/safetensors). The library itself hands out tensors but no byte ranges, and byte ranges
are what lets a shard be rewritten without loading it; see `safetensors_write`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs)."""

BLOCK_BYTES = 8_000_000
"""How much of a tensor is held at a time when it is only compared or copied."""

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes whose tensors we read and write; every other one only passes through as bytes."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one number of each dtype that the format knows."""

DAMAGED = "download or save the file again; it is damaged, or not a safetensors file"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: as stored.
        dtype: the format's word for it, such as `"BF16"`.
        shape: numbers per dimension; `()` for a single number.
        file: the file that holds it.
        start: its first byte in that file.
        stop: one past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """Length of the tensor in bytes."""
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself: tensors in the order of their bytes, and free metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Returns the header of a safetensors file; no tensor is read.

    Raises:
        BadCheckpoint: the file cannot be read, is cut short, or its header is not one (too long, not JSON,
            names given twice, shapes and byte ranges that disagree, overlap, leave gaps or lie outside).
    """
    try:
        with file.open("rb") as handle:
            size = handle.seek(0, 2)
            raw = _raw_header(handle, size, file)
    except OSError as error:
        raise BadCheckpoint(f"cannot read {file}: {error.strerror}", hint="check the path and its rights") from error
    return parse_header(raw, size - 8 - len(raw), file)


def parse_header(raw: bytes, data_bytes: int, file: Path) -> Header:
    """Checks the JSON of a header against the length of the data behind it.

    Args:
        raw: the header without the eight bytes of length.
        data_bytes: how many bytes follow the header.
        file: goes into the result and into error messages.

    Raises:
        BadCheckpoint: see `read_header`.
    """
    entries = _load_json(raw, file)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(file, "its __metadata__ is not an object of strings")
    shift = 8 + len(raw)
    infos = [_check_entry(name, entry, data_bytes, shift, file) for name, entry in entries.items()]
    infos.sort(key=lambda info: (info.start, info.stop))
    end = shift
    for info in infos:
        if info.start != end:
            what = "overlaps the tensor before it" if info.start < end else "leaves a gap before it"
            raise _damaged(file, f"tensor {info.name!r} starts at data byte {info.start - shift} and {what}")
        end = info.stop
    if end - shift != data_bytes:
        raise _damaged(file, f"its tensors end at data byte {end - shift}, but {data_bytes} bytes of data follow")
    return Header({info.name: info for info in infos}, metadata)


def read_tensor(info: TensorInfo) -> Tensor:
    """Reads one tensor, and only its bytes.

    Raises:
        BadCheckpoint: it is not of one of the dtypes F64, F32, F16, BF16, or the file has become shorter.
    """
    if info.dtype not in FLOATS:
        raise BadCheckpoint(
            f"tensor {info.name!r} of {info.file} has dtype {info.dtype}, expected one of: {', '.join(FLOATS)}",
            hint="use a checkpoint with float weights",
        )
    return _as_tensor(_read_range(info, info.start, info.stop), info).reshape(info.shape)


def same_values(one: TensorInfo, other: TensorInfo) -> bool:
    """Says whether two stored tensors are equal in the sense of `torch.equal`, a block at a time."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for start in range(0, one.bytes, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, one.bytes)
        left = _as_tensor(_read_range(one, one.start + start, one.start + stop), one)
        right = _as_tensor(_read_range(other, other.start + start, other.start + stop), other)
        if not torch.equal(left, right):
            return False
    return True


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        BadCheckpoint: the file is missing, larger than a header may be, not UTF-8 JSON, or not an object.
    """
    try:
        size = file.stat().st_size
        if size > MAX_HEADER_BYTES:
            raise BadCheckpoint(f"{file} has {size / 1e6:,.0f} MB, a JSON file of a checkpoint has at most 100 MB")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCheckpoint(f"cannot read {file}: {error.strerror}", hint="check the path and its rights") from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file} is not valid JSON: {error}", hint="download or save the file again") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{file} holds a JSON {type(content).__name__}, expected an object")
    return content


def _raw_header(handle: BinaryIO, size: int, file: Path) -> bytes:
    """Reads the header once its announced length is known to be possible."""
    handle.seek(0)
    prefix = handle.read(8)
    if prefix == b"version ":
        raise BadCheckpoint(f"{file} is a Git LFS pointer, not the weights", hint="run `git lfs pull` in its folder")
    if len(prefix) < 8:
        raise _damaged(file, f"it has {size} bytes, too few for a header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise _damaged(file, f"it announces a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
    if length > size - 8:
        raise _damaged(file, f"it announces a header of {length:,} bytes, but the file has {size:,} bytes")
    return handle.read(length)


def _load_json(raw: bytes, file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_doubles)
    except _DoubleName as error:
        raise _damaged(file, f"its header holds the name {error.args[0]!r} twice") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"its header is not valid JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _damaged(file, f"its header is a JSON {type(entries).__name__}, expected an object")
    return entries


class _DoubleName(Exception):
    """A JSON object holds a name twice."""


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in pairs:
        if name in whole:
            raise _DoubleName(name)
        whole[name] = value
    return whole


def _check_entry(name: str, entry: Any, data_bytes: int, shift: int, file: Path) -> TensorInfo:
    """One tensor of the header, with plain integers throughout, so that nothing can overflow."""
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(file, f"the entry of tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _damaged(file, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _are_sizes(shape):
        raise _damaged(file, f"tensor {name!r} has the shape {_short(shape)}, expected whole numbers from 0")
    if not _are_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        raise _damaged(file, f"tensor {name!r} has data_offsets {_short(offsets)} outside 0 to {data_bytes}")
    wanted = prod(shape) * BITS[dtype]
    if wanted != 8 * (offsets[1] - offsets[0]):
        raise _damaged(
            file,
            f"tensor {name!r} of shape {_short(shape)} and dtype {dtype} needs {_short(wanted // 8)} bytes, "
            f"its data_offsets span {offsets[1] - offsets[0]}",
        )
    return TensorInfo(name, dtype, tuple(shape), file, shift + offsets[0], shift + offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _short(value: Any) -> str:
    """The value as text; numbers of hundreds of digits would drown the message."""
    text = repr(value) if not isinstance(value, int) or value < 2**64 else "over 2**64"
    return text if len(text) <= 80 else text[:77] + "..."


def _damaged(file: Path, what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{file} is not a sound safetensors file: {what}", hint=DAMAGED)


def _as_tensor(data: bytearray, info: TensorInfo) -> Tensor:
    """A flat tensor over `data`, without a copy."""
    if not data:
        return torch.empty(0, dtype=FLOATS[info.dtype])
    return torch.frombuffer(data, dtype=FLOATS[info.dtype])


def _read_range(info: TensorInfo, start: int, stop: int) -> bytearray:
    data = bytearray(stop - start)
    filled = 0
    with info.file.open("rb", buffering=0) as handle:
        handle.seek(start)
        for part in _windows(memoryview(data)):
            got = handle.readinto(part)
            filled += got
            if got < len(part):
                break
    if filled < len(data):
        raise _damaged(info.file, f"tensor {info.name!r} ends {len(data) - filled} bytes past the end of the file")
    return data


def _windows(view: memoryview) -> Iterator[memoryview]:
    """Pieces that one system call can fill: Linux reads at most 2 GB at a time."""
    step = 1 << 30
    for start in range(0, len(view), step):
        yield view[start : start + step]
