"""CW2V: convex weights learned by word2vec; the loss, the start, the negatives and the sparse plan."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.toy_vectors import dense, toy_pair

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch
from tokenlayer.transfer import baselines, softmax_rows
from tokenlayer.transfer import cw2v as cw2v_module
from tokenlayer.transfer.cw2v import ADAM_EPS, Cw2vConfig, batch_loss, cw2v
from tokenlayer.transfer.hull import check_hull
from tokenlayer.transfer.parts import Pair, untrained
from tokenlayer.transfer.skipgram import (
    Sampling,
    TokenStream,
    pair_batches,
    sgns_loss,
    with_replacement,
    without_replacement,
)
from tokenlayer.transfer.softmax_rows import SoftmaxRows, thin

DIM = 16
SMALL = Cw2vConfig(rank=32, epochs=2, batch=512, subsample=0.0, learning_rate=0.05)


def table(seed: int = 0) -> torch.Tensor:
    return torch.randn(200, DIM, generator=torch.Generator().manual_seed(seed))


def texts(seed: int = 0, without: tuple[int, ...] = ()) -> list[list[int]]:
    """All target tokens, then random texts of them; some tokens left out."""
    draw = np.random.default_rng(seed)
    known = np.setdiff1d(np.arange(2, 300), without)
    return [known.tolist(), *(draw.choice(known, size=draw.integers(2, 30)).tolist() for _ in range(60))]


def learned(pair: Pair) -> list[int]:
    return [i for i, row in enumerate(pair.settled(shared=True)[0]) if row is None]


def silent(said: str) -> None:
    pass


# --- the loss -------------------------------------------------------------------------------------------------------


def transcription(v, u, n, *, summed: bool) -> float:
    """The loss as the paper (or the reference code) writes it, a pair at a time."""
    total = 0.0
    for c, o, negatives in zip(v.double(), u.double(), n.double(), strict=True):
        products = [float(x @ c) for x in negatives]
        total -= np.log(1 / (1 + np.exp(-float(o @ c))))
        for product in [sum(products)] if summed else products:
            total -= np.log(1 / (1 + np.exp(product)))
    return total / len(v)


@pytest.mark.parametrize("summed", [False, True])
def test_the_loss_is_its_transcription(summed):
    generator = torch.Generator().manual_seed(0)
    v, u, n = (torch.randn(*shape, generator=generator) for shape in ((9, 5), (9, 5), (9, 4, 5)))
    assert float(sgns_loss(v, u, n, summed=summed)) == pytest.approx(transcription(v, u, n, summed=summed), rel=1e-5)
    assert transcription(v, u, n, summed=False) != pytest.approx(transcription(v, u, n, summed=True), rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_finite_differences(tied):
    old = table()[:12].double()
    inputs = SoftmaxRows(old.float(), 7, 4, init="mean", jitter=0.5, seed=1)
    outputs = inputs if tied else SoftmaxRows(old.float(), 7, 4, init="mean", jitter=0.5, seed=2)
    ids = torch.randint(0, 7, (6,)), torch.randint(0, 7, (6,)), torch.randint(0, 7, (6, 3))
    batch_loss(inputs, outputs, *ids, summed=False).backward()

    def slow(which, factor) -> float:
        tables = {id(m): torch.softmax(m.left.double() @ m.right.double(), 1) @ old for m in (inputs, outputs)}
        v, u = tables[id(inputs)], tables[id(outputs)]
        return transcription(v[ids[0]], u[ids[1]], u[ids[2]], summed=False)

    with torch.no_grad():
        for module in {inputs, outputs}:
            for factor in (module.left, module.right):
                for at in [(0, 0), (1, 2), (3, 3)]:
                    kept = float(factor[at])
                    factor[at] = kept + 1e-2
                    above = slow(module, factor)
                    factor[at] = kept - 1e-2
                    below = slow(module, factor)
                    factor[at] = kept
                    assert float(factor.grad[at]) == pytest.approx((above - below) / 2e-2, rel=2e-3, abs=2e-6)


# --- pairs and negatives --------------------------------------------------------------------------------------------


def test_pairs_are_all_neighbours_within_a_text():
    given = [[1, 2, 3, 4], [5], [], [6, 7], [1, 1, 8]]
    stream = TokenStream.of(given, 9)
    steps, batches = pair_batches(stream, Sampling(window=2, subsample=0.0, batch=4), np.random.default_rng(0))
    made = list(batches)
    assert len(made) == steps
    assert [len(c) for c, _ in made[:-1]] == [4] * (steps - 1)
    expected = [
        (text[i], text[j]) for text in given for i in range(len(text)) for j in range(len(text)) if 0 < abs(i - j) <= 2
    ]
    assert sorted((c, o) for cs, os in made for c, o in zip(cs.tolist(), os.tolist(), strict=True)) == sorted(expected)


def test_frequent_tokens_are_thinned_out_as_centres_only():
    stream = TokenStream.of([[0, 1] * 5000], 2)
    _, batches = pair_batches(stream, Sampling(subsample=1.0, batch=10), np.random.default_rng(0))
    centres, contexts = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert len(centres) / 10 == pytest.approx(2 * 5000**0.5, abs=5 * (2 * 5000**0.5) ** 0.5)
    assert set(contexts.tolist()) == {0, 1}


def test_negatives_follow_the_power_of_the_frequency_and_never_hit_the_context():
    counts = np.array([0, 1, 16, 81, 0])
    contexts = np.full(20_000, 3)
    drawn = with_replacement(counts, 5)(contexts, np.random.default_rng(0))
    assert drawn.shape == (20_000, 5)
    assert set(np.unique(drawn)) == {1, 2}
    share = 1 / (1 + 16**0.75)
    assert (drawn == 1).mean() == pytest.approx(share, abs=5 * (share / 1e5) ** 0.5)


def test_reference_negatives_are_distinct_over_the_batch():
    draw = without_replacement(np.array([0, *range(1, 61)]), 5)
    drawn = draw(np.zeros(12, np.int64), np.random.default_rng(0))
    assert sorted(drawn.flatten().tolist()) == list(range(1, 61))
    with pytest.raises(BadOption, match="draws 65 distinct tokens for a batch, 60 tokens occur"):
        draw(np.zeros(13, np.int64), np.random.default_rng(0))


# --- rows -----------------------------------------------------------------------------------------------------------


def test_some_rows_are_those_of_the_full_matrix(monkeypatch):
    old = table()
    rows = SoftmaxRows(old, 50, 8, init="reference", seed=3)
    full = torch.softmax(rows.left @ rows.right, dim=1) @ old
    ids = torch.tensor([4, 49, 0, 7, 7, 21])
    loss = (rows(ids) ** 2).sum()
    grads = torch.autograd.grad(loss, [rows.left, rows.right])
    expected = torch.autograd.grad((full[ids] ** 2).sum(), [rows.left, rows.right])
    torch.testing.assert_close(rows(ids), full[ids])
    torch.testing.assert_close(grads, expected)
    monkeypatch.setattr(softmax_rows, "TILE_BYTES", 4 * 200 * 2)
    tiled = torch.autograd.grad((rows(ids) ** 2).sum(), [rows.left, rows.right])
    torch.testing.assert_close(tiled, expected)


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_bf16_products_hardly_change_rows_or_gradients(keep, monkeypatch):
    monkeypatch.setattr(softmax_rows, "KEEP_BYTES", keep)
    monkeypatch.setattr(softmax_rows, "TILE_BYTES", 4 * 200 * 16)
    ids, found = torch.arange(50), []
    for products in ("float32", "bfloat16"):
        rows = SoftmaxRows(table() + 3, 50, 8, init="mean", jitter=0.7, seed=3, products=products)
        made = rows(ids)
        found.append([made.detach() - 3, *torch.autograd.grad((made[:, :3] ** 3).sum(), [rows.left, rows.right])])
        assert rows.weights(ids).dtype == made.dtype == torch.float32
    for exact, rounded in zip(*found, strict=True):
        assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.02


def test_weights_are_kept_for_the_backward_pass_only_if_they_fit(monkeypatch):
    rows, ids, made = SoftmaxRows(table(), 50, 8, init="mean", seed=3), torch.arange(50), []
    plain = softmax_rows._weights
    monkeypatch.setattr(softmax_rows, "_weights", lambda *factors: made.append(1) or plain(*factors))
    for keep, times in ((4 * 200 * 50, 1), (4 * 200 * 50 - 1, 2)):
        monkeypatch.setattr(softmax_rows, "KEEP_BYTES", keep)
        made.clear()
        rows(ids).sum().backward()
        assert len(made) == times


def test_pairs_in_parts_give_the_loss_and_gradients_of_all_at_once(monkeypatch):
    found = []
    for size in (7, 8192):
        monkeypatch.setattr(cw2v_module, "PAIRS_AT_A_TIME", size)
        rows = SoftmaxRows(table(), 50, 8, init="mean", jitter=0.5, seed=3)
        draw = torch.Generator().manual_seed(0)
        ids = [torch.randint(0, 50, shape, generator=draw) for shape in ((30,), (30,), (30, 4))]
        loss = batch_loss(rows, rows, *ids, summed=False)
        found.append((loss.detach(), *torch.autograd.grad(loss, [rows.left, rows.right])))
    torch.testing.assert_close(*found)


def test_rows_start_at_the_exact_mean_and_both_factors_learn_at_once():
    old = table()
    rows = SoftmaxRows(old, 50, 1024, init="mean", seed=3)
    torch.testing.assert_close(rows(torch.arange(50)), old.mean(dim=0).expand(50, -1))
    assert float(rows.left.detach().std()) == pytest.approx(1024**-0.5, rel=0.02)
    rows(torch.arange(50)).pow(2).sum().backward()
    assert bool(rows.right.grad.any())
    apart = SoftmaxRows(old, 50, 1024, init="mean", jitter=0.1, seed=3)
    logits = (apart.left @ apart.right).detach()
    assert float(logits.std()) == pytest.approx(0.1, rel=0.05)
    assert len(apart(torch.arange(50)).unique(dim=0)) == 50


def test_the_reference_start_gives_all_rows_much_the_same_few_tokens():
    """Products of Uniform[0, 1) factors: 3/7 of all logit variance, and 3/4 of that inside a row, is common to all."""
    rows = SoftmaxRows(torch.randn(4000, 4), 300, 1024, init="reference", seed=0)
    weights, logits = rows.weights(torch.arange(300)).detach(), (rows.left @ rows.right).detach()
    assert 2 < float((1 / weights.pow(2).sum(dim=1)).median()) < 60
    common = logits.mean(dim=0).var()
    assert float(common / logits.var()) == pytest.approx(3 / 7, rel=0.1)
    assert float(common / logits.var(dim=1).mean()) == pytest.approx(3 / 4, rel=0.1)


def test_weights_are_float32_under_autocast():
    rows = SoftmaxRows(table(), 5, 8, init="reference")
    expected = rows.weights(torch.arange(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rows.weights(torch.arange(5))
    assert torch.equal(found, expected)


# --- the sparse form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0])
@pytest.mark.parametrize("most", [0, 1, 5, 20, 60, 99])
def test_thin_rows_stay_convex_and_tell_what_they_moved(spread, most):
    logits = spread * torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    weights = torch.softmax(logits, dim=1)
    columns, shares, mean, moved = thin(weights, most, 1e-3)
    assert columns.shape == (40, min(most, 60))
    back = (mean[:, None] / 60).expand(40, 60).scatter_add(1, columns, shares)
    assert bool((shares >= 0).all() and (mean >= 0).all())
    torch.testing.assert_close(shares.sum(dim=1) + mean, torch.ones(40), rtol=0, atol=1e-6)
    torch.testing.assert_close((back - weights).abs().sum(dim=1), moved, rtol=1e-4, atol=3e-6)
    if most >= 60:
        assert float(moved.max()) <= 1e-3
    if spread == 0:
        assert bool((mean == 1).all())


def test_a_row_takes_no_more_entries_than_it_needs():
    weights = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]])
    _, shares, mean, moved = thin(weights, 4, 1e-6)
    assert (shares > 0).sum(dim=1).tolist() == [1, 2]
    torch.testing.assert_close(mean, torch.tensor([0.4, 0.4]))
    assert float(moved.max()) < 1e-6


# --- the whole ------------------------------------------------------------------------------------------------------


def test_shared_tokens_are_copied_and_the_others_are_convex():
    pair = toy_pair()
    found = cw2v(pair, table(), texts(), SMALL, warn=silent)
    origin = found.plan.origin
    assert [i for i, rule in enumerate(origin) if rule in ("cw2v", "unseen")] == learned(pair)
    shared = [i for i, match in enumerate(pair.matches) if match is not None]
    assert [found.plan.shares(i) for i in shared] == [{pair.matches[i]: 1.0} for i in shared]
    assert check_hull(found.plan).safe
    control = set(pair.source.control_ids())
    assert not {j for i in learned(pair) for j in found.plan.shares(i)} & control
    assert found.output_plan is None
    assert found.losses_nats[1] < found.losses_nats[0]
    assert found.moved <= SMALL.tail


def test_the_plan_gives_the_rows_that_were_learned():
    """Thin rows against all entries, which are exact up to float32."""
    pair = toy_pair()
    whole = cw2v(pair, table(), texts(), Cw2vConfig(**{**vars(SMALL), "tail": 0.0}), warn=silent)
    thinned = cw2v(pair, table(), texts(), Cw2vConfig(**{**vars(SMALL), "tail": 0.05}), warn=silent)
    assert whole.moved < 1e-6
    assert 1e-3 < thinned.moved <= 0.05
    assert thinned.plan.weights.values().numel() < whole.plan.weights.values().numel()
    rows = table()
    gap = (whole.plan.apply(rows) - thinned.plan.apply(rows)).norm(dim=1).max()
    assert float(gap) <= 0.05 * float(rows.norm(dim=1).max())


def test_a_small_budget_caps_the_entries_and_says_what_it_costs():
    pair = toy_pair()
    config = Cw2vConfig(**{**vars(SMALL), "plan_bytes": 12 * 4 * len(learned(pair))})
    found = cw2v(pair, table(), texts(), config, warn=silent)
    assert max(len(found.plan.shares(i)) for i in learned(pair)) <= 5
    assert found.moved > SMALL.tail
    assert check_hull(found.plan).safe


def test_tokens_that_the_text_lacks_stay_at_their_start_and_are_listed():
    pair = toy_pair()
    lacking = tuple(learned(pair)[:5])
    said: list[str] = []
    found = cw2v(pair, table(), texts(without=lacking), SMALL, warn=said.append)
    assert found.unseen == lacking
    assert [found.plan.origin[i] for i in lacking] == ["unseen"] * 5
    assert [found.plan.shares(i) for i in lacking] == [{len(pair.source): 1.0}] * 5
    named = f"5 of {len(learned(pair))} new tokens are not in the text and stay at their start: "
    assert said == [named + ", ".join(pair.target.label(i) for i in lacking[:3])]
    seen = [i for i in learned(pair) if i not in lacking]
    assert all(found.plan.shares(i).keys() != {len(pair.source)} for i in seen)


def test_rows_go_to_the_neighbours_of_their_tokens():
    """Two new tokens, each beside one of two groups of known tokens: their rows end up on the side of that group."""
    pair = toy_pair()
    one, other = learned(pair)[:2]
    shared = [i for i, m in enumerate(pair.matches) if m is not None and i > 1]
    groups = shared[:4], shared[4:8]
    rows = 0.3 * table()
    for group, axis in zip(groups, (0, 1), strict=True):
        rows[[pair.matches[i] for i in group], axis] += 3
    draw = np.random.default_rng(0)
    stream = [
        [new if n % 2 else int(draw.choice(group)) for n in range(20)]
        for new, group in zip((one, other) * 40, groups * 40, strict=True)
    ]
    stream += [draw.choice(shared[8:], size=20).tolist() for _ in range(150)]  # what the negatives come from
    config = Cw2vConfig(rank=32, epochs=3, batch=256, subsample=0.0, learning_rate=0.03)
    made = cw2v(pair, rows, stream, config, warn=silent).plan.apply(rows)
    centres = [rows[[pair.matches[i] for i in group]].mean(dim=0) for group in groups]
    for new, own, far in ((one, 0, 1), (other, 1, 0)):
        assert float(made[new] @ centres[own]) > 0.5
        assert float(made[new] @ centres[far]) < -0.2


def test_a_small_epsilon_is_needed_at_the_mean_start():
    """Gradients there are about 1 / vocab^2: with torch's 1e-8 the weights hardly move."""

    def spread(eps: float) -> float:
        rows = SoftmaxRows(
            0.02 * torch.randn(5000, 8, generator=torch.Generator().manual_seed(0)), 300, 64, init="mean"
        )
        adam = torch.optim.Adam(rows.parameters(), lr=1e-2, eps=eps)
        ids = torch.arange(300)
        for _ in range(3):
            adam.zero_grad()
            batch_loss(rows, rows, ids, ids.roll(1), ids[:, None].roll(7, 0), summed=False).backward()
            adam.step()
        return float((rows.left @ rows.right).detach().std())

    assert spread(ADAM_EPS) > 10 * spread(1e-8)


