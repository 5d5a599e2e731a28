"""Distinct pre-tokens of each category, cut as the tokenizer's trainer cut them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.core.tokenizer_json import components, has_component
from tokenlayer.data.counts import PretokenCounts
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Document, Documents, ReadOptions, Source
from tokenlayer.data.shards import map_shards
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.mixture.config import SENTENCEPIECE

PART_CHARS = 65_536
"""Longer documents are cut after line ends: a part of a sample is no more than this off its size."""


@dataclass(frozen=True)
class Cut:
    """How texts become pre-tokens.

    Attributes:
        stages: a tokenizer.json with normaliser and pre-tokenizer and an empty model.
        byte_level: whether the model gets pre-tokens in the byte alphabet.
        note: what was done that the tokenizer's file does not say, or "".
    """

    stages: str
    byte_level: bool
    note: str = ""

    def cutter(self) -> Cutter:
        """Returns the function that cuts texts; picklable."""
        from tokenizers import Tokenizer

        return Cutter(Tokenizer.from_str(self.stages))


def cut_of(tokenizer: LoadedTokenizer, name: str | None = None) -> Cut:
    """Reads how a tokenizer's trainer cut its texts.

    Added tokens take no part: a trainer meets none. A SentencePiece file without a pre-tokenizer is cut as its trainer
    does by default, which the file does not say: words, digits and runs of other signs apart.

    Args:
        tokenizer: a BPE tokenizer.
        name: a published pre-tokenizer, or `sentencepiece`, in place of its own.
    """
    stage, normalizer, note = tokenizer.data.get("pre_tokenizer"), tokenizer.data.get("normalizer"), ""
    if name is None and not stage and tokenizer.vocab.family == "sentencepiece":
        name, note = SENTENCEPIECE, "the file has no pre-tokenizer: texts are cut as SentencePiece's trainer does"
    if name == SENTENCEPIECE:
        stage, normalizer = sentencepiece_cut(), _without_space_marks(normalizer)
    elif name is not None:
        stage = pre_tokenizer(name)
    model: dict[str, Any] = {"type": "BPE", "vocab": {}, "merges": []}
    data: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": stage,
        "model": model,
    }
    return Cut(json.dumps(data), has_component(stage, "ByteLevel"), note)


def sentencepiece_cut() -> dict[str, Any]:
    """The pre-tokenizer that stands for SentencePiece's trainer; the paper's configuration for Llama and Mistral."""

    def split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}

    parts = [
        split({"Regex": r" ?[^\s\p{L}\p{N}]+\r*"}, "Isolated"),
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        {"type": "Digits", "individual_digits": True},
        split({"String": "\n"}, "Removed"),
        split({"String": "\t"}, "Removed"),
    ]
    return {"type": "Sequence", "pretokenizers": parts}


def _without_space_marks(normalizer: Any) -> Any:
    """The normaliser without the parts that write spaces as `▁`: the pre-tokenizer does that."""
    kept = [
        part
        for part in components(normalizer)
        if part.get("type") not in ("Sequence", "Prepend") and part.get("content") != "▁"
    ]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def count_categories(
    categories: Mapping[str, Sequence[Source]],
    cut: Cut,
    out: Path,
    *,
    options: ReadOptions,
    parts: int = 10,
    workers: int = 1,
) -> dict[str, PretokenCounts]:
    """Counts the distinct pre-tokens of each category, a shard and a file of `out` each.

    Memory grows with the distinct pre-tokens only. A category whose files and cut are as they were is not read again.

    Args:
        categories: name -> where its texts are.
        cut: how texts become pre-tokens.
        out: folder of the counts.
        options: how files become documents.
        parts: groups that documents are dealt into, named "0", "1", ...
        workers: processes.

    Raises:
        BadText: a category has no text.
        ShardFailed: a category's files cannot be read; names the category's shard.
    """
    shards = {}
    for name, sources in categories.items():
        key = hashlib.blake2b(repr((sources, _stamp(sources), cut.stages, options, parts)).encode(), digest_size=8)
        shards[f"{_plain(name)}-{key.hexdigest()}.npz"] = (tuple(sources), options, cut.cutter(), parts)
    paths = map_shards(_count_one, shards, out, workers=workers)
    found = {name: PretokenCounts.load(path) for name, path in zip(categories, paths, strict=True)}
    for name, counts in found.items():
        if not counts.total:
            raise BadText(f"category {name!r} has no text", hint="give a file or folder with text for each category")
    return found


def count_texts(texts: Iterable[str], cut: Cut, *, parts: int = 10) -> PretokenCounts:
    """Counts the distinct pre-tokens of texts in memory, dealt into parts as files are."""
    return _counted((Document(text, "", "") for text in texts), cut.cutter(), parts)


def model_words(counts: PretokenCounts, cut: Cut, times: Sequence[int] | None = None) -> dict[str, int]:
    """Returns pre-token as the model gets it -> how often it occurs.

    Args:
        counts: of one category.
        cut: how they were made.
        times: how often each part is taken; None is once.
    """
    total: dict[str, int] = {}
    for part, found in counts.counts.items():
        weight = 1 if times is None else times[int(part)]
        if weight:
            for word, n in found.items():
                total[word] = total.get(word, 0) + n * weight
    if not (cut.byte_level and "ж" in "".join(cut.cutter()("ж"))):  # some cuts come in the byte alphabet already
        return total
    return {to_alphabet(word.encode("utf-8", "surrogatepass")): n for word, n in total.items()}


def byte_total(counts: PretokenCounts, times: Sequence[int] | None = None) -> int:
    """Returns the UTF-8 bytes of a category's texts."""
    return sum(n * (1 if times is None else times[int(part)]) for part, n in counts.bytes.items())


def parse_categories(specs: Sequence[str]) -> dict[str, list[Source]]:
    """Reads `NAME=PATH` of each category.

    Raises:
        BadOption: no category, a missing name or path, or a name that is given twice.
    """
    found: dict[str, list[Source]] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals or not name.strip() or not path.strip():
            raise BadOption(f"category {spec!r} is not NAME=PATH", hint="for example --category en=english.txt")
        if name in found:
            raise BadOption(f"category {name!r} is named twice", hint="put the files of a category into one folder")
        found[name] = [Source(path, name)]
    if not found:
        raise BadOption("no category was given", hint="add --category NAME=PATH for each kind of text you suspect")
    return found


def _count_one(shard: tuple[tuple[Source, ...], ReadOptions, Cutter, int], path: Path) -> None:
    sources, options, cutter, parts = shard
    _counted(Documents(sources, options=options), cutter, parts).save(path)


def _counted(documents: Iterable[Document], cutter: Callable[[str], list[str]], parts: int) -> PretokenCounts:
    counts, n = PretokenCounts(), 0
    for document in documents:
        for text in _pieces(document.text):
            counts.add(Document(text, str(n % parts), ""), cutter(text))
            n += 1
    return counts


def _pieces(text: str) -> Iterable[str]:
    """A long text in pieces that end in line ends; without line ends it stays whole."""
    start = 0
    while len(text) - start > PART_CHARS:
        end = text.find("\n", start + PART_CHARS) + 1
        if not end:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "_"


def _stamp(sources: Sequence[Source]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file: what changes when a category's text does."""
    files = []
    for source in sources:
        path = Path(source.path)
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.exists() else []
        files += [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in inside]
    return files
