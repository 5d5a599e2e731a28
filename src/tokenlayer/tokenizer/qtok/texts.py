"""What a tokenizer makes of texts: fertility, split words, bytes per token, evenness of use, round trips, premium.

A word here is a maximal run of characters that are not white space.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from tokenlayer.core.vocab import Kind
from tokenlayer.data.documents import Document
from tokenlayer.models.tokenizer_files import LoadedTokenizer

AT_ONCE = 256
"""Documents encoded together."""


@dataclass
class TextUse:
    """Sums over the texts of one group; numbers are made of them at the end.

    Attributes:
        bytes: UTF-8 bytes.
        words: runs of characters without white space.
        tokens: tokens, no special ones around the texts.
        split: words that more than one token ends in.
        partial: tokens that stand for part of a character, or for a single byte as a fallback.
        unknown: tokens that stand for what the vocabulary cannot spell.
        documents: texts.
        lossy: texts that decoding does not give back.
        first_loss: the first of these.
        counts: how often each token id occurs.
    """

    bytes: int = 0
    words: int = 0
    tokens: int = 0
    split: int = 0
    partial: int = 0
    unknown: int = 0
    documents: int = 0
    lossy: int = 0
    first_loss: str = ""
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def fertility(self) -> float:
        """Tokens per word."""
        return self.tokens / self.words if self.words else math.nan

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text that a token stands for, on average."""
        return self.bytes / self.tokens if self.tokens else math.nan

    @property
    def continued(self) -> float:
        """Share of the words that are cut."""
        return self.split / self.words if self.words else math.nan

    def renyi_efficiency(self, vocab_size: int, order: float) -> float:
        """Rényi entropy of the tokens over that of equal use of the whole vocabulary; 1 is perfectly even."""
        if not self.tokens or vocab_size < 2:
            return math.nan
        shares = np.array(list(self.counts.values()), dtype=np.float64) / self.tokens
        return float(np.log(np.sum(shares**order)) / (1 - order) / math.log(vocab_size))


def use_of_texts(tokenizer: LoadedTokenizer, documents: Iterable[Document]) -> dict[str, TextUse]:
    """Encodes the documents of each group and adds up what came out.

    Args:
        tokenizer: special strings in the texts are text to it.
        documents: read once, `AT_ONCE` at a time.

    Returns:
        Group -> sums, in the order in which groups came up.
    """
    partial = _partial_ids(tokenizer)
    unknown = tokenizer.vocab.roles.get("unk", -1)
    found: dict[str, TextUse] = {}
    stream = iter(documents)
    while some := list(islice(stream, AT_ONCE)):
        encodings = tokenizer.backend.encode_batch([d.text for d in some], add_special_tokens=False)
        decoded = tokenizer.backend.decode_batch([e.ids for e in encodings], skip_special_tokens=False)
        for document, encoding, back in zip(some, encodings, decoded, strict=True):
            use = found.setdefault(document.group, TextUse())
            _add(use, document.text, encoding.ids, encoding.offsets)
            use.partial += sum(i in partial for i in encoding.ids)
            use.unknown += encoding.ids.count(unknown)
            if back != document.text:
                use.lossy += 1
                use.first_loss = use.first_loss or _difference(document.text, back)
    return found


def _add(use: TextUse, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> None:
    words, split = split_words(text, offsets)
    use.bytes += len(text.encode("utf-8", "surrogatepass"))
    use.words += words
    use.split += split
    use.tokens += len(ids)
    use.documents += 1
    use.counts.update(ids)


def split_words(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Returns how many words a text has, and how many of them hold the last character of two tokens or more.

    Args:
        text: the text.
        offsets: start and end of each token in characters; parts of one character share its place.
    """
    space = np.fromiter((c.isspace() for c in text), bool, len(text))
    begins = ~space & np.r_[True, space[:-1]]
    words = int(begins.sum())
    if not words or not len(offsets):
        return words, 0
    word_of_char = np.where(space, words, np.cumsum(begins) - 1)
    start, end = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    ends = word_of_char[end[end > start] - 1]
    tokens = np.bincount(ends[ends < words], minlength=words)
    return words, int((tokens > 1).sum())


def _partial_ids(tokenizer: LoadedTokenizer) -> frozenset[int]:
    vocab = tokenizer.vocab
    return frozenset(
        i
        for i, (data, kind) in enumerate(zip(vocab.tokens, vocab.kinds, strict=True))
        if kind is Kind.BYTE or (kind is Kind.NORMAL and not _is_utf8(data))
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _difference(text: str, back: str) -> str:
    """The first place where two texts differ, as `'before' -> 'after'`."""
    at = next((n for n, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    start = max(0, at - 8)
    return f"{text[start : at + 12]!r} -> {back[start : at + 12]!r}"


def premiums(uses: dict[str, TextUse], reference: str) -> dict[str, float]:
    """Tokens of each group over the tokens of the reference group, for texts that say the same."""
    base = uses[reference].tokens
    return {group: use.tokens / base if base else math.nan for group, use in uses.items()}
