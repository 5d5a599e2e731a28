"""The loop against plain PyTorch, and runs that stop and go on."""

import math

import pytest
import torch
from torch import nn

from tokenlayer.core.errors import BadOption, VerifyFailed
from tokenlayer.train.loop import LoopConfig, LossParts, run_loop

STEPS = 7


def problem():
    model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 2))
    draw = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    data = [(torch.randn(n, 3, generator=draw), torch.randn(n, 2, generator=draw)) for n in (4, 1, 3, 2, 4, 4, 1)]
    return model, data


def parts_of(model, data, pieces=1):
    def loss(x, y):
        return LossParts(((model(x) - y) ** 2).sum(), len(x))

    def batches(step):
        x, y = data[step % len(data)]
        for some in torch.arange(len(x)).chunk(pieces):
            yield lambda some=some: loss(x[some], y[some])

    return batches


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_equals_a_plain_loop():
    model, data = problem()
    model.eval()
    config = LoopConfig(STEPS, 0.05, warmup=0.3, weight_decay=0.1, clip=0.7)
    losses = run_loop(dict(model.named_parameters()), parts_of(model, data), config)
    plain, _ = problem()
    plain.eval()
    adam = torch.optim.AdamW(plain.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.1)
    for step, (x, y) in enumerate(data):
        adam.param_groups[0]["lr"] = 0.05 * (step + 1) / 2 if step < 2 else 0.05 * (1 - (step - 2) / 5)
        adam.zero_grad()
        loss = ((plain(x) - y) ** 2).sum() / len(x)
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
        adam.step()
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pieces", [2, 3])
def test_micro_batches_of_unequal_size_change_nothing(pieces):
    found = []
    for n in (1, pieces):
        model, data = problem()
        model.eval()
        losses = run_loop(dict(model.named_parameters()), parts_of(model, data, n), LoopConfig(STEPS, 0.05))
        found.append((losses, state_of(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-4, atol=1e-6)


def test_a_run_that_stops_twice_ends_with_the_same_bits(tmp_path):
    whole, data = problem()
    config = LoopConfig(STEPS, 0.05, save_seconds=0.0)
    expected = run_loop(dict(whole.named_parameters()), parts_of(whole, data), config)
    state = tmp_path / "state"
    for stop in (2, 5, None):
        model, _ = problem()

        def stopping(done, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        parameters, parts = dict(model.named_parameters()), parts_of(model, data)
        if stop is None:
            losses = run_loop(parameters, parts, config, state=state)
        else:
            with pytest.raises(KeyboardInterrupt):
                run_loop(parameters, parts, config, state=state, after_step=stopping)
    assert losses == expected
    assert same(state_of(model), state_of(whole))
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_dropout_is_drawn_from_the_seed_and_not_from_the_global_state():
    found = []
    for disturbed, seed in ((0, 1), (5, 1), (0, 2)):
        model, data = problem()
        torch.manual_seed(disturbed)
        before = torch.get_rng_state()
        run_loop(dict(model.named_parameters()), parts_of(model, data), LoopConfig(STEPS, 0.05, seed=seed))
        assert torch.equal(before, torch.get_rng_state())
        found.append(state_of(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_state_of_other_settings_is_refused(tmp_path):
    model, data = problem()
    state = tmp_path / "state"
    parameters = dict(model.named_parameters())
    run_loop(parameters, parts_of(model, data), LoopConfig(STEPS, 0.05, save_seconds=0.0), state=state)
    for config, some in (
        (LoopConfig(STEPS, 0.06, save_seconds=0.0), parameters),
        (LoopConfig(STEPS, 0.05, save_seconds=0.0), {"other": nn.Parameter(torch.zeros(2))}),
    ):
        with pytest.raises(BadOption, match="was left by a run with other settings"):
            run_loop(some, parts_of(model, data), config, state=state)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model, data = problem()
    before = state_of(model)
    data[0] = (data[0][0] * math.inf, data[0][1])
    with pytest.raises(VerifyFailed, match="the loss of step 0 is"):
        run_loop(dict(model.named_parameters()), parts_of(model, data), LoopConfig(STEPS))
    assert same(before, state_of(model))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("linear", [0.5, 1, 1, 2 / 3, 1 / 3]), ("cosine", [0.5, 1, 1, 0.75, 0.25]), ("constant", [0.5, 1, 1, 1, 1])],
)
def test_schedules(schedule, rates):
    config = LoopConfig(5, 1.0, schedule=schedule, warmup=0.4)
    assert [config.rate(step) for step in range(5)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0, expected above 0"),
        ({"warmup": 1.5}, "warmup is 1.5, expected a share"),
        ({"schedule": "liner"}, "schedule is 'liner'"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(BadOption, match=message):
        LoopConfig(**{"steps": 3} | values)
