"""Per-token statistics of a text, and the only loss that is compared across vocabularies."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model says of each token of one text, in text order.

    Attributes:
        token_ids: int64, shape `(tokens,)`.
        logprob_nats: float32, shape `(tokens,)`: log-probability of the token given all before it.
        ends: int64, shape `(tokens,)`: the byte offset in the original UTF-8 text where the token ends.
        total_bytes: length of the original text in bytes; the denominator of bits per byte.
    """

    token_ids: np.ndarray
    logprob_nats: np.ndarray
    ends: np.ndarray
    total_bytes: int

    @property
    def nats(self) -> float:
        """Negative log-probability of the whole text, summed in float64."""
        return float(-self.logprob_nats.astype(np.float64).sum())

    @property
    def bits_per_byte(self) -> float:
        """Total nats / ln 2 / UTF-8 bytes of the original text."""
        return bits_per_byte(self.nats, self.total_bytes)


def bits_per_byte(nats: float, total_bytes: int) -> float:
    """Total nats of the text / ln 2 / UTF-8 bytes of the original text.

    Raises:
        ValueError: an empty text has no bits per byte.
    """
    if total_bytes <= 0:
        raise ValueError("an empty text has no bits per byte")
    return nats / math.log(2) / total_bytes
