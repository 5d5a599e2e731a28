"""The engine against plain PyTorch, and runs that stop and go on."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train.two_losses import ROWS, TwoLosses
from torch import nn

from tokenlayer.app.report.page import html_page
from tokenlayer.core.errors import BadCheckpoint, BadOption, MissingExtra, VerifyFailed
from tokenlayer.core.report import Report
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.engine import Hooks, train
from tokenlayer.train.estimate import estimate
from tokenlayer.train.metrics import read_rows, told
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Schedule, Shard, decay_groups
from tokenlayer.train.processes import Processes
from tokenlayer.train.summary import add_training

TWO_PHASES = [Phase("guess", 3, Schedule(0.02, warmup=1)), Phase("both", 4, Schedule(0.01, "cosine", 2, 0.1))]
CONFIG = TrainConfig(weight_decay=0.1, clip=0.5, save_seconds=0.0, log_every=2)


def near(one, other):
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_each_loss_is_averaged_over_its_own_count():
    found = TwoLosses(micro=2)
    losses = train(found, CONFIG).losses
    plain = TwoLosses(micro=ROWS)
    phase = plain.phases[0]
    parameters = list(plain.parameter_groups(phase)[0].parameters.values())
    adam = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(phase.steps):
        adam.param_groups[0]["lr"] = 0.03 * [0.5, 1, 1, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25][step]
        (drawn,) = plain.micro_batches(phase, step, Shard())
        ids, real, hidden = plain.corrupt(phase, drawn, 0)
        parts = plain.losses(phase, (ids, real, hidden))
        loss = parts["guess"].total / hidden.sum() + 50 * parts["judge"].total / real.sum()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        adam.step()
        assert losses[step] == pytest.approx(float(loss.detach()), rel=1e-5)
    near(plain.weights(), found.weights())


@pytest.mark.parametrize("micro", [1, 3, ROWS])
def test_the_size_of_micro_batches_changes_nothing(micro):
    found = [TwoLosses(micro=n, phases=TWO_PHASES) for n in (2, micro)]
    losses = [train(one, CONFIG).losses for one in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    near(found[0].weights(), found[1].weights())


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_that_stops_twice_ends_with_the_same_bits(fresh, tmp_path):
    phases = [TWO_PHASES[0], Phase("both", 4, TWO_PHASES[1].schedule, fresh)]
    whole = TwoLosses(dropout=0.3, phases=phases)
    expected = train(whole, CONFIG, metrics=tmp_path / "whole.jsonl")
    for stop in (2, 5, None):
        part = TwoLosses(dropout=0.3, phases=phases)

        def stopping(done, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        run = {"state": tmp_path / "state", "metrics": tmp_path / "part.jsonl", "hooks": Hooks(after_step=stopping)}
        if stop is None:
            found = train(part, CONFIG, **run)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(part, CONFIG, **run)
    assert found.losses == expected.losses
    assert found.tokens == expected.tokens
    assert same(part.weights(), whole.weights())
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["step-000000006", "step-000000007"]
    rows, other = (read_rows(tmp_path / name) for name in ("whole.jsonl", "part.jsonl"))
    assert [row["step"] for row in rows] == [row["step"] for row in other] == [2, 3, 4, 6, 7]
    assert [row["phase"] for row in rows] == ["guess", "guess", "both", "both", "both"]


def test_moments_go_on_in_the_next_phase_unless_it_begins_fresh():
    weights = []
    for fresh in (False, True):
        one = TwoLosses(phases=[TWO_PHASES[0], Phase("both", 1, Schedule(0.01, warmup=0), fresh)])
        train(one, CONFIG)
        weights.append(one.weights())
    changed = {name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])}
    assert changed == {name for name in weights[0] if name.startswith("guess.")}


def test_a_phase_trains_its_own_parameters_and_freezes_the_others_only_meanwhile():
    one = TwoLosses(phases=[TWO_PHASES[0]])
    before = one.weights()
    seen = []
    train(one, CONFIG, hooks=Hooks(after_step=lambda _: seen.append(one.judge["out"].weight.requires_grad)))
    now = one.weights()
    changed = {name for name in before if not torch.equal(before[name], now[name])}
    assert changed == {"guess.table.weight", "guess.out.weight", "guess.out.bias"}
    assert seen == [False] * 3
    assert one.judge["out"].weight.requires_grad


def test_decay_leaves_out_biases_and_gains_and_counts_a_shared_table_once():
    one = TwoLosses()
    matrices, others = decay_groups(one.modules())
    assert matrices.weight_decay is None
    assert others.weight_decay == 0.0
    assert {name.rpartition(".")[2] for name in matrices.parameters} == {"weight"}
    assert "judge.blocks.0.2.weight" in others.parameters
    everything = [id(p) for group in (matrices, others) for p in group.parameters.values()]
    assert sorted(everything) == sorted({id(p) for m in one.modules().values() for p in m.parameters()})


class Line(Objective):
    """One number that is pulled to the data; its losses as a test wants them."""

    def __init__(self, steps=4, micro=1, parts=("loss",), announced=None, rate=0.1, **group):
        self.x = nn.Linear(1, 1)
        nn.init.ones_(self.x.weight)
        nn.init.ones_(self.x.bias)
        self.phases = [Phase("line", steps, Schedule(rate, "constant", 0))]
        self.micro, self.parts, self.announced, self.group = micro, parts, announced, group
        self.bad = {}

    def modules(self):
        return {"x": self.x}

    def parameter_groups(self, phase):
        if not self.group:
            return decay_groups(self.modules())
        return [ParameterGroup({"a": self.x.weight}, 0.0, **self.group), ParameterGroup({"b": self.x.bias}, 0.0)]

    def micro_batches(self, phase, step, shard):
        return [(step, torch.full((2, 1), 2.0))] * self.micro

    def counts(self, phase, batch):
        return self.announced

    def losses(self, phase, batch):
        step, x = batch
        value = (self.x(x) ** 2).sum() * self.bad.get(step, 1.0)
        return {name: LossParts(value, 2) for name in self.parts}


def test_a_group_has_its_own_factor_on_the_rate():
    line = Line(steps=1, rate=0.01)
    line.group = {"rate": 0.5}
    train(line)
    assert float(line.x.weight.detach()) == pytest.approx(1 - 0.005, rel=1e-5)  # Adam's first step is the rate
    assert float(line.x.bias.detach()) == pytest.approx(1 - 0.01, rel=1e-5)


def test_one_loss_needs_no_counts():
    found = []
    for micro, announced in ((1, None), (3, None), (3, {"loss": 2.0})):
        line = Line(micro=micro, announced=announced)
        found.append((train(line).losses, float(line.x.weight.detach())))
    assert found[0] == (pytest.approx(found[1][0]), pytest.approx(found[1][1]))
    assert found[0] == (pytest.approx(found[2][0]), pytest.approx(found[2][1]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"micro": 2, "parts": ("a", "b")}, BadOption, r"Line gives several losses \(a, b\) for 2 micro-batches"),
        ({"announced": {"loss": 3.0}}, VerifyFailed, "step 0: the loss 'loss' has 2 terms, counts announced 3"),
        ({"announced": {"los": 2.0}}, VerifyFailed, r"only one of losses and counts has \['los', 'loss'\]"),
        ({"micro": 0}, BadOption, "step 0 of phase 'line' has no data for one of 1 processes"),
    ],
)
def test_losses_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        train(Line(**options))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(value):
    line = Line(steps=3, announced={"good": 2.0, "bad": 2.0}, parts=("good", "bad"))
    weights = []
    line.losses = lambda phase, batch: {
        "good": LossParts((line.x(batch[1]) ** 2).sum(), 2),
        "bad": LossParts(line.x(batch[1]).sum() * (value if batch[0] == 2 else 1.0), 2),
    }
    with pytest.raises(VerifyFailed, match=rf"the loss of step 2 is -?{value} \(part 'bad', phase 'line'\)"):
        train(line, hooks=Hooks(after_step=lambda _: weights.append(line.x.weight.detach().clone())))
    assert torch.equal(weights[-1], line.x.weight.detach())


def test_a_gradient_that_is_not_finite_stops():
    line = Line()
    line.losses = lambda phase, batch: {"loss": LossParts((line.x(batch[1]) * 0.0).abs().sum().sqrt(), 2)}
    with pytest.raises(VerifyFailed, match="the loss of step 0 is finite, but its gradient has the norm nan"):
        train(line)


def test_bfloat16_keeps_weights_and_moments_in_float32():
    one, other = TwoLosses(), TwoLosses()
    made = []

    def adam(groups):
        made.append(torch.optim.AdamW(groups))
        return made[-1]

    losses = train(one, TrainConfig(precision="bfloat16"), optimiser=adam).losses
    assert losses == pytest.approx(train(other).losses, rel=0.02)
    assert losses != train(TwoLosses()).losses
    assert {value.dtype for value in one.weights().values()} == {torch.float32}
    assert {value.dtype for held in made[0].state.values() for value in held.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": TrainConfig(clip=0.25, save_seconds=0.0)}, "clip was 1.0, now it is 0.25"),
        ({"rate": 0.2}, "line: peak was 0.1, now it is 0.2"),
        ({"steps": 5}, "line: steps was 4, now it is 5"),
        ({"about": {"data": "two.txt"}}, 'data was "one.txt", now it is "two.txt"'),
        ({"x": nn.Linear(1, 2)}, r"x.weight had the shape \(1, 1\), now it is \(2, 1\)"),
    ],
)
def test_a_state_of_other_settings_is_refused_with_both_values(change, message, tmp_path):
    config = TrainConfig(save_seconds=0.0)
    train(Line(), config, state=tmp_path, about={"data": "one.txt"})
    line = Line(change.get("steps", 4), rate=change.get("rate", 0.1))
    line.x = change.get("x", line.x)
    with pytest.raises(BadOption, match="was left by a run with other settings: " + message):
        train(line, change.get("config", config), state=tmp_path, about=change.get("about", {"data": "one.txt"}))


def test_settings_that_decide_nothing_may_change(tmp_path):
    train(Line(), TrainConfig(save_seconds=0.0), state=tmp_path)
    assert len(train(Line(), TrainConfig(log_every=3, keep=1), state=tmp_path).losses) == 4


@pytest.mark.parametrize(("name", "text"), [("state.json", "{"), ("state.safetensors", "x" * 20)])
def test_a_damaged_state_is_named_and_the_one_before_it_serves(name, text, tmp_path):
    config = TrainConfig(save_seconds=0.0)
    expected = train(Line(), config, state=tmp_path).losses
    (tmp_path / "step-000000004" / name).write_text(text)
    (tmp_path / ".step-000000009.partial").mkdir()
    with pytest.raises(BadCheckpoint, match=f"step-000000004 cannot be read: {name}") as caught:
        train(Line(), config, state=tmp_path)
    assert "remove that folder" in caught.value.hint
    for file in (tmp_path / "step-000000004").iterdir():
        file.unlink()
    (tmp_path / "step-000000004").rmdir()
    assert train(Line(), config, state=tmp_path).losses == expected


def test_buffers_are_part_of_the_state(tmp_path):
    def line():
        made = Line()
        made.norm = nn.BatchNorm1d(1, momentum=0.5)
        made.modules = lambda: {"x": made.x, "norm": made.norm}
        made.losses = lambda phase, batch: {"loss": LossParts(made.norm(made.x(batch[1] * torch.rand(2, 1))).sum(), 2)}
        return made

    config = TrainConfig(save_seconds=0.0, keep=4)
    whole = line()
    train(whole, config, state=tmp_path)
    for file in (tmp_path / "step-000000004").iterdir():
        file.unlink()
    (tmp_path / "step-000000004").rmdir()
    part = line()
    train(part, config, state=tmp_path)
    assert torch.equal(part.norm.running_mean, whole.norm.running_mean)
    assert int(part.norm.num_batches_tracked) == 4


def test_rows_of_numbers(tmp_path):
    seen = []
    trained = train(TwoLosses(), CONFIG, metrics=tmp_path / "m" / "rows.jsonl", hooks=Hooks(on_row=seen.append))
    rows = read_rows(tmp_path / "m" / "rows.jsonl")
    assert rows == trained.rows == seen
    assert [row["step"] for row in rows] == [2, 4, 5]
    last = rows[-1]
    assert last["loss"] == pytest.approx(trained.losses[-1])
    assert last["loss"] == pytest.approx(last["parts"]["guess"] + 50 * last["parts"]["judge"])
    assert last["rate"] == pytest.approx(0.03 * (0.1 + 0.9 * 0.25))
    assert 0 < last["data_wait"] < 1
    assert 0 < last["mfu"] < 1
    assert last["seconds"] == pytest.approx(trained.seconds)
    assert told(last, 5).startswith("step 5 of 5  both  loss ")
    with open(tmp_path / "m" / "rows.jsonl", "a") as stream:
        stream.write('{"step": 6, "pha')
    assert read_rows(tmp_path / "m" / "rows.jsonl") == rows


def test_the_global_generator_is_left_alone_and_the_seed_decides():
    found = []
    for disturbed, seed in ((0, 1), (5, 1), (0, 2)):
        one = TwoLosses(dropout=0.5)
        torch.manual_seed(disturbed)
        before = torch.get_rng_state()
        train(one, TrainConfig(seed=seed))
        assert torch.equal(before, torch.get_rng_state())
        found.append(one.weights())
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_parameters_in_two_groups_are_refused():
    line = Line()
    line.parameter_groups = lambda phase: [ParameterGroup({"a": line.x.weight}), ParameterGroup({"a": line.x.bias})]
    with pytest.raises(BadOption, match="the parameter a is in two groups"):
        train(line)
    line.parameter_groups = lambda phase: [ParameterGroup({"a": line.x.weight, "b": line.x.weight})]
    with pytest.raises(BadOption, match="one parameter under two names"):
        train(line)
    line.parameter_groups = lambda phase: []
    with pytest.raises(BadOption, match="phase 'line' trains no parameter"):
        train(line)


@pytest.mark.parametrize(
    ("schedule", "steps", "rates"),
    [
        (Schedule(1.0, "linear", 0.4), 5, [0.5, 1, 1, 2 / 3, 1 / 3]),
        (Schedule(1.0, "linear", 2), 5, [0.5, 1, 1, 2 / 3, 1 / 3]),
        (Schedule(1.0, "cosine", 0.0, 0.1), 4, [0.1 + 0.45 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
        (Schedule(1.0, "constant", 1), 3, [1, 1, 1]),
        (Schedule(1.0, "linear", 4, multiplied=True), 8, [(1 - t / 8) * min(1, t / 4) for t in range(8)]),
    ],
)
def test_schedules(schedule, steps, rates):
    assert [schedule.rate(step, steps) for step in range(steps)] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(kind="cosin"), "schedule is 'cosin', expected one of: linear, cosine, constant"),
        (lambda: Schedule(warmup=1.5), "warmup is 1.5, expected a share"),
        (lambda: Schedule(floor=-0.1), "floor is -0.1"),
        (lambda: Phase("a", 0), "steps is 0, expected at least 1"),
        (lambda: TrainConfig(precision="fp16"), "precision is 'fp16', expected one of: float32, bfloat16"),
        (lambda: TrainConfig(clip=-1.0), "clip is -1"),
        (lambda: TrainConfig(log_every=0), "log_every is 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(BadOption, match=message):
        make()


def test_several_processes_without_accelerate_name_the_extra(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match="training in several processes needs accelerate") as caught:
        Processes(torch.device("cpu"))
    assert caught.value.hint == "pip install 'tokenlayer[train]'"


def in_two_processes(out, state, **more):
    """Runs the script as the launcher of accelerate would, and returns what it wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", **more}
    command = [sys.executable, str(Path(__file__).with_name("two_losses.py")), str(out), str(state)]
    running = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    errors = [one.communicate(timeout=100)[1] for one in running]
    assert [one.returncode for one in running] == [0, 0], errors
    return torch.load(out)


