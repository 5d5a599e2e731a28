"""A SentencePiece `.model` file as a tokenizer.json.

The file is a protocol-buffer message (sentencepiece_model.proto). Only the few fields that decide the ids are
read, by a bounded reader of our own: the file is untrusted, and the generated reader would
bring two more dependencies.
"""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadTokenizer

# sentencepiece_model.proto: ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
MARK = "▁"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; `type` as in the proto file."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class Model:
    """The fields of a ModelProto that decide the ids of a text."""

    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    suffix_space: bool


def looks_like(head: bytes) -> bool:
    """Whether a file begins like a ModelProto: field 1 (a piece), of plausible length, with a string inside."""
    return len(head) > 4 and head[0] == 0x0A and head[2] == 0x0A and head[1] < 0x80 and head[3] < head[1]


def read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Reads a SentencePiece model (Unigram or BPE) into the data of a tokenizer.json, and its roles.

    Raises:
        BadTokenizer: a damaged file, a word or character model, or white space as a suffix.
    """
    model = _parse(path)
    if model.model_type not in (UNIGRAM, BPE):
        raise BadTokenizer(
            f"{path} is a SentencePiece model of type {model.model_type}; we read 1 (Unigram) and 2 (BPE)",
            hint="word and character models have no pieces to transfer",
        )
    if model.suffix_space or not model.escape_whitespaces:
        raise BadTokenizer(f"{path} writes spaces as a suffix or not at all, which tokenizer.json cannot say")
    return to_json(model), _roles(model)


def to_json(model: Model) -> dict[str, Any]:
    """Returns the data of a tokenizer.json that gives the same ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": p.text, **flags, "special": p.type != USER_DEFINED}
        for i, p in enumerate(model.pieces)
        if p.type in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    replace_mark = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.add_dummy_prefix else []
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added,
        "normalizer": _normaliser(model),
        "pre_tokenizer": _pre_tokenizer(model),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [replace_mark, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _unigram(model) if model.model_type == UNIGRAM else _bpe(model),
    }  # fmt: skip


def _normaliser(model: Model) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        steps += [
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _pre_tokenizer(model: Model) -> dict[str, Any]:
    scheme = "always" if model.add_dummy_prefix else "never"
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": False}


def _unigram(model: Model) -> dict[str, Any]:
    unknown = next((i for i, p in enumerate(model.pieces) if p.type == UNKNOWN), None)
    vocab = [[p.text, p.score] for p in model.pieces]
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": model.byte_fallback}


def _bpe(model: Model) -> dict[str, Any]:
    """Merges are all splits of a piece into two pieces, best score first (SentencePiece joins by score)."""
    ids = {p.text: i for i, p in enumerate(model.pieces)}
    mergeable = {p.text: -p.score for p in model.pieces if p.type in (NORMAL, UNUSED)}
    merges: list[tuple[float, int, int, str, str]] = []
    for text, rank in mergeable.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in mergeable and right in mergeable:
                merges.append((rank, ids[left], ids[right], left, right))
    unknown = next((p.text for p in model.pieces if p.type == UNKNOWN), None)
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.byte_fallback, "ignore_merges": False,
        "vocab": ids, "merges": [[left, right] for *_, left, right in sorted(merges)],
    }  # fmt: skip


def _roles(model: Model) -> dict[str, int]:
    names = {"<s>": "bos", "</s>": "eos", "<bos>": "bos", "<eos>": "eos", "<pad>": "pad", "[MASK]": "mask",
             "[CLS]": "cls", "[SEP]": "sep", "<mask>": "mask"}  # fmt: skip
    roles = {names[p.text]: i for i, p in enumerate(model.pieces) if p.type == CONTROL and p.text in names}
    unknown = [i for i, p in enumerate(model.pieces) if p.type == UNKNOWN]
    return {**roles, "unk": unknown[0]} if unknown else roles


def _parse(path: Path) -> Model:
    raw = path.read_bytes()
    try:
        return _model(raw)
    except (IndexError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise BadTokenizer(
            f"{path} is not a whole SentencePiece model: {error}", hint="copy or download the file again"
        ) from error


def _model(raw: bytes) -> Model:
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normaliser: dict[int, Any] = {}
    for number, value in _fields(raw):
        if number == 1:
            f = dict(_fields(value))
            score = struct.unpack("<f", f[2])[0] if 2 in f else 0.0
            pieces.append(Piece(f.get(1, b"").decode("utf-8"), score, f.get(3, NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normaliser = dict(_fields(value))
    if not pieces:
        raise ValueError("it holds no pieces")
    return Model(
        pieces=pieces,
        model_type=trainer.get(3, UNIGRAM),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=normaliser.get(2, b""),
        add_dummy_prefix=bool(normaliser.get(3, 1)),
        remove_extra_whitespaces=bool(normaliser.get(4, 1)),
        escape_whitespaces=bool(normaliser.get(5, 1)),
        suffix_space=bool(trainer.get(24, 0)),
    )


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The (field number, value) pairs of one message: ints for varints, bytes for everything else."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(raw, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(raw):
            raise ValueError(f"field {number} needs {size} bytes at byte {at}, the message has {len(raw)}")
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
