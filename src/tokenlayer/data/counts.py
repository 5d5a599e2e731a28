"""Counts of distinct pre-tokens: tokenise each of them once and weight by how often it occurs.

Exact whenever a tokenizer's model sees one pre-token at a time, which is how every pipeline with a pre-tokenizer
works. Text repeats its pre-tokens, so the model does a small part of the work; where it does not (no pre-tokenizer,
as in Gemma 3) `pays` says so and counting stops early.
"""

import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.data.documents import Document, Documents, ReadOptions, Source
from tokenlayer.data.shards import map_shards

FORMAT = "tokenlayer-counts/1"
PAYS_BELOW = 0.5
"""Distinct / all pre-tokens above which counting costs more than it saves."""
JUDGED_AFTER = 1000
"""Documents that must be seen before the share is believed; short samples repeat little in any language."""
JUDGED_AFTER_BYTES = 4_000_000
"""The same in bytes, for few long documents."""
MOST_CHUNKS = 500_000
"""Distinct chunks that are kept before they are cut: about 60 MB."""

PreTokenize = Callable[[str], list[str]]
Encode = Callable[[list[str]], Sequence[int]]
"""Number of tokens of each pre-token."""


@dataclass
class PretokenCounts:
    """How often each distinct pre-token occurs, by group; adds up over shards in any order.

    Attributes:
        counts: group -> pre-token -> times.
        bytes: group -> UTF-8 bytes of the texts.
        documents: group -> number of texts.
        complete: False when counting was stopped because it does not pay; totals would be wrong.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    bytes: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    complete: bool = True

    def add(self, document: Document, pretokens: Iterable[str]) -> None:
        """Counts one document."""
        self.counts.setdefault(document.group, Counter()).update(pretokens)
        self.bytes[document.group] += len(document.text.encode())
        self.documents[document.group] += 1

    def merge(self, other: "PretokenCounts") -> "PretokenCounts":
        """Returns the counts of both corpora."""
        counts = {group: Counter(one) for group, one in self.counts.items()}
        for group, one in other.counts.items():
            counts.setdefault(group, Counter()).update(one)
        both = self.complete and other.complete
        return PretokenCounts(counts, self.bytes + other.bytes, self.documents + other.documents, both)

    __add__ = merge

    @property
    def groups(self) -> list[str]:
        """The groups, sorted."""
        return sorted(self.counts)

    @property
    def total(self) -> int:
        """All pre-tokens."""
        return sum(one.total() for one in self.counts.values())

    @property
    def distinct(self) -> int:
        """Distinct pre-tokens, one that occurs in two groups counted in both."""
        return sum(map(len, self.counts.values()))

    @property
    def pays(self) -> bool:
        """Whether pre-tokens repeat enough; True until enough was seen to tell."""
        seen = self.documents.total() >= JUDGED_AFTER or self.bytes.total() >= JUDGED_AFTER_BYTES
        return self.complete and not (seen and self.distinct > PAYS_BELOW * self.total)

    def save(self, path: Path) -> None:
        """Writes a compact `.npz` file beside and renames it; the same counts give the same arrays."""
        words = [(g, w, n) for g in self.groups for w, n in sorted(self.counts[g].items())]
        data = [w.encode() for _, w, _ in words]
        groups = sorted({*self.counts, *self.bytes, *self.documents})
        place = {g: i for i, g in enumerate(groups)}
        arrays = {
            "format": np.array(FORMAT),
            "groups": np.array(groups, dtype=np.str_),
            "bytes": np.array([self.bytes[g] for g in groups], np.int64),
            "documents": np.array([self.documents[g] for g in groups], np.int64),
            "text": np.frombuffer(b"".join(data), np.uint8),
            "lengths": np.array([len(d) for d in data], np.int64),
            "group": np.array([place[g] for g, _, _ in words], np.int32),
            "times": np.array([n for _, _, n in words], np.int64),
            "complete": np.array(self.complete),
        }
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @staticmethod
    def load(path: Path) -> "PretokenCounts":
        """Reads what `save` wrote.

        Raises:
            BadText: the file is missing, damaged, or of another kind.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            if str(found["format"]) != FORMAT:
                raise ValueError(f"format is {found['format']}, expected {FORMAT}")
            return _from_arrays(found)
        except Exception as error:  # numpy, zipfile and zlib have their own kinds
            raise BadText(f"cannot read counts from {path}: {error}", hint="count the documents again") from error


