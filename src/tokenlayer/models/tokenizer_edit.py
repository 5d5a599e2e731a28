"""Small changes to the data of a tokenizer.json that leave the cut of every text as it was."""

from collections.abc import Mapping
from typing import Any

from tokenlayer.core.vocab import ByteVocab

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
"""How a control token is found in a text: only as itself."""

NEVER = -1e6
"""Unigram score of a control token, so that no text is ever cut into it."""


def with_added(data: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Appends control tokens with given ids.

    They are put into the model's vocabulary as well: the library numbers an added token that the model does not know
    by the count of tokens, whatever the file says, and would fall into a gap of the ids.
    """
    added = [{"id": i, "content": name, **FLAGS} for name, i in ids.items()]
    return {**data, "added_tokens": [*(data.get("added_tokens") or []), *added], "model": _extended(data, ids)}


def _extended(data: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    model = dict(data["model"])
    if isinstance(model["vocab"], dict):
        late = {t["content"]: t["id"] for t in data.get("added_tokens") or () if t["id"] >= len(model["vocab"])}
        model["vocab"] = {**late, **model["vocab"], **ids}
    elif len(model["vocab"]) == min(ids.values()):  # a list has no gaps: ids are places in it
        model["vocab"] = [*model["vocab"], *([name, NEVER] for name in ids)]
    return model


def with_exchanged_ids(data: Mapping[str, Any], one: int, other: int, vocab: ByteVocab) -> dict[str, Any]:
    """Gives two tokens each other's id, wherever the file names them."""
    moved = {one: other, other: one}
    model = dict(data["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {name: moved.get(i, i) for name, i in model["vocab"].items()}
    else:
        entries = list(model["vocab"])
        entries[one], entries[other] = entries[other], entries[one]
        model["vocab"] = entries
        unknown = model.get("unk_id")
        model["unk_id"] = moved.get(unknown, unknown) if isinstance(unknown, int) else unknown
    names = {vocab.names[i]: moved[i] for i in moved}
    added = [{**t, "id": names.get(t["content"], t["id"])} for t in data.get("added_tokens") or ()]
    post = _renumbered(data.get("post_processor"), moved)
    return {**data, "model": model, "added_tokens": sorted(added, key=lambda t: t["id"]), "post_processor": post}


def _renumbered(part: Any, moved: Mapping[int, int]) -> Any:
    """The `ids` of special tokens and the `[name, id]` pairs of a post-processor."""
    if isinstance(part, dict):
        return {
            key: [moved.get(i, i) for i in value] if key == "ids" else _renumbered(value, moved)
            for key, value in part.items()
        }
    if isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
        return [part[0], moved.get(part[1], part[1])]
    return [_renumbered(inner, moved) for inner in part] if isinstance(part, list) else part
