"""The settings of LiB."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenlayer.core.errors import BadOption


@dataclass(frozen=True)
class LibConfig:
    """Defaults are the paper's, but for `longest_chunk` (see the package).

    Raises:
        BadOption: a value outside its range.
    """

    in_rate: float = 0.25
    """Chance that two chunks side by side are memorised as one (the paper's alpha)."""
    out_rate: float = 1e-4
    """Share of the lexicon, at its tail, that goes on probation after each article (omega)."""
    life: int = 10
    """Articles that a chunk stays on probation before it is forgotten (tau 0)."""
    update_rate: float = 0.1
    """A reward or punishment moves a chunk by this share of its rank, and one more (delta)."""
    article: int = 500
    """Sentences (lines) read before the lexicon is put in order."""
    longest_chunk: int | None = 64
    """Longest chunk in characters; None for no limit, as in the paper."""
    inspect_context: bool = True
    """Release a chunk from probation only when it is met between other chunks than before."""
    forgets: bool = True
    """False keeps what is on probation for ever: to see what forgetting does."""
    reranks: bool = True
    """False leaves every chunk where it was appended: to see what the ranks do."""
    steps: int | None = None
    """Articles to read, from the beginning again when the text is over; None reads the text once."""
    special_tokens: Sequence[str] = ("<|endoftext|>",)
    """Control tokens, last in the vocabulary; the first one is the end of a text."""
    seed: int = 0
    """Of the draws that decide what is memorised."""

    def __post_init__(self) -> None:
        for name in ("in_rate", "out_rate", "update_rate"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise BadOption(f"{name} is {rate:g}, expected a share from 0 to 1", hint=f"for example {name} 0.1")
        for name in ("life", "article", "longest_chunk", "steps"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise BadOption(f"{name} is {number}, expected at least 1", hint=f"leave {name} out for the default")
        special = tuple(self.special_tokens)  # TOML and JSON make lists of them
        object.__setattr__(self, "special_tokens", special)
        if len(set(special)) != len(special) or "" in special:
            raise BadOption(
                f"special_tokens {special} holds an empty or a repeated token", hint="name each control token once"
            )
