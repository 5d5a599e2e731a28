import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import VocabMismatch
from tokenlayer.core.rowplan import Noise, RowPlan


@st.composite
def plans(draw):
    n_old, n_new, dim = (draw(st.integers(1, 6)) for _ in range(3))
    share = st.floats(-2, 2, width=32)
    rows = [draw(st.dictionaries(st.integers(0, n_old), share, max_size=3)) for _ in range(n_new)]
    support = draw(st.lists(st.integers(0, n_old - 1), min_size=1, max_size=4, unique=True))
    return rows, n_old, dim, support, draw(st.integers(0, 2**32 - 1))


@given(plans())
def test_apply_equals_the_plain_sum(case):
    rows, n_old, dim, support, seed = case
    old = torch.randn(n_old + 2, dim, generator=torch.Generator().manual_seed(seed))
    plan = RowPlan.from_rows(rows, ["pieces"] * len(rows), n_old, support)
    known = torch.cat([old[:n_old], old[support].mean(dim=0, keepdim=True)])
    slow = torch.stack([sum((w * known[j] for j, w in row.items()), torch.zeros(dim)) for row in rows])
    torch.testing.assert_close(plan.apply(old), slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_copied_row_is_copied_bit_for_bit(dtype):
    old = torch.randn(5, 7).to(dtype)
    new = RowPlan.from_rows([{4: 1.0}, {0: 1.0}], ["copy", "copy"], 5).apply(old)
    assert torch.equal(new, old[[4, 0]])
    assert new.dtype == dtype


def test_padded_rows_of_the_source_take_no_part_in_the_mean():
    old = torch.tensor([[1.0], [3.0], [1e6]])
    assert RowPlan.from_rows([{2: 1.0}], ["mean"], 2).apply(old).tolist() == [[2.0]]


def test_mixing_happens_in_float32():
    old = torch.full((3, 1), 1.0, dtype=torch.bfloat16)
    old[1:] = 2**-9  # lost one by one in bfloat16, not in float32
    mixed = RowPlan.from_rows([{0: 1.0, 1: 1.0, 2: 1.0}], ["pieces"], 3).apply(old)
    assert mixed.item() == pytest.approx(1 + 2**-8, abs=2**-8)
    assert mixed.item() != 1.0 or torch.tensor(1 + 2**-8).bfloat16().item() == 1.0


def test_padding_appends_rows_that_never_win():
    plan = RowPlan.from_rows([{0: 1.0}, {1: 1.0}], ["copy", "copy"], 2).padded(5)
    assert plan.origin == ("copy", "copy", "padding", "padding", "padding")
    new = plan.apply(torch.tensor([[1.0, -3.0], [3.0, -1.0]]))
    assert new[2:].tolist() == [[2.0, -2.0]] * 3
    for hidden in torch.randn(50, 2, generator=torch.Generator().manual_seed(0)):
        assert (new @ hidden).argmax() < 2
    assert plan.counts() == {"padding": 3, "copy": 2}


@pytest.mark.parametrize("kind", ["univariate", "multivariate"])
def test_noise_has_the_mean_and_spread_of_the_support(kind):
    n, dim = 20_000, 3
    base = torch.randn(500, dim, generator=torch.Generator().manual_seed(1))
    old = torch.cat(
        [base @ torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 2.0]]) + 5, torch.full((1, dim), 1e4)]
    )
    noise = Noise(torch.arange(n), kind, 1.0, seed=7)
    drawn = RowPlan.from_rows([{501: 1.0}] * n, ["gaussian"] * n, 501, range(500), noise).apply(old)
    mean, cov = old[:500].mean(dim=0), torch.cov(old[:500].T, correction=0)
    error = 5 * cov.diagonal().sqrt() / n**0.5  # five standard errors
    assert ((drawn.mean(dim=0) - mean).abs() < error).all()
    found = torch.cov(drawn.T)
    wanted = cov if kind == "multivariate" else cov.diagonal().diag()
    spread = torch.outer(cov.diagonal(), cov.diagonal()).sqrt() * 5 * (2 / n) ** 0.5
    assert ((found - wanted).abs() < spread).all()


def test_same_seed_same_noise_and_other_rows_untouched():
    old = torch.randn(4, 3)
    noise = Noise(torch.tensor([1]), "univariate", 1.0, seed=3)
    make = lambda: RowPlan.from_rows([{0: 1.0}, {4: 1.0}], ["copy", "gaussian"], 4, noise=noise).apply(old)  # noqa: E731
    assert torch.equal(make(), make())
    assert torch.equal(make()[0], old[0])


def test_refusals_name_what_is_wrong():
    with pytest.raises(VocabMismatch, match="row 1 of the plan uses source token 9, the source has ids 0 to 2"):
        RowPlan.from_rows([{0: 1.0}, {9: 1.0}], ["copy", "copy"], 3)
    with pytest.raises(VocabMismatch, match="made for 3 source tokens, the model has 2 rows"):
        RowPlan.from_rows([{0: 1.0}], ["copy"], 3).apply(torch.ones(2, 1))
    with pytest.raises(VocabMismatch, match="1 rows but 2 origins"):
        RowPlan.from_rows([{0: 1.0}], ["copy", "copy"], 3)
    with pytest.raises(VocabMismatch, match="cannot pad a plan of 2 rows to 1"):
        RowPlan.from_rows([{}, {}], ["x", "x"], 3).padded(1)
