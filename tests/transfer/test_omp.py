"""OMP: against a plain loop, and what it does with zeros, spans that are used up, and donors that do not fit."""

import numpy as np
import pytest
import torch
from tests.toy_vectors import toy_pair, toy_vocab

from tokenlayer.core.errors import BadOption, VocabMismatch
from tokenlayer.core.vocab import Kind
from tokenlayer.transfer import omp as module
from tokenlayer.transfer.omp import OmpConfig, omp, pursue
from tokenlayer.transfer.parts import Pair

DIM = 24


def slow(target: np.ndarray, atoms: np.ndarray, k: int, *, normalised: bool = False) -> dict[int, float]:
    """Textbook OMP for one target: pick, solve least squares, subtract."""
    taken: list[int] = []
    left, shares = target, np.zeros(0)
    for _ in range(k):
        products = np.abs(atoms @ left) / (np.linalg.norm(atoms, axis=1) if normalised else 1)
        products[taken] = -1
        taken.append(int(products.argmax()))
        shares = np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0]
        left = target - shares @ atoms[taken]
    return dict(zip(taken, shares.tolist(), strict=True))


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def donor(pair: Pair, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    """Rows whose lengths differ, so that products and cosines choose differently."""
    lengths = torch.rand(len(pair.target), 1, generator=torch.Generator().manual_seed(seed)) + 0.5
    return drawn(len(pair.target), dim, seed=seed) * lengths


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("tile_bytes", [1, 1 << 16, 1 << 30])
def test_rows_equal_a_plain_loop(normalised, tile_bytes, monkeypatch):
    monkeypatch.setattr(module, "TILE_BYTES", tile_bytes)
    pair = toy_pair()
    rows = donor(pair)
    plan = omp(pair, rows, OmpConfig(k=8, normalised=normalised))
    text = [kind is Kind.NORMAL for kind in pair.target.kinds]
    shared = [i for i, match in enumerate(pair.matches) if match is not None and text[i]]
    made = [i for i, rule in enumerate(plan.origin) if rule == "omp"]
    assert len(made) > 200
    for i in made:
        expected = slow(rows[i].double().numpy(), rows[shared].double().numpy(), 8, normalised=normalised)
        found = plan.shares(i)
        assert found.keys() == {pair.matches[shared[place]] for place in expected}
        for place, share in expected.items():
            assert found[pair.matches[shared[place]]] == pytest.approx(share, rel=1e-3, abs=1e-4)


def test_products_and_cosines_choose_differently():
    pair = toy_pair()
    plans = [omp(pair, donor(pair), OmpConfig(k=3, normalised=n)) for n in (False, True)]
    assert [plans[0].shares(i).keys() == plans[1].shares(i).keys() for i in range(298)].count(False) > 50


@pytest.mark.parametrize("common", [0.0, 10.0])
def test_float32_chooses_and_fits_as_float64_after_many_steps(common):
    """Embedding rows share directions; directions that are made orthogonal only once drift apart here."""
    shift = common * drawn(100, seed=2)
    targets, atoms = drawn(20, 100, seed=0) + shift, drawn(300, 100, seed=1) + shift
    single = pursue(targets, atoms, OmpConfig(k=64))
    double = pursue(targets.double(), atoms.double(), OmpConfig(k=64))
    assert float((single[0] == double[0]).float().mean()) > 0.95
    made = [torch.einsum("rk,rkd->rd", c.float(), atoms[t]) for t, c in (single, double)]
    scale = (targets - made[1]).norm(dim=1)
    assert float(((made[0] - targets).norm(dim=1) / scale - 1).abs().max()) < 1e-3


def test_a_source_that_is_the_donor_gets_its_rows_back():
    """With as many shared tokens as dimensions a row is explained completely, so it comes back."""
    pair = toy_pair()
    rows = donor(pair, dim=8)
    source = drawn(len(pair.source), 8, seed=5)
    for i, match in enumerate(pair.matches):
        if match is not None:
            source[match] = rows[i]
    plan = omp(pair, rows, OmpConfig(k=16))
    made = plan.apply(source)
    new = [i for i, rule in enumerate(plan.origin) if rule == "omp"]
    torch.testing.assert_close(made[new], rows[new], rtol=1e-3, atol=1e-3)
    assert max(len(plan.shares(i)) for i in new) <= 8  # no direction is left after eight


def test_a_row_stops_when_it_is_explained():
    pair = toy_pair()
    rows = donor(pair)
    shared = [i for i, match in enumerate(pair.matches) if match is not None and pair.target.kinds[i] is Kind.NORMAL]
    new = [i for i, match in enumerate(pair.matches) if match is None]
    rows[new[0]] = 2 * rows[shared[0]]
    rows[new[1]] = 0
    plan = omp(pair, rows, OmpConfig(k=8))
    assert plan.shares(new[0]) == {pair.matches[shared[0]]: pytest.approx(2.0, rel=1e-5)}
    assert (plan.origin[new[1]], plan.shares(new[1])) == ("mean", {len(pair.source): 1.0})


def test_dependent_atoms_give_no_huge_coefficients():
    """Doubled shared rows: after one of them, the other has no direction of its own."""
    targets, atoms = drawn(10, 6, seed=0), drawn(5, 6, seed=1).repeat(2, 1)
    taken, coefficients = pursue(targets, atoms, OmpConfig(k=10))
    assert float(coefficients.abs().max()) < 100
    assert ((taken >= 0).sum(dim=1) == 5).all()
    best = torch.linalg.lstsq(atoms[:5].T, targets.T).solution.T @ atoms[:5]
    made = torch.einsum("rk,rkd->rd", coefficients, atoms[taken.clamp(min=0)])
    torch.testing.assert_close(made, best, rtol=1e-4, atol=1e-4)


def test_shared_tokens_are_copied_and_control_tokens_never_mixed_in():
    pair = toy_pair()
    plan = omp(pair, donor(pair), OmpConfig(k=8))
    shared = [i for i, match in enumerate(pair.matches) if match is not None]
    assert [plan.shares(i) for i in shared] == [{pair.matches[i]: 1.0} for i in shared]
    control = set(pair.source.control_ids())
    assert not {j for i, rule in enumerate(plan.origin) if rule == "omp" for j in plan.shares(i)} & control


def test_appended_tokens_need_no_donor_row_and_padded_rows_do_no_harm():
    source = toy_vocab(["a", "b", "c"])
    target = toy_vocab(["a", "b", "ab"], {})
    longer = target.__class__(
        (*target.tokens, b"", b"", b"c"),
        (*target.kinds, Kind.CONTROL, Kind.CONTROL, Kind.NORMAL),
        (*target.names, "<s>", "<pad>", "c"),
        {"bos": 3, "pad": 4},
    )
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]])
    for given in (rows, torch.cat([rows, 0.1 * torch.ones(5, 2)])):
        plan = omp(Pair(source, longer), given, OmpConfig(k=2))
        assert plan.origin == ("copy", "copy", "omp", "copy", "copy", "copy")
        assert plan.shares(2) == {2: pytest.approx(2.0), 3: pytest.approx(3.0)}


def test_bf16_donors_progress_and_double():
    pair, told = toy_pair(), []
    plan = omp(
        pair,
        donor(pair).bfloat16(),
        OmpConfig(k=4, double=True),
        progress=lambda done, of: told.append((done, of)),
    )
    assert told[-1] == (plan.origin.count("omp"),) * 2


def test_bad_input_is_refused():
    pair = toy_pair()
    with pytest.raises(BadOption, match="k is 0, expected at least 1"):
        OmpConfig(k=0)
    with pytest.raises(BadOption, match="tolerance is 1, expected at least 0 and below 1"):
        OmpConfig(tolerance=1.0)
    with pytest.raises(BadOption, match="k is 64, the two vocabularies share 43 text tokens") as error:
        omp(pair, donor(pair))
    assert error.value.hint == "take k = 43 or less"
    with pytest.raises(VocabMismatch, match="the donor has 250 rows, none for target token 250"):
        omp(pair, donor(pair)[:250], OmpConfig(k=4))
    with pytest.raises(BadOption, match="donor rows are int8, expected floats"):
        omp(pair, torch.zeros(300, 4, dtype=torch.int8))
