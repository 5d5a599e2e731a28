"""Published pre-tokenizers by name, as parts of a tokenizer.json."""

from typing import Any

from tokenlayer.core.errors import choose

# The split patterns of the published tokenizers, as in their tokenizer.json (GPT-2: encoder.py).
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}


def _digits_first() -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    }


def _metaspace() -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt2": _byte_level(True),
    "gpt2-digits": _digits_first(),
    "cl100k": _split(CL100K),
    "llama3": _split(CL100K),
    "qwen2": _split(QWEN2),
    "o200k": _split(O200K),
    "metaspace": _metaspace(),
    "bert": {"type": "BertPreTokenizer"},
    "whitespace": {"type": "WhitespaceSplit"},
}
"""Name -> the `pre_tokenizer` field of a tokenizer.json."""


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Returns the pre-tokenizer of that name as the field of a tokenizer.json.

    Raises:
        BadOption: an unknown name, with the nearest match.
    """
    return PRE_TOKENIZERS[choose("pre-tokenizer", name, PRE_TOKENIZERS)]
