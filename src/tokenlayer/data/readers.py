"""Files to texts, lazily: text, JSON lines, Parquet, folders, Hugging Face data sets, standard input.

A text comes out as its file has it: a byte order mark, NUL and CR LF are kept, nothing is normalised. A document
between blank lines loses only the line end that closes it.
"""

import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tokenlayer.core.errors import BadOption, BadText, MissingExtra, choose
from tokenlayer.data.sources import COMPRESSED, HUB, STDIN, Source, bare_name

DOCUMENT_KINDS = ("auto", "blank-line", "file", "line")
CODE_SUFFIXES = (
    *(".py", ".pyi", ".js", ".ts", ".jsx", ".tsx", ".c", ".h", ".cc", ".cpp"),
    *(".hpp", ".cs", ".java", ".kt", ".scala", ".go", ".rs", ".rb", ".php", ".pl"),
    *(".lua", ".r", ".jl", ".swift", ".m", ".sh", ".bash", ".sql", ".html", ".css"),
    *(".scss", ".xml", ".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md", ".rst"),
    *(".tex", ".vue", ".hs", ".ml", ".ex", ".erl", ".clj", ".dart", ".proto", ".cmake"),
    *(".f90", ".asm", ".s"),
)
"""Files of a folder that are read as one document each, beside the data files in `DATA_SUFFIXES`."""
DATA_SUFFIXES = (".txt", ".jsonl", ".ndjson", ".parquet")
LONGEST_BYTES = 8_000_000
"""A document between blank lines is cut at the next line end after this many bytes: memory stays bounded."""
_IO_BYTES = 1 << 20

Reader = Iterator[tuple[str, str]]
"""Pairs of document id and text."""


@dataclass(frozen=True)
class ReadOptions:
    """How files become documents."""

    document: str = "auto"
    """What a document of a text file is: blank-line, file, line; auto = blank-line for .txt and stdin, else file."""
    field: str = "text"
    """Field of JSON lines, column of Parquet and data sets that holds the text."""
    errors: str = "strict"
    """strict stops at bytes that are not UTF-8; replace puts U+FFFD in their place and counts the documents."""
    suffixes: tuple[str, ...] = ()
    """Only these files of a folder (`.py`); empty means known code and data suffixes."""
    max_file_bytes: int = 1_000_000
    """Larger code files of a folder are skipped and counted: they are mostly generated."""

    def __post_init__(self) -> None:
        choose("document", self.document, DOCUMENT_KINDS)
        choose("errors", self.errors, ("strict", "replace"))
        if self.max_file_bytes < 1:
            raise BadOption(f"max_file_bytes is {self.max_file_bytes}, expected at least 1")
        for suffix in self.suffixes:
            if not suffix.startswith("."):
                raise BadOption(f"suffix {suffix!r} has no dot", hint=f"write {'.' + suffix!r}")


@dataclass
class Tally:
    """What was read, and what was left out."""

    documents: int = 0
    bytes: int = 0
    empty: int = 0
    replaced: int = 0
    cut: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, why: str, path: Path) -> None:
        """Counts a file of a folder that is not read."""
        self.skipped[why] = self.skipped.get(why, 0) + 1
        self.first_skipped.setdefault(why, str(path))

    def warnings(self) -> list[str]:
        """One sentence for each thing that was left out or changed."""
        said = []
        if self.empty:
            said.append(f"{self.empty} empty documents were skipped")
        if self.replaced:
            said.append(f"{self.replaced} documents had bytes that are not UTF-8; they were replaced by U+FFFD")
        if self.cut:
            said.append(f"{self.cut} documents of more than {LONGEST_BYTES / 1e6:g} MB were cut at a line end")
        for why, n in sorted(self.skipped.items()):
            said.append(f"{n} files were skipped because they are {why}, the first is {self.first_skipped[why]}")
        return said


def read_source(source: Source, options: ReadOptions, tally: Tally) -> Reader:
    """Yields (id, text) of every document of a source; the id does not depend on where the source lies.

    Raises:
        BadText: a missing or damaged file, bytes that are not UTF-8, a bad line, a missing column.
        MissingExtra: the format needs pyarrow or datasets.
    """
    if source.path == STDIN:
        yield from _text(
            cast(io.BufferedIOBase, sys.stdin.buffer),
            "standard input",
            "stdin",
            options,
            tally,
            by_default="blank-line",
        )
    elif source.is_hub:
        yield from _hub(source.path.removeprefix(HUB), options, tally)
    else:
        path = existing(source.path)
        if not path.is_dir():
            yield from read_file(path, path.name, options, tally)
        elif _is_saved_dataset(path):
            yield from _saved_dataset(path, "", options, tally)
        else:
            for file in folder_files(path, options, tally):
                yield from _of_folder(file, file.relative_to(path).as_posix(), options, tally)


