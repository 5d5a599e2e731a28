"""Which cut of a word, and which cut of a sentence: typed tokenizers against the base one.

Paper: Hasan et al., "Infusing clinical knowledge into tokenisers for language models", 2024, word and sequence
optimisation. The rules as their released code has them (abulhasanbbk/K-Tokenizer, N2C2/utils.py), without its fault
that continuation pieces are looked up with their `##`; `compat=True` keeps that.

Word: a candidate of pieces with counts g_1, g_2, ... (1 if unknown) has p = (1 + sum of g) / (sum of all counts) and
h = -p log2 p; the smallest h wins, ties by the order of the types, the base last. When every typed candidate is below
the h of `min_count` counts, the base stays. Words in upper case (abbreviations) stay.

Sentence: with r = (n_base - n_chosen) / n_base the chosen cut stays if 0 <= r < rollback, else the whole sentence goes
back; rollback 0 is always the base, 1 and more always the chosen cut.

Errors: `BadOption` for numbers out of range or a type that is called base; `BadTokenizer` for a file that is none of
ours.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from tokenlayer.core.errors import BadOption, BadTokenizer
from tokenlayer.transfer.typed_pieces import PREFIX

CHOICES_FILE = "k_tokeniser.json"
"""Holds the `Choices`, beside tokenizer.json."""
FORMAT = "tokenlayer-k-tokeniser/1"
BASE = "base"
"""Name of the candidate of the base tokenizer."""

Candidates = Mapping[str, Sequence[str] | None]
"""Pieces by type, then those of the base; None where the tokenizer does not know the word."""


@dataclass(frozen=True, eq=False)
class Choices:
    """What the choice between cuts is made from.

    Attributes:
        pieces: for each type, in the order that decides ties, the pieces that the base vocabulary lacks.
        counts: n-gram -> count over all types; at least those that a piece or base token can ask for.
        total: sum of the counts of all n-grams, those left out of `counts` too.
        rollback: most shortening of a sentence, see the module.
        min_count: typed candidates that score below this many counts are not chosen.
        keep_upper: words in upper case keep their base pieces.
        lower_for_lookup: typed candidates are those of the lower-cased word (for cased base tokenizers).
        compat: look continuation pieces up with their mark, and never find them, as the released code does.
    """

    pieces: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    total: int
    rollback: float = 1.0
    min_count: int = 1000
    keep_upper: bool = True
    lower_for_lookup: bool = True
    compat: bool = False

    def __post_init__(self) -> None:
        check_rules(self.rollback, self.min_count)
        if BASE in self.pieces:
            raise BadOption(f"a type is called {BASE!r}, which is the tokenizer's own cut", hint="rename the type")
        if self.total < 1:
            raise BadOption(f"total is {self.total}, expected the sum of the counts, at least 1")

    def score(self, pieces: Sequence[str]) -> float:
        """The h of a candidate in bits."""
        return self._entropy(1 + sum(self.counts.get(self._key(piece), 1) for piece in pieces))

    def choose(self, candidates: Candidates, *, upper: bool = False) -> str:
        """Returns the type whose candidate is taken, or `"base"`.

        Args:
            candidates: see `Candidates`; `"base"` must be there.
            upper: whether the word is in upper case.
        """
        scores = {kind: self.score(pieces) for kind, pieces in candidates.items() if pieces is not None}
        typed = [kind for kind in self.pieces if kind in scores]
        if (upper and self.keep_upper) or not typed:
            return BASE
        if self.rare([scores[kind] for kind in typed]):
            return BASE
        order = [*typed, BASE] if BASE in scores else typed
        return min(order, key=scores.__getitem__)

    def rare(self, typed: Sequence[float]) -> bool:
        """Whether all typed candidates of a word score below `min_count` counts, so that the base stays."""
        return all(score < self._entropy(self.min_count) for score in typed)

    def keeps(self, base: int, chosen: int) -> bool:
        """Whether a sentence of `base` pieces keeps its chosen cut of `chosen` pieces."""
        return self.rollback >= 1 or 0 <= shortening(base, chosen) < self.rollback

    def to_json(self) -> str:
        """Returns all of it as JSON text."""
        return json.dumps(
            {"format": FORMAT, **{f.name: getattr(self, f.name) for f in fields(self)}}, ensure_ascii=False
        )

    @staticmethod
    def from_json(text: str, where: str = CHOICES_FILE) -> "Choices":
        """Rebuilds what `to_json` wrote.

        Raises:
            BadTokenizer: it did not write this.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError(f"format is not {FORMAT}")
            return Choices(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadTokenizer(
                f"{where} does not describe a K-Tokeniser: {error}", hint="make the folder anew with ktokeniser"
            ) from error

    def _key(self, piece: str) -> str:
        return piece if self.compat else piece.removeprefix(PREFIX)

    def _entropy(self, count: int) -> float:
        share = count / self.total
        return -share * math.log2(share) if share > 0 else 0.0


def check_rules(rollback: float, min_count: int) -> None:
    """Checks the two numbers of the rules.

    Raises:
        BadOption: one is negative, or no number.
    """
    if not rollback >= 0:
        raise BadOption(f"rollback is {rollback}, expected 0 or more", hint="1 always takes the chosen pieces")
    if min_count < 0:
        raise BadOption(f"min_count is {min_count}, expected 0 or more", hint="the paper has 1000")


def shortening(base: int, chosen: int) -> float:
    """Returns r, the share of base pieces that the chosen cut saves; 0 for an empty sentence."""
    return (base - chosen) / base if base else 0.0


@dataclass(frozen=True)
class WordChoice:
    """One word of a text and how it was cut.

    Attributes:
        text: the word as it stands in the text.
        start: its first character.
        end: the character after its last.
        candidates: pieces by type and `"base"`; None where the tokenizer does not know the word.
        scores: h of each candidate in bits; None likewise.
        chosen: whose candidate was taken.
    """

    text: str
    start: int
    end: int
    candidates: Mapping[str, tuple[str, ...] | None]
    scores: Mapping[str, float | None]
    chosen: str


@dataclass(frozen=True)
class Explanation:
    """Why a text was cut as it was.

    Attributes:
        words: each word.
        shortening: r of the text.
        kept: whether the text keeps the choices; otherwise it went back to the base.
        pieces: what the text is cut into.
    """

    words: tuple[WordChoice, ...]
    shortening: float
    kept: bool
    pieces: tuple[str, ...]
