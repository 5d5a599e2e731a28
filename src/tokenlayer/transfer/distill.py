"""Losses between two models with different vocabularies on the same text.

Decoders: the bytes between two neighbouring token boundaries that both cuts share form a span. Its log-probability
under a model is the sum over the model's own tokens in it, so the two models can be compared span by span although
their tokens differ (the idea of Minixhofer, Vulic and Ponti, "Universal Cross-Tokenizer Distillation via Approximate
Likelihood Matching", 2025). The loss of a span with log-probabilities `t` (teacher) and `s` (student) is the
Kullback-Leibler divergence of two coins, `exp(t / T)` and `exp(s / T)`, times `T`; for a large temperature `T` that is
`t log(t / s) - t + s` of the surprisals, however long the span.

Encoders: the squared distance of the vectors of a line, as a share of the squared length of the teacher's.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlayer.core.errors import BadOption

SMALLEST = 1e-6
"""Surprisal over temperature is at least this: a span that is certain has no logarithm of its complement."""


def span_numbers(one_ends: np.ndarray, other_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers the spans between shared boundaries.

    Args:
        one_ends: byte offset where each token of a cut ends, ascending.
        other_ends: the same of another cut of the same bytes.

    Returns:
        For each token of the first cut the number of its span, -1 after the last shared boundary; the same for the
        second; and the number of spans.
    """
    shared = np.intersect1d(one_ends, other_ends)
    numbers = []
    for ends in (one_ends, other_ends):
        at = np.searchsorted(shared, ends)
        numbers.append(np.where(at < len(shared), at, -1))
    return numbers[0], numbers[1], len(shared)


def span_sums(
    logprobs: Float[Tensor, " tokens"], numbers: Int[Tensor, " tokens"], spans: int
) -> Float[Tensor, " spans"]:
    """Log-probability of each span in nats; tokens numbered -1 belong to none."""
    inside = numbers >= 0
    return logprobs.new_zeros(spans).index_add(0, numbers[inside], logprobs[inside])


def span_divergence(
    student: Float[Tensor, " spans"], teacher: Float[Tensor, " spans"], temperature: float
) -> Float[Tensor, ""]:
    """Sum over the spans of the divergence of the teacher's coin from the student's, times the temperature.

    Args:
        student: log-probabilities in nats, with a gradient.
        teacher: log-probabilities in nats.
        temperature: above 0.

    Raises:
        BadOption: the temperature is not above 0.
    """
    if not temperature > 0:
        raise BadOption(f"temperature is {temperature:g}, expected above 0")
    s, t = ((logprob.float() / temperature).clamp(max=-SMALLEST) for logprob in (student, teacher))
    kept = t.exp() * (t - s)
    lost = -torch.expm1(t) * (torch.log(-torch.expm1(t)) - torch.log(-torch.expm1(s)))
    return temperature * (kept + lost).sum()


def vector_distance(student: Float[Tensor, "lines dim"], teacher: Float[Tensor, "lines dim"]) -> Float[Tensor, ""]:
    """Sum over the lines of the squared distance as a share of the teacher's squared length."""
    gaps = (student.float() - teacher.float()).square().sum(dim=1)
    return (gaps / teacher.float().square().sum(dim=1).clamp(min=1e-12)).sum()
