"""Word vectors from files: fastText `.bin`, word2vec text (`.vec`) and word2vec binary; and `.bin` out.

A fastText file is mapped into memory and read where it is looked at. No size that a file claims is believed before it
was compared with the size of the file.
"""

import io
import os
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tokenlayer.core.errors import BadVectors
from tokenlayer.data.readers import open_bytes
from tokenlayer.data.sources import COMPRESSED
from tokenlayer.data.static_vectors import NgramConfig, StaticVectors

FASTTEXT_MAGIC = 793712314
FASTTEXT_VERSION = 12
LONGEST_WORD = 4096
"""Bytes; a longer word means a damaged file."""
WIDEST = 65_536
"""Dimensions; more means a damaged file."""
_ARGUMENTS = struct.Struct("<12id")
_SIZES = struct.Struct("<3i2q")
_SHAPE = struct.Struct("<2q")
_ENTRY = struct.Struct("<qb")
_IO_BYTES = 1 << 20


def read_vectors(path: str | Path, *, most_words: int | None = None) -> StaticVectors:
    """Reads word vectors; the kind of file is told by its first bytes.

    Args:
        path: fastText `.bin`, word2vec binary, or text with one word and its numbers a line; text also as `.gz` or
            `.zst`.
        most_words: take only the first words of a word2vec file; all when None.

    Raises:
        BadVectors: the file is damaged, cut off, quantised, or of another kind.
        BadText: it cannot be opened.
        MissingExtra: a `.zst` file without pyarrow.
    """
    path = Path(path)
    try:
        with open_bytes(path) as stream:
            head = stream.read(512)
        if head[:4] == struct.pack("<i", FASTTEXT_MAGIC):
            return _fasttext(path)
        words, dim = _header(head, path)
        limit = words if most_words is None else min(words, most_words)
        with open_bytes(path) as stream:
            stream.readline()
            return (_text if _is_text(head) else _binary)(stream, path, limit, dim)
    except (OSError, EOFError) as error:
        raise BadVectors(f"cannot read {path}: {error or 'it ends too early'}", hint="copy the file again") from error


def write_fasttext(vectors: StaticVectors, path: Path) -> None:
    """Writes vectors as a fastText `.bin` that fastText, gensim and `read_vectors` load; written beside and renamed.

    The output matrix, which only training goes on from, is written as zeros.
    """
    grams = vectors.ngrams or NgramConfig(1, 1, 1)
    min_n, max_n, buckets = (grams.min_n, grams.max_n, grams.buckets) if vectors.ngrams else (0, 0, 0)
    counts = np.ones(len(vectors.words), np.int64) if vectors.counts is None else vectors.counts
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(struct.pack("<2i", FASTTEXT_MAGIC, FASTTEXT_VERSION))
            file.write(_ARGUMENTS.pack(vectors.dim, 5, 1, 1, 5, 1, 2, 1, buckets, min_n, max_n, 100, 1e-4))
            size = len(vectors.words)
            file.write(_SIZES.pack(size, size, 0, int(counts.sum()), -1))
            for word, count in zip(vectors.words, counts.tolist(), strict=True):
                file.write(word.encode("utf-8", "surrogatepass") + b"\0" + _ENTRY.pack(count, 0))
            file.write(b"\0" + _SHAPE.pack(*vectors.rows.shape))
            for start in range(0, len(vectors.rows), LONGEST_WORD):
                file.write(np.ascontiguousarray(vectors.rows[start : start + LONGEST_WORD], "<f4").tobytes())
            file.write(b"\0" + _SHAPE.pack(size, vectors.dim))
            file.write(bytes(4 * size * vectors.dim))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _fasttext(path: Path) -> StaticVectors:
    size = path.stat().st_size
    with path.open("rb", buffering=_IO_BYTES) as file:
        _, version = struct.unpack("<2i", _exactly(file, 8))
        if version != FASTTEXT_VERSION:
            raise BadVectors(f"{path} is fastText version {version}, expected {FASTTEXT_VERSION}")
        dim, *_, buckets, min_n, max_n, _, _ = _ARGUMENTS.unpack(_exactly(file, _ARGUMENTS.size))
        entries, words, labels, _, pruned = _SIZES.unpack(_exactly(file, _SIZES.size))
        if labels or entries != words:
            raise BadVectors(f"{path} is a fastText classifier with {labels} labels, not word vectors")
        if pruned > 0:
            raise BadVectors(f"{path} has a pruned vocabulary", hint="use the model from before `quantize`")
        if not 0 <= words <= (size - file.tell()) // (_ENTRY.size + 1):
            raise BadVectors(f"{path} claims {words} words, more than its {size} bytes can hold")
        names, counts = _entries(file, path, words)
        if _exactly(file, 1) != b"\0":
            raise BadVectors(f"{path} is quantised", hint="use the model from before `quantize` (.bin, not .ftz)")
        rows, columns = _SHAPE.unpack(_exactly(file, _SHAPE.size))
        begin = file.tell()
    buckets = buckets if max_n > 0 else 0
    if (rows, columns) != (words + buckets, dim) or not 0 < dim <= WIDEST or buckets < 0 or min_n > max_n:
        raise BadVectors(
            f"{path} has a matrix of {rows} x {columns}, expected {words} words + {buckets} buckets by {dim}",
            hint="the file is damaged; copy it again",
        )
    if begin + 4 * rows * columns > size:
        raise BadVectors(
            f"{path} is cut off: {size} bytes, its matrix alone ends at {begin + 4 * rows * columns}",
            hint="copy it again",
        )
    table = np.memmap(path, "<f4", "r", begin, (rows, columns)) if rows else np.zeros((0, columns), np.float32)
    return StaticVectors(names, table, counts, NgramConfig(max(min_n, 1), max_n, buckets) if buckets else None)


