"""Rows transplanted from a donor model: what a new token is made of there, it is made of here.

A donor's row for a target token is approximated by a few donor rows of tokens that both vocabularies hold; the same
coefficients on the source's rows of those tokens give the new row.

Paper: Goddard & Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", 2025
(arXiv 2506.06607). Reference implementation: arcee-ai/mergekit (mergekit-tokensurgeon, method `omp`);
benchmarks/transfer/parity_omp.py compares the two.

Shapes: the plan is `(target vocab, source vocab + 1)` with at most `k` entries a row; donor rows are
`(target vocab, donor dim)`. Untied models take one plan from the donor's input rows and one from its output rows.

Errors: `BadOption` for `k` below 1 or above the number of shared tokens; `VocabMismatch` when the donor has no row
for a target token.

Differences from the paper:
    - tokens are matched by bytes and control tokens by role; control tokens are not among the shared tokens;
    - a row stops early once nothing is left to explain (`tolerance`) or the shared tokens are used up in its span;
      the reference goes on and divides rounding by rounding;
    - a donor row of zeros gives the mean of the source's ordinary rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from tokenlayer.core.errors import BadOption, VocabMismatch
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.vocab import Kind
from tokenlayer.transfer.parts import Pair

TILE_BYTES = 256 * 1024 * 1024
"""Memory for inner products and directions at a time."""


@dataclass(frozen=True)
class OmpConfig:
    """Defaults are those of the paper and mergekit."""

    k: int = 64
    """Shared tokens that a row is made of, at most."""
    normalised: bool = False
    """Choose the shared token by cosine with what is left, as textbooks do, and not by inner product."""
    tolerance: float = 1e-6
    """A row is done when this share of its length is left."""
    double: bool = False
    """Work in float64: for rows that are nearly all alike (a common direction 30 times longer than the rest)."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadOption(f"k is {self.k}, expected at least 1", hint="the paper takes 64")
        if not 0 <= self.tolerance < 1:
            raise BadOption(f"tolerance is {self.tolerance:g}, expected at least 0 and below 1")


