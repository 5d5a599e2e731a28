"""The tokenizer inside a GGUF file as a tokenizer.json.

GGUF keeps tokens, merges or scores, and the *name* of a pre-tokenizer (`tokenizer.ggml.pre`, the
table in llama.cpp's `llama-vocab.cpp`), not the pre-tokenizer itself. A name that is not in our table is refused:
a wrong split gives other ids without a word.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadTokenizer, MissingExtra
from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.core.tokenizer_json import components
from tokenlayer.models import sentencepiece_file as spm

# llama.cpp, src/llama-vocab.cpp: pre-tokenizer names and the split they stand for.
PRE: dict[str, str] = {
    "gpt-2": "gpt2", "gpt2": "gpt2", "mpt": "gpt2", "olmo": "gpt2", "jais": "gpt2", "phi-2": "gpt2",
    "smollm": "gpt2-digits", "starcoder": "gpt2-digits", "refact": "gpt2-digits", "command-r": "gpt2-digits",
    "codeshell": "gpt2-digits", "exaone": "gpt2-digits",
    "llama3": "llama3", "llama-v3": "llama3", "llama-bpe": "llama3", "falcon3": "llama3", "smaug-bpe": "llama3",
    "dbrx": "llama3", "chatglm-bpe": "llama3", "pixtral": "llama3",
    "qwen2": "qwen2", "stablelm2": "qwen2", "deepseek-r1-qwen": "qwen2", "hunyuan": "qwen2", "megrez": "qwen2",
    "gpt-4o": "o200k", "llama4": "o200k", "o200k": "o200k",
}  # fmt: skip
IGNORES_MERGES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"}
"""Names for which llama.cpp takes a whole pre-token that is in the vocabulary before any merge."""
# llama.h: enum llama_token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def known_pre_tokenizer(name: str) -> bool:
    """Whether we know the split behind a `tokenizer.ggml.pre` name."""
    return name in PRE


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Reads tokenizer.json data, tokenizer_config data and roles from the metadata of a GGUF file.

    Raises:
        BadTokenizer: damaged file, no tokenizer inside, or a tokenizer model or pre-tokenizer that we do not know.
        MissingExtra: the `gguf` package is not installed.
    """
    meta = read_metadata(path)
    kind = meta.get("tokenizer.ggml.model")
    tokens = meta.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise BadTokenizer(f"{path} holds no tokenizer (no tokenizer.ggml.tokens)", hint="give a tokenizer.json")
    if kind == "gpt2":
        data = _byte_level(meta, path)
    elif kind == "llama":
        data = _sentencepiece(meta)
    else:
        raise BadTokenizer(
            f"{path}: tokenizer.ggml.model is {kind!r}, we read 'gpt2' (byte-level BPE) and 'llama' (SentencePiece)",
            hint="give the tokenizer.json of the original model",
        )
    template = meta.get("tokenizer.chat_template")
    config = {"chat_template": template} if isinstance(template, str) else {}
    return data, config, _roles(meta, len(tokens))


def read_metadata(path: Path) -> dict[str, Any]:
    """Returns the key-value part of a GGUF file.

    Raises:
        BadTokenizer: the file is damaged.
        MissingExtra: the `gguf` package is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", "reading GGUF files") from error
    try:
        reader = GGUFReader(path)
        return {name: f.contents() for name, f in reader.fields.items()}
    except Exception as error:  # the package raises whatever the damaged bytes lead to
        raise BadTokenizer(
            f"{path} is not a whole GGUF file: {type(error).__name__}: {str(error)[:120]}",
            hint="copy or download the file again",
        ) from error


def _byte_level(meta: dict[str, Any], path: Path) -> dict[str, Any]:
    pre = meta.get("tokenizer.ggml.pre", "default")
    if pre not in PRE:
        raise BadTokenizer(
            f"{path}: pre-tokenizer {pre!r} is not one that we know; another split would give other ids",
            hint="give the tokenizer.json of the original model instead",
        )
    tokens = meta["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added(meta),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(PRE[pre]),
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pre in IGNORES_MERGES,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [_rule(rule) for rule in meta.get("tokenizer.ggml.merges", [])],
        },
    }  # fmt: skip


def _rule(rule: str) -> list[str]:
    """`left right`; the first character may itself be a space in SentencePiece-born files."""
    at = rule.index(" ", 1)
    return [rule[:at], rule[at + 1 :]]


def _sentencepiece(meta: dict[str, Any]) -> dict[str, Any]:
    tokens = meta["tokenizer.ggml.tokens"]
    scores = meta.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    types = meta.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    pieces = [spm.Piece(*entry) for entry in zip(tokens, scores, types, strict=True)]
    return spm.to_json(
        spm.Model(
            pieces=pieces,
            model_type=spm.BPE,
            byte_fallback=BYTE in types,
            charsmap=b"",
            add_dummy_prefix=bool(meta.get("tokenizer.ggml.add_space_prefix", True)),
            remove_extra_whitespaces=bool(meta.get("tokenizer.ggml.remove_extra_whitespaces", False)),
            escape_whitespaces=True,
            suffix_space=False,
        )
    )


def _added(meta: dict[str, Any]) -> list[dict[str, Any]]:
    tokens = meta["tokenizer.ggml.tokens"]
    types = meta.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": kind != USER_DEFINED}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def _roles(meta: dict[str, Any], size: int) -> dict[str, int]:
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "mask": "mask"}
    found = {role: meta.get(f"tokenizer.ggml.{key}_token_id") for role, key in keys.items()}
    return {role: i for role, i in found.items() if isinstance(i, int) and 0 <= i < size}


def pre_tokenizer_name(data: Mapping[str, Any]) -> str | None:
    """The name under which llama.cpp knows the split of a byte-level tokenizer.json, or None.

    Without one, converting a swapped model to GGUF fails ("BPE pre-tokenizer was not recognized") or cuts text
    in another way.
    """
    wanted = _signature(data.get("pre_tokenizer"))
    return next((name for name, preset in PRE.items() if _signature(pre_tokenizer(preset)) == wanted), None)


def _signature(part: Any) -> tuple[Any, ...]:
    """What decides the cut: patterns, digit rule, and whether ByteLevel splits by itself."""
    steps: list[Any] = []
    for step in components(part):
        if step.get("type") == "Split":
            steps.append(str((step.get("pattern") or {}).get("Regex")))
        elif step.get("type") == "Digits":
            steps.append(("digits", step.get("individual_digits")))
        elif step.get("type") == "ByteLevel":
            steps.append(("bytes", step.get("use_regex", True), step.get("add_prefix_space", False)))
        elif step.get("type") != "Sequence":
            steps.append(step.get("type"))
    return tuple(steps)
