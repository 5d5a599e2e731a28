"""Writes a checkpoint with other token tables and leaves the body of the model alone.

Shards without a token table are hard-linked (copied where that is impossible): no time, no space. Shards with one
are written anew: their other tensors are copied by the kernel, so that memory stays flat and time is that of a
file copy. Linking such a shard too and putting the new tables into a further file is not safe, although
transformers can be led to load it: it ignores which file the index names for a tensor, reads every tensor of every
file in the order of file names, and keeps the last (seen on 5.23). The old tables would win or lose by file name,
silently if the sizes agree; other readers stop at the doubled name.

So the cost of a sharded model does not grow with its body; that of a single file is one copy of the file at the
speed of the disk (milliseconds on file systems that share blocks, see `safetensors_write`). `split=True` pays that
once: the tables get a file of their own, and every later swap of the result links the whole body.
"""

import errno
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenlayer.core.errors import BadOption, NoRoom, OutputExists, VocabMismatch
from tokenlayer.models.checkpoint import INDEX, WEIGHTS, Checkpoint, Shard
from tokenlayer.models.checkpoint_config import SpecialIds, check_special_ids, new_config, new_generation_config
from tokenlayer.models.checkpoint_files import carry_files
from tokenlayer.models.model_names import names_by_class
from tokenlayer.models.safetensors_io import BITS, FLOATS, TensorInfo, read_json
from tokenlayer.models.safetensors_write import link_or_copy, write_safetensors

Parts = dict[str, Tensor | TensorInfo]
"""What goes into one file: new tables, and byte ranges of the source."""


def write_checkpoint(
    source: Checkpoint,
    out: Path,
    *,
    rows: Mapping[str, Tensor],
    vocab_size: int,
    special_ids: SpecialIds,
    files: Mapping[str, str | bytes],
    token_map: Mapping[int, int] | None = None,
    body: Mapping[str, Tensor] | None = None,
    link: bool = True,
    split: bool = False,
) -> list[str]:
    """Writes `source` with other token tables as a plain folder.

    Args:
        source: the opened checkpoint; its files are read, linked, never changed.
        out: an existing empty folder.
        rows: for every name in `source.rows.names` its new table, shape `(vocab_size, width)`, or bias, shape
            `(vocab_size,)`. They are stored in the dtype of the tensors that they replace. Stored duplicates
            follow; what was tied stays tied.
        vocab_size: rows of the new tables.
        special_ids: ids by role as config.json spells them, `{"eos_token_id": [2, 7], "pad_token_id": None}`.
            Give bos, eos and pad in any case: a class has defaults of its own.
        files: content of further files by name, such as those of the tokenizer; they win over carried files.
        token_map: source id to target id, for all other fields that hold ids (suppressed tokens, image tokens).
        body: other tensors that changed, by stored name, each in its old shape; they are stored in their old dtype.
        link: hard-link shards in which nothing changes. A program that overwrites a linked file in place changes
            the source too (save_pretrained does not: it writes beside and renames, from safetensors 0.8 on).
        split: give the tables a file of their own.

    Returns:
        Notes, one sentence each: ids that were lost, files that were left behind.

    Raises:
        VocabMismatch: tables or special ids do not fit `vocab_size`, a tensor of `body` does not fit the one that it
            replaces, or the model class refuses the new config.
        OutputExists: `out` is not an empty folder.
        NoRoom: the disk is full.
        BadOption: a name in `files` or `special_ids` cannot be used.
        BadCheckpoint: the source is not readable to the end.
    """
    _check_out(out, files)
    check_special_ids(special_ids, vocab_size)
    tables = _new_tables(source, rows, vocab_size)
    changed = _new_body(source, body or {})
    try:
        notes = _write_configs(source, out, vocab_size, special_ids, token_map or {})
        _write_weights(source, out, tables, changed, link=link, split=split)
        notes += carry_files(source.folder, out, link=link)
        for name, content in files.items():
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoom(
            f"the disk of {out} filled up while writing", hint="free some space, or choose another --out"
        ) from error
    return notes