def count_pretokens(documents: Iterable[Document], pre_tokenize: PreTokenize) -> PretokenCounts:
    """Counts the distinct pre-tokens of a stream of documents.

    Stops, with `complete` False, as soon as enough was seen to say that counting does not pay: without a
    pre-tokenizer the counter would otherwise hold the whole corpus.

    Args:
        documents: any stream, such as `Documents`.
        pre_tokenize: text -> pre-tokens as the model gets them; `data.cutter.Cutter(tokenizer)` is one. If it has
            `by_chunks`, its `chunks` are counted first, and each distinct one is cut once.
    """
    found = PretokenCounts()
    chunks = _Chunks(pre_tokenize) if getattr(pre_tokenize, "by_chunks", False) else None
    judged_at = JUDGED_AFTER
    for n, document in enumerate(documents, 1):
        if chunks is None:
            found.add(document, pre_tokenize(document.text))
        else:
            found.add(document, ())
            chunks.add(document, found)
        if n == judged_at:
            judged_at *= 2
            if chunks is not None and not chunks.repeat:
                chunks.cut_into(found)
            if not found.pays:
                return _stopped(found)
    if chunks is not None:
        chunks.cut_into(found)
    return found if found.pays else _stopped(found)


class _Chunks:
    """Distinct chunks that are not cut yet, by group; at most `MOST_CHUNKS` of them."""

    def __init__(self, pre_tokenize: Any) -> None:
        self.pre_tokenize = pre_tokenize
        self.counts: dict[str, Counter[str]] = {}
        self.seen = 0
        self.total = 0

    def add(self, document: Document, found: PretokenCounts) -> None:
        """Counts the chunks of a document; cuts them all into `found` when they are many."""
        mine = self.counts.setdefault(document.group, Counter())
        before = len(mine)
        chunks = self.pre_tokenize.chunks(document.text)
        mine.update(chunks)
        self.seen += len(mine) - before
        self.total += len(chunks)
        if self.seen > MOST_CHUNKS:
            self.cut_into(found)

    def cut_into(self, found: PretokenCounts) -> None:
        """Moves what was counted into `found`, as pre-tokens."""
        for group, chunks in self.counts.items():
            mine = found.counts[group]
            alike: dict[int, list[str]] = {}
            for chunk, times in chunks.items():
                alike.setdefault(times, []).append(chunk)
            for times, some in alike.items():
                for text in self.pre_tokenize.joined(some):
                    for pretoken, n in Counter(self.pre_tokenize(text)).items():
                        mine[pretoken] += n * times
        self.counts, self.seen, self.total = {}, 0, 0

    @property
    def repeat(self) -> bool:
        """Whether chunks repeat so much that their pre-tokens do."""
        return self.seen <= PAYS_BELOW * self.total


def count_sources(
    sources: Sequence[Source],
    pre_tokenize: PreTokenize,
    out: Path,
    *,
    options: ReadOptions = ReadOptions(),
    workers: int = 1,
) -> PretokenCounts:
    """Counts each source into a file of `out`, in several processes, and adds them up.

    Args:
        sources: a shard each.
        pre_tokenize: picklable.
        out: folder of the counts; a source that is already there is not read again.
        options: how files become documents.
        workers: processes.

    Raises:
        ShardFailed: a source cannot be read; it says which.
    """
    shards = {f"{i:05d}.npz": (source, options, pre_tokenize) for i, source in enumerate(sources)}
    total = PretokenCounts()
    for path in map_shards(_count_one, shards, out, workers=workers):
        total = total + PretokenCounts.load(path)
    return total


def _count_one(shard: tuple[Source, ReadOptions, PreTokenize], path: Path) -> None:
    source, options, pre_tokenize = shard
    count_pretokens(Documents([source], options=options), pre_tokenize).save(path)


def token_total(counts: PretokenCounts, encode: Encode) -> dict[str, int]:
    """Tokens of each group: the tokens of each distinct pre-token times its count.

    Args:
        counts: complete counts, made by the pre-tokenizer that `encode` belongs to.
        encode: number of tokens of each pre-token of a list; `Cutter.lengths` is one.

    Raises:
        BadOption: the counts are not complete.
    """
    if not counts.complete:
        raise BadOption(
            f"the counts stopped after {counts.documents.total()} documents because pre-tokens hardly repeat",
            hint="encode the whole text instead; `counts.pays` says when",
        )
    words = list({w: None for one in counts.counts.values() for w in one})
    length = dict(zip(words, encode(words), strict=True))
    return {g: sum(length[w] * n for w, n in one.items()) for g, one in sorted(counts.counts.items())}


def _stopped(found: PretokenCounts) -> PretokenCounts:
    """Forgets what was counted: half a corpus must not pass for one."""
    return PretokenCounts({g: Counter() for g in found.counts}, found.bytes, found.documents, complete=False)


def _from_arrays(found: Mapping[str, Any]) -> PretokenCounts:
    groups = [str(g) for g in found["groups"]]
    data = found["text"].tobytes()
    ends = np.cumsum(found["lengths"])
    if len(data) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError("the lengths do not add up to the text")
    counts: dict[str, Counter[str]] = {g: Counter() for g in groups}
    start = 0
    for end, group, times in zip(ends.tolist(), found["group"].tolist(), found["times"].tolist(), strict=True):
        counts[groups[group]][data[start:end].decode()] = times
        start = end
    return PretokenCounts(
        counts,
        Counter({g: int(n) for g, n in zip(groups, found["bytes"], strict=True) if n}),
        Counter({g: int(n) for g, n in zip(groups, found["documents"], strict=True) if n}),
        bool(found["complete"]),
    )
