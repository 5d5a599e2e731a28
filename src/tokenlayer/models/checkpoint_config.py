"""Rewrites config.json and generation_config.json for another vocabulary.

A token id in a config is a trap: after a swap it names another token, or none. Every field that holds ids is
therefore set to a given id, or sent through the map of token ids, or removed with a note; none is left to luck.
"""

import copy
from collections.abc import Mapping
from typing import Any

from tokenlayer.core.errors import BadOption, VocabMismatch
from tokenlayer.models.config_parts import set_vocab_size, text_part

SpecialIds = Mapping[str, int | list[int] | None]
"""Ids by role, such as `{"eos_token_id": [2, 7], "pad_token_id": None}`."""

MAIN_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Written even where the source has no such field: a model class would fill in its own default otherwise."""

OPTIONAL_ROLES = (
    *MAIN_ROLES,
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""Roles that a model can do without, so that a lost id becomes null."""

ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")
"""Fields with a list of ids."""

PHRASE_LISTS = ("bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids")
"""Fields with a list of token sequences, or of pairs that hold one."""

ID_ENDINGS = ("_token_id", "_token_ids", "_token_index")
"""How the names of fields with ids end."""


def check_special_ids(special_ids: SpecialIds, vocab_size: int) -> None:
    """Refuses ids outside the new table, and names that are no roles.

    Raises:
        BadOption: a key does not end like a field for token ids.
        VocabMismatch: an id is outside `0..vocab_size - 1`.
    """
    for role, value in special_ids.items():
        if not role.endswith(ID_ENDINGS):
            raise BadOption(
                f"special_ids has the key {role!r}, expected the name of a config field",
                hint="write it as in config.json, for example 'eos_token_id'",
            )
        for token_id in value if isinstance(value, list) else [value]:
            if token_id is not None and not 0 <= token_id < vocab_size:
                raise VocabMismatch(
                    f"{role} is {token_id}, the new tables have ids 0 to {vocab_size - 1}",
                    hint="take special ids from the target tokenizer, and count its added tokens into vocab_size",
                )


def new_config(
    config: Mapping[str, Any],
    *,
    rows: int,
    vocab_size: int,
    untied: bool,
    special_ids: SpecialIds,
    token_map: Mapping[int, int],
) -> tuple[dict[str, Any], list[str]]:
    """Returns config.json for the new tables, and notes about ids that were lost.

    Args:
        config: the source's config.json.
        rows: the source's number of rows.
        vocab_size: the new number of rows.
        untied: the head is a table of its own; this is then written down.
        special_ids: see `SpecialIds`.
        token_map: source id to target id, for every other field with ids.
    """
    new = copy.deepcopy(dict(config))
    text = text_part(new)
    parts = [new] if text is new else [new, text]
    set_vocab_size(new, rows, vocab_size)
    if untied:
        for part in parts:
            part["tie_word_embeddings"] = False
    new.pop("tokenizer_class", None)  # it names the source's tokenizer; tokenizer_config.json names the new one
    notes: list[str] = []
    moves = _moves(parts, special_ids, token_map)
    for part in parts:
        notes += _replace_ids(part, "config.json", special_ids, moves)
    text.update({role: special_ids[role] for role in MAIN_ROLES if role in special_ids})
    return new, list(dict.fromkeys(notes))


def new_generation_config(
    config: Mapping[str, Any], *, special_ids: SpecialIds, token_map: Mapping[int, int]
) -> tuple[dict[str, Any], list[str]]:
    """Returns generation_config.json for the new ids, and notes about ids that were lost."""
    new = copy.deepcopy(dict(config))
    notes = _replace_ids(new, "generation_config.json", special_ids, _moves([new], special_ids, token_map))
    given = {role: special_ids[role] for role in MAIN_ROLES if special_ids.get(role) is not None}
    return {**new, **given}, notes


def _moves(parts: list[dict[str, Any]], special_ids: SpecialIds, token_map: Mapping[int, int]) -> dict[int, int]:
    """The map of ids, completed by what became of the special ones."""
    moves: dict[int, int] = {}
    for part in parts:
        for role, new in special_ids.items():
            if isinstance(new, int) and type(part.get(role)) is int:
                moves.setdefault(part[role], new)
    return {**moves, **token_map}


def _replace_ids(part: dict[str, Any], file: str, special_ids: SpecialIds, moves: Mapping[int, int]) -> list[str]:
    """Replaces the ids in one object of a config, in place; returns notes."""
    notes: list[str] = []
    for key, value in list(part.items()):
        if key in special_ids:
            part[key] = special_ids[key]
        elif value is None or value == -1:
            continue
        elif key in PHRASE_LISTS:
            notes += _replace_phrases(part, key, file, moves)
        elif key in ID_LISTS or (key.endswith(ID_ENDINGS) and isinstance(value, list)):
            notes += _replace_list(part, key, file, moves)
        elif key.endswith(ID_ENDINGS) and type(value) is int:
            notes += _replace_one(part, key, file, moves)
    return notes


def _replace_one(part: dict[str, Any], key: str, file: str, moves: Mapping[int, int]) -> list[str]:
    source = part[key]
    if source in moves:
        part[key] = moves[source]
        return []
    if key in OPTIONAL_ROLES:
        part[key] = None
        return [f"{file}: {key} was {source} in the source; the target has no token for it, it is now null"]
    return [f"{file}: {key} is unknown: it keeps the source's id {source}, which now is another token, or none"]


def _replace_list(part: dict[str, Any], key: str, file: str, moves: Mapping[int, int]) -> list[str]:
    kept = [moves[one] for one in part[key] if one in moves]
    lost = len(part[key]) - len(kept)
    part[key] = kept or None
    return [f"{file}: {lost} of {lost + len(kept)} token ids in {key} are lost"] if lost else []


def _replace_phrases(part: dict[str, Any], key: str, file: str, moves: Mapping[int, int]) -> list[str]:
    """An entry of which one token is lost is dropped whole: a part of a phrase would mean something else."""
    entries = part[key] if isinstance(part[key], list) else []
    kept = [moved for entry in entries if (moved := _moved_entry(key, entry, moves)) is not None]
    lost = len(part[key]) - len(kept)
    part[key] = kept or None
    return [f"{file}: {lost} of {lost + len(kept)} entries of {key} are lost"] if lost else []


def _moved_entry(key: str, entry: Any, moves: Mapping[int, int]) -> Any:
    """One phrase with new ids, or None. Pairs are `[ids, bias]` and `[position, id]`."""
    if not isinstance(entry, list) or not entry:
        return None
    if key == "sequence_bias":
        ids = _moved_ids(entry[0], moves)
        return None if ids is None else [ids, *entry[1:]]
    if key == "forced_decoder_ids":
        ids = _moved_ids(entry[1:], moves)
        return None if ids is None else [entry[0], *ids]
    if all(isinstance(one, list) for one in entry):
        choices = [ids for one in entry if (ids := _moved_ids(one, moves)) is not None]
        return choices or None
    return _moved_ids(entry, moves)


def _moved_ids(ids: Any, moves: Mapping[int, int]) -> list[int] | None:
    if not isinstance(ids, list) or not all(type(one) is int and one in moves for one in ids):
        return None
    return [moves[one] for one in ids]
