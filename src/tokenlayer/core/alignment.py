"""One vector space turned into another by the best rotation between known pairs (orthogonal Procrustes)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from tokenlayer.core.errors import BadVectors

FEW_PAIRS = 50
"""Fewer pairs than this are warned about; a rotation of 100 dimensions wants some hundreds."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A rotation from the source space into the target space: `source @ rotation` is comparable with target.

    Attributes:
        rotation: orthogonal, float32, shape `(dim, dim)`.
        pairs: distinct pairs it was fitted to.
        rank: dimensions that these pairs determine; the others are turned arbitrarily.
    """

    rotation: Float32[Tensor, "dim dim"]
    pairs: int
    rank: int

    def warnings(self, found_in: str = "") -> list[str]:
        """Sentences on too few pairs; `found_in` says of how many, such as `of 1449 dictionary lines`."""
        said = []
        of = f" {found_in}" if found_in else ""
        if self.pairs < FEW_PAIRS:
            said.append(f"the spaces are aligned by only {self.pairs} word pairs{of}, expected at least {FEW_PAIRS}")
        if self.rank < len(self.rotation):
            said.append(
                f"{self.pairs} word pairs{of} determine {self.rank} of {len(self.rotation)} dimensions; the others are "
                "turned arbitrarily"
            )
        return said


def align(
    source: Float[Tensor, "pairs dim"], target: Float[Tensor, "pairs dim"], times: Int[Tensor, " pairs"] | None = None
) -> Alignment:
    """Finds the orthogonal R that minimises the sum of `times * |source @ R - target|^2`.

    Nothing is centred or scaled, and reflections are allowed. The sums are in float64.

    Args:
        source: vectors of the pairs in the space that is turned.
        target: vectors of the same pairs in the space that stays.
        times: how often each pair counts; once when None.

    Raises:
        BadVectors: there is no pair.
    """
    if not len(source):
        raise BadVectors(
            "no word pair has a vector on both sides, the spaces cannot be aligned",
            hint="check that the dictionary fits the two languages, and its direction (swap it if not)",
        )
    weight = torch.ones(len(source)) if times is None else times
    left, values, right = torch.linalg.svd(source.double().T @ (weight.double()[:, None] * target.double()))
    tolerance = float(values[0]) * len(values) * torch.finfo(torch.float32).eps
    return Alignment((left @ right).float(), len(source), int((values > tolerance).sum()))


def principal_axes(rows: Float[Tensor, "rows dim"], count: int) -> Float32[Tensor, "dim count"]:
    """The `count` orthonormal axes along which rows vary most; `rows @ axes` is their best narrow form.

    The mean takes no part in finding the axes and is not taken off the rows: zeros stay zeros. The sign of each axis
    is such that its largest entry is positive.
    """
    total, mean = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64), rows.mean(dim=0).double()
    for part in rows.split(8192):
        centred = part.double() - mean
        total += centred.T @ centred
    _, vectors = torch.linalg.eigh(total)
    axes: Tensor = vectors.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return (axes * torch.where(largest < 0, -1.0, 1.0)).float()
