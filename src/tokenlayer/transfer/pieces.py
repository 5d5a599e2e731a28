"""Rows as the mean of the source tokens that spell a new one.

Paper: Gee et al., "Fast Vocabulary Transfer for Language Model Compression", EMNLP Industry 2022, section 3.

Shapes: the plan is `(target vocab, source vocab + 1)`; see `tokenlayer.core.rowplan.RowPlan`.

Errors: none of its own; a token that the source cannot spell takes the mean row and is counted as such.

Differences from the paper:
    - a token is spelled by the source's model without its pre-tokenizer, so one that spans two pre-tokens is
      spelled too;
    - control tokens are matched by name and role, never spelled.
"""

from dataclasses import dataclass

from tokenlayer.core.rowplan import RowPlan
from tokenlayer.transfer.parts import Pair


@dataclass(frozen=True)
class PiecesConfig:
    """Defaults are the paper's."""

    copy_shared: bool = True
    """Copy the row of a token that both vocabularies hold, instead of re-spelling it."""


def pieces(pair: Pair, config: PiecesConfig | None = None) -> RowPlan:
    """Gives each target token the mean row of its source pieces.

    Args:
        pair: the model's own vocabulary and the one to move to.
        config: see `PiecesConfig`.

    Returns:
        A plan with one row per target token. A piece that occurs twice counts twice. A token that the source
        cannot spell takes the mean of the source's ordinary rows, origin `"mean"`.
    """
    config = config or PiecesConfig()
    settled, origin = pair.settled(shared=config.copy_shared)
    open_ids = [i for i, row in enumerate(settled) if row is None]
    for i, spelled in zip(open_ids, pair.spell(open_ids), strict=True):
        settled[i] = _equal_shares(spelled) if spelled else pair.mean
        origin[i] = "pieces" if spelled else "mean"
    return pair.plan([row or {} for row in settled], origin)


def _equal_shares(ids: list[int]) -> dict[int, float]:
    """Shares that sum to one; a piece that occurs twice counts twice."""
    shares: dict[int, float] = {}
    for i in ids:
        shares[i] = shares.get(i, 0.0) + 1 / len(ids)
    return shares
