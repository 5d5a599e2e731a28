"""The lazy program against the whole one written out, and what it must give where the answer is known."""

from collections import Counter

import numpy as np
import pytest
from tests.tokenizer.mixture.bpe_toys import text_of, trained

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.data.counts import PretokenCounts
from tokenlayer.tokenizer.mixture.competition import MILLION, Competition
from tokenlayer.tokenizer.mixture.config import MixtureConfig
from tokenlayer.tokenizer.mixture.counting import count_texts, cut_of, model_words
from tokenlayer.tokenizer.mixture.infer import infer_mixture
from tokenlayer.tokenizer.mixture.program import solve
from tokenlayer.tokenizer.mixture.replay import replay
from tokenlayer.tokenizer.mixture.rules import read_rules
from tokenlayer.tokenizer.mixture.solvers import make_solver

NAMES = ("one", "two", "three")


def transcripts_of(tokenizer, texts):
    rules, cut = read_rules(tokenizer), cut_of(tokenizer)
    return rules, {name: replay(model_words(count_texts([text], cut), cut), rules) for name, text in texts.items()}


@pytest.fixture(scope="module")
def toy():
    """A tokenizer from uneven parts of three categories, and other text of the same categories."""
    tokenizer = trained([text_of(n, size) for n, size in zip(NAMES, (4000, 2000, 1000), strict=True)], merges=30)
    return transcripts_of(tokenizer, {name: text_of(name, 3000, seed=1) for name in NAMES})


def whole_program(rules, transcripts):
    """All rows and all slacks at once, in shares of pairs, from the counts after each merge."""
    from scipy.optimize import linprog

    totals = [t.total for t in transcripts.values()]
    counts = [[t.counts_at(step) for t in transcripts.values()] for step in range(len(rules))]
    pairs = sorted({pair for at in counts for one in at for pair in one})
    place = {pair: n for n, pair in enumerate(pairs)}
    k, steps = len(totals), len(rules)
    rows = []
    for step, (left, right) in enumerate(zip(rules.left, rules.right, strict=True)):
        mine = [one.get((left, right), 0) for one in counts[step]]
        if not any(mine):
            continue
        for pair in {pair for one in counts[step] for pair in one} - {(left, right)}:
            row = np.zeros(k + steps + len(pairs))
            row[:k] = [(a - one.get(pair, 0)) / n for a, one, n in zip(mine, counts[step], totals, strict=True)]
            row[k + step] = row[k + steps + place[pair]] = 1
            rows.append(row)
    costs = np.repeat([0.0, 1.0], [k, steps + len(pairs)])
    simplex = (costs == 0).astype(float)[None]
    bounds = [(0, 1)] * k + [(0, None)] * (steps + len(pairs))
    return linprog(costs, -np.array(rows), np.zeros(len(rows)), simplex, [1.0], bounds, method="highs")


@pytest.mark.parametrize("solver", ["highspy", "scipy"])
@pytest.mark.parametrize("per_round", [3, 4000])
def test_lazy_rows_reach_the_optimum_of_the_whole_program(toy, solver, per_round):
    pytest.importorskip(solver)
    rules, transcripts = toy
    whole = whole_program(rules, transcripts)
    found = solve(Competition(transcripts, rules), MixtureConfig(per_round=per_round, range_slack=0.0), solver=solver)
    assert whole.fun > 1e-4
    assert found.objective == pytest.approx(whole.fun, abs=1e-9)
    assert found.gap == 0
    assert found.shares.sum() == pytest.approx(1)


def test_each_pair_has_one_slack_for_all_steps(toy):
    rules, transcripts = toy
    found = solve(Competition(transcripts, rules), MixtureConfig(range_slack=0.0))
    assert found.merge_slack.shape == (len(rules),)
    assert found.pair_slack.shape == (len(Competition(transcripts, rules).pairs),)
    assert found.pair_slack.max() > 0


def test_own_training_text_needs_no_slack_at_the_true_mixture():
    texts = {"one": text_of("one", 4000), "two": text_of("two", 2000)}
    tokenizer = trained(texts.values(), merges=50)
    rules, transcripts = transcripts_of(tokenizer, texts)
    competition = Competition(transcripts, rules)
    totals = np.array([t.total for t in transcripts.values()], float)
    true = totals / totals.sum()
    none = np.zeros(len(rules)), np.zeros(len(competition.pairs))
    assert not len(competition.excesses(true, *none, 1e-6).step)
    assert len(competition.excesses(true[::-1].copy(), *none, 1e-6).step)
    found = infer_mixture(tokenizer, {name: [text] for name, text in texts.items()})
    assert found.solution.objective == pytest.approx(0, abs=1e-12)
    low, high = found.ranges.T
    sizes = np.array(found.sample_bytes) / sum(found.sample_bytes)
    assert np.all(low - 1e-6 <= sizes)
    assert np.all(sizes <= high + 1e-6)