def test_untied_models_get_a_plan_for_each_table():
    pair = toy_pair()
    found = cw2v(pair, table(), texts(), SMALL, output_rows=table(1), warn=silent)
    assert found.output_plan is not None
    assert found.output_plan.origin == found.plan.origin
    assert not np.allclose(dense(found.plan), dense(found.output_plan), atol=1e-3)
    assert check_hull(found.output_plan).safe


def test_the_same_seed_gives_the_same_plan():
    pair = toy_pair()
    plans = [cw2v(pair, table(), texts(), SMALL, seed=s, warn=silent).plan for s in (0, 0, 1)]
    assert np.array_equal(dense(plans[0]), dense(plans[1]))
    assert not np.array_equal(dense(plans[0]), dense(plans[2]))


def test_the_reference_settings_run_and_stay_convex():
    config = Cw2vConfig(rank=32, epochs=1, batch=16, init="reference", negatives="reference")
    found = cw2v(toy_pair(), table(), texts(), config, warn=silent)
    assert check_hull(found.plan).safe
    with pytest.raises(BadOption, match="negatives 'reference' draws 20480 distinct tokens for a batch") as error:
        cw2v(toy_pair(), table(), texts() * 20, Cw2vConfig(negatives="reference", subsample=0.0), warn=silent)
    assert "negatives 'canonical', or a batch of at most" in error.value.hint


