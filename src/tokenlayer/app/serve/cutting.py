"""What the page shows: tokens with ids, bytes and places in the text, and counts by language; no HTTP here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.vocab import Kind
from tokenlayer.models.score import token_ends
from tokenlayer.models.tokenizer_files import LoadedTokenizer

LONGEST_BYTES = 200_000
"""UTF-8 bytes of the longest text that is cut; a token needs about 100 bytes in the answer."""
MOST_LANGUAGES = 64


def labels(paths: Sequence[str]) -> list[str]:
    """A short name for each tokenizer: its folder or file, with a number where names repeat."""
    found: list[str] = []
    for path in paths:
        here = Path(path)
        name = here.resolve().parent.name if here.name == "tokenizer.json" else here.name or str(path)
        name = name.removesuffix(".json").removesuffix(".tokenizer") or str(path)
        same = sum(one == name or one.startswith(f"{name} (") for one in found)
        found.append(f"{name} ({same + 1})" if same else name)
    return found


def cut_text(tokenizer: LoadedTokenizer, text: str) -> dict[str, Any]:
    """Cuts a text.

    Args:
        tokenizer: any.
        text: at most `LONGEST_BYTES` of UTF-8.

    Returns:
        `tokens`: for each its `id`, `hex` (the token's bytes), `text` (what it covers in the text; broken characters
        as `\\xff`), `start` and `end` in bytes of the text, `kind`. `bytes`: of the text. `count`: of tokens.

    Raises:
        BadText: the text is too long or has lone surrogates.
    """
    data = _checked(text)
    ids = tokenizer.encode(text) if text else []
    ends = token_ends(tokenizer, text, ids).tolist() if ids else []
    tokens, start = [], 0
    for token_id, end in zip(ids, ends, strict=True):
        tokens.append(
            {
                "id": token_id,
                "hex": tokenizer.vocab.tokens[token_id].hex(" "),
                "text": data[start:end].decode("utf-8", "backslashreplace"),
                "start": start,
                "end": end,
                "kind": "unknown" if tokenizer.vocab.kinds[token_id] is Kind.CONTROL else "text",
            }
        )
        start = end
    return {"tokens": tokens, "count": len(ids), "bytes": len(data)}


def compare_languages(tokenizers: Sequence[LoadedTokenizer], texts: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Counts the tokens of texts in several languages.

    Args:
        tokenizers: any.
        texts: `(language, text)`; for premiums all texts should say the same, the reference first.

    Returns:
        For each text its `language`, `bytes`, and for each tokenizer `tokens`, `bytes_per_token` and `premium` (tokens
        over those of the first text; None where the first has none).

    Raises:
        BadOption: too many texts.
        BadText: a text that cannot be cut.
    """
    given = list(texts)
    if len(given) > MOST_LANGUAGES:
        raise BadOption(
            f"{len(given)} texts, expected at most {MOST_LANGUAGES}", hint="compare fewer languages at a time"
        )
    rows: list[dict[str, Any]] = []
    first: list[int] = []
    for language, text in given:
        size = len(_checked(text))
        counts = [len(one.encode(text)) if text else 0 for one in tokenizers]
        first = first or counts
        cells = [
            {"tokens": n, "bytes_per_token": size / n if n else None, "premium": n / of if of else None}
            for n, of in zip(counts, first, strict=True)
        ]
        rows.append({"language": language, "bytes": size, "counts": cells})
    return rows


def _checked(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadText(
            f"the text has half of a surrogate pair at character {error.start}", hint="paste the text again"
        ) from error
    if len(data) > LONGEST_BYTES:
        raise BadText(
            f"the text has {len(data)} bytes, expected at most {LONGEST_BYTES}",
            hint="paste a part of it, or use the commands",
        )
    return data
