"""Turns a GGUF file into an ordinary checkpoint folder with float weights.

transformers reads GGUF and undoes the quantisation, but refuses to save such a model again (seen on 5.23): its
config says that it is quantised, which after loading is no longer true. So the weights are taken from the loaded
model and written with a clean config. The tokenizer inside the file is read by `gguf_tokenizer`.
"""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint, MissingExtra, OutputExists, choose
from tokenlayer.models.checkpoint import WEIGHTS, Checkpoint, open_checkpoint
from tokenlayer.models.loading import quiet_transformers
from tokenlayer.models.safetensors_write import write_safetensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What the weights may be stored as."""

MAGIC = b"GGUF"

VERSIONS = (2, 3)
"""What the gguf library reads."""


def convert_gguf(path: Path, out: Path, *, dtype: str = "float32") -> Checkpoint:
    """Writes the model of a GGUF file as config.json, generation_config.json and model.safetensors.

    Holds the whole model in memory, in `dtype`. Quantised numbers become the floats that they stand for; a tied
    table is stored once.

    Args:
        path: one .gguf file (not one part of several).
        out: an existing empty folder.
        dtype: one of `DTYPES`; half precision halves the size and rounds.

    Raises:
        MissingExtra: gguf or accelerate is not installed.
        BadCheckpoint: not a GGUF file, cut short, a part of a split file, or of an architecture that transformers
            cannot read.
        BadOption: an unknown `dtype`.
        OutputExists: `out` is not an empty folder.
    """
    chosen = DTYPES[choose("dtype", dtype, DTYPES)]
    if not out.is_dir() or any(out.iterdir()):
        raise OutputExists(f"{out} is not an empty folder", hint="make one with core.outputs.fresh_folder")
    for library in ("gguf", "accelerate"):
        _require(library)
    _check_start(path)
    _check_whole(path)
    model = _load(path, chosen)
    write_safetensors(out / WEIGHTS, _weights(model), {"format": "pt"})
    _write_json(out / "config.json", _clean_config(model, dtype))
    if model.can_generate():
        _write_json(out / "generation_config.json", model.generation_config.to_diff_dict())
    return open_checkpoint(out)


def _require(library: str) -> None:
    try:
        import_module(library)
    except ImportError as error:
        raise MissingExtra(library, "gguf", "reading GGUF files") from error


def _check_start(path: Path) -> None:
    """Refuses what is not GGUF by its first bytes, before any library sees it."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as error:
        raise BadCheckpoint(f"cannot read {path}: {error.strerror}", hint="check the path and its rights") from error
    if start[:4] != MAGIC:
        raise BadCheckpoint(
            f"{path} starts with {start[:4]!r}, expected {MAGIC!r}", hint="point at a file that ends in .gguf"
        )
    version = int.from_bytes(start[4:8], "little")
    if len(start) < 24 or version not in VERSIONS:
        what = f"is of GGUF version {version}" if len(start) == 24 else f"ends after {len(start)} bytes"
        raise BadCheckpoint(
            f"{path} {what}, expected a whole file of version 2 or 3", hint="download it again, or convert it anew"
        )


def _check_whole(path: Path) -> None:
    """Reads every entry of the file once (numbers stay on disk), so that a cut file is found before the load."""
    gguf = import_module("gguf")
    try:
        reader = gguf.GGUFReader(path)
        parts = reader.get_field("split.count")
        count = int(parts.contents()) if parts is not None else 1
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise BadCheckpoint(
            f"{path} is damaged or cut short ({path.stat().st_size:,} bytes): {error}", hint="download it again"
        ) from error
    if count > 1:
        raise BadCheckpoint(
            f"{path} is one of {count} parts", hint="join them first with llama.cpp's `llama-gguf-split --merge`"
        )


def _load(path: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise BadCheckpoint(
            f"transformers cannot read {path}: {error}", hint="use the model's safetensors folder instead"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of transformers in a log; a person at a terminal sees the one of the conversion, which takes a while."""
    with quiet_transformers(), redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
        yield


def _weights(model: Any) -> dict[str, Tensor]:
    """Every tensor of the model, each table once however many names it has."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            weights[name] = tensor
            seen.add(tensor.data_ptr())
    return weights


def _clean_config(model: Any, dtype: str) -> dict[str, Any]:
    """The config without the traces of the file that it came from."""
    config: dict[str, Any] = model.config.to_dict()
    gone = ("quantization_config", "_model_name_or_path", "_name_or_path")
    kept = {key: value for key, value in config.items() if key not in gone}
    return {**kept, "architectures": [type(model).__name__], "dtype": dtype}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