def test_progress_is_told_and_bf16_rows_are_taken():
    told: list[tuple[int, int]] = []
    config = Cw2vConfig(**{**vars(SMALL), "epochs": 1})
    cw2v(
        toy_pair(), table().bfloat16(), texts(), config, warn=silent, progress=lambda n, of, loss: told.append((n, of))
    )
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]


def test_a_target_without_new_tokens_is_copied():
    pair = toy_pair()
    found = cw2v(Pair(pair.source, pair.source), table(), texts(without=tuple(range(200, 300))), SMALL)
    assert set(found.plan.origin) == {"copy"}
    assert found.losses_nats == ()


def test_a_rank_above_the_source_is_clipped_with_a_warning():
    said: list[str] = []
    cw2v(toy_pair(), table(), texts(), Cw2vConfig(epochs=1), warn=said.append)
    assert said == ["rank is 1024, the source has 198 ordinary tokens: rank 198 says as much"]


def test_rows_that_were_never_trained_take_no_part():
    """A table in which 40 tokens share one far row and two are zero: the mean start would be drawn there."""
    pair, rows = toy_pair(), table()
    ids = pair.support
    rows[ids[:40]], rows[ids[40:42]] = 100.0, 0.0
    out = untrained(rows, ids)
    assert out == frozenset(ids[:42])
    kept = replace(pair, left_out=out)
    found = cw2v(kept, rows, texts(), SMALL, warn=silent)
    assert not {j for i in learned(pair) for j in found.plan.shares(i)} & out
    assert float(found.plan.apply(rows)[learned(pair)].abs().max()) < 5
    assert float(baselines.copy(pair).apply(rows)[learned(pair)].abs().max()) > 10
    assert check_hull(found.plan).safe
    for plan in (baselines.copy(kept), baselines.gaussian(kept, kind="gaussian-full")):
        assert float(plan.apply(rows)[learned(pair)].abs().max()) < 10


