"""Rows that are softmax mixtures of old rows, learned as a product of two thin matrices, and their sparse form.

A pass over rows costs `10 x rows x old x (rank + dim)` operations forward and back, or 6 x where the weights of the
forward pass are kept (`KEEP_BYTES`) and rank is large.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from tokenlayer.core.seeds import torch_generator

TILE_BYTES = 64 * 1024 * 1024
"""Float32 weights over the old rows that are worked on at a time."""
KEEP_BYTES = 1024 * 1024 * 1024
"""Weights that are kept from the forward to the backward pass; where they need more, they are made anew."""
ENTRY_BYTES = 12
"""A float32 share and an int64 id."""
PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""In what matrices are multiplied while rows are learned."""


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
        products: `"bfloat16"` multiplies matrices in bf16 with float32 sums in `forward` and its backward pass. The
            softmax itself, the factors and `weights` are float32 in any case.
    """

    mean: Tensor
    centred: Tensor

    def __init__(
        self,
        old: Float32[Tensor, "old dim"],
        new: int,
        rank: int,
        *,
        init: str,
        jitter: float = 0.0,
        seed: int = 0,
        products: str = "float32",
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
        mean = old.mean(dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("centred", (old - mean).to(PRODUCTS[products]))

    def weights(self, ids: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows old"]:
        """Shares of the old rows for some new rows, in float32 whatever autocast says."""
        with torch.autocast(self.left.device.type, enabled=False):
            return torch.softmax(self.left[ids].float() @ self.right.float(), dim=1)

    def forward(self, ids: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows dim"]:
        """Some new rows."""
        with torch.autocast(self.left.device.type, enabled=False):
            made: Tensor = _Mix.apply(self.left[ids].float(), self.right.float(), self.centred)  # type: ignore[no-untyped-call]
            return made + self.mean

    def blocks(self, ids: Int64[Tensor, " rows"]) -> Iterator[tuple[Tensor, Tensor]]:
        """Cuts `ids` into blocks and yields (ids, their weights), without gradients."""
        with torch.no_grad():
            for some in ids.split(max(1, TILE_BYTES // (4 * self.right.shape[1]))):
                yield some, self.weights(some)


class _Mix(torch.autograd.Function):
    """`softmax(left @ right) @ old` a tile of rows at a time, where `old` has mean zero and takes no gradient.

    With mean zero the products that rounding could hurt are small: rows of equal weights give exactly nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        left: Float32[Tensor, "rows rank"],
        right: Float32[Tensor, "rank old"],
        old: Float[Tensor, "old dim"],
    ) -> Float32[Tensor, "rows dim"]:
        narrow = right.to(old.dtype)
        keep = any(ctx.needs_input_grad) and len(left) * len(old) * old.element_size() <= KEEP_BYTES
        made, kept = [], []
        for tile in left.split(_tile_rows(old)):
            weights = _weights(tile, narrow)
            made.append((weights @ old).float())
            kept.append(weights if keep else None)
        ctx.save_for_backward(left, right, old)
        ctx.made, ctx.kept = made, kept
        return torch.cat(made) if made else left.new_zeros(0, old.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Float32[Tensor, "rows dim"]) -> tuple[Tensor, Tensor, None]:
        """With `p` the weights and `g` the gradient of a row `r`: `d logit_j = p_j (g old_j - g r)`."""
        left, right, old = ctx.saved_tensors
        narrow = right.to(old.dtype)
        to_left, to_right = torch.empty_like(left), torch.zeros_like(right)
        size = _tile_rows(old)
        for n, (tile, given, made) in enumerate(zip(left.split(size), grad.split(size), ctx.made, strict=True)):
            weights = ctx.kept[n] if ctx.kept[n] is not None else _weights(tile, narrow)
            logits = given.to(old.dtype) @ old.T
            logits -= (given * made).sum(dim=1, keepdim=True).to(old.dtype)
            logits *= weights
            ctx.kept[n] = None
            to_left[n * size : n * size + len(tile)] = logits @ narrow.T
            if old.dtype == torch.float32:
                to_right.addmm_(tile.T, logits)
            else:
                to_right += tile.T.to(old.dtype) @ logits
        return to_left, to_right, None


def _weights(left: Tensor, right: Tensor) -> Tensor:
    """Softmax in float32, given back in the dtype of `right`."""
    return torch.softmax((left.to(right.dtype) @ right).float(), dim=1).to(right.dtype)


def _tile_rows(old: Tensor) -> int:
    return max(1, TILE_BYTES // (4 * len(old)))


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