def check_two_processes(tmp_path, **more):
    """Seven samples for two processes in micro-batches of two: four and three, of other lengths."""
    pytest.importorskip("accelerate")
    alone = TwoLosses()
    config = TrainConfig(weight_decay=0.1, clip=0.5, save_seconds=0.0)
    expected = train(alone, config)
    found = in_two_processes(tmp_path / "out.pt", tmp_path / "state", **more)
    assert found["losses"] == pytest.approx(expected.losses, rel=1e-5)
    assert found["tokens"] == expected.tokens
    near(alone.weights(), found["weights"])
    state = tmp_path / "state"
    saved = json.loads((state / "step-000000005" / "state.json").read_text())
    assert saved["step"] == 5
    return state


def test_two_processes_equal_one(tmp_path):
    """Copied networks (DDP); about six seconds, for two processes that import torch."""
    check_two_processes(tmp_path)


@pytest.mark.slow
def test_two_processes_with_sharded_networks_equal_one_and_go_on(tmp_path):
    """FSDP2; then from the state of step 4 in one process, and in two."""
    state = check_two_processes(tmp_path, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    config = TrainConfig(weight_decay=0.1, clip=0.5, save_seconds=0.0)
    alone = TwoLosses()
    expected = train(alone, config)
    for file in (state / "step-000000005").iterdir():
        file.unlink()
    (state / "step-000000005").rmdir()
    again = in_two_processes(tmp_path / "again.pt", state, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    near(alone.weights(), again["weights"])
    (state / "step-000000005").rename(tmp_path / "moved")
    one = TwoLosses()
    assert train(one, config, state=state).losses == pytest.approx(expected.losses, rel=1e-5)
    near(alone.weights(), one.weights())


def test_an_estimate_leaves_no_trace_and_adds_up(tmp_path):
    one, other = TwoLosses(dropout=0.3, phases=TWO_PHASES), TwoLosses(dropout=0.3, phases=TWO_PHASES)
    before, state = one.weights(), torch.get_rng_state()
    found = estimate(one, CONFIG)
    assert same(before, one.weights())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for m in one.modules().values() for p in m.parameters())
    size = sum(value.numel() for value in before.values())
    assert (found.trained, found.frozen) == (size, 0)
    assert found.weight_bytes == found.gradient_bytes == 4 * size
    assert found.moment_bytes == 8 * size + 4 * len(before)
    assert found.run_seconds == pytest.approx(3 * found.step_seconds["guess"] + 4 * found.step_seconds["both"])
    assert 0 < found.activation_bytes < 100_000
    assert train(one, CONFIG).losses == train(other, CONFIG).losses
    report = Report("trial")
    found.add_to(report)
    assert report.metric("training memory").value == pytest.approx(found.memory_bytes / 1e6)


def test_kept_activations_are_counted_by_storage():
    line = Line()
    line.x = nn.Linear(100, 1, bias=False)
    line.micro_batches = lambda phase, step, shard: [(0, torch.ones(50, 100))]
    assert estimate(line).activation_bytes == 4 * (50 * 100 + 50)  # the input of the product, and of the square


def test_a_run_is_summed_up_with_its_curves():
    trained = train(TwoLosses(phases=TWO_PHASES), CONFIG)
    report = Report("trained")
    add_training(report, trained)
    assert report.metric("trained tokens").value == trained.tokens
    assert [row[:2] for row in report.table("losses").rows] == [
        ("guess", "guess"),
        ("both", "guess"),
        ("both", "judge"),
    ]
    pytest.importorskip("matplotlib")
    page = html_page(report)
    assert "Losses while training" in page
    assert "judge loss" in page
    assert Report.from_dict(report.to_dict()).data["training"]["rows"] == trained.rows