@pytest.mark.parametrize("depth", [1, 3])
def test_excesses_are_all_leads(toy, depth):
    """Every (merge, pair) that leads is covered by an entry of its pair that leads at least as much."""
    rules, transcripts = toy
    competition = Competition(transcripts, rules)
    shares = np.array([0.7, 0.2, 0.1])
    draw = np.random.default_rng(0)
    merge_slack, pair_slack = draw.uniform(0, 2000, len(rules)), draw.uniform(0, 9000, len(competition.pairs))
    found = competition.excesses(shares, merge_slack, pair_slack, 1e-6, depth=depth)
    assert len({(s, p) for s, p in zip(found.step, found.pair, strict=True)}) == len(found.step)
    best = {}
    for step, pair, by in zip(found.step, found.pair, found.by, strict=True):
        key = int(competition.pairs[pair])
        best[key] = max(best.get(key, 0), by)
    slow = {}
    for step in range(len(rules)):
        counts = [{k: v * MILLION / t.total for k, v in t.counts_at(step).items()} for t in transcripts.values()]
        mix = {p: sum(a * c.get(p, 0) for a, c in zip(shares, counts, strict=True)) for c in counts for p in c}
        bar = mix.get((rules.left[step], rules.right[step]), 0) + merge_slack[step]
        for (left, right), value in mix.items():
            key = (left << 32) + right
            lead = value - pair_slack[np.searchsorted(competition.pairs, key)] - bar
            if lead > 1e-6:
                slow[key] = max(slow.get(key, 0), lead)
    assert slow == pytest.approx(best, rel=1e-9)
    assert len(slow) > 5


def test_a_merge_that_no_sample_has_does_not_compete():
    tokenizer = trained([text_of("one"), "zz " * 900, text_of("two")], merges=30)
    rules, transcripts = transcripts_of(tokenizer, {name: text_of(name) for name in ("one", "two")})
    competition = Competition(transcripts, rules)
    labels = [rules.label(int(at)) for at in competition.missing]
    assert "z + z" in labels
    assert not competition.competes[competition.missing].any()
    assert solve(competition, MixtureConfig()).merge_slack[competition.missing].max() == 0


def test_the_first_pair_is_no_missing_merge(toy):
    rules, transcripts = toy
    competition = Competition(transcripts, rules)
    first = np.flatnonzero(competition.merge_pair == 0)
    assert set(first).isdisjoint(competition.missing)
    assert len(competition.missing) == 0


def test_late_merges_count_although_their_shares_are_small():
    """Only the last merges tell the two categories apart, at a few millionths of all pairs."""
    filler = Counter({"mm": 3_000_000})
    samples = {
        "one": PretokenCounts({"0": filler + Counter(ab=4)}, Counter({"0": 6_000_008})),
        "two": PretokenCounts({"0": filler + Counter(cd=6)}, Counter({"0": 6_000_012})),
    }
    tokenizer = trained(["mm mm mm mm ab ab ab cd cd"], merges=5)
    found = infer_mixture(tokenizer, samples)
    assert found.shares[0] > 0.59  # ab wins when 4 a >= 6 (1 - a)
    assert found.solution.objective < 1e-12


def test_equal_counts_violate_nothing():
    tokenizer = trained(["ab ab cd cd"], merges=2)
    found = infer_mixture(tokenizer, {"one": ["ab ab cd cd"], "two": ["ab cd"]})
    assert found.solution.objective == 0
    assert found.solution.rounds == 0


def test_shares_in_bytes_pairs_and_tokens():
    texts = {"one": text_of("one", 4000), "two": text_of("two", 2000)}
    tokenizer = trained(texts.values(), merges=50)
    samples = {name: [text] for name, text in texts.items()}
    found = {unit: infer_mixture(tokenizer, samples, MixtureConfig(unit=unit)) for unit in ("bytes", "pairs", "tokens")}
    alpha = found["pairs"].shares
    encoded = [len(tokenizer.encode(text)) for text in texts.values()]
    _, transcripts = transcripts_of(tokenizer, texts)
    pairs = np.array([t.total for t in transcripts.values()])
    for unit, amounts in (("bytes", [len(t) for t in texts.values()]), ("tokens", encoded)):
        wanted = alpha * np.array(amounts) / pairs
        assert found[unit].shares == pytest.approx(wanted / wanted.sum())