def _entries(file: BinaryIO, path: Path, words: int) -> tuple[tuple[str, ...], np.ndarray]:
    names: list[str] = []
    counts = np.zeros(words, np.int64)
    data, at = b"", 0
    for n in range(words):
        while (end := data.find(b"\0", at)) < 0 or len(data) < end + 1 + _ENTRY.size:
            more = file.read(_IO_BYTES)
            if not more or len(data) - at > LONGEST_WORD + _IO_BYTES:
                raise BadVectors(f"{path} ends, or is damaged, in word {n} of {words}")
            data, at = data[at:] + more, 0
        if end - at > LONGEST_WORD:
            raise BadVectors(f"{path} is damaged: word {n} has {end - at} bytes")
        names.append(data[at:end].decode("utf-8", "replace"))
        counts[n] = _ENTRY.unpack_from(data, end + 1)[0]
        at = end + 1 + _ENTRY.size
    file.seek(at - len(data), os.SEEK_CUR)
    return tuple(names), counts


def _header(head: bytes, path: Path) -> tuple[int, int]:
    fields = head.split(b"\n", 1)[0].split()
    if len(fields) != 2 or not all(f.isdigit() for f in fields):
        raise BadVectors(
            f"{path} is no file of word vectors: it begins with {head[:24]!r}, expected the number of words and of "
            "dimensions",
            hint="GloVe files lack that line: put `WORDS DIM` in front",
        )
    words, dim = map(int, fields)
    if not 0 < dim <= WIDEST:
        raise BadVectors(f"{path} says that vectors have {dim} dimensions, expected 1 to {WIDEST}")
    size = path.stat().st_size
    if path.suffix not in COMPRESSED and words * dim * 2 > size:  # a number is a digit and a space, or 4 bytes
        raise BadVectors(f"{path} claims {words} vectors of {dim} dimensions, more than its {size} bytes can hold")
    return words, dim


def _is_text(head: bytes) -> bool:
    """Whether the numbers after the first word are written with digits."""
    numbers = head.split(b"\n", 1)[-1].split(b" ", 1)[-1][:64]
    return not set(numbers) - set(b"0123456789.eE+- \t\r\nnaif")


def _text(stream: io.BufferedIOBase, path: Path, words: int, dim: int) -> StaticVectors:
    names, rows = [], []
    for n in range(words):
        line = stream.readline(LONGEST_WORD + 32 * dim).rstrip(b"\r\n").rstrip(b" ")
        fields = line.rsplit(b" ", dim)
        if len(fields) != dim + 1:
            raise BadVectors(f"{path}, line {n + 2}: {len(fields) - 1} numbers, expected {dim}")
        try:
            rows.append(np.array([float(f) for f in fields[1:]], np.float32))
        except ValueError:
            raise BadVectors(f"{path}, line {n + 2}: not all of its fields are numbers") from None
        names.append(fields[0].decode("utf-8", "replace"))
    return _checked(names, np.stack(rows) if rows else np.zeros((0, dim), np.float32), path)


def _binary(stream: io.BufferedIOBase, path: Path, words: int, dim: int) -> StaticVectors:
    names, rows = [], []
    for n in range(words):
        name = bytearray()
        while (byte := stream.read(1)) not in (b" ", b"") and len(name) <= LONGEST_WORD:
            name += byte
        data = stream.read(4 * dim)
        if byte != b" " or len(data) != 4 * dim:
            raise BadVectors(f"{path} ends, or is damaged, in word {n} of {words}")
        names.append(bytes(name).lstrip(b"\n").decode("utf-8", "replace"))
        rows.append(np.frombuffer(data, "<f4"))
    return _checked(names, np.stack(rows) if rows else np.zeros((0, dim), np.float32), path)


def _checked(names: list[str], rows: np.ndarray, path: Path) -> StaticVectors:
    broken = np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))
    if len(broken):
        raise BadVectors(f"{path}: the vector of {names[broken[0]]!r} has an entry that is not a finite number")
    return StaticVectors(tuple(names), rows)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data