def existing(path: str) -> Path:
    """Returns the path of a file or folder that is there.

    Raises:
        BadText: it is not.
    """
    found = Path(path)
    if not found.exists():
        raise BadText(
            f"{path} does not exist", hint="a source is [GROUP[=WEIGHT]:]PATH, hf:NAME, or - for standard input"
        )
    return found


def read_file(path: Path, name: str, options: ReadOptions, tally: Tally) -> Reader:
    """Yields (id, text) of one file, by its suffix; ids start with `name`."""
    suffix = Path(bare_name(path.name)).suffix
    if suffix == ".parquet":
        yield from _parquet(path, name, options, tally)
        return
    with open_bytes(path) as stream:
        if suffix in (".jsonl", ".ndjson"):
            yield from _jsonl(stream, path, name, options, tally)
        else:
            whole = "blank-line" if suffix == ".txt" else "file"
            yield from _text(stream, str(path), name, options, tally, by_default=whole)


def folder_files(folder: Path, options: ReadOptions, tally: Tally) -> Iterator[Path]:
    """Yields the files of a folder that are read, sorted; hidden files and folders are passed over."""
    wanted = options.suffixes or (*CODE_SUFFIXES, *DATA_SUFFIXES)
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in ("__pycache__", "node_modules"))
        for name in sorted(names):
            path = Path(root, name)
            bare = Path(bare_name(name)).suffix
            if name.startswith(".") or (bare not in wanted and path.suffix not in wanted) or not path.is_file():
                continue
            if path.suffix in COMPRESSED and bare not in DATA_SUFFIXES:
                continue
            if why := _unfit_for_folder(path, bare, options):
                tally.skip(why, path)
            else:
                yield path


def _unfit_for_folder(path: Path, suffix: str, options: ReadOptions) -> str:
    """Why a file of a folder is left out, or "". Folders of code hold tables and records that are no texts."""
    if suffix not in DATA_SUFFIXES:
        return (
            f"larger than {options.max_file_bytes / 1e6:g} MB" if path.stat().st_size > options.max_file_bytes else ""
        )
    there = [options.field]
    if suffix == ".parquet":
        there = _open_parquet(path).schema_arrow.names
    elif suffix in (".jsonl", ".ndjson"):
        with open_bytes(path) as stream:
            there = _first_keys(_read(stream.readline, str(path)), there)
    return "" if options.field in there else f"without a field {options.field!r}"


