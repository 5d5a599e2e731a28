"""Opens a Hugging Face checkpoint folder and reads single tensors of it.

Nothing of the folder is executed, and of the weights only headers are read, until a tensor is asked for. What we
do not rewrite safely (pickles, quantised weights, adapters, damaged or dangling files) is refused here, before
any work is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.config_parts import TEXT_KEYS, architecture_of, text_part
from tokenlayer.models.row_tensors import RowTensors, find_rows
from tokenlayer.models.safetensors_io import FLOATS, TensorInfo, read_header, read_json, read_tensor

WEIGHTS = "model.safetensors"
"""The file that transformers looks for first."""

INDEX = "model.safetensors.index.json"
"""The list of shards that it looks for next."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Files whose loading may run code that comes with them."""


@dataclass(frozen=True)
class Shard:
    """One file of weights.

    Attributes:
        file: the file as it lies in the folder (it may be a symbolic link).
        tensors: its tensors in the order of their bytes.
        metadata: the `__metadata__` of its header.
    """

    file: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder; tensors stay on disk until `read`.

    Attributes:
        folder: where it lies.
        config: config.json.
        text_config: the part of `config` about the language model (often `config` itself).
        shards: the files of weights.
        index: content of the shard index, or None for a single file.
        tensors: every stored tensor by name.
        rows: which of them have one row per token.
        kind: `"decoder"` (predicts the next token), `"masked"` (fills masks in) or `"encoder"` (no head).
        notes: what a user should know about how the tables were found, each one sentence.
    """

    folder: Path
    config: dict[str, Any]
    text_config: dict[str, Any]
    shards: tuple[Shard, ...]
    index: dict[str, Any] | None
    tensors: dict[str, TensorInfo]
    rows: RowTensors
    kind: str
    notes: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """The class that config.json names, or an empty string."""
        return architecture_of(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input embedding."""
        return FLOATS[self.tensors[self.rows.input].dtype]

    def read(self, name: str) -> Tensor:
        """Reads one tensor, and only its bytes.

        Raises:
            BadCheckpoint: no such tensor is stored, or it is not of a float dtype.
        """
        if name not in self.tensors:
            raise BadCheckpoint(
                f"{self.folder} stores no tensor {name!r}", hint=f"its token tables are {', '.join(self.rows.names)}"
            )
        return read_tensor(self.tensors[name])


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens a folder with config.json and safetensors weights (one file, or shards with an index).

    Takes time and memory for the headers only, plus a comparison of the two tables of a model that is tied by its
    config but stores both.

    Raises:
        BadCheckpoint: something is missing, damaged, unsafe (pickles, paths out of the folder) or of a kind that
            we do not rewrite (quantised, adapters, encoder-decoders).
    """
    config = _read_config(folder)
    _refuse_quantised(config, folder)
    index, names = _weight_files(folder, config)
    shards = tuple(_open_shard(folder, name) for name in names)
    tensors = _merge(shards, index, folder)
    text_config = text_part(config)
    found = find_rows(config, text_config, tensors, folder)
    return Checkpoint(folder, config, text_config, shards, index, tensors, found.rows, found.kind, found.notes)


def _read_config(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        convert = "convert it first with convert_gguf" if folder.suffix == ".gguf" else "point at the folder around it"
        raise BadCheckpoint(f"{folder} is a file, expected a checkpoint folder", hint=convert)
    if not folder.is_dir():
        raise BadCheckpoint(f"{folder} does not exist, expected a checkpoint folder", hint="check the path")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise BadCheckpoint(
            f"{folder} holds an adapter, not a whole model",
            hint="merge it into its base model first (peft: merge_and_unload)",
        )
    if not (folder / "config.json").is_file():
        raise BadCheckpoint(f"{folder} has no config.json", hint="point at the folder that transformers would load")
    return read_json(folder / "config.json")


def _refuse_quantised(config: Mapping[str, Any], folder: Path) -> None:
    for part in (config, *(config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict))):
        entry = part.get("quantization_config")
        if entry:
            method = entry.get("quant_method", "unknown") if isinstance(entry, dict) else entry
            raise BadCheckpoint(
                f"{folder} is quantised (quantization_config in config.json, method {method}); new rows can only be "
                "made from float weights",
                hint="use the checkpoint from before quantisation, and quantise the result",
            )


def _weight_files(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """The index (None for a single file) and the names of the files, found in the order of transformers."""
    special = config.get("transformers_weights")
    if special is not None:
        raise BadCheckpoint(
            f"config.json of {folder} sends readers to other weights (transformers_weights: {special!r})",
            hint=f"save the model again with save_pretrained, so that it has {WEIGHTS} or {INDEX}",
        )
    if (folder / WEIGHTS).is_file():
        return None, [WEIGHTS]
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        return index, _shard_names(index, folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise BadCheckpoint(
            f"{folder} has its weights only as pickles ({', '.join(pickles[:3])}), which can run code when loaded",
            hint="on a machine where you trust the file: AutoModel.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise BadCheckpoint(f"{folder} has neither {WEIGHTS} nor {INDEX}", hint="download the weights too")


def _shard_names(index: Mapping[str, Any], folder: Path) -> list[str]:
    """The files of an index, each a plain name within the folder."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise BadCheckpoint(f"{folder / INDEX} has no weight_map from tensor names to file names")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise BadCheckpoint(
                f"{folder / INDEX} points at {name!r}, expected plain names of .safetensors files in the same folder",
                hint="do not trust this checkpoint; its index was made or changed by hand",
            )
        if not (folder / name).is_file():
            raise BadCheckpoint(
                f"{folder} lacks the shard {name}, one of {len(names)} in its index", hint="download it again"
            )
    return names


def _open_shard(folder: Path, name: str) -> Shard:
    header = read_header(folder / name)
    return Shard(folder / name, header.tensors, header.metadata)


def _merge(shards: tuple[Shard, ...], index: Mapping[str, Any] | None, folder: Path) -> dict[str, TensorInfo]:
    """All tensors; a name in two shards is refused, because which one counts depends on the reader."""
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        for name, info in shard.tensors.items():
            if name in tensors:
                raise BadCheckpoint(
                    f"{folder} stores tensor {name!r} twice, in {tensors[name].file.name} and {shard.file.name}",
                    hint="save the model again with save_pretrained",
                )
            tensors[name] = info
    for name, file in (index or {}).get("weight_map", {}).items():
        if name not in tensors or tensors[name].file.name != file:
            raise BadCheckpoint(
                f"{folder / INDEX} places tensor {name!r} in {file}, which does not hold it", hint="download it again"
            )
    return tensors
