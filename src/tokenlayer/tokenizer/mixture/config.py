"""Settings of data mixture inference."""

from dataclasses import dataclass

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.pretokenizers import PRE_TOKENIZERS

UNITS = ("bytes", "pairs", "tokens")
SENTENCEPIECE = "sentencepiece"
"""Name of the cut that SentencePiece trainers make and do not write into the file."""


@dataclass(frozen=True)
class MixtureConfig:
    """Defaults are those of the paper and its released code where they bear on the answer.

    Raises:
        BadOption: a value outside its range.
    """

    merges: int = 30_000
    """Merges that are looked at, from the first; fewer if the tokenizer has fewer."""
    first_merge: int = 0
    """Merges before this rank are applied but say nothing: for a tokenizer that extends another's list."""
    unit: str = "bytes"
    """What the shares are of: bytes, pairs or tokens."""
    pre_tokenizer: str | None = None
    """A published one or `sentencepiece`, in place of the tokenizer's own."""
    drop_space_runs: bool = False
    """Leave out merges that make runs of one white-space character: Gemma's were made by hand."""
    depth: int = 3
    """A pair is set against the weakest merge of a stretch, the weakest before and after it, and so on."""
    per_step: int = 4
    """At most this many new competitors of one merge a round; the released code has 10, at every merge."""
    per_round: int = 4_000
    """About this many new rows a round; the released code stops a round at 100."""
    tolerance: float = 1e-6
    """A merge may be behind by this, in millionths of all pairs."""
    gap: float = 0.0
    """Stop when all slacks are at most this share above the optimum's; 0 solves to the end."""
    seconds: float | None = None
    """Stop adding rows after this time and say how far from the optimum the shares can be; None never does."""
    range_slack: float = 0.01
    """Each share's range is over all mixtures whose violation is at most this much worse; 0 leaves it out."""
    bootstrap: int = 0
    """Times that the samples are drawn again from their parts, for intervals."""
    parts: int = 10
    """Parts that each sample is dealt into for that."""
    seed: int = 0
    """Of the parts that are drawn."""

    def __post_init__(self) -> None:
        choose("unit", self.unit, UNITS)
        if self.pre_tokenizer is not None:
            choose("pre-tokenizer", self.pre_tokenizer, (*PRE_TOKENIZERS, SENTENCEPIECE))
        for name, least in (
            ("merges", 1),
            ("first_merge", 0),
            ("depth", 1),
            ("per_step", 1),
            ("per_round", 1),
            ("bootstrap", 0),
        ):
            if getattr(self, name) < least:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least {least}", hint=f"leave {name} out")
        if self.parts < 2:
            raise BadOption(f"parts is {self.parts}, expected at least 2", hint="10 parts are usual")
        if self.first_merge >= self.merges:
            raise BadOption(
                f"first_merge is {self.first_merge} and merges is {self.merges}: no merge is left",
                hint="merges counts from the first merge of the list, also those that are only applied",
            )
        if (
            min(self.gap, self.range_slack) < 0
            or self.tolerance <= 0
            or (self.seconds is not None and self.seconds <= 0)
        ):
            raise BadOption(
                f"gap is {self.gap:g}, range_slack {self.range_slack:g}, tolerance {self.tolerance:g}, seconds "
                f"{self.seconds}: expected at least 0 for the first two, above 0 for the others",
                hint="leave them out for the defaults",
            )
