"""What every training-free initialiser starts from: matches, roles, spellings, support."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Shaped
from torch import Tensor

from tokenlayer.core.matching import RoleMatch, match_roles, match_tokens
from tokenlayer.core.rowplan import Noise, RowPlan
from tokenlayer.core.vocab import ByteVocab, Kind


@dataclass(frozen=True, eq=False)
class Pair:
    """A source and a target vocabulary with what is known of both together.

    The same pair serves several initialisers; matches and spellings are made once.
    """

    source: ByteVocab
    target: ByteVocab
    left_out: frozenset[int] = frozenset()
    """Source ids that do not stand for an ordinary token though they are one: rows that were never trained."""

    @cached_property
    def matches(self) -> list[int | None]:
        """For each target id the source id of the same bytes or name."""
        return match_tokens(self.source, self.target)

    @cached_property
    def roles(self) -> list[RoleMatch]:
        """Where the control tokens of the target come from."""
        return match_roles(self.source, self.target)

    def spell(self, ids: Sequence[int]) -> list[list[int]]:
        """The source tokens that spell each of these target tokens; empty where the source cannot."""
        new = [i for i in ids if i not in self._spelled]
        self._spelled.update(zip(new, self.source.spell_all([self.target.tokens[i] for i in new]), strict=True))
        return [self._spelled[i] for i in ids]

    @cached_property
    def _spelled(self) -> dict[int, list[int]]:
        return {}

    @cached_property
    def support(self) -> list[int]:
        """Source ids whose rows stand for "an ordinary token" in means and spreads."""
        found = [i for i, kind in enumerate(self.source.kinds) if kind is Kind.NORMAL] or self.source.text_ids()
        return [i for i in found if i not in self.left_out]

    @property
    def mean(self) -> dict[int, float]:
        """The shares of the mean row."""
        return {len(self.source): 1.0}

    def plan(self, rows: list[dict[int, float]], origin: Sequence[str], noise: Noise | None = None) -> RowPlan:
        """Returns the row plan of this pair."""
        return RowPlan.from_rows(rows, origin, len(self.source), self.support, noise)

    def settled(self, *, shared: bool) -> tuple[list[dict[int, float] | None], list[str]]:
        """Rows that no initialiser decides: control tokens, holes, and (when `shared`) tokens in both.

        Returns:
            For each target id its shares (None where the initialiser decides) and its origin (`""` there).
        """
        rows: list[dict[int, float] | None] = [None] * len(self.target)
        origin = [""] * len(self.target)
        for i, (match, kind) in enumerate(zip(self.matches, self.target.kinds, strict=True)):
            if match is not None and (shared or kind in (Kind.CONTROL, Kind.UNUSED)):
                rows[i], origin[i] = {match: 1.0}, "copy"
            elif kind is Kind.UNUSED:
                rows[i], origin[i] = self.mean, "unused"
        for role in self.roles:
            if rows[role.target] is None:
                row = self.mean if role.source is None else {role.source: 1.0}
                rows[role.target], origin[role.target] = row, "mean" if role.source is None else "role"
        return rows, origin


def untrained(rows: Shaped[Tensor, "rows dim"], ids: Sequence[int]) -> frozenset[int]:
    """Finds tokens whose rows training never reached: all zero, or the same bit for bit as another token's.

    No two rows that were trained are the same. Rows that were never trained but drawn at random differ from each
    other too; those this does not find.
    """
    held = rows[list(ids)].float()
    _, group, times = torch.unique(held, dim=0, return_inverse=True, return_counts=True)
    alone = (times[group] == 1) & held.any(dim=1)
    return frozenset(i for i, kept in zip(ids, alone.tolist(), strict=True) if not kept)