def _first_keys(line: bytes, unknown: list[str]) -> list[str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return unknown  # reading it will say what is wrong
    return list(record) if isinstance(record, dict) else unknown


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Opens a plain, `.gz` or `.zst` file for reading bytes.

    Raises:
        BadText: it cannot be opened.
        MissingExtra: a `.zst` file without pyarrow.
    """
    try:
        if path.suffix == ".zst":
            pyarrow = _pyarrow("reading .zst files")
            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), _IO_BYTES)
        if path.suffix == ".gz":
            return io.BufferedReader(cast(Any, gzip.open(path, "rb")), _IO_BYTES)
        return cast(io.BufferedIOBase, path.open("rb", buffering=_IO_BYTES))
    except OSError as error:
        raise BadText(f"cannot open {path}: {error.strerror or error}", hint="check the path") from error


def source_bytes(source: Source, options: ReadOptions) -> int | None:
    """About how many bytes of text a source holds, without reading the texts; None when only reading can tell.

    Compressed files are decompressed to count. JSON lines count with their field names, Parquet by its metadata.
    """
    if source.path == STDIN or source.is_hub:
        return None
    path = existing(source.path)
    if not path.is_dir():
        return _file_bytes(path, options)
    if _is_saved_dataset(path):
        return sum(p.stat().st_size for p in path.rglob("*.arrow"))
    return sum(_file_bytes(p, options) for p in folder_files(path, options, Tally()))


def _file_bytes(path: Path, options: ReadOptions) -> int:
    if path.suffix == ".parquet":
        file = _open_parquet(path)
        at = _column(file.schema_arrow.names, options.field, str(path))
        groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
        leaf = file.schema_arrow.names[at]
        columns = [g.column(c) for g in groups for c in range(g.num_columns)]
        return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == leaf)
    if path.suffix not in COMPRESSED:
        return path.stat().st_size
    with open_bytes(path) as stream:
        return sum(len(part) for part in iter(lambda: _read(lambda: stream.read(_IO_BYTES), str(path)), b""))


def _of_folder(path: Path, name: str, options: ReadOptions, tally: Tally) -> Reader:
    """A code file that is not UTF-8 text is skipped and counted; data files are held to what they promise."""
    large = path.stat().st_size > options.max_file_bytes
    data_file = path.suffix in COMPRESSED or (path.suffix in DATA_SUFFIXES and (path.suffix != ".txt" or large))
    if data_file or options.errors == "replace":
        yield from read_file(path, name, options, tally)
        return
    data = _read(path.read_bytes, str(path))
    if b"\0" in data[:8192]:
        tally.skip("binary", path)
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        tally.skip("not UTF-8", path)
        return
    whole = "blank-line" if path.suffix == ".txt" else "file"
    yield from _text(io.BytesIO(data), str(path), name, options, tally, by_default=whole)


def _text(
    stream: io.BufferedIOBase, where: str, name: str, options: ReadOptions, tally: Tally, *, by_default: str
) -> Iterator[tuple[str, str]]:
    """Yields the documents of a stream of text."""
    kind = by_default if options.document == "auto" else options.document
    cut = {"file": _whole, "line": _lines, "blank-line": _between_blank_lines}[kind]
    for n, (start, data) in enumerate(cut(stream, where, tally)):
        text = _decode(data, where, start, options, tally)
        if text:
            yield (name if kind == "file" else f"{name}#{n}"), text
        else:
            tally.empty += 1


def _whole(stream: io.BufferedIOBase, where: str, tally: Tally) -> Iterator[tuple[int, bytes]]:
    yield 0, _read(stream.read, where)


def _lines(stream: io.BufferedIOBase, where: str, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Each line without its line end, with its byte offset."""
    start = 0
    while line := _read(stream.readline, where):
        yield start, _chomp(line)
        start += len(line)


def _between_blank_lines(stream: io.BufferedIOBase, where: str, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Runs of lines with text, joined as they were, with the byte offset of each run."""
    at = start = 0
    held: list[bytes] = []
    while line := _read(stream.readline, where):
        if line in (b"\n", b"\r\n"):
            if held:
                yield start, _chomp(b"".join(held))
            held, start = [], at + len(line)
        else:
            held.append(line)
        at += len(line)
        if at - start > LONGEST_BYTES:
            tally.cut += 1
            yield start, b"".join(held)
            held, start = [], at
    if held:
        yield start, _chomp(b"".join(held))


def _chomp(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line


def _decode(data: bytes, where: str, start: int, options: ReadOptions, tally: Tally) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if options.errors == "replace":
            tally.replaced += 1
            return data.decode("utf-8", "replace")
        raise BadText(
            f"{where} is not UTF-8: byte 0x{data[error.start]:02x} at offset {start + error.start}",
            hint="convert the file (iconv -f LATIN1 -t UTF-8), or read it with errors='replace'",
        ) from None


def _read(read: Callable[[], bytes], where: str) -> bytes:
    """Reads a part; a damaged stream becomes our error."""
    try:
        return read()
    except (OSError, EOFError, ValueError) as error:
        raise BadText(
            f"cannot read {where}: {error}", hint="is the file whole? try to decompress it by hand"
        ) from error


def _jsonl(stream: io.BufferedIOBase, path: Path, name: str, options: ReadOptions, tally: Tally) -> Reader:
    for n, (start, line) in enumerate(_lines(stream, str(path), tally), 1):
        if not line.strip():
            continue
        text = _field(_decode(line, f"{path}:{n}", start, options, tally), f"{path}:{n}", options)
        text = _no_surrogates(text, f"{path}:{n}", options, tally)
        if text:
            yield f"{name}#{n}", text
        else:
            tally.empty += 1


def _field(line: str, where: str, options: ReadOptions) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadText(f"{where} is not JSON: {error}", hint="each line of a .jsonl file is one JSON object") from None
    if not isinstance(record, dict):
        raise BadText(f"{where} is a JSON {type(record).__name__}, expected an object with field {options.field!r}")
    if options.field not in record:
        raise _no_field(where, options.field, list(record))
    value = record[options.field]
    if value is not None and not isinstance(value, str):
        raise BadText(f"{where}: field {options.field!r} is {type(value).__name__}, expected text")
    return value or ""


def _no_surrogates(text: str, where: str, options: ReadOptions, tally: Tally) -> str:
    """A JSON escape can write half of a surrogate pair, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError as error:
        if options.errors == "replace":
            tally.replaced += 1
            return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        raise BadText(
            f"{where}: character {error.start} of field {options.field!r} is half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x})",
            hint="repair the escape, or read with errors='replace'",
        ) from None


def _parquet(path: Path, name: str, options: ReadOptions, tally: Tally) -> Reader:
    file = _open_parquet(path)
    at = _column(file.schema_arrow.names, options.field, str(path))
    kind = str(file.schema_arrow.field(at).type)
    if kind not in ("string", "large_string", "string_view"):
        raise BadText(f"{path}: column {options.field!r} is {kind}, expected string")
    row = 0
    for batch in file.iter_batches(batch_size=512, columns=[options.field]):
        for value in batch.column(0):
            text = _cell(value, f"{path}: row {row}", options, tally)
            if text:
                yield f"{name}#{row}", text
            else:
                tally.empty += 1
            row += 1


def _cell(value: Any, where: str, options: ReadOptions, tally: Tally) -> str:
    data = value.as_buffer()
    return "" if data is None else _decode(data.to_pybytes(), where, 0, options, tally)


def _open_parquet(path: Path) -> Any:
    _pyarrow("reading .parquet files")
    from pyarrow import lib, parquet

    try:
        return parquet.ParquetFile(path)
    except (lib.ArrowInvalid, OSError) as error:
        raise BadText(f"cannot read {path} as Parquet: {error}") from error


def _column(names: list[str], wanted: str, where: str) -> int:
    if wanted not in names:
        raise _no_field(where, wanted, names)
    return names.index(wanted)


def _no_field(where: str, wanted: str, there: list[str]) -> BadText:
    shown = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "")
    return BadText(
        f"{where} has no field {wanted!r}; it has: {shown or 'none'}",
        hint=f"name one of them as the field, not {wanted!r}",
    )


def _is_saved_dataset(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def _saved_dataset(folder: Path, split: str, options: ReadOptions, tally: Tally) -> Reader:
    found = _datasets(f"reading the data set {folder}").load_from_disk(str(folder))
    if hasattr(found, "values"):
        if not split and len(found) > 1:
            raise BadText(
                f"{folder} has the splits {', '.join(found)}", hint=f"name one: hf:{folder}:{next(iter(found))}"
            )
        split = split or next(iter(found))
        if split not in found:
            raise BadText(f"{folder} has no split {split!r}; it has: {', '.join(found)}")
        found = found[split]
    yield from _rows(found, str(folder), split or folder.name, options, tally)


def _hub(spec: str, options: ReadOptions, tally: Tally) -> Reader:
    """A data set of the hub, streamed; or a saved folder, when `hf:` stands before its path."""
    name, _, split = spec.partition(":")
    if Path(name).is_dir() and _is_saved_dataset(Path(name)):
        yield from _saved_dataset(Path(name), split, options, tally)
        return
    datasets = _datasets(f"reading the data set {name}")
    hub_id, _, config = name.partition(",")
    try:
        found = datasets.load_dataset(hub_id, config or None, split=split or "train", streaming=True)
    except Exception as error:  # the library raises many kinds, network errors among them
        raise BadText(
            f"cannot load {hub_id} from the hub: {' '.join(str(error).split())[:300]}",
            hint="the form is hf:NAME[,CONFIG][:SPLIT]; is the name right and the network up?",
        ) from error
    yield from _rows(found, hub_id, split or "train", options, tally)


def _rows(found: Any, where: str, name: str, options: ReadOptions, tally: Tally) -> Reader:
    if found.column_names is not None:
        _column(list(found.column_names), options.field, where)
        found = found.select_columns([options.field])
    for row, record in enumerate(found):
        if options.field not in record:
            raise _no_field(where, options.field, list(record))
        value = record[options.field]
        if value is not None and not isinstance(value, str):
            raise BadText(f"{where}: row {row}: field {options.field!r} is {type(value).__name__}, expected text")
        if value:
            yield f"{name}#{row}", value
        else:
            tally.empty += 1


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "data", what) from error
    return pyarrow


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data", what) from error
    return datasets
