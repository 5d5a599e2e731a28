"""A finished lexicon as a tokenizer: the two-path rule, byte fallback, files."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.spelling import split_broken
from tokenlayer.tokenizer.lib.compiled import available
from tokenlayer.tokenizer.lib.memory import Memory
from tokenlayer.tokenizer.lib.segment import Cut

COMPILE_CHARS = 300_000
"""Loading the compiled loops takes as long as cutting so many characters without."""
BATCH_CHARS = 1 << 20
UNKNOWN = "\n<unk>"
"""Id 0: a tokenizer.json must name one. Every byte has a token, and no line holds its line end, so none becomes it."""
FIRST_BYTE = 1
FIRST_CHUNK = FIRST_BYTE + 256


class Measures(NamedTuple):
    """What the paper reports about a lexicon on a text; lengths in characters."""

    lexicon: int
    type_length: float
    token_length: float
    eval_index: float
    """Mean length of a token / log2 of the lexicon's size; higher is better."""
    tokens: int


class LibTokenizer:
    """Cuts text by a ranked lexicon: of two paths from each place, the one with fewer chunks, then with better ranks.

    Ids: one for unknown that is never used, the 256 bytes, the lexicon by rank, the special tokens. Text comes back as
    it was: characters outside the lexicon are spelled in bytes, and the end of a line is a byte.

    Args:
        lexicon: chunks, best first.
        special_tokens: control tokens; no text is ever cut into them.
        compat: cut as the reference implementation does: where no second chunk matches, emit one character of the
            longest chunk and go on behind it.
        compiled: run compiled loops; None does so from `COMPILE_CHARS` characters on where numba is installed.

    Raises:
        BadOption: a chunk is empty, stands twice, or holds a line end.
        MissingExtra: `compiled` is true and numba is not installed.
    """

    def __init__(
        self,
        lexicon: Sequence[str],
        special_tokens: Sequence[str] = (),
        *,
        compat: bool = False,
        compiled: bool | None = None,
    ) -> None:
        self.lexicon, self.special_tokens, self.compat = tuple(lexicon), tuple(special_tokens), compat
        self.rank = {chunk: rank for rank, chunk in enumerate(self.lexicon)}
        self._check()
        controls = [b""] * len(self.special_tokens)
        self.tokens = (b"", *(bytes([b]) for b in range(256)), *(c.encode() for c in self.lexicon), *controls)
        self.names = (UNKNOWN, *(f"<0x{b:02X}>" for b in range(256)), *self.lexicon, *self.special_tokens)
        self._choose, self._cut_chars = compiled is None, 0
        self._build(bool(compiled))
        self._deeper: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, *, deeper: bool = False) -> list[int]:
        """Returns the token ids of a text; with `deeper` each chunk is split further, see `parts`."""
        try:
            text.encode()
        except UnicodeEncodeError:
            return self.encode_bytes(text.encode("utf-8", "surrogatepass"), deeper=deeper)
        ids = [i for lines in _batches(text) for i in self._encode(lines)]
        return [part for i in ids for part in self._split(i)] if deeper else ids

    def encode_bytes(self, data: bytes, *, deeper: bool = False) -> list[int]:
        """Returns the token ids of any bytes; those that are no UTF-8 have tokens of their own."""
        ids: list[int] = []
        for part, stray in split_broken(data):
            ids += [FIRST_BYTE + b for b in part] if stray else self.encode(part.decode(), deeper=deeper)
        return ids

    def tokenize(self, text: str, *, deeper: bool = False) -> list[str]:
        """Returns the names of the tokens of a text: chunks as they are, bytes as `<0xE4>`."""
        return [self.names[i] for i in self.encode(text, deeper=deeper)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes of tokens; control tokens have none.

        Raises:
            BadOption: there is no such id.
        """
        try:
            return b"".join([self.tokens[_natural(i)] for i in ids])
        except IndexError:
            raise BadOption(
                f"a token id is outside 0 to {len(self) - 1}", hint="were the ids made by this tokenizer?"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of tokens; bytes that are no UTF-8 are replaced, lone surrogates kept."""
        data = self.decode_bytes(ids)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def parts(self, chunk: str, level: int = 2) -> list[str]:
        """Splits a chunk in two chunks of better rank, the best such pair, and these again, down to `level`.

        Returns:
            The chunk alone if there is no such pair.
        """
        pairs = [(chunk[:n], chunk[n:]) for n in range(1, len(chunk))]
        known = [(self.rank[a], self.rank[b]) for a, b in pairs if a in self.rank and b in self.rank]
        if level < 1 or not known or max(min(known)) >= self.rank.get(chunk, len(self.rank)):
            return [chunk]
        return [part for rank in min(known) for part in self.parts(self.lexicon[rank], level - 1)]

    def evaluate(self, lines: Iterable[str]) -> Measures:
        """Measures the lexicon on lines of text.

        Raises:
            BadText: there is no text.
        """
        tokens = chars = 0
        for line in lines:
            tokens += len(self.encode(line))
            chars += len(line)
        if not tokens:
            raise BadText("there is no text to measure on: all lines are empty", hint="check the file")
        size = len(self.lexicon)
        return Measures(
            lexicon=size,
            type_length=sum(map(len, self.lexicon)) / max(size, 1),
            token_length=chars / tokens,
            eval_index=chars / tokens / math.log2(max(size, 2)),
            tokens=tokens,
        )

    def _check(self) -> None:
        if len(self.rank) != len(self.lexicon) or "" in self.rank:
            raise BadOption("the lexicon holds an empty or a repeated chunk", hint="each chunk has one rank")
        for chunk in self.lexicon:
            if "\n" in chunk:
                raise BadOption(f"chunk {chunk!r} holds a line end", hint="chunks never cross lines")

    def _build(self, compiled: bool) -> None:
        memory = Memory(compiled)
        nodes = memory.add(self.lexicon)
        ids = memory.room(len(memory.tables.parent))
        for rank, node in enumerate(nodes):
            ids[node] = FIRST_CHUNK + rank
        self._memory, self._ids_of_nodes = memory, ids

    def _encode(self, text: str) -> list[int]:
        self._cut_chars += len(text)
        if self._choose and not self._memory.compiled and self._cut_chars > COMPILE_CHARS:
            self._choose = False
            if available():
                self._build(True)
        memory, size = self._memory, len(text)
        rooms = [memory.room(4 * size), memory.room(size + 1), memory.room(size + 1)]
        cut = Cut(memory.tables, self._ids_of_nodes, FIRST_BYTE, self.compat, *rooms)
        found = memory.loops.encode(cut, memory.codes(text))
        ids: list[int] = np.asarray(rooms[0][:found]).tolist()
        return ids

    def _split(self, i: int) -> list[int]:
        if i not in self._deeper:
            parts = self.parts(self.lexicon[i - FIRST_CHUNK]) if i >= FIRST_CHUNK else []
            self._deeper[i] = [FIRST_CHUNK + self.rank[part] for part in parts] or [i]
        return self._deeper[i]


def _batches(text: str) -> Iterator[str]:
    """Whole lines of about `BATCH_CHARS` characters together."""
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + BATCH_CHARS) + 1 if len(text) - start > BATCH_CHARS else len(text)
        if end <= start:
            end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _natural(i: int) -> int:
    if i < 0:
        raise IndexError(i)
    return i