def test_alike_categories_have_a_wide_range():
    tokenizer = trained([text_of("one", 4000), text_of("two", 4000)], merges=40)
    same = text_of("one", 3000, seed=1)
    found = infer_mixture(tokenizer, {"one": [same], "again": [same], "two": [text_of("two", 3000, seed=1)]})
    low, high = found.ranges.T
    assert high[0] - low[0] > 0.3
    assert high[2] - low[2] < 0.2
    assert np.all(low - 1e-6 <= found.shares)
    assert np.all(found.shares <= high + 1e-6)


def test_recovers_shares_from_other_text_better_than_even():
    sizes = {"one": 30_000, "two": 10_000, "three": 5000}
    tokenizer = trained([text_of(n, size) for n, size in sizes.items()], merges=80)
    found = infer_mixture(tokenizer, {name: [text_of(name, 30_000, seed=2)] for name in sizes})
    true = np.array(list(sizes.values())) / sum(sizes.values())
    assert np.mean((found.shares - true) ** 2) < 0.01 * np.mean((1 / 3 - true) ** 2)
    assert np.mean((found.baseline - true) ** 2) > np.mean((found.shares - true) ** 2)


def test_bootstrap_is_seeded_and_brackets():
    texts = {name: text_of(name, 6000, seed=1).split("\n") for name in ("one", "two")}
    tokenizer = trained([text_of("one", 4000), text_of("two", 2000)], merges=40)
    one, again, other = (
        infer_mixture(tokenizer, texts, MixtureConfig(bootstrap=4, seed=seed, range_slack=0.0)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.draws, again.draws)
    assert not np.array_equal(one.draws, other.draws)
    assert one.draws.sum(1) == pytest.approx(np.ones(4))
    low, high = one.interval().T
    assert np.all(low <= high)


def test_one_category_is_all():
    found = infer_mixture(trained([text_of("one")]), {"one": [text_of("one", seed=1)]})
    assert found.as_dict() == {"one": 1.0}


def test_a_time_limit_ends_with_a_gap(toy):
    rules, transcripts = toy
    found = solve(Competition(transcripts, rules), MixtureConfig(per_round=2, seconds=1e-9, range_slack=0.0))
    whole = solve(Competition(transcripts, rules), MixtureConfig(range_slack=0.0))
    assert found.rounds == 1
    assert found.objective <= whole.objective <= found.objective + found.gap


def test_a_wanted_gap_ends_before_the_optimum(toy):
    rules, transcripts = toy
    competition = Competition(transcripts, rules)
    found = solve(competition, MixtureConfig(per_round=20, gap=0.5, range_slack=0.0))
    whole = solve(competition, MixtureConfig(per_round=20, range_slack=0.0))
    assert found.rounds < whole.rounds
    assert 0 < found.gap <= 0.5 * found.objective
    assert found.objective <= whole.objective <= found.objective + found.gap


def test_earlier_merges_say_nothing_when_left_out(toy):
    rules, transcripts = toy
    found = solve(Competition(transcripts, rules, first_merge=20), MixtureConfig(range_slack=0.0))
    assert found.merge_slack[:20].max() == 0
    assert found.objective < solve(Competition(transcripts, rules), MixtureConfig(range_slack=0.0)).objective


def test_what_is_refused():
    tokenizer = trained([text_of("one")])
    with pytest.raises(BadText, match="category 'two' has no text"):
        infer_mixture(tokenizer, {"one": [text_of("one")], "two": [" "[:0]]})
    with pytest.raises(BadText, match="category 'two' has none of the 60 merges"):
        infer_mixture(tokenizer, {"one": [text_of("one")], "two": ["日本語"]})
    with pytest.raises(BadText, match="none of the 60 merges occurs in any category"):
        infer_mixture(tokenizer, {"one": ["xyz"], "two": ["日本語"]})
    with pytest.raises(BadOption, match="no category was given"):
        infer_mixture(tokenizer, {})
    with pytest.raises(BadOption, match="first_merge is 100, the tokenizer has 60 merges"):
        infer_mixture(tokenizer, {"one": ["a"]}, MixtureConfig(first_merge=100))
    with pytest.raises(BadOption, match="solver is 'gurobi'"):
        make_solver(2, "gurobi")
    for bad in ({"merges": 0}, {"first_merge": 30_000}, {"parts": 1}, {"tolerance": 0.0}, {"unit": "words"}):
        with pytest.raises(BadOption) as caught:
            MixtureConfig(**bad)
        assert caught.value.hint