def test_a_full_gaussian_needs_no_full_covariance():
    """Fewer distinct rows than dimensions: there is no Cholesky factor, and no noise where there is no spread."""
    pair, rows = toy_pair(), table()[:, :1] * torch.ones(1, DIM)
    made = baselines.gaussian(pair, kind="gaussian-full").apply(rows)[learned(pair)]
    assert bool(made.isfinite().all())
    torch.testing.assert_close(made, made[:, :1].expand(-1, DIM), rtol=0, atol=1e-3)


def test_progress_counts_the_steps_of_all_passes():
    told: list[tuple[int, int]] = []
    cw2v(toy_pair(), table(), texts(), SMALL, warn=silent, progress=lambda n, of, loss: told.append((n, of)))
    assert [n for n, _ in told] == list(range(1, len(told) + 1))
    assert {of for _, of in told} == {len(told)}


def test_the_fast_preset_learns_more_than_the_defaults_in_fewer_steps():
    given = {"negatives_per_pair": 2, "subsample": 0.0}
    found, steps = {}, {}
    for name, config in {"paper": Cw2vConfig(), "fast": Cw2vConfig.fast()}.items():
        told: list[int] = []
        made = cw2v(
            toy_pair(), table(), texts() * 20, replace(config, **given), warn=silent,
            progress=lambda n, of, loss, told=told: told.append(n),
        )  # fmt: skip
        found[name], steps[name] = made.losses_nats[-1], told[-1]
        assert check_hull(made.plan).safe
    assert steps["fast"] < steps["paper"] / 8
    assert found["fast"] < found["paper"]


