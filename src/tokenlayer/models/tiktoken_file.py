"""A tiktoken rank file (`base64 rank` a line) as a tokenizer.json."""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.pretokenizers import PRE_TOKENIZERS, pre_tokenizer

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?")
KNOWN = {
    "cl100k_base": ("cl100k", {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259,
                               "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}),
    "o200k_base": ("o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    "r50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "p50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "qwen": ("qwen2", {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}),
}  # fmt: skip
"""File name without suffix -> pre-tokenizer and special tokens (tiktoken_ext/openai_public.py; Qwen's tokenizer)."""


def looks_like(head: bytes) -> bool:
    """Whether the first lines of a file have the form of a rank file."""
    lines = head.split(b"\n")[:3]
    return len(lines) > 1 and all(LINE.fullmatch(line) for line in lines[:2])


def read(path: Path, pre_tokenizer_name: str | None) -> tuple[dict[str, Any], dict[str, int]]:
    """Reads a rank file into the data of a tokenizer.json, and its roles.

    Merges are every split of a token into two tokens, in the order of the token's rank: the pairs
    that tiktoken joins.

    Raises:
        BadTokenizer: a line that is not `base64 rank`, ranks that repeat, a missing single byte, or no
            known pre-tokenizer.
    """
    name, special = _identity(path, pre_tokenizer_name)
    ranks = _ranks(path)
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise BadTokenizer(f"{path}: {len(missing)} single bytes have no rank, first 0x{missing[0]:02x}")
    vocab = {to_alphabet(token): rank for token, rank in ranks.items()}
    taken = set(vocab.values())
    special = {content: i for content, i in special.items() if i not in taken}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": content, **flags} for content, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(name),
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": vocab | special, "merges": _merges(ranks),
        },
    }  # fmt: skip
    end = special.get("<|endoftext|>")
    return data, {} if end is None else {"eos": end}


def _identity(path: Path, said: str | None) -> tuple[str, dict[str, int]]:
    known = KNOWN.get(path.stem.lower())
    if said is not None:
        return said, known[1] if known else {}
    if known is None:
        raise BadTokenizer(
            f"{path} holds ranks only, and its name does not say which pre-tokenizer goes with them",
            hint=f"pass --pre-tokenizer with one of: {', '.join(PRE_TOKENIZERS)} "
            f"(names known by themselves: {', '.join(KNOWN)})",
        )
    return known


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            encoded, rank_text = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except (ValueError, binascii.Error) as error:
            raise BadTokenizer(f"{path}, line {number}: expected `base64 rank`, found {line[:60]!r}") from error
        if token in ranks or rank in seen or rank < 0:
            raise BadTokenizer(f"{path}, line {number}: token {token!r} or rank {rank} is there twice")
        ranks[token] = rank
        seen.add(rank)
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[list[str]]:
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        found = [(left, right) for left, right in splits if left in ranks and right in ranks]
        found.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[to_alphabet(left), to_alphabet(right)] for left, right in found]
    return merges
