"""Random numbers by place: what a sample draws depends on the seed, its own number and the position, on nothing else.

A generator hands out numbers in the order of the calls, so that the size of a batch, padding and the number of
processes would decide who gets which. Here each number is a hash (the finaliser of SplitMix64) of where it is used.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlayer.core.seeds import derive_seed

_GOLDEN = 0x9E3779B97F4A7C15


def uniform(
    seed: int, name: str, samples: Int[Tensor, " batch"], length: int, turns: int = 1
) -> Float[Tensor, "batch turns length"]:
    """Numbers in [0, 1) for each position of each sample, on the device of `samples`.

    Args:
        seed: of the run.
        name: what they are for; another name gives independent numbers.
        samples: the number of each sample in the data, never its place in the batch.
        length: positions; a longer length has the same numbers at the front.
        turns: independent numbers for each position.
    """
    key = torch.tensor(derive_seed(seed, "draw", name), device=samples.device)
    rows = _mix(_mix(samples.long()[:, None] + key) + torch.arange(turns, device=samples.device) * _signed(_GOLDEN))
    places = torch.arange(length, device=samples.device) * _signed(_GOLDEN)
    return (_mix(_mix(rows[:, :, None] ^ key) + places) >> 40 & 0xFFFFFF).float() / 2**24


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A permutation of 64-bit numbers in which each bit depends on all."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """To the right with zeros, as for unsigned numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The same 64 bits as a signed number."""
    return x - 2**64 if x >= 2**63 else x
