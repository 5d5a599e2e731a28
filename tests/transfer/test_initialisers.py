"""Every initialiser against plain loops over dense rows, on every pair of tokenizer families."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.core.errors import BadOption
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.initialisers import INITIALISERS, make_plan
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.pieces import pieces

DIM = 12
PLAIN = [name for name, one in INITIALISERS.items() if not one.needs]
PAIRS = [*permutations(("byte-level", "sentencepiece-bpe", "unigram"), 2), ("wordpiece", "byte-level")]


@pytest.fixture(scope="module")
def vocabs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    return {name: load_tokenizer(write(folder / name, make())).vocab for name, make in FAMILIES.items()}


def old_rows(vocab, dim=DIM, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(len(vocab) + 5, dim, generator=generator) * 2 + 1).to(dtype)  # five padded rows


def settled_row(pair, i, old, mean):
    """The row of a control token or a hole, by plain search; None for a text token."""
    source, target = pair.source, pair.target
    if target.kinds[i] in (Kind.NORMAL, Kind.BYTE):
        return None
    if target.kinds[i] is Kind.UNUSED:
        return mean
    for j, (name, kind) in enumerate(zip(source.names, source.kinds, strict=True)):
        if kind is Kind.CONTROL and name == target.names[i]:
            return old[j]
    role = next((m for m in pair.roles if m.target == i), None)
    return mean if role is None or role.source is None else old[role.source]


def same_token(pair, i):
    """The source token with the same bytes: the one of the same name first, then a normal one, then a byte."""
    wanted = pair.target.tokens[i]
    source, target = pair.source, pair.target
    ids = [j for j, data in enumerate(source.tokens) if data == wanted and source.kinds[j] in TEXT]
    named = [j for j in ids if (source.names[j], source.kinds[j]) == (target.names[i], target.kinds[i])]
    normal = [j for j in ids if source.kinds[j] is Kind.NORMAL]
    return next(iter([*named, *normal, *ids]), None)


TEXT = (Kind.NORMAL, Kind.BYTE)


def expected(name, pair, old):
    """Dense rows without noise, and the ids that get noise."""
    old = old.double().numpy()
    normal = [j for j, kind in enumerate(pair.source.kinds) if kind is Kind.NORMAL]
    mean = old[normal].mean(axis=0)
    rows, noisy = [], []
    for i in range(len(pair.target)):
        row = settled_row(pair, i, old, mean)
        if row is None and name in ("pieces", "copy", "copy-gaussian", "copy-gaussian-full"):
            shared = same_token(pair, i)
            row = None if shared is None else old[shared]
        if row is None and name == "pieces":
            spelled = pair.source.spell(pair.target.tokens[i])
            row = sum(old[j] for j in spelled) / len(spelled) if spelled else mean
        if row is None:
            row = np.zeros(DIM) if name == "random" else mean
            noisy += [i] if name not in ("copy", "mean") else []
        rows.append(row)
    return np.stack(rows), noisy


@pytest.mark.parametrize("names", PAIRS, ids="->".join)
@pytest.mark.parametrize("init", PLAIN)
def test_rows_are_those_of_a_plain_loop(init, names, vocabs):
    pair = Pair(*(vocabs[name] for name in names))
    old = old_rows(pair.source)
    wanted, noisy = expected(init, pair, old)
    plan = make_plan(init, pair, seed=1)
    new = plan.apply(old).double().numpy()
    calm = np.setdiff1d(np.arange(len(wanted)), noisy)
    np.testing.assert_allclose(new[calm], wanted[calm], atol=2e-5)
    assert [i for i in noisy if np.allclose(new[i], wanted[i], atol=1e-3)] == []
    assert (plan.noise.rows.tolist() if plan.noise else []) == noisy
    assert INITIALISERS[init].random == bool(noisy)


@pytest.mark.parametrize("init", [name for name in PLAIN if INITIALISERS[name].random])
def test_drawn_rows_have_mean_and_spread_of_the_source_rows(init, vocabs):
    pair = Pair(vocabs["byte-level"], vocabs["sentencepiece-bpe"])
    base = old_rows(pair.source, dim=4).double()
    base[:, 1] = base[:, 0] * 0.9 + base[:, 1] * 0.2  # two dimensions that go together
    old = base.float()
    normal = [j for j, kind in enumerate(pair.source.kinds) if kind is Kind.NORMAL]
    mean, spread = base[normal].mean(0).numpy(), np.cov(base[normal].numpy().T, bias=True)
    drawn = []
    for seed in range(40):
        plan = make_plan(init, pair, seed)
        drawn.append(plan.apply(old)[plan.noise.rows].double().numpy())
    drawn = np.concatenate(drawn)
    n = len(drawn)
    deviation = np.sqrt(np.diag(spread))
    centre = 0 if init == "random" else mean
    assert (abs(drawn.mean(0) - centre) < 5 * deviation / np.sqrt(n)).all()
    found = np.cov(drawn.T, bias=True)
    full = spread if init.endswith("full") else np.diag(np.diag(spread))
    error = np.sqrt((np.outer(np.diag(spread), np.diag(spread)) + spread**2) / n)  # of a Gaussian's covariance
    assert (abs(found - full) < 5 * error).all()


@pytest.mark.parametrize("init", PLAIN)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(init, vocabs):
    pair = Pair(vocabs["byte-level"], vocabs["unigram"])
    old = old_rows(pair.source, dtype=torch.bfloat16)
    one, again, other = (make_plan(init, pair, seed).apply(old) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert torch.equal(one, other) != INITIALISERS[init].random
    assert one.dtype == torch.bfloat16


def test_the_same_plan_serves_a_bias(vocabs):
    pair = Pair(vocabs["wordpiece"], vocabs["byte-level"])
    plan = make_plan("pieces", pair)
    old = old_rows(pair.source, dim=1)
    wanted, _ = expected("pieces", pair, old.expand(-1, DIM))
    np.testing.assert_allclose(plan.apply(old)[:, 0].numpy(), wanted[:, 0], atol=2e-5)


def test_a_piece_that_occurs_twice_counts_twice():
    letters = ByteVocab((b"a", b"n"), (Kind.NORMAL,) * 2, ("a", "n"), speller=lambda many: [[0, 1, 1, 0] for _ in many])
    target = ByteVocab((b"anna",), (Kind.NORMAL,), ("anna",))
    assert pieces(Pair(letters, target)).shares(0) == {0: 0.5, 1: 0.5}
    three = replace(letters, speller=lambda many: [[0, 1, 0] for _ in many])
    assert pieces(Pair(three, target)).shares(0) == pytest.approx({0: 2 / 3, 1: 1 / 3})


def test_padded_source_rows_take_no_part(vocabs):
    pair = Pair(vocabs["byte-level"], vocabs["unigram"])
    old = old_rows(pair.source)
    spoiled = old.clone()
    spoiled[len(pair.source) :] = float("nan")
    for init in PLAIN:
        plan = make_plan(init, pair)
        assert torch.equal(plan.apply(old), plan.apply(spoiled))


def test_an_unknown_name_gets_the_nearest(vocabs):
    with pytest.raises(BadOption, match="pieces"):
        make_plan("piecs", Pair(vocabs["unigram"], vocabs["unigram"]))


@pytest.mark.parametrize("init", [name for name, one in INITIALISERS.items() if one.needs])
def test_what_is_needed_and_not_given_is_named_with_the_option(init, vocabs):
    pair = Pair(vocabs["byte-level"], vocabs["unigram"])
    with pytest.raises(BadOption, match=f"init {init} needs {INITIALISERS[init].needs[0]}") as error:
        make_plan(init, pair)
    assert "--" in error.value.hint
