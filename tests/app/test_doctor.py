"""The doctor finds each thing that would break in a swap, and is silent about the rest."""

import json

import pytest
from tests.tiny_swaps import CHAT, MODELS, model_of, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, byte_level, write

from tokenlayer.app.doctor import doctor
from tokenlayer.core.errors import BadCheckpoint, BadTokenizer
from tokenlayer.models.safetensors_io import read_json
from tokenlayer.models.tokenizer_files import load_tokenizer

FACTS = {
    "tied_llama": ("decoder", "tied to the input rows", "none"),
    "untied_llama": ("decoder", "lm_head.weight", "none"),
    "phi": ("decoder", "lm_head.weight", "lm_head.bias"),
    "bert_mlm": ("encoder with a masked head", "tied to the input rows", "cls.predictions.bias"),
    "bert_encoder": ("encoder without a head", "none", "none"),
}


def rewritten(folder, **changes):
    """The same tokenizer.json with other fields."""
    data = read_json(folder / "tokenizer.json")
    (folder / "tokenizer.json").write_text(json.dumps(data | changes), encoding="utf-8")


@pytest.mark.parametrize("name", FACTS)
def test_the_facts_of_a_model(name, tmp_path):
    report = doctor(model_with_tokenizer(name, tmp_path / "model"))
    facts = dict(report.table("model").rows)
    assert (facts["kind"], facts["output rows"], facts["output bias"]) == FACTS[name]
    assert report.metric("rows").value == report.metric("vocab size").value
    assert report.metric("padded rows").value == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_gets_no_warning_about_ids_or_rows(name, tmp_path):
    report = doctor(model_with_tokenizer(name, tmp_path / "model"))
    assert report.data["auto tokenizer"] == "same ids"
    for said in ("have no row", "config.json says", "AutoTokenizer"):
        assert not any(said in warning for warning in report.warnings)


def test_rows_past_the_tokenizer_are_counted(tmp_path):
    folder = model_with_tokenizer("padded_llama", tmp_path / "model")
    report = doctor(folder)
    assert report.metric("padded rows").value == report.metric("rows").value - report.metric("vocab size").value > 0


def test_tokens_without_rows_are_named(tmp_path):
    folder = model_of("tied_llama", tmp_path / "model", byte_level(400))
    write(folder, byte_level(420))
    report = doctor(folder)
    size = len(load_tokenizer(folder).vocab)
    assert any(f"{size - 400} tokens have no row; the first is 400" in warning for warning in report.warnings)


def test_a_config_that_names_another_special_id_is_told(tmp_path):
    folder = model_with_tokenizer("tied_llama", tmp_path / "model")
    config = read_json(folder / "config.json")
    right = load_tokenizer(folder).vocab.roles["eos"]
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": right + 7}))
    assert any(f"config.json says eos is {right + 7}, the tokenizer says {right}" in w for w in doctor(folder).warnings)
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [right + 7, right]}))
    assert not any("config.json says" in warning for warning in doctor(folder).warnings)


def test_a_class_that_changes_the_ids_is_found_as_transformers_would_load_it(tmp_path):
    folder = write(tmp_path / "tok", FAMILIES["split-byte-level"](), tokenizer_class="BertTokenizerFast")
    report = doctor(folder)
    assert report.data["auto tokenizer"] != "same ids"
    assert report.data["auto tokenizer"] in report.warnings


def test_dead_tokens_are_those_that_the_merges_cannot_reach(tmp_path):
    data = json.loads(byte_level(400))
    before = doctor(write(tmp_path / "tok", json.dumps(data))).metric("dead tokens").value
    data["model"]["vocab"]["zqxzqx"] = max(data["model"]["vocab"].values()) + 1
    report = doctor(write(tmp_path / "more", json.dumps(data)))
    assert report.metric("dead tokens").value == before + 1
    assert "'zqxzqx'" in [row[1] for row in report.table("dead tokens").rows]


@pytest.mark.parametrize(
    ("template", "warned"), [(CHAT, True), ("{{ messages }}", True), ("<|endoftext|>{{ messages }}", False)]
)
def test_a_template_whose_markers_are_no_tokens_is_told(template, warned, tmp_path):
    folder = write(tmp_path / "tok", byte_level(), chat_template=template)
    said = [w for w in doctor(folder).warnings if "chat template writes none" in w]
    assert bool(said) == warned


def test_missing_bytes_and_a_missing_end_are_told(tmp_path):
    data = json.loads(byte_level(400, specials=()))
    del data["model"]["vocab"]["Ċ"]
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "Ċ" not in "".join(m)]
    vocab = {name: i for i, name in enumerate(n for n in data["model"]["vocab"] if "Ċ" not in n)}
    data["model"]["vocab"] = vocab
    warnings = doctor(write(tmp_path / "tok", json.dumps(data))).warnings
    assert any("1 of the 256 bytes have no token of their own (first 0x0a)" in warning for warning in warnings)
    assert any("no token has the role eos" in warning for warning in warnings)


def test_a_model_without_tokenizer_is_examined_as_far_as_it_goes(tmp_path):
    folder = model_with_tokenizer("tied_llama", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    report = doctor(folder)
    assert dict(report.table("model").rows)["kind"] == "decoder"
    assert any("the model has no readable tokenizer" in warning for warning in report.warnings)


def test_what_cannot_be_read_at_all_is_our_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadTokenizer, match="holds no tokenizer"):
        doctor(tmp_path / "empty")
    folder = model_with_tokenizer("tied_llama", tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadCheckpoint):
        doctor(folder)