def omp(
    pair: Pair,
    donor_rows: Shaped[Tensor, "donor_rows donor_dim"],
    config: OmpConfig | None = None,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> RowPlan:
    """Copies the rows of shared tokens and makes the others from them by the donor's coefficients.

    Time is that of `k` products `new tokens x shared tokens x donor dim`; memory is the donor's shared rows in
    float32 and a tile.

    Args:
        pair: the model's own vocabulary and the one to move to.
        donor_rows: rows of a model that has the target vocabulary; target tokens that were appended for the source's
            sake need none.
        config: see `OmpConfig`.
        device: where to work.
        progress: called after each tile with rows done and rows in all.

    Returns:
        A plan with origin `"copy"` for shared tokens, `"omp"` for the others, `"mean"` where the donor's row is zero.

    Raises:
        BadOption: fewer shared tokens than `k`, or rows that are not floats.
        VocabMismatch: the donor lacks the row of a target token.
    """
    config = config or OmpConfig()
    settled, origin = pair.settled(shared=True)
    wanted = [i for i, row in enumerate(settled) if row is None]
    shared = _shared(pair, len(donor_rows))
    _check(pair, donor_rows, wanted, len(shared), config)
    sources = [match for i in shared if (match := pair.matches[i]) is not None]
    atoms = donor_rows[shared].to(device, torch.float64 if config.double else torch.float32)
    done = 0
    for tile in torch.tensor(wanted, dtype=torch.int64).split(_tile(atoms, config)):
        found, coefficients = pursue(donor_rows[tile].to(atoms), atoms, config)
        for i, ids, shares in zip(tile.tolist(), found.tolist(), coefficients.tolist(), strict=True):
            row = _row(ids, shares, sources)
            settled[i], origin[i] = row or pair.mean, "omp" if row else "mean"
        done += len(tile)
        if progress is not None:
            progress(done, len(wanted))
    return pair.plan([row or {} for row in settled], origin)


def _row(ids: list[int], coefficients: list[float], sources: list[int]) -> dict[int, float]:
    """Shares by source id; two target tokens may be the same source token."""
    row: dict[int, float] = {}
    for place, share in zip(ids, coefficients, strict=True):
        if place >= 0:
            row[sources[place]] = row.get(sources[place], 0.0) + share
    return row


def _shared(pair: Pair, donor_rows: int) -> list[int]:
    """Target ids of text tokens that the source holds and the donor has a row of."""
    text = [kind in (Kind.NORMAL, Kind.BYTE) for kind in pair.target.kinds]
    return [i for i, match in enumerate(pair.matches) if match is not None and text[i] and i < donor_rows]


def _check(pair: Pair, donor_rows: Tensor, wanted: list[int], shared: int, config: OmpConfig) -> None:
    if not donor_rows.is_floating_point():
        raise BadOption(f"donor rows are {str(donor_rows.dtype).removeprefix('torch.')}, expected floats")
    lacking = [i for i in wanted if i >= len(donor_rows)]
    if lacking:
        raise VocabMismatch(
            f"the donor has {len(donor_rows)} rows, none for target token {pair.target.label(lacking[0])}",
            hint="the donor must be a model with the target tokenizer",
        )
    if wanted and config.k > shared:
        raise BadOption(
            f"k is {config.k}, the two vocabularies share {shared} text tokens",
            hint=f"take k = {shared} or less" if shared else "use `pieces`: nothing is shared",
        )


def _tile(atoms: Tensor, config: OmpConfig) -> int:
    """Rows at a time: inner products (twice, for their size) and the directions of each."""
    one = atoms.element_size() * (2 * len(atoms) + (config.k + 4) * atoms.shape[1] + config.k**2)
    return max(1, TILE_BYTES // one)


def pursue(
    targets: Float[Tensor, "rows dim"], atoms: Float[Tensor, "atoms dim"], config: OmpConfig
) -> tuple[Int64[Tensor, "rows k"], Float[Tensor, "rows k"]]:
    """Orthogonal matching pursuit for many targets at once.

    Each step takes for each target the atom with the largest product with what is left, and fits all atoms taken so
    far by least squares. That fit is kept as directions `Q` and a triangle `R` (atoms taken = `R^T Q`), each new
    direction made orthogonal twice, so that it stays so in float32.

    Returns:
        Places of the atoms (-1 after a row was done) and their coefficients (0 there).
    """
    rows, k = len(targets), config.k
    directions = targets.new_zeros(rows, k, targets.shape[1])
    triangle = torch.eye(k, dtype=targets.dtype, device=targets.device).repeat(rows, 1, 1)
    onto = targets.new_zeros(rows, k)
    taken = torch.full((rows, k), -1, device=targets.device)
    left, done = targets.clone(), targets.norm(dim=1) == 0
    enough = config.tolerance * targets.norm(dim=1)
    lengths = atoms.norm(dim=1)
    floor = 8 * torch.finfo(targets.dtype).eps
    for t in range(k):
        place = _best(left, atoms, lengths if config.normalised else None)
        atom = atoms[place]
        direction = atom
        for _ in range(2):
            along = torch.einsum("rtd,rd->rt", directions[:, :t], direction)
            direction = direction - torch.einsum("rtd,rt->rd", directions[:, :t], along)
            triangle[:, :t, t] += along
        length = direction.norm(dim=1)
        done = done | (length <= floor * lengths[place])
        directions[:, t] = torch.where(done[:, None], 0.0, direction / length[:, None].clamp(min=1e-30))
        triangle[:, t, t] = torch.where(done, 1.0, length)
        triangle[:, :t, t] *= ~done[:, None]
        taken[:, t] = torch.where(done, -1, place)
        onto[:, t] = torch.einsum("rd,rd->r", directions[:, t], left)
        left = left - onto[:, t, None] * directions[:, t]
        done = done | (left.norm(dim=1) <= enough)
        if bool(done.all()):
            break
    found = torch.linalg.solve_triangular(triangle, onto[:, :, None], upper=True)[:, :, 0]
    return taken, torch.where(taken < 0, 0.0, found)


def _best(left: Tensor, atoms: Tensor, lengths: Tensor | None) -> Tensor:
    """The atom with the largest product (or cosine) with what is left; the lowest of equals.

    What is left is orthogonal to the atoms taken, so none comes twice before all directions are used up.
    """
    products = (left @ atoms.T).abs_()
    if lengths is not None:
        products /= lengths.clamp(min=1e-30)
    return products.argmax(dim=1)
