"""The convex hull: which plans are safe, and what greedy decoding does."""

import pytest
import torch
from tests.toy_vectors import toy_pair, toy_texts, toy_vectors

from tokenlayer.core.errors import VocabMismatch
from tokenlayer.core.rowplan import Noise, RowPlan
from tokenlayer.transfer import baselines
from tokenlayer.transfer.hull import check_hull, greedy_changes
from tokenlayer.transfer.ofa import OfaConfig, ofa
from tokenlayer.transfer.pieces import pieces

OLD, DIM = 300, 32


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noisy_plan(kind: str, scale: float, new: int = 200) -> RowPlan:
    """Appended tokens drawn around the mean row."""
    noise = Noise(torch.arange(new), kind, scale, 0)
    return RowPlan.from_rows([{OLD: 1.0}] * new, ["x"] * new, OLD, None, noise)


def convex_plan(seed: int, new: int = 200) -> RowPlan:
    """Mixtures of few and of many rows, copies, and the mean."""
    generator = torch.Generator().manual_seed(seed)
    rows = [{OLD: 1.0}, {7: 1.0}]
    for n in range(2, new):
        ids = torch.randperm(OLD, generator=generator)[: 2 + n % 40].tolist()
        shares = torch.rand(len(ids), generator=generator) ** 8
        rows.append(dict(zip(ids, (shares / shares.sum()).tolist(), strict=True)))
    return RowPlan.from_rows(rows, ["x"] * new, OLD)


def test_mixtures_are_safe_and_never_win():
    plan, old = convex_plan(0), draw(OLD, DIM, seed=1)
    assert check_hull(plan).safe
    found = greedy_changes(draw(10_000, DIM, seed=2), old, plan.apply(old))
    assert (found.positions, found.changed, found.share) == (10_000, 0, 0.0)


def test_rows_rounded_to_bf16_win_by_rounding_only():
    old = draw(OLD, DIM, seed=1).bfloat16()
    found = greedy_changes(draw(10_000, DIM, seed=2), old, convex_plan(0).apply(old))
    assert found.changed == 0
    assert found.largest_gain < 0.5


def test_full_covariance_changes_many_positions_and_a_small_one_none():
    old, hidden = draw(OLD, DIM, seed=1), draw(10_000, DIM, seed=2)
    full = greedy_changes(hidden, old, noisy_plan("multivariate", 1.0).apply(old))
    assert 0.2 < full.share < 0.6
    near = greedy_changes(hidden, old, noisy_plan("multivariate", 1e-5**0.5).apply(old))
    assert (near.changed, near.by_rounding) == (0, 0)


def test_random_rows_depend_on_the_norms():
    hidden, new = draw(10_000, DIM, seed=2), 0.02 * draw(200, DIM, seed=3)
    assert greedy_changes(hidden, 0.02 * draw(OLD, DIM, seed=1), new).share > 0.2
    assert greedy_changes(hidden, draw(OLD, DIM, seed=1), new).changed == 0


def test_a_plan_says_which_rows_are_not_safe():
    noise = Noise(torch.tensor([4]), "univariate", 1.0, 0)
    rows = [{0: 0.5, 1: 0.5}, {0: 1.5, 1: -0.5}, {0: 0.4, 3: 0.4}, {}, {3: 1.0}]
    found = check_hull(RowPlan.from_rows(rows, ["x"] * 5, 3, None, noise))
    assert (found.negative, found.unnormalised, found.noisy) == ((1,), (2, 3), (4,))
    assert found.unsafe == (1, 2, 3, 4)
    assert found.sentence() == (
        "4 of 5 rows may leave the convex hull of the old rows: 1 have negative shares, 2 have shares that do not sum "
        "to 1, 1 have noise"
    )
    assert check_hull(convex_plan(0)).sentence() == (
        "all 200 rows are mixtures of old rows: greedy decoding cannot change"
    )


def test_the_mean_of_no_rows_is_no_mixture():
    assert check_hull(RowPlan.from_rows([{3: 1.0}], ["mean"], 3, [])).unnormalised == (0,)


def test_initialisers_are_what_the_card_says():
    pair = toy_pair()
    vectors = toy_vectors([*toy_texts(150, 5), *"abcdeé"], 0)
    safe = [pieces(pair), baselines.mean(pair), baselines.copy(pair), ofa(pair, vectors, OfaConfig(ngrams=True))]
    assert [check_hull(plan).safe for plan in safe] == [True] * 4
    drawn = [baselines.random(pair), baselines.gaussian(pair), baselines.gaussian(pair, kind="gaussian-full")]
    assert [check_hull(plan).safe for plan in drawn] == [False] * 3


def test_the_output_bias_must_not_be_above_its_mixture():
    plan, old, hidden = convex_plan(0), draw(OLD, DIM, seed=1), draw(10_000, DIM, seed=2)
    bias, rows = draw(OLD, seed=4), plan.apply(old)
    mixed = plan.apply(bias[:, None])[:, 0]
    assert check_hull(plan, old_bias=bias, new_bias=mixed).safe
    assert check_hull(plan, old_bias=bias, new_bias=mixed - 1).safe
    assert greedy_changes(hidden, old, rows, old_bias=bias, new_bias=mixed).changed == 0
    raised = mixed.clone()
    raised[:100] += 5
    assert check_hull(plan, old_bias=bias, new_bias=raised).raised == tuple(range(100))
    assert greedy_changes(hidden, old, rows, old_bias=bias, new_bias=raised).changed > 0
    assert greedy_changes(hidden, old, rows, old_bias=bias, new_bias=None).by_rounding >= 0


def test_tiles_change_nothing(monkeypatch):
    old, hidden = draw(OLD, DIM, seed=1), draw(1000, DIM, seed=2)
    rows = noisy_plan("multivariate", 1.0).apply(old)
    whole = greedy_changes(hidden, old, rows)
    monkeypatch.setattr("tokenlayer.transfer.hull.TILE_BYTES", 4 * OLD * 7)
    assert greedy_changes(hidden, old, rows).changed == whole.changed > 0


def test_tables_that_do_not_fit_are_refused():
    old, hidden = draw(OLD, DIM, seed=1), draw(10, DIM, seed=2)
    with pytest.raises(VocabMismatch, match="hidden states, old rows and new rows are 32, 32 and 31 wide"):
        greedy_changes(hidden, old, draw(5, 31, seed=0))
    with pytest.raises(VocabMismatch, match="there are 300 old and 0 new rows"):
        greedy_changes(hidden, old, old[:0])
    with pytest.raises(VocabMismatch, match="the old bias has 3 numbers for 300 rows"):
        greedy_changes(hidden, old, old, old_bias=torch.zeros(3))
    with pytest.raises(VocabMismatch, match="the bias of only one side is given"):
        check_hull(convex_plan(0), old_bias=torch.zeros(OLD))
    with pytest.raises(VocabMismatch, match="the new bias has 3 numbers, the plan has 200 rows"):
        check_hull(convex_plan(0), old_bias=torch.zeros(OLD), new_bias=torch.zeros(3))
