"""Training a hypernetwork from start to folder."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import SENTENCES

from tokenlayer.app import api
from tokenlayer.app.cli import main
from tokenlayer.core.errors import BadCheckpoint, BadOption, OutputExists
from tokenlayer.models.loading import opened_model
from tokenlayer.transfer.zett import train as train_module
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.files import load_hypernet
from tokenlayer.transfer.zett.sampler import SamplerConfig
from tokenlayer.transfer.zett.train import HypernetRun, make_objective, train_hypernet, training_state

SMALL = ZettConfig(
    identity_steps=3,
    warmup_steps=1,
    steps=8,
    identity_rate=1e-2,
    rate=1e-2,
    batch=4,
    block=16,
    identity_tokens=64,
    clip=0.5,
    sampler=SamplerConfig(vocab_size=420, queue_texts=8, stride=1, noise_median=1e-4),
)

TINY = {"batch": 4, "block": 16, "vocab_size": 420, "rate": 1e-3}


@pytest.fixture
def model(tmp_path):
    return model_with_tokenizer("tied_llama", tmp_path / "model")


@pytest.fixture
def config(tmp_path):
    texts = []
    for name in ("en", "de"):
        file = tmp_path / f"{name}.txt"
        file.write_text("\n\n".join([SENTENCES[name]] * 120))
        texts.append(f"{name}:{file}")
    return HypernetRun(tuple(texts), SMALL)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_folder_holds_a_network_that_learned(model, config, tmp_path):
    config = replace(config, training=replace(SMALL, steps=60, identity_steps=20, warmup_steps=5))
    with opened_model(model, tmp_path) as source:
        objective = make_objective(source, config, print)
    batch = objective.main_batch(0)
    report = train_hypernet(model, tmp_path / "hn", config)
    found = []
    for state in (objective.network.state_dict(), weights(tmp_path / "hn")):
        objective.network.load_state_dict({name: value.float() for name, value in state.items()})
        loss = objective.main_loss(batch)["main"]
        found.append(float(loss.total.detach()) / loss.terms)
    assert found[1] < found[0] - 0.2
    assert report.metric("bits per byte of sampled tokenizers").value > 0
    rows = {row[1]: row for row in report.table("losses").rows}
    assert rows["identity"][3] < 0.9 * rows["identity"][2]
    assert set(rows) == {"identity", "main", "aux", "one piece", "bytes per token"}
    saved = load_hypernet(tmp_path / "hn")
    assert saved.about["training"]["steps"] == 60
    logged = [json.loads(line) for line in (tmp_path / "hn" / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in logged} == {"identity", "main"}
    assert logged[-1]["step"] == 60
    assert not training_state(tmp_path / "hn").exists()


class Stopped(Exception):
    """What stops a run in the middle."""


@pytest.mark.parametrize("at", [2, 5])
def test_a_stopped_run_goes_on_to_the_same_weights(at, model, config, tmp_path, monkeypatch):
    train_hypernet(model, tmp_path / "whole", config)
    own = train_module.engine_config
    monkeypatch.setattr(train_module, "engine_config", lambda given: replace(own(given), save_seconds=0.0))

    def stop(step, done, steps):
        if done == at:
            raise Stopped

    with pytest.raises(Stopped):
        train_hypernet(model, tmp_path / "parts", config, progress=stop)
    assert not (tmp_path / "parts").exists()
    assert training_state(tmp_path / "parts").exists()
    with pytest.raises(BadOption, match="main: peak was 0.01, now it is 0.02"):
        train_hypernet(model, tmp_path / "parts", replace(config, training=replace(SMALL, rate=2e-2)))
    train_hypernet(model, tmp_path / "parts", config)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_the_seed_decides_the_weights(model, config, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        train_hypernet(model, tmp_path / name, replace(config, seed=seed))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "again"))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_training_goes_on_from_a_hypernetwork(model, config, tmp_path):
    first = replace(config, arch="residual", training=replace(SMALL, steps=6, identity_steps=2))
    train_hypernet(model, tmp_path / "first", first)
    more = replace(config, start=str(tmp_path / "first"), keep_single=True, hidden=None, seed=5)
    more = replace(more, training=replace(SMALL, identity_steps=0, warmup_steps=0, steps=1, rate=1e-12))
    train_hypernet(model, tmp_path / "more", more)
    one, other = weights(tmp_path / "first"), weights(tmp_path / "more")
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    saved = load_hypernet(tmp_path / "more")
    assert saved.network.config.keep_single
    assert saved.network.config.arch == "residual"
    assert saved.about["start"]["training"]["steps"] == 6
    with pytest.raises(BadOption, match="has its width"):
        replace(more, hidden=8)
    other_model = model_with_tokenizer("untied_llama", tmp_path / "other")
    with pytest.raises(BadCheckpoint, match="was trained for"):
        train_hypernet(other_model, tmp_path / "no", more)


def test_the_command_goes_on_without_an_identity_stage(model, config, tmp_path):
    api.hypernet(model, config.texts, tmp_path / "a", preset="small", steps=9, arch="residual", changes=TINY)
    report = api.hypernet(
        model, config.texts, tmp_path / "b", preset="small", steps=3, start=str(tmp_path / "a"), changes=TINY
    )
    assert {row[0] for row in report.table("stages").rows} == {"main"}


def test_a_dry_run_writes_nothing_and_says_what_it_costs(model, config, tmp_path):
    before = sorted(tmp_path.iterdir())
    report = train_hypernet(model, tmp_path / "hn", config, dry_run=True)
    assert sorted(tmp_path.iterdir()) == before
    times = [report.metric(f"seconds of a step, {name}").value for name in ("identity", "main")]
    hours = report.metric("time of the run").value
    assert report.metric("training memory").value > 0
    assert hours == pytest.approx((3 * times[0] + 5 * times[1]) / 3600)
    assert report.metric("parameters").value == sum(
        p.numel() for p in load_hypernet(trained(model, config, tmp_path)).network.parameters()
    )


def trained(model, config, tmp_path):
    train_hypernet(model, tmp_path / "hn", config)
    return tmp_path / "hn"


def test_languages_shape_and_width_are_settings(model, config, tmp_path):
    wide = replace(
        config, languages=True, hidden=24, layers=1, arch="residual", training=replace(SMALL, identity="split")
    )
    train_hypernet(model, tmp_path / "hn", wide)
    shape = load_hypernet(tmp_path / "hn").network.config
    assert (shape.languages, shape.hidden, shape.inner, shape.layers, shape.arch) == (
        ("en", "de"),
        24,
        48,
        1,
        "residual",
    )


@pytest.mark.parametrize("name", ["untied_llama", "bert_mlm", "gemma3"])
def test_models_of_other_kinds_are_trained_and_swapped(name, config, tmp_path):
    model = model_with_tokenizer(name, tmp_path / name)
    train_hypernet(model, tmp_path / "hn", config)
    api.swap(model, model, tmp_path / "out", init="zett", hypernet=tmp_path / "hn")


def test_half_precision_trains_to_about_the_same(model, config, tmp_path):
    found = {}
    for precision in ("float32", "bfloat16"):
        report = train_hypernet(model, tmp_path / precision, replace(config, precision=precision))
        found[precision] = report.metric("bits per byte of sampled tokenizers").value
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)
    assert not same(weights(tmp_path / "float32"), weights(tmp_path / "bfloat16"))


def test_a_folder_that_is_there_is_kept(config, model, tmp_path):
    (tmp_path / "hn").mkdir()
    (tmp_path / "hn" / "thesis.tex").write_text("")
    with pytest.raises(OutputExists):
        train_hypernet(model, tmp_path / "hn", config)


def test_the_command_trains_and_names_itself(model, config, tmp_path, capsys):
    words = ["transfer", "hypernet", str(model), "--out", str(tmp_path / "hn"), "--preset", "small", "--steps", "8"]
    words += ["--batch", "2", "--block", "12", "--vocab-size", "420", "--arch", "residual", "--json"]
    words += [part for text in config.texts for part in ("--texts", text)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"]["identity_steps"] == 2  # 150 of 800
    written = (tmp_path / "hn" / "tokenlayer.toml").read_text()
    assert 'arch = "residual"' in written
    assert "transfer hypernet" in (tmp_path / "hn" / "README.md").read_text()


def test_stages_keep_their_shares_of_other_totals():
    config = ZettConfig().scaled(2_000)
    assert (config.steps, config.identity_steps, config.warmup_steps) == (2_000, 100, 100)
    assert ZettConfig.preset("small") == ZettConfig.small()
    assert ZettConfig.small().without_noise().sampler.noise is False
    with pytest.raises(BadOption, match="preset is 'smal', expected one of: paper, small"):
        ZettConfig.preset("smal")
