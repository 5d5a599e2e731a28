"""Seeds are the same on every machine and independent of one another."""

import numpy as np
import torch

from tokenlayer.core.seeds import derive_seed, numpy_generator, torch_generator


def test_known_values():
    assert derive_seed(0) == 4246866556266386882
    assert derive_seed(0, "rows", 3) == 582664516300166829


def test_every_name_and_its_place_matter():
    seeds = {derive_seed(*key) for key in [(0,), (1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "b", "a"), (0, 1)]}
    assert len(seeds) == 7
    assert all(0 <= one < 2**63 for one in seeds)


def test_generators_repeat_and_leave_the_global_state_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, other = (torch.randn(5, generator=torch_generator(3, "x")) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.randn(5, generator=torch_generator(3, "y")))
    assert np.array_equal(numpy_generator(3, "x").random(5), numpy_generator(3, "x").random(5))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