def test_bad_input_is_refused():
    pair = toy_pair()
    with pytest.raises(VocabMismatch, match="the token stream holds id 300, the target has ids 0 to 299"):
        cw2v(pair, table(), [[3, 300]], SMALL)
    with pytest.raises(BadText, match="none of the 2 texts has two tokens"):
        cw2v(pair, table(), [[3], []], SMALL)
    with pytest.raises(BadText, match="the token stream has 1 distinct tokens"):
        cw2v(pair, table(), [[3, 3, 3]], SMALL, warn=silent)
    with pytest.raises(VocabMismatch, match="rows has 199 rows, the source has 200 tokens"):
        cw2v(pair, table()[:199], texts(), SMALL)
    with pytest.raises(BadOption, match="learning_rate is 0, expected above 0"):
        Cw2vConfig(learning_rate=0.0)
    with pytest.raises(BadOption, match="rank is 0, expected at least 1"):
        Cw2vConfig(rank=0)
    with pytest.raises(BadOption, match="tail is -1, expected at least 0"):
        Cw2vConfig(tail=-1.0)
    with pytest.raises(BadOption, match="init is 'refrence', expected one of: mean, reference"):
        Cw2vConfig(init="refrence")
    with pytest.raises(BadOption, match="products is 'fp8', expected one of: float32, bfloat16"):
        Cw2vConfig(products="fp8")
    with pytest.raises(BadOption, match="jitter and init 'reference' exclude each other"):
        Cw2vConfig(init="reference", jitter=0.1)


def test_quantised_rows_are_refused_with_a_hint():
    with pytest.raises(BadOption, match="output_rows are int8, expected floats: they look quantised"):
        cw2v(toy_pair(), table(), texts(), SMALL, output_rows=torch.zeros(200, DIM, dtype=torch.int8))


def test_defaults_are_the_papers():
    config = Cw2vConfig()
    assert (config.rank, config.window, config.negatives_per_pair, config.epochs) == (1024, 5, 5, 5)
    assert (config.batch, config.learning_rate, config.weight_decay) == (4096, 3e-4, 0.0)