def needed_bytes(
    source: Checkpoint, vocab_size: int, *, out: Path, body: Collection[str] = (), link: bool = True
) -> int:
    """Returns how many bytes `write_checkpoint` will put on the disk of `out`, up to small files (1 MB each way).

    Args:
        source: the opened checkpoint.
        vocab_size: rows of the new tables.
        out: the folder to be written; it need not exist.
        body: names of other tensors that change.
        link: see `write_checkpoint`. Shards on another disk than `out` count in full.
    """
    existing = next(path for path in [out.absolute(), *out.absolute().parents] if path.exists())
    disk = existing.stat().st_dev
    total = 1_000_000
    for shard in source.shards:
        status = shard.file.stat()
        if not (source.rows.stored | set(body)) & set(shard.tensors):
            total += 0 if link and status.st_dev == disk else status.st_size
            continue
        total += status.st_size
        for name in source.rows.stored & set(shard.tensors):
            info = shard.tensors[name]
            total += (vocab_size - info.shape[0]) * (info.bytes // info.shape[0])
    return total


def _check_out(out: Path, files: Mapping[str, str | bytes]) -> None:
    if not out.is_dir() or any(out.iterdir()):
        raise OutputExists(f"{out} is not an empty folder", hint="make one with core.outputs.fresh_folder")
    for name in files:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or len(path.parts) not in (1, 2):
            raise BadOption(f"files has the name {name!r}, expected a name inside the folder, like tokenizer.json")
        if name in (INDEX, "config.json") or path.suffix == ".safetensors":
            raise BadOption(f"files has the name {name!r}, which is written from the source and the new rows")


def _new_tables(source: Checkpoint, rows: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The new tensor for every stored name that must change, in the stored dtype."""
    wanted = source.rows.names
    if set(rows) != set(wanted):
        raise VocabMismatch(
            f"new rows were given for {sorted(rows)}, {source.folder} has the token tables {sorted(wanted)}",
            hint="make one table per name in source.rows.names",
        )
    tables = {}
    for name in wanted:
        info = source.tensors[name]
        shape = (vocab_size, *info.shape[1:])
        if tuple(rows[name].shape) != shape:
            raise VocabMismatch(f"the new rows of {name} have shape {tuple(rows[name].shape)}, expected {shape}")
        tables[name] = rows[name].to(FLOATS[info.dtype])
    return tables | {alias: tables[name] for alias, name in source.rows.aliases.items()}


def _new_body(source: Checkpoint, body: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other tensors that change, in the stored dtype."""
    changed = {}
    for name, tensor in body.items():
        info = source.tensors.get(name)
        if info is None or name in source.rows.stored or tuple(tensor.shape) != tuple(info.shape):
            found = "a token table" if name in source.rows.stored else "absent" if info is None else tuple(info.shape)
            raise VocabMismatch(f"{name} has shape {tuple(tensor.shape)}, in {source.folder} it is {found}")
        changed[name] = tensor.to(FLOATS[info.dtype])
    return changed


def _write_weights(
    source: Checkpoint, out: Path, tables: dict[str, Tensor], changed: dict[str, Tensor], *, link: bool, split: bool
) -> None:
    places: dict[str, str] = {}
    total_bytes = 0
    for name, (shard, parts) in _layout(source, tables, changed, split=split).items():
        if parts is None:
            link_or_copy(shard.file, out / name, link=link)
        else:
            write_safetensors(out / name, parts, shard.metadata)
        written = shard.tensors if parts is None else parts
        places |= dict.fromkeys(written, name)
        total_bytes += sum(_bytes(part) for part in written.values())
    if source.index is not None or set(places.values()) != {WEIGHTS}:
        metadata = dict((source.index or {}).get("metadata") or {})
        metadata |= {"total_size": total_bytes}
        if "total_parameters" in metadata:
            metadata["total_parameters"] += sum(_grown(source, name, table) for name, table in tables.items())
        _write_json(out / INDEX, {"metadata": metadata, "weight_map": dict(sorted(places.items()))})


def _layout(
    source: Checkpoint, tables: dict[str, Tensor], changed: dict[str, Tensor], *, split: bool
) -> dict[str, tuple[Shard, Parts | None]]:
    """What goes into which file; None stands for the shard as it is."""
    plan: list[tuple[Shard, Parts | None]] = []
    new = tables | changed
    for shard in source.shards:
        body: Parts = {name: changed.get(name, info) for name, info in shard.tensors.items() if name not in tables}
        if not new.keys() & shard.tensors.keys():
            plan.append((shard, None))
        elif not split:
            plan.append((shard, {name: new.get(name, info) for name, info in shard.tensors.items()}))
        elif body:
            plan.append((shard, body))
    if not split:
        return {shard.file.name: (shard, parts) for shard, parts in plan}
    first = next(shard for shard in source.shards if source.rows.input in shard.tensors)
    plan.append((first, dict(tables)))
    count = len(plan)
    return {f"model-{i:05}-of-{count:05}.safetensors": entry for i, entry in enumerate(plan, start=1)}


def _write_configs(
    source: Checkpoint, out: Path, vocab_size: int, special_ids: SpecialIds, token_map: Mapping[int, int]
) -> list[str]:
    config, notes = new_config(
        source.config,
        rows=source.rows.rows,
        vocab_size=vocab_size,
        untied=source.rows.output is not None,
        special_ids=special_ids,
        token_map=token_map,
    )
    _check_config(source, config, vocab_size)
    _write_json(out / "config.json", config)
    generation = source.folder / "generation_config.json"
    if generation.is_file():
        content, more = new_generation_config(read_json(generation), special_ids=special_ids, token_map=token_map)
        _write_json(out / "generation_config.json", content)
        notes += more
    return notes


def _check_config(source: Checkpoint, config: Mapping[str, Any], vocab_size: int) -> None:
    """Asks the model class again, before gigabytes are written: some classes refuse null for a special id."""
    names = names_by_class(config)
    if isinstance(names, str):
        if isinstance(names_by_class(source.config), str):
            return  # nor could the source's: its tables were found by name
        raise VocabMismatch(
            f"the new config.json would not load: {names}",
            hint="give an id in special_ids for every role that the model cannot do without",
        )
    if names.shape[0] != vocab_size:
        raise VocabMismatch(f"the new config.json asks for {names.shape[0]} rows, the new tables have {vocab_size}")


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _bytes(part: Tensor | TensorInfo) -> int:
    return part.bytes if isinstance(part, TensorInfo) else part.numel() * part.element_size()


def _grown(source: Checkpoint, name: str, table: Tensor) -> int:
    info = source.tensors[name]
    return table.numel() - info.bytes * 8 // BITS[info.dtype]
