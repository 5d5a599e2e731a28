"""Can a new token ever be chosen where an old one was? Not if its row is a mixture of old rows.

Mundra et al., "An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for Language Models",
CoNLL 2024, section 3: if a new output row is `e = sum_i w_i e_i` with `w >= 0` and `sum w = 1`, then
`h e = sum_i w_i (h e_i) <= max_i (h e_i)` for every hidden state `h`. Greedy decoding then gives what it gave before,
ties going to the lower (old) id; with an output bias it also takes `b_new <= sum_i w_i b_i`. Nothing follows for
probabilities: the new tokens take their share of the mass, whatever their rows.

Shapes: hidden states `(positions, dim)`, tables `(rows, dim)`, biases `(rows,)`.

Errors: `VocabMismatch` for tables of different widths or a bias of another length.

Differences from the paper: none known.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlayer.core.errors import VocabMismatch
from tokenlayer.core.rowplan import RowPlan

SUM_TOLERANCE = 1e-5
"""How far float32 shares may sum from 1."""
TILE_BYTES = 64 * 1024 * 1024
"""Float32 logits that are held at a time."""
ROUNDINGS = 8
"""Rounding steps of a stored row that a logit may differ by and still count as a tie."""


@dataclass(frozen=True)
class HullCheck:
    """Which rows of a plan may leave the convex hull of the old rows.

    Attributes:
        rows: rows of the plan.
        negative: rows with a share below 0.
        unnormalised: rows whose shares do not sum to 1.
        noisy: rows with noise on top.
        raised: rows whose bias is above the same mixture of the old biases.
        given: rows that are no mixture at all: a network predicted them.
    """

    rows: int
    negative: tuple[int, ...]
    unnormalised: tuple[int, ...]
    noisy: tuple[int, ...]
    raised: tuple[int, ...] = ()
    given: tuple[int, ...] = ()

    @property
    def unsafe(self) -> tuple[int, ...]:
        """All of these rows, ascending."""
        return tuple(sorted({*self.negative, *self.unnormalised, *self.noisy, *self.raised, *self.given}))

    @property
    def safe(self) -> bool:
        """Whether no new token can beat the best old one, at any hidden state."""
        return not self.unsafe

    def sentence(self) -> str:
        """The result in words."""
        if self.safe:
            return f"all {self.rows} rows are mixtures of old rows: greedy decoding cannot change"
        kinds = {"negative shares": self.negative, "shares that do not sum to 1": self.unnormalised}
        kinds |= {"noise": self.noisy, "a raised bias": self.raised, "predicted numbers": self.given}
        named = ", ".join(f"{len(ids)} have {what}" for what, ids in kinds.items() if ids)
        return f"{len(self.unsafe)} of {self.rows} rows may leave the convex hull of the old rows: {named}"


def check_hull(
    plan: RowPlan,
    *,
    old_bias: Float[Tensor, " old_biases"] | None = None,
    new_bias: Float[Tensor, " new_biases"] | None = None,
) -> HullCheck:
    """Finds the rows of a plan that are no convex combination of old rows.

    Args:
        plan: any plan.
        old_bias: output bias of the old rows, if there is one.
        new_bias: output bias that the new rows will have; a bias made by the plan itself always passes.

    Raises:
        VocabMismatch: only one bias is given, or one of another length.
    """
    starts, shares = plan.weights.crow_indices(), plan.weights.values().double()
    owner = torch.repeat_interleave(torch.arange(plan.new_vocab), starts[1:] - starts[:-1])
    counted = shares if len(plan.support) else shares * (plan.weights.col_indices() < plan.old_vocab)
    sums = torch.zeros(plan.new_vocab, dtype=torch.float64).index_add_(0, owner, counted)
    negative = owner[shares < 0].unique().tolist()
    unnormalised = ((sums - 1).abs() > SUM_TOLERANCE).nonzero()[:, 0].tolist()
    noisy = [] if plan.noise is None or plan.noise.scale == 0 else plan.noise.rows.tolist()
    raised = _raised(plan, old_bias, new_bias)
    given = () if plan.given is None else tuple(plan.given.ids.tolist())
    return HullCheck(plan.new_vocab, tuple(negative), tuple(unnormalised), tuple(noisy), tuple(raised), given)


def _raised(plan: RowPlan, old_bias: Tensor | None, new_bias: Tensor | None) -> list[int]:
    if (old_bias is None) != (new_bias is None):
        raise VocabMismatch("the bias of only one side is given", hint="a model has a bias for all rows or for none")
    if old_bias is None or new_bias is None:
        return []
    if len(new_bias) != plan.new_vocab:
        raise VocabMismatch(f"the new bias has {len(new_bias)} numbers, the plan has {plan.new_vocab} rows")
    mixed = plan.apply(old_bias.float()[:, None])[:, 0]
    scale = float(old_bias.abs().max()) if len(old_bias) else 0.0
    slack = ROUNDINGS * torch.finfo(new_bias.dtype).eps * scale
    raised: list[int] = (new_bias.float() > mixed + slack).nonzero()[:, 0].tolist()
    return raised


@dataclass(frozen=True)
class GreedyCheck:
    """How often a new token would be chosen.

    Attributes:
        positions: hidden states that were tried.
        changed: those where the best new logit is above the best old one.
        by_rounding: those where it is above only by what rounding of the stored rows explains; ties on paper.
        largest_gain: the most by which a new logit was above (0 if none was).
    """

    positions: int
    changed: int
    by_rounding: int
    largest_gain: float

    @property
    def share(self) -> float:
        """Share of positions that changed."""
        return self.changed / max(self.positions, 1)


def greedy_changes(
    hidden: Float[Tensor, "positions dim"],
    old_rows: Float[Tensor, "old old_dim"],
    new_rows: Float[Tensor, "new new_dim"],
    *,
    old_bias: Float[Tensor, " old_biases"] | None = None,
    new_bias: Float[Tensor, " new_biases"] | None = None,
) -> GreedyCheck:
    """Counts hidden states at which a new token beats every old one; a tie goes to the old token, the lower id.

    Logits are compared in float32. Rows that are bf16 were rounded and may have left the hull by an ulp: positions that
    this explains are not counted as changed but as `by_rounding`.

    Args:
        hidden: inputs of the output head.
        old_rows: rows of the old tokens, without padded ones.
        new_rows: rows of the new tokens; copies of old rows among them do no harm.
        old_bias: output bias of the old tokens.
        new_bias: output bias of the new tokens.

    Raises:
        VocabMismatch: tables of different widths, or a bias of another length.
    """
    _check_widths(hidden, old_rows, new_rows)
    sides = [_with_bias(old_rows, old_bias, "old"), _with_bias(new_rows, new_bias, "new")]
    largest = sides[0].abs().amax(dim=0)
    slack = ROUNDINGS * max(torch.finfo(new_rows.dtype).eps, torch.finfo(torch.float32).eps)
    changed, ties, gain = 0, 0, 0.0
    for part in hidden.float().split(max(1, TILE_BYTES // (4 * max(len(old_rows), len(new_rows))))):
        h = torch.cat([part, part.new_ones(len(part), 1)], dim=1)
        above = (h @ sides[1].T).amax(dim=1) - (h @ sides[0].T).amax(dim=1)
        beyond = int((above > slack * (h.abs() @ largest)).sum())
        changed, ties = changed + beyond, ties + int((above > 0).sum()) - beyond
        gain = max(gain, float(above.max()))
    return GreedyCheck(len(hidden), changed, ties, gain)


def _check_widths(hidden: Tensor, old_rows: Tensor, new_rows: Tensor) -> None:
    widths = {hidden.shape[1], old_rows.shape[1], new_rows.shape[1]}
    if len(widths) > 1:
        raise VocabMismatch(
            f"hidden states, old rows and new rows are {hidden.shape[1]}, {old_rows.shape[1]} and "
            f"{new_rows.shape[1]} wide, expected one width"
        )
    if not len(old_rows) or not len(new_rows):
        raise VocabMismatch(f"there are {len(old_rows)} old and {len(new_rows)} new rows, expected some of both")


def _with_bias(rows: Tensor, bias: Tensor | None, side: str) -> Tensor:
    """Rows in float32 with their bias as one more dimension."""
    if bias is not None and len(bias) != len(rows):
        raise VocabMismatch(f"the {side} bias has {len(bias)} numbers for {len(rows)} rows")
    last = torch.zeros(len(rows)) if bias is None else bias.float()
    return torch.cat([rows.float(), last[:, None]], dim=1)
