"""Streamed documents from any mixture of sources, in constant memory, with a seeded sample to a byte budget."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenlayer.core.errors import BadOption
from tokenlayer.core.seeds import derive_seed
from tokenlayer.data.readers import ReadOptions, Tally, read_source, source_bytes
from tokenlayer.data.sources import Source, parse_eval_spec, parse_source

__all__ = ["Document", "Documents", "ReadOptions", "Source", "Tally", "parse_eval_spec", "parse_source"]

PART_CHARS = 65_536
"""A sample takes parts of at most this size, so that a few long documents cannot decide what it holds."""


class Document(NamedTuple):
    """One text with its label; `id` is the same wherever the source lies."""

    text: str
    group: str
    id: str


@dataclass(frozen=True)
class _Share:
    """How much of a source is read: the mean number of copies of a document, and a bound in bytes."""

    rate: float
    bound: float


class Documents:
    """Documents of several sources, one source after the other; every loop over it reads the files again.

    Args:
        sources: `Source`s or their spelling, `[GROUP[=WEIGHT]:]PATH`.
        options: how files become documents.
        limit_bytes: at most this many UTF-8 bytes of text, spread over the sources by size times weight and
            over each source by a hash of seed and document id. Documents are then cut into parts of at most 64 k
            characters. A source whose size is not known beforehand (stdin, the hub) gives its first documents.
        seed: another seed, another sample.
        progress: called with the number of bytes read since the last call.

    Attributes:
        tally: what the latest loop read and left out.

    Raises:
        BadOption: no source, a limit below 1, or standard input named twice.
    """

    def __init__(
        self,
        sources: Sequence[Source | str],
        *,
        options: ReadOptions = ReadOptions(),
        limit_bytes: int | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.sources = tuple(parse_source(s) if isinstance(s, str) else s for s in sources)
        self.options = options
        self.limit_bytes = limit_bytes
        self.seed = seed
        self.progress = progress
        self.tally = Tally()
        if not self.sources:
            raise BadOption("no source was given", hint="give a file, a folder, hf:NAME, or - for standard input")
        if limit_bytes is not None and limit_bytes < 1:
            raise BadOption(f"limit_bytes is {limit_bytes}, expected at least 1")
        if sum(s.path == "-" for s in self.sources) > 1:
            raise BadOption("standard input is named twice", hint="it can be read only once")

    def __iter__(self) -> Iterator[Document]:
        self.tally = tally = Tally()
        for source, share in zip(self.sources, self._shares(), strict=True):
            for document, size in self._of_source(source, share, tally):
                tally.documents += 1
                tally.bytes += size
                yield document

    def texts(self) -> Iterator[str]:
        """Yields the texts alone."""
        return (document.text for document in self)

    def _of_source(self, source: Source, share: _Share, tally: Tally) -> Iterator[tuple[Document, int]]:
        left, label = share.bound, source.label
        for name, text in read_source(source, self.options, tally):
            if self.progress is not None:
                self.progress(len(text.encode()))
            for part_name, part in self._cut(name, text, share):
                size = len(part.encode())
                for _ in range(self._copies(label, part_name, share.rate)):
                    if size <= left:
                        left -= size
                        yield Document(part, label, part_name), size
                    elif left < share.bound:
                        return  # the share is used up

    def _cut(self, name: str, text: str, share: _Share) -> Iterable[tuple[str, str]]:
        if self.limit_bytes is not None:
            return _parts(name, text, min(PART_CHARS, max(self.limit_bytes // 64, 256)))
        return [(name, text)] if share.rate == int(share.rate) else _parts(name, text, PART_CHARS)

    def _copies(self, label: str, name: str, rate: float) -> int:
        whole, rest = divmod(rate, 1)
        return int(whole) + (rest > 0 and derive_seed(self.seed, label, name) / 2**63 < rest)

    def _shares(self) -> list[_Share]:
        """By size times weight; sources of unknown size share their part of the limit by weight alone."""
        if self.limit_bytes is None:
            return [_Share(s.weight, float("inf")) for s in self.sources]
        sizes = [source_bytes(s, self.options) for s in self.sources]
        weights = [s.weight for s in self.sources]
        known = sum(w * n for w, n in zip(weights, sizes, strict=True) if n is not None)
        for_unknown = sum(w for w, n in zip(weights, sizes, strict=True) if n is None) / sum(weights)
        for_known = self.limit_bytes * (1 - for_unknown)
        return [
            _Share(w, self.limit_bytes * w / sum(weights))
            if n is None
            else _Share(w * min(1.0, for_known / max(known, 1)), for_known * w * n / max(known, 1))
            for w, n in zip(weights, sizes, strict=True)
        ]


def _parts(name: str, text: str, limit: int) -> Iterator[tuple[str, str]]:
    """Cuts a long text after line ends, else before spaces, else anywhere between characters."""
    if len(text) <= limit:
        yield name, text
        return
    start = 0
    while start < len(text):
        end = _cut_before(text, start, start + limit)
        yield f"{name}@{start}", text[start:end]
        start = end


def _cut_before(text: str, start: int, end: int) -> int:
    if end >= len(text):
        return len(text)
    line_end = text.rfind("\n", start, end)
    if line_end >= start:
        return line_end + 1
    space = text.rfind(" ", start + 1, end)
    return space if space > start else end
