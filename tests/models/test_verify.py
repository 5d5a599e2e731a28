"""Every kind of damage to a written folder is found; nothing else is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_swaps import MODELS, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES

from tokenlayer.core.errors import VerifyFailed
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.safetensors_io import read_json
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.models.verify import auto_tokenizer_differs, verify_checkpoint


def copied(name, tmp_path):
    """A model, a copy of it, and the tables that the copy should hold."""
    source = model_with_tokenizer(name, tmp_path / "source")
    shutil.copytree(source, tmp_path / "copy")
    checkpoint = open_checkpoint(source)
    rows = {name: checkpoint.read(name) for name in checkpoint.rows.names}
    return checkpoint, tmp_path / "copy", rows


def verified(checkpoint, folder, rows):
    return verify_checkpoint(folder, checkpoint, rows, load_tokenizer(checkpoint.folder))


def changed(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def configured(folder, **changes):
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", MODELS)
def test_a_true_copy_passes_and_says_what_was_checked(name, tmp_path):
    done = verified(*copied(name, tmp_path))
    assert done[0].endswith("read back bit for bit")
    assert done[-1].startswith("AutoTokenizer gives the same ids")


def flip(tensors):
    tensors["model.embed_tokens.weight"].view(torch.int32)[3, 4] ^= 1


def flip_head(tensors):
    tensors["lm_head.weight"].view(torch.int32)[3, 4] ^= 1


def halve(tensors):
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].bfloat16()


def shorten(tensors):
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-2]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "model.embed_tokens.weight does not hold the planned rows"),
        (flip_head, "lm_head.weight does not hold the planned rows"),
        (halve, "model.embed_tokens.weight does not hold the planned rows"),
        (shorten, "planned"),
        (lambda tensors: tensors.pop("model.norm.weight"), "the names of the stored tensors changed"),
    ],
)
def test_one_bit_one_dtype_or_one_tensor_is_enough(change, said, tmp_path):
    checkpoint, folder, rows = copied("untied_llama", tmp_path)
    changed(folder, change)
    if change is shorten:
        configured(folder, vocab_size=len(rows["lm_head.weight"]) - 2)
    with pytest.raises(VerifyFailed, match=said):
        verified(checkpoint, folder, rows)


def test_lost_tying_is_found(tmp_path):
    checkpoint, folder, rows = copied("tied_llama", tmp_path)
    changed(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    configured(folder, tie_word_embeddings=False)
    with pytest.raises(VerifyFailed, match="tied is False, was True"):
        verified(checkpoint, folder, rows)


def test_a_tokenizer_that_was_changed_is_found(tmp_path):
    checkpoint, folder, rows = copied("tied_llama", tmp_path)
    text = FAMILIES["split-byte-level"](400)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(VerifyFailed, match=r"AutoTokenizer \(.*\) gives other ids for"):
        verified(checkpoint, folder, rows)


def test_a_class_that_refuses_is_a_difference_and_not_a_crash(tmp_path):
    folder = model_with_tokenizer("tied_llama", tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    assert auto_tokenizer_differs(folder, tokenizer).startswith("AutoTokenizer cannot load")


def test_more_probes_are_compared_too(tmp_path):
    checkpoint, folder, rows = copied("tied_llama", tmp_path)
    done = verify_checkpoint(folder, checkpoint, rows, load_tokenizer(folder), ["one more", "and another"])
    assert done[-1] == "AutoTokenizer gives the same ids on 9 probe texts"
