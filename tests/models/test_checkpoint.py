import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests import tiny_models
from tests.tiny_models import DIM, MAKERS, VOCAB

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models import model_names
from tokenlayer.models.checkpoint import INDEX, WEIGHTS, open_checkpoint
from tokenlayer.models.model_names import ModelNames, names_by_class, shallow
from tokenlayer.models.row_tensors import RowTensors
from tokenlayer.models.safetensors_io import TensorInfo

EXPECTED = {
    "tied_llama": ("decoder", ("model.embed_tokens.weight",)),
    "untied_llama": ("decoder", ("model.embed_tokens.weight", "lm_head.weight")),
    "bf16_llama": ("decoder", ("model.embed_tokens.weight", "lm_head.weight")),
    "sharded_llama": ("decoder", ("model.embed_tokens.weight", "lm_head.weight")),
    "padded_llama": ("decoder", ("model.embed_tokens.weight",)),
    "twice_stored_llama": ("decoder", ("model.embed_tokens.weight",)),
    "head_only_llama": ("decoder", ("lm_head.weight",)),
    "bare_names_llama": ("decoder", ("embed_tokens.weight",)),
    "gpt2": ("decoder", ("transformer.wte.weight",)),
    "gpt_neox": ("decoder", ("gpt_neox.embed_in.weight", "embed_out.weight")),
    "phi": ("decoder", ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")),
    "bert_mlm": ("masked", ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")),
    "untied_bert_mlm": (
        "masked",
        (
            "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
            "cls.predictions.bias",
        ),
    ),
    "roberta_mlm": ("masked", ("roberta.embeddings.word_embeddings.weight", "lm_head.bias")),
    "albert_mlm": ("masked", ("albert.embeddings.word_embeddings.weight", "predictions.bias")),
    "bert_encoder": ("encoder", ("embeddings.word_embeddings.weight",)),
    "gemma3": ("decoder", ("language_model.model.embed_tokens.weight",)),
    "llava": ("decoder", ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")),
}


def test_every_maker_is_expected_to_give_something():
    assert EXPECTED.keys() == MAKERS.keys()


@pytest.mark.parametrize("maker", MAKERS)
def test_the_token_tables_are_found(tmp_path: Path, maker: str):
    checkpoint = open_checkpoint(MAKERS[maker](tmp_path))
    kind, names = EXPECTED[maker]
    has_own_head = any("head.weight" in name or "out.weight" in name or "decoder.weight" in name for name in names[1:])
    rows = VOCAB + 4 if maker == "padded_llama" else VOCAB
    assert (checkpoint.kind, checkpoint.rows.names, checkpoint.notes) == (kind, names, ())
    assert (checkpoint.rows.rows, checkpoint.rows.dim) == (rows, 8 if maker == "albert_mlm" else DIM)
    assert checkpoint.rows.tied == (kind != "encoder" and not has_own_head)
    assert checkpoint.dtype == (torch.bfloat16 if maker == "bf16_llama" else torch.float32)
    assert checkpoint.architecture == checkpoint.config["architectures"][0]


@pytest.mark.parametrize("maker", MAKERS)
def test_tables_have_the_values_that_transformers_uses(tmp_path: Path, maker: str):
    checkpoint = open_checkpoint(MAKERS[maker](tmp_path))
    model = getattr(transformers, checkpoint.architecture).from_pretrained(tmp_path)
    assert torch.equal(checkpoint.read(checkpoint.rows.input), model.get_input_embeddings().weight)
    head = model.get_output_embeddings()
    if head is not None:
        assert torch.equal(checkpoint.read(checkpoint.rows.output or checkpoint.rows.input), head.weight)
        if getattr(head, "bias", None) is not None:
            assert torch.equal(checkpoint.read(checkpoint.rows.biases[0]), head.bias)


def test_only_the_asked_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint = open_checkpoint(tiny_models.sharded_llama(tmp_path))
    for shard in checkpoint.shards:
        if checkpoint.rows.input not in shard.tensors:
            shard.file.unlink()
    assert checkpoint.read("model.embed_tokens.weight").shape == (VOCAB, DIM)
    with pytest.raises(BadCheckpoint, match=f"{tmp_path} stores no tensor 'wte'"):
        checkpoint.read("wte")


# What is stored against what the config says


def test_a_tied_head_with_other_values_is_used_as_transformers_does(tmp_path: Path):
    """transformers 5 ties only equal tables: with other values it keeps both, and so do we."""
    tiny_models.tied_llama(tmp_path)
    tiny_models.store(tmp_path, lambda tensors: tensors | {"lm_head.weight": torch.ones(VOCAB, DIM)})
    checkpoint = open_checkpoint(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight.detach(), torch.ones(VOCAB, DIM))
    assert (checkpoint.rows.tied, checkpoint.rows.output) == (False, "lm_head.weight")
    assert checkpoint.notes == (
        "config.json says the head is tied, but lm_head.weight is stored with other values than "
        "model.embed_tokens.weight; transformers uses both, so they are treated (and written) as untied",
    )


def test_a_tied_table_stored_as_the_head_is_the_input_too(tmp_path: Path):
    checkpoint = open_checkpoint(tiny_models.head_only_llama(tmp_path))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert checkpoint.rows == RowTensors("lm_head.weight", None, (), True, VOCAB, DIM)


def test_an_untied_model_without_a_head_is_refused(tmp_path: Path):
    """transformers would draw a random head."""
    tiny_models.untied_llama(tmp_path)
    tiny_models.store(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if k != "lm_head.weight"})
    with pytest.raises(BadCheckpoint, match="tie_word_embeddings is off, but no output rows are stored beside model"):
        open_checkpoint(tmp_path)


def test_a_repeated_table_is_an_alias_and_another_one_a_note(tmp_path: Path):
    """Extra prediction layers (DeepSeek) store the tables again, and transformers ignores them."""
    tiny_models.untied_llama(tmp_path)
    tiny_models.store(
        tmp_path,
        lambda tensors: (
            tensors
            | {
                "model.layers.9.embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
                "model.layers.9.shared_head.head.weight": tensors["lm_head.weight"].clone(),
                "model.layers.8.shared_head.head.weight": tensors["lm_head.weight"] + 1,
            }
        ),
    )
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.rows.aliases == {
        "model.layers.9.embed_tokens.weight": "model.embed_tokens.weight",
        "model.layers.9.shared_head.head.weight": "lm_head.weight",
    }
    assert checkpoint.notes == (
        "model.layers.8.shared_head.head.weight has 60 rows too but is not used by this model; it keeps its old rows",
    )


def test_an_encoder_with_position_ids(tmp_path: Path):
    """A stored buffer with as many numbers as there are rows is not a table."""
    tiny_models.bert_encoder(tmp_path)
    tiny_models.store(tmp_path, lambda tensors: tensors | {"embeddings.position_ids": torch.arange(VOCAB)[None]})
    assert open_checkpoint(tmp_path).rows.names == ("embeddings.word_embeddings.weight",)


def test_a_table_as_wide_as_it_is_long(tmp_path: Path):
    """With rows == dim every square matrix has the shape of a table."""
    config = tiny_models.llama_config(vocab_size=DIM, tie_word_embeddings=False)
    tiny_models.make(transformers.LlamaForCausalLM, config, tmp_path)
    assert open_checkpoint(tmp_path).rows.names == ("model.embed_tokens.weight", "lm_head.weight")


def test_a_masked_model_as_wide_as_its_table_is_long(tmp_path: Path):
    """Here every bias has the length of an output bias."""
    config = transformers.BertConfig(**tiny_models.bert_sizes(vocab_size=DIM))
    tiny_models.make(transformers.BertForMaskedLM, config, tmp_path)
    names = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
    assert open_checkpoint(tmp_path).rows.names == names


# Classes that transformers does not ship


@pytest.mark.parametrize(
    "maker", [maker for maker in MAKERS if maker not in ("gemma3", "llava", "head_only_llama", "bert_encoder")]
)
def test_the_table_of_names_agrees_with_the_class(tmp_path: Path, maker: str):
    MAKERS[maker](tmp_path)
    known = open_checkpoint(tmp_path)
    tiny_models.edit_json(tmp_path / "config.json", architectures=[f"Secret{known.architecture}"])
    found = open_checkpoint(tmp_path)
    assert set(found.rows.names) == set(known.rows.names)
    assert (found.rows.input, found.rows.output) == (known.rows.input, known.rows.output)
    assert (found.kind, found.rows.tied, found.rows.aliases) == (known.kind, known.rows.tied, known.rows.aliases)
    assert found.notes[0].startswith(f"the token tables were found by their usual names ({known.rows.input}): ")
    assert f"has no class Secret{known.architecture}" in found.notes[0]


def test_code_in_the_folder_is_never_run(tmp_path: Path):
    tiny_models.untied_llama(tmp_path)
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\nraise SystemExit\n")
    tiny_models.edit_json(
        tmp_path / "config.json",
        architectures=["EvilForCausalLM"],
        model_type="evil",
        auto_map={"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM", "AutoConfig": "modeling_evil.EvilConfig"},
    )
    assert open_checkpoint(tmp_path).rows.names == ("model.embed_tokens.weight", "lm_head.weight")
    assert not (tmp_path / "ran").exists()


def test_a_table_of_names_allows_padding(tmp_path: Path):
    """Foreign code may round the number of rows up."""
    tiny_models.untied_llama(tmp_path)
    tiny_models.edit_json(tmp_path / "config.json", architectures=["EvilForCausalLM"], vocab_size=VOCAB - 3)
    assert open_checkpoint(tmp_path).rows.rows == VOCAB


@pytest.mark.parametrize("architectures", [..., [], "LlamaForCausalLM", [3], ["os"], ["__doc__"]])
def test_architectures_of_any_kind(tmp_path: Path, architectures: object):
    tiny_models.untied_llama(tmp_path)
    tiny_models.edit_json(tmp_path / "config.json", architectures=architectures)
    assert open_checkpoint(tmp_path).rows.names == ("model.embed_tokens.weight", "lm_head.weight")


def test_a_model_type_of_any_kind(tmp_path: Path):
    tiny_models.untied_llama(tmp_path)
    tiny_models.edit_json(tmp_path / "config.json", architectures=..., model_type=["llama"])
    assert open_checkpoint(tmp_path).rows.names == ("model.embed_tokens.weight", "lm_head.weight")


def test_asking_a_class_does_not_grow_with_the_layers():
    """Fields with one entry per layer are cut as well."""
    kinds = ["sliding_attention", "full_attention"] * 20
    config = transformers.Gemma3TextConfig(num_hidden_layers=40, layer_types=kinds, vocab_size=40).to_dict()
    cut = shallow(config)
    assert (cut["num_hidden_layers"], cut["layer_types"], cut["vocab_size"]) == (2, kinds[:2], 40)
    assert config["num_hidden_layers"] == 40
    nested = shallow({"text_config": config, "num_hidden_layers": 3})
    assert (nested["text_config"]["num_hidden_layers"], nested["num_hidden_layers"]) == (2, 2)


def test_a_class_that_refuses_two_layers_is_built_whole(monkeypatch: pytest.MonkeyPatch):
    """Stand-in for stacks whose pattern of layers needs more of them."""
    config = tiny_models.llama_config(num_hidden_layers=5).to_dict() | {"architectures": ["LlamaForCausalLM"]}
    build = model_names._build

    def picky(model_class, config):
        if config["num_hidden_layers"] < 5:
            raise ValueError("too shallow")
        return build(model_class, config)

    monkeypatch.setattr(model_names, "_build", picky)
    names = names_by_class(config)
    assert isinstance(names, ModelNames)
    assert names.inputs == ("model.embed_tokens.weight",)


def test_a_config_that_its_class_refuses(tmp_path: Path):
    why = names_by_class({"architectures": ["LlamaForCausalLM"], "vocab_size": "many"})
    assert isinstance(why, str)
    assert why.startswith("LlamaForCausalLM cannot be built from this config (")


# Refusals


@pytest.fixture
def folder(tmp_path):
    return tiny_models.untied_llama(tmp_path / "model")


def refuses(folder, text):
    with pytest.raises(BadCheckpoint, match=text) as caught:
        open_checkpoint(folder)
    return caught.value


def test_a_folder_that_is_not_there(tmp_path: Path):
    refuses(tmp_path / "no", r"/no does not exist, expected a checkpoint folder")


def test_a_file_instead_of_a_folder(folder: Path, tmp_path: Path):
    (tmp_path / "m.gguf").touch()
    assert "convert_gguf" in refuses(tmp_path / "m.gguf", r"m\.gguf is a file, expected a checkpoint folder").hint
    refuses(folder / WEIGHTS, r"model\.safetensors is a file, expected a checkpoint folder")


def test_no_config(folder: Path):
    (folder / "config.json").unlink()
    refuses(folder, "model has no config.json")


def test_an_adapter(folder: Path):
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "merge_and_unload" in refuses(folder, "model holds an adapter, not a whole model").hint


@pytest.mark.parametrize(
    "content, text",
    [
        (b"{", r"config\.json is not valid JSON: Expecting property name"),
        (b"\xff\xfe", r"config\.json is not valid JSON: 'utf-8' codec can't decode"),
        (b"[]", r"config\.json holds a JSON list, expected an object"),
        (b"[" * 100_000, r"config\.json is not valid JSON"),
    ],
)
def test_a_config_that_is_none(folder: Path, content: bytes, text: str):
    (folder / "config.json").write_bytes(content)
    refuses(folder, text)


def test_pickles_only(folder: Path):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    error = refuses(folder, r"weights only as pickles \(pytorch_model\.bin\), which can run code when loaded")
    assert "save_pretrained" in error.hint


def test_no_weights(folder: Path):
    (folder / WEIGHTS).unlink()
    refuses(folder, r"has neither model\.safetensors nor model\.safetensors\.index\.json")


@pytest.mark.parametrize("entry", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8"}])
@pytest.mark.parametrize("nested", [False, True])
def test_quantised_weights(tmp_path: Path, entry: dict[str, object], nested: bool):
    tiny_models.gemma3(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    place = {"text_config": config["text_config"] | {"quantization_config": entry}} if nested else {}
    tiny_models.edit_json(tmp_path / "config.json", **place or {"quantization_config": entry})
    refuses(tmp_path, f"is quantised .*method {entry['quant_method']}.; new rows can only be made from float weights")


@pytest.mark.parametrize("dtype, word", [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_rows_that_are_not_floats(folder: Path, dtype: torch.dtype, word: str, name: str):
    tiny_models.store(folder, lambda tensors: tensors | {name: tensors[name].to(dtype)})
    refuses(folder, f"{name} in .* is stored as {word}, expected one of: F64, F32, F16, BF16; rows of a quantised")


def test_a_config_for_other_rows(folder: Path):
    tiny_models.edit_json(folder / "config.json", vocab_size=VOCAB + 1)
    refuses(folder, r"embed_tokens.weight in .* has 60 rows, config.json of .* asks for 61")


def test_no_embedding(folder: Path):
    save_file({"vision.patches": torch.zeros(3, 3)}, folder / WEIGHTS)
    error = refuses(folder, "no token embedding found in .*none of 1 stored tensors has .* at least 60 rows")
    assert "language model" in error.hint


def test_per_layer_tables(folder: Path):
    tiny_models.store(folder, lambda tensors: tensors | {"model.embed_tokens_per_layer.weight": torch.zeros(60, 8)})
    refuses(folder, r"second token table for its layers \(model.embed_tokens_per_layer.weight\), which is not")


def test_an_encoder_decoder(tmp_path: Path):
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=DIM, d_kv=8, d_ff=40, num_layers=1, num_heads=2, **tiny_models.SPECIAL_IDS
    )
    tiny_models.make(transformers.T5ForConditionalGeneration, config, tmp_path)
    refuses(tmp_path, r"is an encoder-decoder \(t5\), expected a decoder, a masked model or an encoder")


def test_weights_under_another_name(folder: Path):
    tiny_models.edit_json(folder / "config.json", transformers_weights="other.safetensors")
    refuses(folder, r"sends readers to other weights \(transformers_weights: 'other.safetensors'\)")


def test_a_truncated_file(folder: Path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    refuses(folder, r"model\.safetensors is not a sound safetensors file: .*outside 0 to|its tensors end at")


# Shards


@pytest.fixture
def shards(tmp_path):
    return tiny_models.sharded_llama(tmp_path / "model")


def point(folder, name, file):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = file
    (folder / INDEX).write_text(json.dumps(index))


def test_a_missing_shard(shards: Path):
    (shards / "model-00003-of-00005.safetensors").unlink()
    refuses(shards, r"lacks the shard model-00003-of-00005\.safetensors, one of 5 in its index")


@pytest.mark.parametrize(
    "file", ["../../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "..", "", "x.bin"]
)
def test_an_index_that_leads_elsewhere(shards: Path, file: str):
    point(shards, "model.norm.weight", file)
    refuses(shards, "index.json points at .*, expected plain names of .safetensors files in the same folder")


@pytest.mark.parametrize("content", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map(shards: Path, content: dict[str, object]):
    (shards / INDEX).write_text(json.dumps(content))
    refuses(shards, "has no weight_map from tensor names to file names")


def test_an_index_that_places_a_tensor_wrongly(shards: Path):
    point(shards, "model.norm.weight", "model-00001-of-00005.safetensors")
    refuses(shards, r"places tensor 'model.norm.weight' in model-00001-of-00005.safetensors, which does not hold it")


def test_a_tensor_in_two_shards(shards: Path):
    first = shards / "model-00001-of-00005.safetensors"
    save_file(load_file(first) | {"model.norm.weight": torch.ones(DIM)}, first)
    refuses(shards, "stores tensor 'model.norm.weight' twice, in model-00001-of-00005.safetensors and model-0000")


def test_one_file_goes_before_shards_as_in_transformers(shards: Path, folder: Path, tmp_path: Path):
    whole = tiny_models.untied_llama(tmp_path / "whole", seed=7)
    (whole / WEIGHTS).rename(shards / WEIGHTS)
    checkpoint = open_checkpoint(shards)
    model = transformers.AutoModelForCausalLM.from_pretrained(shards)
    assert checkpoint.index is None
    assert torch.equal(checkpoint.read("lm_head.weight"), model.lm_head.weight)


def test_tensor_infos_point_at_their_bytes(shards: Path):
    for name, info in open_checkpoint(shards).tensors.items():
        assert isinstance(info, TensorInfo)
        numbers = torch.frombuffer(bytearray(info.file.read_bytes()[info.start : info.stop]), dtype=torch.float32)
        assert torch.equal(numbers.reshape(info.shape), load_file(info.file)[name])


def test_other_parameters_that_depend_on_the_vocabulary(tmp_path: Path):
    """MobileBERT keeps a part of its head turned, with one column per token."""
    config = transformers.MobileBertConfig(**tiny_models.bert_sizes(embedding_size=8, num_feedforward_networks=1))
    tiny_models.make(transformers.MobileBertForMaskedLM, config, tmp_path)
    refuses(tmp_path, "is a MobileBertForMaskedLM, whose cls.predictions.dense.weight depends on the vocabulary")


def test_stored_buffers_that_depend_on_the_vocabulary(tmp_path: Path):
    tiny_models.make(transformers.IBertForMaskedLM, transformers.IBertConfig(**tiny_models.bert_sizes()), tmp_path)
    refuses(tmp_path, "is a IBertForMaskedLM, whose ibert.embeddings.word_embeddings.weight_integer depends on the voc")


def test_a_decoder_whose_config_names_no_class(tmp_path: Path):
    """The model type decides, so that a tied decoder is not taken for an encoder."""
    tiny_models.gpt2(tmp_path)
    tiny_models.edit_json(tmp_path / "config.json", architectures=...)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.kind, checkpoint.rows.tied, checkpoint.notes) == ("decoder", True, ())
