"""Tiny models that carry a tiny tokenizer: what a swap starts from."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from tests import tiny_models
from tests.tiny_tokenizers import FAMILIES, write

CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"

MODELS = {
    "tied_llama": "byte-level",
    "untied_llama": "split-byte-level",
    "bf16_llama": "byte-level",
    "sharded_llama": "byte-level",
    "padded_llama": "sentencepiece-bpe",
    "gpt2": "byte-level",
    "phi": "byte-level",
    "gemma3": "sentencepiece-bpe",
    "bert_mlm": "wordpiece",
    "roberta_mlm": "unigram",
    "bert_encoder": "wordpiece",
}
"""Model -> the family of its tokenizer."""


def model_with_tokenizer(name: str, folder: Path, family: str | None = None, **config: object) -> Path:
    """Makes a tiny model whose rows are those of a tiny tokenizer (and more, for `padded_llama`)."""
    text = FAMILIES[family or MODELS[name]]()
    return model_of(name, folder, text, **config)


def model_of(name: str, folder: Path, text: str, **config: object) -> Path:
    """Makes a tiny model for a given tokenizer.json."""
    tokenizer = Tokenizer.from_str(text)
    before, tiny_models.VOCAB = tiny_models.VOCAB, tokenizer.get_vocab_size()
    try:
        tiny_models.MAKERS[name](folder)
    finally:
        tiny_models.VOCAB = before
    write(folder, text, **config)
    _true_ids(folder, tokenizer, config)
    return folder


def _true_ids(folder: Path, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    """config.json names the special ids that the tokenizer has."""
    known = {"bos": ("<s>", "<|begin_of_text|>", "[CLS]"), "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
             "pad": ("<pad>", "[PAD]")}  # fmt: skip
    ids = {}
    for role, names in known.items():
        named = (str(config.get(f"{role}_token", "")), *names)
        found = next((i for n in named if (i := tokenizer.token_to_id(n)) is not None), None)
        ids[f"{role}_token_id"] = found
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.is_file():
            data = json.loads(file.read_text())
            data.update(ids)
            if isinstance(data.get("text_config"), dict):
                data["text_config"].update(ids)
            file.write_text(json.dumps(data))


def load(folder: Path):
    """The model by the class that its config names, with plain transformers."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    return getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()


def first_output(model, ids: list[int]) -> torch.Tensor:
    """Logits, or the last hidden state of a model without a head."""
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([ids]))
    return found.logits if "logits" in found else found.last_hidden_state
