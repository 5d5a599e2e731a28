"""Weights that sum to one and are mostly zero.

Paper: Martins and Astudillo, "From Softmax to Sparsemax", ICML 2016, algorithm 1.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

_FIRST_LOOK = 128
"""Largest scores that are sorted first; doubled for rows whose support may be larger."""


def sparsemax(scores: Float[Tensor, "rows scores"]) -> Float32[Tensor, "rows scores"]:
    """The point of the probability simplex that is nearest to each row of scores.

    A row keeps the scores above a threshold, less the threshold. Memory is a few times that of the scores.
    """
    scores = scores.float()
    width = min(_FIRST_LOOK, scores.shape[1])
    while True:
        best = scores.topk(width, dim=1).values
        count = torch.arange(1, width + 1, dtype=torch.float32)
        sums = (best - best[:, :1]).cumsum(dim=1)  # relative to the largest, so that float32 suffices
        support = (1 + count * (best - best[:, :1]) > sums).sum(dim=1, keepdim=True)
        if width == scores.shape[1] or int(support.max()) < width:
            break
        width = min(2 * width, scores.shape[1])
    threshold = best[:, :1] + (sums.gather(1, support - 1) - 1) / support
    return (scores - threshold).clamp(min=0)
