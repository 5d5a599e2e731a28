"""A hypernetwork for an encoder without a language-model head, from start to swapped folder."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import SENTENCES, byte_level, write

from tokenlayer.app import api
from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.loading import opened_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett import train as train_module
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.files import load_hypernet
from tokenlayer.transfer.zett.sampler import SamplerConfig
from tokenlayer.transfer.zett.train import HypernetRun, make_objective, train_hypernet

SMALL = ZettConfig(
    identity_steps=3,
    warmup_steps=2,
    steps=10,
    identity_rate=1e-2,
    rate=1e-2,
    batch=4,
    block=16,
    identity_tokens=64,
    clip=0.5,
    sampler=SamplerConfig(vocab_size=420, queue_texts=8, stride=1, noise_median=1e-4),
)


@pytest.fixture
def encoder(tmp_path):
    return model_with_tokenizer("bert_encoder", tmp_path / "encoder")


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "en.txt"
    file.write_text("\n\n".join([SENTENCES["en"], SENTENCES["fr"]] * 60))
    return HypernetRun((f"en:{file}",), SMALL, arch="residual", keep_single=True)


def test_it_learns_and_the_swapped_folder_has_its_rows(config, tmp_path):
    encoder = model_with_tokenizer(
        "bert_encoder", tmp_path / "encoder", "split-byte-level"
    )  # a BPE is the same each time
    training = replace(SMALL, steps=40, identity_steps=6, warmup_steps=4, rate=3e-2).without_noise()
    config = replace(config, training=training)
    with opened_model(encoder, tmp_path) as source:
        objective = make_objective(source, config, print)
    batches = [objective.main_batch(step) for step in range(6)]
    report = train_hypernet(encoder, tmp_path / "hn", config)
    told = report.metric("sentence vectors of sampled tokenizers, 1 - cosine")
    assert 0 < told.value < 0.9 * told.baseline
    assert {"main", "spans", "aux"} <= {row[1] for row in report.table("losses").rows}
    network = load_hypernet(tmp_path / "hn").network
    found = []
    for state in (objective.network.state_dict(), network.state_dict()):
        objective.network.load_state_dict(state)
        losses = [objective.main_loss(batch) for batch in batches]
        sums = {name: sum(float(one[name].total.detach()) / one[name].terms for one in losses) for name in losses[0]}
        found.append(sums)
    assert found[1]["spans"] < 0.95 * found[0]["spans"]
    assert found[1]["main"] < 0.9 * found[0]["main"]
    target = write(tmp_path / "target", byte_level())
    api.swap(encoder, target, tmp_path / "out", init="zett", hypernet=tmp_path / "hn")
    vocab = load_tokenizer(tmp_path / "out").vocab
    token = next(i for i in vocab.text_ids() if len(vocab.tokens[i]) > 3)
    pieces, _ = objective.decomposer.pieces([vocab.tokens[token]])
    with torch.inference_mode():
        wanted = network(pieces, objective.source.table).rows[0]
    assert torch.allclose(load(tmp_path / "out").get_input_embeddings().weight[token], wanted, atol=1e-4)


class Stopped(Exception):
    """What stops a run in the middle."""


def test_a_stopped_run_goes_on_to_the_same_weights(encoder, config, tmp_path, monkeypatch):
    train_hypernet(encoder, tmp_path / "whole", config)
    own = train_module.engine_config
    monkeypatch.setattr(train_module, "engine_config", lambda given: replace(own(given), save_seconds=0.0))

    def stop(step, done, steps):
        if done == 6:
            raise Stopped

    with pytest.raises(Stopped):
        train_hypernet(encoder, tmp_path / "parts", config, progress=stop)
    train_hypernet(encoder, tmp_path / "parts", config)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_pooling_is_refused_before_training(encoder, config, tmp_path):
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(BadCheckpoint, match="asks for pooling_mode_weightedmean_tokens"):
        train_hypernet(encoder, tmp_path / "hn", config)
