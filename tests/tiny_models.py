"""Tiny random models as checkpoint folders, a few hundred kB each, made by code.

Every maker takes a folder and returns it; the same seed gives the same bytes. `MAKERS` holds them by name.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

logging.disable_progress_bar()

VOCAB = 60
"""Tokens of the tiny models; an even number that is no other size in them."""

DIM = 16

SPECIAL_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
"""The special tokens of every tiny model."""


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Saves as transformers does, with a generation config where the model has one."""
    model.save_pretrained(folder, **options)
    return folder


def make(model_class: Any, config: Any, folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Builds a model with random weights, biases and norms included, and saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return save(model.to(options.pop("dtype", torch.float32)), folder, **options)


def llama_config(**changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return transformers.LlamaConfig(**sizes | SPECIAL_IDS | changes)


def tied_llama(folder: Path, **options: Any) -> Path:
    return make(transformers.LlamaForCausalLM, llama_config(tie_word_embeddings=True), folder, **options)


def untied_llama(folder: Path, **options: Any) -> Path:
    return make(transformers.LlamaForCausalLM, llama_config(tie_word_embeddings=False), folder, **options)


def bf16_llama(folder: Path) -> Path:
    return untied_llama(folder, dtype=torch.bfloat16)


def sharded_llama(folder: Path) -> Path:
    """Several shards; some hold neither embedding nor head."""
    return untied_llama(folder, max_shard_size="8kB")


def padded_llama(folder: Path) -> Path:
    """A table with more rows than its tokenizer would have tokens (`VOCAB`)."""
    config = llama_config(tie_word_embeddings=True, vocab_size=VOCAB + 4)
    return make(transformers.LlamaForCausalLM, config, folder)


def gpt2(folder: Path) -> Path:
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=DIM, n_layer=2, n_head=2, n_positions=64, **SPECIAL_IDS)
    return make(transformers.GPT2LMHeadModel, config, folder)


def gpt_neox(folder: Path) -> Path:
    """Its head is stored under another name (`embed_out`) than its parameter has."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **SPECIAL_IDS,
    )
    return make(transformers.GPTNeoXForCausalLM, config, folder)


def phi(folder: Path) -> Path:
    """A decoder with an output bias."""
    config = transformers.PhiConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **SPECIAL_IDS,
    )
    return make(transformers.PhiForCausalLM, config, folder)


def bert_sizes(**changes: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    return sizes | SPECIAL_IDS | changes


def bert_mlm(folder: Path) -> Path:
    return make(transformers.BertForMaskedLM, transformers.BertConfig(**bert_sizes()), folder)


def untied_bert_mlm(folder: Path) -> Path:
    """Two separate biases are stored: `cls.predictions.bias` and `cls.predictions.decoder.bias`."""
    config = transformers.BertConfig(**bert_sizes(), tie_word_embeddings=False)
    return make(transformers.BertForMaskedLM, config, folder)


def roberta_mlm(folder: Path) -> Path:
    return make(transformers.XLMRobertaForMaskedLM, transformers.XLMRobertaConfig(**bert_sizes()), folder)


def bert_encoder(folder: Path) -> Path:
    return make(transformers.BertModel, transformers.BertConfig(**bert_sizes()), folder)


def albert_mlm(folder: Path) -> Path:
    """Its embedding is narrower than its layers."""
    config = transformers.AlbertConfig(**bert_sizes(), embedding_size=8)
    return make(transformers.AlbertForMaskedLM, config, folder)


def gemma3(folder: Path) -> Path:
    """Text and images: the vocabulary is in `text_config`, the head is tied."""
    text: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    vision = {
        "hidden_size": 12,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.Gemma3Config(
        text_config=text | SPECIAL_IDS,
        vision_config=vision,
        mm_tokens_per_image=1,
        image_token_id=5,
        boi_token_id=6,
        eoi_token_id=7,
        **SPECIAL_IDS,
    )
    return make(transformers.Gemma3ForConditionalGeneration, config, folder)


def llava(folder: Path) -> Path:
    """Text and images, with names on disk that differ from the parameters' names."""
    config = transformers.LlavaConfig(
        text_config=llama_config(tie_word_embeddings=False),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        image_token_index=5,
    )
    return make(transformers.LlavaForConditionalGeneration, config, folder)


def twice_stored_llama(folder: Path) -> Path:
    """Tied, with the head stored a second time."""
    tied_llama(folder)
    return store(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})


def head_only_llama(folder: Path) -> Path:
    """Tied, with the one table stored as the head."""
    tied_llama(folder)
    return rename(folder, {"model.embed_tokens.weight": "lm_head.weight"})


def bare_names_llama(folder: Path) -> Path:
    """A tied decoder whose names lack the prefix `model.`."""
    tied_llama(folder)
    names = load_file(folder / "model.safetensors")
    return rename(folder, {name: name.removeprefix("model.") for name in names})


def store(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Rewrites the tensors of a single-file checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})
    return folder


def rename(folder: Path, names: dict[str, str]) -> Path:
    return store(folder, lambda tensors: {names.get(name, name): tensor for name, tensor in tensors.items()})


def edit_json(file: Path, **changes: Any) -> None:
    """Sets fields of a JSON file; a value of `...` removes the field."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        tied_llama,
        untied_llama,
        bf16_llama,
        sharded_llama,
        padded_llama,
        twice_stored_llama,
        head_only_llama,
        bare_names_llama,
        gpt2,
        gpt_neox,
        phi,
        bert_mlm,
        untied_bert_mlm,
        roberta_mlm,
        albert_mlm,
        bert_encoder,
        gemma3,
        llava,
    )
}
"""Every kind of checkpoint that is read and rewritten."""
