"""One seed in, independent named generators out; the global state is never touched."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit seed that depends on `seed` and every name, the same on every machine."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Returns a CPU generator for `names`, independent of every other name."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a NumPy generator for `names`, independent of every other name."""
    return np.random.default_rng(derive_seed(seed, *names))
