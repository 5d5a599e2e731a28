"""Hypernetwork folders: ours, published ones, and damaged ones."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.files import (
    check_source,
    load_hypernet,
    published_names,
    save_hypernet,
    save_published,
    vocab_digest,
)
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig

SHAPE = HypernetConfig(6, tied=True, vocab_size=20, hidden=8, inner=12, layers=2, heads=2, longest=4)


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(write(tmp_path / "tokenizer", FAMILIES["byte-level"]()))


def published(folder, **changes):
    """A folder as the reference implementation writes it, with drawn weights."""
    config = {
        "model_type": "zett_hypernetwork",
        "n_embd": 6,
        "hn_hidden_size": 8,
        "hn_intermediate_size": 12,
        "hn_n_layers": 2,
        "hn_num_attention_heads": 2,
        "hn_surface_maxlen": 4,
        "hn_rescale_embeddings": True,
        "hn_predict_bias": True,
        "hn_embed_using_source_embeddings": True,
        "hn_embed_lang_id": True,
        "hn_model_type": "roberta",
        "hn_n_extra_tokens": 3,
        "original_vocab_size": 20,
        "separate_out_embeddings": True,
        "n_langs": 2,
        "langs": ["en", "de"],
        **changes,
    }
    shape = replace(SHAPE, tied=False, bias=True, extra=3, languages=("en", "de"))
    mine = Hypernet(shape).state_dict()
    draw = torch.Generator().manual_seed(0)
    tensors = {"model.embeddings.word_embeddings.weight": torch.randn(2, 8, generator=draw)}
    for name, theirs in published_names(shape).items():
        size = list(mine[name].shape)
        if name == "position.weight":
            size[0] = 514
        if theirs.endswith((".w", ".b")) or name == "kind":
            size = [1, *size]
        tensors[theirs] = torch.randn(size, generator=draw)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(("dtype", "close"), [("float32", 0.0), ("float16", 1e-3)])
def test_a_saved_network_predicts_the_same(dtype, close, tmp_path, tokenizer):
    shape = replace(SHAPE, vocab_size=len(tokenizer.vocab), languages=("en", "de"), arch="residual")
    network = Hypernet(shape, seed=3).eval()
    torch.nn.init.normal_(network.head.weight)
    folder = tmp_path / "hn"
    folder.mkdir()
    save_hypernet(folder, network, tokenizer, {"steps": 5}, dtype=dtype)
    saved = load_hypernet(folder)
    assert saved.network.config == shape
    assert saved.about == {"steps": 5}
    assert saved.vocab_digest == vocab_digest(tokenizer.vocab)
    assert load_tokenizer(folder).vocab.tokens == tokenizer.vocab.tokens
    rows, pieces = torch.randn(shape.vocab_size, 6), Packed.of_lists([[1, 2], [3]])
    found, wanted = saved.network(pieces, rows, 1).rows, network(pieces, rows, 1).rows
    torch.testing.assert_close(found, wanted, rtol=close, atol=10 * close)


def test_a_published_network_is_loaded_and_saved_without_loss(tmp_path):
    folder, back = published(tmp_path / "hn"), tmp_path / "back"
    saved = load_hypernet(folder)
    assert saved.network.config == replace(SHAPE, tied=False, bias=True, extra=3, languages=("en", "de"))
    back.mkdir()
    save_published(back, saved)
    before, after = load_file(folder / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((back / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_a_published_network_without_rescalers_does_not_rescale(tmp_path):
    folder = published(tmp_path / "hn", hn_rescale_embeddings=False)
    saved = load_hypernet(folder)
    assert torch.equal(saved.network.scaler.weight, torch.ones(6))
    assert torch.equal(saved.network.scaler.shift, torch.zeros(6))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hn_single_head": True}, "one head for input and output rows"),
        ({"hn_embed_target_priors": True}, "token priors as input"),
        ({"hn_model_type": "t5"}, "another body"),
        ({"hn_embed_using_source_embeddings": False}, "piece embeddings of its own"),
        ({"hn_hidden_size": 16}, r"is \[.*8.*\], expected \[.*16.*\]"),
    ],
)
def test_a_published_network_of_another_kind_is_refused(changes, said, tmp_path):
    with pytest.raises(BadCheckpoint, match=said):
        load_hypernet(published(tmp_path / "hn", **changes))


def own(tmp_path, tokenizer):
    folder = tmp_path / "own"
    folder.mkdir()
    save_hypernet(folder, Hypernet(replace(SHAPE, vocab_size=len(tokenizer.vocab))), tokenizer, {})
    return folder


def test_what_is_no_hypernetwork_is_refused(tmp_path, tokenizer):
    with pytest.raises(BadCheckpoint, match="is no hypernetwork: it has no config.json"):
        load_hypernet(tmp_path / "nowhere")
    folder = own(tmp_path, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": "other/1"}))
    with pytest.raises(BadCheckpoint, match="format is 'other/1', expected 'tokenlayer-hypernet/1'"):
        load_hypernet(folder)
    config["network"]["shape"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="has other settings than this version knows"):
        load_hypernet(folder)


def test_a_config_that_asks_for_too_much_is_refused_before_memory_is_taken(tmp_path, tokenizer):
    folder = own(tmp_path, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config["network"] |= {"hidden": 10**6, "heads": 1, "inner": 10**7}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="expected at most 8,000,000,000"):
        load_hypernet(folder)


def test_damaged_weights_are_refused(tmp_path, tokenizer):
    folder = own(tmp_path, tokenizer)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"head.bias": torch.zeros(7)}, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"head.bias in .* is \[7\], expected \[6\]"):
        load_hypernet(folder)
    del tensors["head.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="head.bias in .* is missing"):
        load_hypernet(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BadCheckpoint, match="is damaged"):
        load_hypernet(folder)


def test_a_network_of_another_model_is_refused(tmp_path, tokenizer):
    saved = load_hypernet(own(tmp_path, tokenizer))
    good = {"dim": 6, "tied": True, "where": "hn"}
    check_source(saved, tokenizer.vocab, **good)
    with pytest.raises(BadCheckpoint, match="hn was trained for rows of width 6, this model has 8"):
        check_source(saved, tokenizer.vocab, **good | {"dim": 8})
    with pytest.raises(BadCheckpoint, match="trained for tied rows True, this model has False"):
        check_source(saved, tokenizer.vocab, **good | {"tied": False})
    other = load_tokenizer(write(tmp_path / "other", FAMILIES["split-byte-level"]())).vocab
    with pytest.raises(BadCheckpoint, match="a vocabulary with the digest"):
        check_source(saved, other, **good)
