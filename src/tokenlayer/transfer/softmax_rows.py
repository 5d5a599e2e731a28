"""Rows that are softmax mixtures of old rows, learned as a product of two thin matrices, and their sparse form."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenlayer.core.seeds import torch_generator

TILE_BYTES = 256 * 1024 * 1024
"""Float32 weights over the old rows that are held at a time."""
ENTRY_BYTES = 12
"""A float32 share and an int64 id."""


class SoftmaxRows(nn.Module):
    """New rows `softmax(left @ right) @ old`; no other than the rows asked for are ever computed.

    Args:
        old: the rows that are mixed, which stay as they are.
        new: number of new rows.
        rank: width of the two factors.
        init: `"mean"` starts every row at the exact mean of the old ones (`left ~ N(0, 1/rank)`, `right = 0`);
            `"reference"` draws both factors from Uniform[0, 1).
        jitter: with `"mean"`, standard deviation of the logits at the start; rows stay in the convex hull.
        seed: of the factors.
    """

    old: Tensor

    def __init__(
        self, old: Float32[Tensor, "old dim"], new: int, rank: int, *, init: str, jitter: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        generator = torch_generator(seed, "cw2v-factors")
        if init == "reference":
            left = torch.rand(new, rank, generator=generator)
            right = torch.rand(rank, len(old), generator=generator)
        else:
            left = torch.randn(new, rank, generator=generator) / math.sqrt(rank)
            right = jitter * torch.randn(rank, len(old), generator=generator) if jitter else torch.zeros(rank, len(old))
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        self.register_buffer("old", old)

    def weights(self, ids: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows old"]:
        """Shares of the old rows for some new rows, in float32 whatever autocast says."""
        with torch.autocast(self.left.device.type, enabled=False):
            return torch.softmax(self.left[ids].float() @ self.right.float(), dim=1)

    def forward(self, ids: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows dim"]:
        """Some new rows, a tile at a time; the backward pass makes each tile's weights anew."""
        tiles = ids.split(max(1, TILE_BYTES // (4 * len(self.old))))
        if len(tiles) <= 1:
            return self._mixed(ids)
        made = [checkpoint(self._mixed, tile, use_reentrant=False, preserve_rng_state=False) for tile in tiles]
        return torch.cat(made)

    def _mixed(self, ids: Tensor) -> Tensor:
        return self.weights(ids) @ self.old

    def blocks(self, ids: Int64[Tensor, " rows"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Cuts `ids` into blocks and yields (ids, their weights), without gradients."""
        with torch.no_grad():
            for some in ids.split(max(1, TILE_BYTES // (16 * len(self.old)))):
                yield some, self.weights(some)


def thin(
    weights: Float32[Tensor, "rows old"], most: int, tail: float
) -> tuple[
    Int64[Tensor, "rows kept"], Float32[Tensor, "rows kept"], Float32[Tensor, " rows"], Float32[Tensor, " rows"]
]:
    """Makes convex rows sparse without leaving the hull: the largest weights, and the mean row for the rest.

    The weights outside the largest `k` are replaced by their average `u`. An average over all old rows is what the
    mean column of a plan stands for, so it takes `u * old`, and each kept weight gives `u` of its own back to it.
    All shares stay >= 0 and sum to 1. A uniform row becomes the mean row alone, exactly.

    Args:
        weights: rows that are >= 0 and sum to 1.
        most: largest `k`.
        tail: the smallest power of two is taken as `k` that moves at most this much weight.

    Returns:
        Old ids and shares of the kept entries (0 where fewer than `kept` are needed), share of the mean row, and
        the weight that was moved (sum of absolute differences).
    """
    rows, old = weights.shape
    most = max(0, min(most, old))
    largest = torch.topk(weights, most, dim=1)
    ahead = torch.cat([weights.new_zeros(rows, 1), largest.values.double().cumsum(dim=1)], dim=1)
    kept = weights.new_zeros(rows, dtype=torch.int64)
    level = weights.new_zeros(rows, dtype=torch.float64)
    moved = weights.new_full((rows,), torch.inf)
    for k in [0, *(2**n for n in range(most.bit_length()) if 2**n < most), most]:
        todo = moved > tail
        if not bool(todo.any()):
            break
        u = ((1 - ahead[todo, k]) / max(old - k, 1)).clamp(min=0)
        u = u if k < old else torch.zeros_like(u)
        gap = (weights[todo] - u[:, None].float()).abs()
        inside = (largest.values[todo, :k] - u[:, None].float()).abs().sum(dim=1)
        kept[todo], level[todo], moved[todo] = k, u, (gap.sum(dim=1) - inside).clamp(min=0)
    used = torch.arange(most, device=weights.device) < kept[:, None]
    shares = torch.where(used, (largest.values - level[:, None]).clamp(min=0), 0.0).double()
    return largest.indices, shares.float(), (1 - shares.float().double().sum(dim=1)).clamp(min=0).float(), moved
