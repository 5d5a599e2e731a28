"""Opens a model from a folder, a GGUF file or a hub id, and loads it with plain transformers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenlayer.core.errors import BadCheckpoint, BadOption
from tokenlayer.models.checkpoint import Checkpoint, open_checkpoint
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer

PAD_COUNTS_POSITIONS = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "longformer", "mpnet", "ibert")
)
"""Model types whose positions start after `pad_token_id` (create_position_ids_from_input_ids in transformers)."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A checkpoint with the tokenizer of its rows.

    Attributes:
        name: what the user called it.
        checkpoint: the opened folder (of a GGUF: the folder that it was converted to).
        tokenizer: its tokenizer.
    """

    name: str
    checkpoint: Checkpoint
    tokenizer: LoadedTokenizer

    @property
    def fixed_pad(self) -> int | None:
        """The pad id that must not move, or None.

        RoBERTa and its kin count positions from the pad id (`position = pad id + 1 + ...`): with another id every
        position embedding would be another one.
        """
        config = self.checkpoint.text_config
        counted = config.get("model_type") in PAD_COUNTS_POSITIONS
        pad = config.get("pad_token_id", 1)
        return pad if counted and isinstance(pad, int) else None


def most_positions(model: nn.Module) -> int | None:
    """How many tokens the model can read at once, or None when it does not say.

    RoBERTa and its kin start to count after their pad id.
    """
    config: Any = model.config
    config = getattr(config, "text_config", config)
    most = getattr(config, "max_position_embeddings", None)
    if not most:
        return None
    pad = getattr(config, "pad_token_id", None)
    counted = getattr(config, "model_type", "") in PAD_COUNTS_POSITIONS
    return int(most) - ((1 if pad is None else int(pad)) + 1 if counted else 0)


def weight_stamps(where: str | Path) -> list[tuple[str, int, int]]:
    """Name, size and date of the files with the weights of a local model: what tells changed weights apart."""
    path = Path(where)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@contextmanager
def opened_model(where: str | Path, scratch: Path) -> Iterator[OpenedModel]:
    """Opens a checkpoint folder, a GGUF file, or a hub id `org/name` (the only case that touches the network).

    A GGUF is converted to a folder under `scratch`, which is removed afterwards.

    Raises:
        BadCheckpoint: there is no such model, or one that we do not rewrite.
        BadTokenizer: the model has no readable tokenizer.
    """
    import tempfile

    path = Path(where)
    if not path.exists():
        path = _from_hub(str(where))
    if path.is_file() and path.suffix == ".gguf":
        from tokenlayer.models.gguf_checkpoint import convert_gguf

        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".gguf.partial-", dir=scratch) as folder:
            converted = convert_gguf(path, Path(folder))
            yield OpenedModel(str(where), converted, load_tokenizer(path))
        return
    yield OpenedModel(str(where), open_checkpoint(path), load_tokenizer(path))


def _from_hub(name: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise BadCheckpoint(
            f"{name} does not exist", hint="give a checkpoint folder, a .gguf file, or a hub id org/name"
        )
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "LICENSE*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise BadCheckpoint(
            f"{name} is neither a path here nor a hub id that could be fetched: {type(error).__name__}",
            hint="check the spelling; without a network, give a local folder",
        ) from error


def load_model(
    folder: Path, kind: str, *, dtype: str | None = None, device: str = "cpu", layers: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a checkpoint with plain transformers, in evaluation mode.

    Args:
        folder: the checkpoint.
        kind: `"decoder"`, `"masked"` or `"encoder"`.
        dtype: `float32`, `bfloat16` or `float16`; None keeps the stored one on a GPU and takes float32 on a CPU.
        device: where it runs.
        layers: load only that many layers; time and memory are then those of the token tables.

    Returns:
        The model, and what transformers says of missing, unexpected and mismatched keys.

    Raises:
        BadOption: an unknown dtype or device.
        BadCheckpoint: transformers cannot load it.
    """
    import transformers

    where = check_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise BadOption(f"dtype is {dtype!r}, expected one of: {', '.join(DTYPES)}")
    wanted: Any = DTYPES[dtype] if dtype else (torch.float32 if where.type == "cpu" else "auto")
    if layers is not None:
        wanted = "auto"
    with quiet_transformers():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            _cut_layers(config, layers)
            model, info = _model_class(config, kind).from_pretrained(
                folder, config=config, dtype=wanted, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise BadCheckpoint(
                f"transformers cannot load {folder}: {str(error)[:300]}",
                hint="does the folder load with AutoModel.from_pretrained? custom code is never run",
            ) from error
    return model.to(where).eval(), info


def check_device(device: str) -> torch.device:
    """Returns the device, if it is there.

    Raises:
        BadOption: an unknown or absent device.
    """
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise BadOption(f"device is {device!r}, expected cpu, cuda, cuda:N or mps") from error
    absent = (where.type == "cuda" and not torch.cuda.is_available()) or (
        where.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise BadOption(f"device is {device!r}, but torch sees no such device here", hint="use --device cpu")
    return where


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the bars and load reports of transformers: we check what they say ourselves."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _model_class(config: Any, kind: str) -> Any:
    import transformers

    named = [getattr(transformers, name, None) for name in getattr(config, "architectures", None) or ()]
    found = next((cls for cls in named if cls is not None), None)
    fallback = {"decoder": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "encoder": "AutoModel"}[kind]
    return found or getattr(transformers, fallback)


def _cut_layers(config: Any, layers: int | None) -> None:
    text = getattr(config, "text_config", config)
    if layers is None or not isinstance(getattr(text, "num_hidden_layers", None), int):
        return
    text.num_hidden_layers = min(layers, text.num_hidden_layers)
    if isinstance(getattr(text, "layer_types", None), list):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
