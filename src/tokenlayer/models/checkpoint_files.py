"""Takes the small files of a checkpoint folder along: what describes the model, nothing that would be stale."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.safetensors_write import link_or_copy

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
"""They belong to the source's tokenizer."""

WEIGHT_FILES = (
    "*.safetensors",
    "*.index.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.onnx*",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "*.npz",
)
"""Weights in any format: ours are written elsewhere, the others would hold the source's tables."""

STALE_FILES = ("README*", "config.json", "generation_config.json", "tokenlayer*", "trainer_state.json", ".*")
"""Written anew, or true of the source only."""

MAX_SMALL_BYTES = 100_000_000
"""A larger file is not a description of a model."""


def carry_files(folder: Path, out: Path, *, link: bool = True) -> list[str]:
    """Copies the small files of `folder`, and the modules of a sentence-transformers model, into `out`.

    Tokenizer files, weights, the README and hidden files stay behind, and so do links that lead out of the folder
    (other than into the blobs of the hub's cache, where snapshots keep their files).

    Returns:
        Notes, one sentence each, about files that a user might miss.

    Raises:
        BadCheckpoint: modules.json names a folder outside of `folder`.
    """
    notes: list[str] = []
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if not _matches(file.name, TOKENIZER_FILES + WEIGHT_FILES + STALE_FILES):
            notes += _carry(file, out / file.name, folder)
    for module in _modules(folder):
        notes += _carry_module(folder, module, out, link=link)
    return notes


def _carry(file: Path, target: Path, folder: Path) -> list[str]:
    if file.is_symlink() and not _stays_inside(file, folder):
        return [f"{file.name} was left behind: it is a link out of the folder"]
    if file.stat().st_size > MAX_SMALL_BYTES:
        return [f"{file.name} was left behind: it has {file.stat().st_size / 1e6:,.0f} MB"]
    shutil.copyfile(file, target)
    return []


def _stays_inside(file: Path, folder: Path) -> bool:
    real, home = file.resolve(), folder.resolve()
    return real.is_relative_to(home) or real.is_relative_to(home.parent.parent / "blobs")


def _modules(folder: Path) -> list[str]:
    """Folders that modules.json (sentence-transformers) names."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    import json

    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        names = [entry["path"] for entry in entries if entry["path"]]
    except (ValueError, TypeError, KeyError) as error:
        raise BadCheckpoint(f"{file} is not a list of modules with a path each: {error}") from error
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            raise BadCheckpoint(f"{file} names the folder {name!r}, expected a plain name inside {folder}")
    return [name for name in names if (folder / name).is_dir()]


def _carry_module(folder: Path, module: str, out: Path, *, link: bool) -> list[str]:
    """Configs are copied, weights in safetensors linked, pickles left behind."""
    notes: list[str] = []
    (out / module).mkdir(exist_ok=True)
    for file in sorted(path for path in (folder / module).iterdir() if path.is_file()):
        if file.suffix == ".safetensors":
            link_or_copy(file, out / module / file.name, link=link)
        elif _matches(file.name, WEIGHT_FILES):
            notes.append(f"{module}/{file.name} was left behind: only safetensors weights are taken along")
        else:
            notes += _carry(file, out / module / file.name, folder)
    return notes


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)
