"""Batches cut into units: frequent neighbouring tokens of a batch are merged, BPE-style, never across words.

Paper: Feher, Vulić and Minixhofer, "Retrofitting Large Language Models with Dynamic Tokenization", ACL 2025,
section 3 (the batch-level segmentation).

Differences from the paper's code:

- Boundaries are those of the text itself, not those of the string that a merge would make (see `boundaries`).
  The merges are still shared by the batch: a pair is counted where it may merge, and is merged there.
- A broken character may merge with anything that no boundary parts from it, but never takes white space inside.
- A carriage return is white space, as a line end is.
- Tokens of special strings that a text spells ("<s>") are not merged.
- Nothing is counted again after a merge (see `merging`); merges and ties are those of the recount.

A text's units depend on its neighbours in the batch and, where counts are equal, on their order. `per="sample"` and a
fixed list of merges do not: the same text has the same units in every batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from warnings import warn as _warn

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.boundaries import JoinRule, PlainCutter, PlainText
from tokenlayer.transfer.dynamic.merging import MergePool

PER = ("batch", "sample")
_Unit = tuple[int, int, int]
"""First token, the token behind the last one, number."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Texts as units.

    A unit below `len(vocab)` is the model's own token of that id; `len(vocab) + k` stands for `new[k]`.

    Attributes:
        rows: the units of each text, with the tokens that the tokenizer's template puts around it.
        new: byte strings that are no token of the model, each once, in the order in which the rows have them.
        spans: character offsets of each unit in its text; (0, 0) for the template's tokens.
        words: number of the word in which each unit begins (for `pretoken` of the pre-token, for `word_hyphen` words
            end before signs, else they are parted by white space); None for the template's tokens.
        pieces: how many of the model's own tokens of the plain cut each unit stands for.
        merges: in the order in which they were made; for `sample` those of each text, one text after the other.
        plain_lengths: tokens of each text before the merges.
        lengths: units of each text.
        types: the template's token type of each unit, 1 in the second text of a pair.
    """

    rows: list[list[int]]
    new: tuple[bytes, ...]
    spans: list[list[tuple[int, int]]]
    words: list[list[int | None]]
    pieces: list[list[int]]
    merges: tuple[tuple[bytes, bytes], ...]
    plain_lengths: list[int]
    lengths: list[int]
    types: list[list[int]]


class DynamicBPE:
    """Cuts batches of texts into units.

    Args:
        tokenizer: the model's own.
        boundary: what units never cross: `pretoken`, `word` (white space), `word_hyphen` (a word takes no sign behind
            it but "-"), or `sentence` (the text).
        per: merge what is frequent in the batch, or in each sample alone.
        longest: units that the model spells with more tokens are not made, as a hypernetwork cannot read them; None:
            no bound.
        merges: a fixed list that is made in its order instead of what is frequent. The merges of a segmentation,
            fixed, cut the same batch in the same way.
        warn: takes a sentence when `pretoken` is asked of a tokenizer without a pre-tokenizer that cuts; units then
            end at words.

    Attributes:
        boundary: in effect.
        per: as given.
        longest: as given.
        vocab: the model's own tokens.

    Raises:
        BadOption: an unknown boundary or `per`, `longest` below 1, or a merge with an empty side.
    """

    def __init__(
        self,
        tokenizer: LoadedTokenizer,
        *,
        boundary: str = "pretoken",
        per: str = "batch",
        longest: int | None = None,
        merges: Sequence[tuple[bytes, bytes]] | None = None,
        warn: Callable[[str], object] = _warn,
    ) -> None:
        self.vocab: ByteVocab = tokenizer.vocab
        self.per = choose("per", per, PER)
        self.longest = longest
        self.merges = None if merges is None else tuple(merges)
        for rank, (left, right) in enumerate(self.merges or ()):
            if not left or not right:
                raise BadOption(f"merge {rank} is {left!r} and {right!r}, expected two byte strings that are not empty")
        self._valid = JoinRule(self.vocab, longest)
        self._cut = PlainCutter(tokenizer, boundary, warn)
        self.boundary = self._cut.boundary

    def segment(
        self,
        texts: Sequence[str],
        *,
        merges: int | None = None,
        reduction: float | None = None,
        max_length: int | None = None,
        specials: bool = True,
        pairs: Sequence[str] | None = None,
    ) -> Segmentation:
        """Cuts texts into units.

        Args:
            texts: one batch; special strings in them are text.
            merges: at most so many, of a fixed list the first ones; 0 gives the plain tokens.
            reduction: the first number of merges that takes away this share, 0 to 1, of the tokens that all possible
                merges would take away, in the batch or in each sample. Not with a fixed list.
            max_length: tokens of a text at most before it is merged, the template's included; the rest is left out.
            specials: with the tokens that the tokenizer's template puts around a text.
            pairs: a second text for each, which the template joins to it; units are never in both.

        Raises:
            BadOption: both or none of `merges` and `reduction`, one of them out of range, a reduction with a fixed
                list, or `max_length` without room for a token of the text.
            BadText: a text holds a lone surrogate.
        """
        self._check(merges, reduction)
        plain = self._cut(texts, max_length=max_length, specials=specials, pairs=pairs)
        writer = _Writer(self.vocab)
        for group in self._groups(plain):
            run = _Merged(group, self.vocab, self._valid, self.merges, merges)
            count = len(run.pool.made) if reduction is None else merges_to_reach(run.pool.removed, reduction)
            writer.write(run, count)
        return writer.segmentation()

    def lengths_by_merges(
        self, texts: Sequence[str], *, max_length: int | None = None, specials: bool = True
    ) -> list[list[int]]:
        """Tokens of a batch after 0, 1, 2, ... merges, up to the last possible one.

        Returns:
            One list for the batch, or for `sample` one for each text.

        Raises:
            BadOption: `max_length` without room for a token of the text.
            BadText: a text holds a lone surrogate.
        """
        curves = []
        for group in self._groups(self._cut(texts, max_length=max_length, specials=specials)):
            run = _Merged(group, self.vocab, self._valid, self.merges, None)
            plain = sum(len(text.ids) for text in group)
            curves.append([plain - removed for removed in run.pool.removed])
        return curves

    def _groups(self, plain: list[PlainText]) -> list[list[PlainText]]:
        return [[text] for text in plain] if self.per == "sample" else [plain]

    def _check(self, merges: int | None, reduction: float | None) -> None:
        if (merges is None) == (reduction is None):
            raise BadOption(
                f"merges is {merges} and reduction is {reduction}, expected exactly one of the two",
                hint="merges=0 gives the plain tokens, reduction=1.0 all that can be merged",
            )
        if merges is not None and merges < 0:
            raise BadOption(f"merges is {merges}, expected 0 or more")
        if reduction is not None:
            check_reduction(reduction)
            if self.merges is not None:
                raise BadOption(
                    "a reduction was asked of a fixed list of merges; what it takes away depends on the batch",
                    hint=f"give merges, 0 to {len(self.merges)}",
                )


def check_reduction(reduction: float) -> None:
    """Refuses what is no share.

    Raises:
        BadOption: below 0, above 1, or not a number.
    """
    if not 0 <= reduction <= 1:
        raise BadOption(
            f"reduction is {reduction:g}, expected 0 (plain tokens) to 1 (all that can be merged)",
            hint=f"{reduction:g} % is {reduction / 100:g}" if 1 < reduction <= 100 else "",
        )


def merges_to_reach(removed: Sequence[int], reduction: float) -> int:
    """The first number of merges that removes the wanted share of what the last one has removed.

    Args:
        removed: tokens that are gone after 0, 1, 2, ... merges, ascending from 0.
        reduction: the share, 0 to 1.
    """
    wanted = reduction * removed[-1] - 1e-9 * (removed[-1] > 0)  # a share such as 0.7 is no exact number
    return next(count for count, gone in enumerate(removed) if gone >= wanted)


class _Merged:
    """Texts that were merged together."""

    def __init__(
        self,
        texts: Sequence[PlainText],
        vocab: ByteVocab,
        valid: Callable[[bytes], bool],
        listed: Sequence[tuple[bytes, bytes]] | None,
        most: int | None,
    ) -> None:
        self.texts = texts
        self.pool = MergePool(vocab, valid)
        self.starts = [[self.pool.add(text.ids[begin:end]) for begin, end in text.runs] for text in texts]
        if listed is None:
            self.pool.merge_frequent(most)
        else:
            self.pool.merge_listed(listed[:most])


class _Writer:
    """Collects the units of texts and numbers the new ones."""

    def __init__(self, vocab: ByteVocab) -> None:
        self._vocab = vocab
        self._new: dict[bytes, int] = {}
        self._merges: list[tuple[bytes, bytes]] = []
        self._plain: list[PlainText] = []
        self._cuts: list[list[_Unit]] = []

    def write(self, merged: _Merged, merges: int) -> None:
        """Adds texts as they are after that many merges."""
        self._merges += merged.pool.made[:merges]
        known: dict[int, list[_Unit]] = {}
        for text, starts in zip(merged.texts, merged.starts, strict=True):
            cut: list[_Unit] = []
            done = 0
            for (begin, end), start in zip(text.runs, starts, strict=True):
                if start not in known:
                    units = merged.pool.units(start, end - begin, merges)
                    known[start] = self._numbered(text.ids[begin:end], units)
                cut += [(at, at + 1, text.ids[at]) for at in range(done, begin)]
                cut += [(begin + first, begin + last, number) for first, last, number in known[start]]
                done = end
            cut += [(at, at + 1, text.ids[at]) for at in range(done, len(text.ids))]
            self._plain.append(text)
            self._cuts.append(cut)

    def _numbered(self, ids: Sequence[int], units: Sequence[tuple[int, int]]) -> list[_Unit]:
        """Units of a run with their numbers: a token that was not merged keeps its id."""
        return [
            (first, last, ids[first] if last - first == 1 else self._number(ids[first:last])) for first, last in units
        ]

    def _number(self, ids: Sequence[int]) -> int:
        data = b"".join([self._vocab.tokens[i] for i in ids])
        own = self._vocab.find(data)
        return len(self._vocab) + self._new.setdefault(data, len(self._new)) if own is None else own

    def segmentation(self) -> Segmentation:
        """All texts so far."""
        both = list(zip(self._plain, self._cuts, strict=True))
        return Segmentation(
            rows=[[number for _, _, number in cut] for cut in self._cuts],
            new=tuple(self._new),
            spans=[[(text.spans[first][0], text.spans[end - 1][1]) for first, end, _ in cut] for text, cut in both],
            words=[[text.words[first] for first, _, _ in cut] for text, cut in both],
            pieces=[[end - first for first, end, _ in cut] for cut in self._cuts],
            merges=tuple(self._merges),
            plain_lengths=[len(text.ids) for text in self._plain],
            lengths=[len(cut) for cut in self._cuts],
            types=[[text.types[first] if text.types else 0 for first, _, _ in cut] for text, cut in both],
        )
