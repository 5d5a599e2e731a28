"""Where a config.json keeps what the token tables depend on."""

from collections.abc import Mapping
from typing import Any

TEXT_KEYS = ("text_config", "llm_config", "language_config")
"""Where the configs of multimodal models keep the language model."""

VOCAB_KEYS = ("vocab_size", "n_vocab", "padded_vocab_size")
"""What configs call the number of rows."""


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a config about the language model; the same object, so that changes to it count."""
    nested = (config[key] for key in TEXT_KEYS if isinstance(config.get(key), dict))
    return next(nested, config)


def set_vocab_size(config: dict[str, Any], rows: int, vocab_size: int) -> None:
    """Replaces the size `rows` by `vocab_size` wherever it stands, in place.

    The language model's part gets it in any case: it may have relied on the default of its class.
    """
    text = text_part(config)
    for part in (config, text):
        for key in VOCAB_KEYS:
            if part.get(key) == rows:
                part[key] = vocab_size
    if not any(text.get(key) == vocab_size for key in VOCAB_KEYS):
        text["vocab_size"] = vocab_size


def architecture_of(config: Mapping[str, Any]) -> str:
    """Returns the first entry of `architectures`, or an empty string."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
