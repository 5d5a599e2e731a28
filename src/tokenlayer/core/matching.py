"""Which tokens of two vocabularies are the same: by bytes, and by role for control tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

from tokenlayer.core.vocab import ROLES, ByteVocab, Kind

STAND_INS: dict[str, tuple[str, ...]] = {
    "bos": ("bos", "cls", "eos"),
    "cls": ("cls", "bos"),
    "eos": ("eos", "sep"),
    "sep": ("sep", "eos"),
    "pad": ("pad",),
    "unk": ("unk",),
    "mask": ("mask",),
}
"""For each role of the target the source roles that may give its row, best first."""

MARKERS: tuple[frozenset[str], ...] = (
    frozenset({"<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start|>", "[INST]", "<META_START>"}),
    frozenset({"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "[/INST]", "<META_END>"}),
    frozenset({"<|fim_prefix|>", "<fim_prefix>", "<PRE>", "[PREFIX]", "<|fim_begin|>"}),
    frozenset({"<|fim_middle|>", "<fim_middle>", "<MID>", "[MIDDLE]", "<|fim_hole|>"}),
    frozenset({"<|fim_suffix|>", "<fim_suffix>", "<SUF>", "[SUFFIX]", "<|fim_end|>"}),
    frozenset({"<|endoftext|>", "<|end_of_text|>", "<EOT>", "</s>", "<eos>", "<|end_of_sentence|>"}),
    frozenset({"<|padding|>", "<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"}),
)
"""Names of chat, fill-in and document markers that do the same job in different models."""


@dataclass(frozen=True)
class RoleMatch:
    """Where the row of one control token of the target comes from.

    Attributes:
        target: id of the control token.
        source: id of the source token whose row it takes, or None.
        how: `"same name"`, `"same role"`, `"stand-in"`, `"same job"` or `"none"`.
        role: the target's role for the token, or `""`.
    """

    target: int
    source: int | None
    how: str
    role: str = ""


def match_tokens(source: ByteVocab, target: ByteVocab) -> list[int | None]:
    """For each target id the source id with exactly the same bytes, or None.

    A source token that also has the target's name and kind wins over others with the same bytes, so a vocabulary
    matched with itself gives `0, 1, 2, ...`, holes and duplicates included. Control tokens match by name only;
    `match_roles` does more for them.
    """
    matches: list[int | None] = []
    for data, kind, name in zip(target.tokens, target.kinds, target.names, strict=True):
        named = source.find_name(name)
        if named is not None and source.tokens[named] == data and source.kinds[named] is kind:
            matches.append(named)
        elif kind in (Kind.NORMAL, Kind.BYTE):
            matches.append(source.find(data))
        else:
            matches.append(None)
    return matches


def match_roles(source: ByteVocab, target: ByteVocab) -> list[RoleMatch]:
    """Where each control token of the target takes its row from, in id order."""
    role_of = {target.roles[role]: role for role in reversed(ROLES) if role in target.roles}
    source_control = {source.names[i]: i for i in source.control_ids()}
    return [_match_role(i, role_of.get(i, ""), source, target, source_control) for i in target.control_ids()]


def _match_role(i: int, role: str, source: ByteVocab, target: ByteVocab, source_control: dict[str, int]) -> RoleMatch:
    name = target.names[i]
    if name in source_control:
        return RoleMatch(i, source_control[name], "same name", role)
    for wanted in STAND_INS.get(role, ()):
        if wanted in source.roles:
            return RoleMatch(i, source.roles[wanted], "same role" if wanted == role else "stand-in", role)
    for group in MARKERS:
        if name in group:
            found = next((source_control[other] for other in sorted(group) if other in source_control), None)
            if found is not None:
                return RoleMatch(i, found, "same job", role)
    return RoleMatch(i, None, "none", role)


@dataclass(frozen=True)
class Overlap:
    """How much of the target's text vocabulary the source has.

    Attributes:
        by_name: tokens whose strings in the two files are equal (what string matching finds).
        by_bytes: tokens that stand for the same bytes.
        target_tokens: text tokens of the target.
    """

    by_name: int
    by_bytes: int
    target_tokens: int


def overlap(source: ByteVocab, target: ByteVocab) -> Overlap:
    """Counts the text tokens of the target that the source has, by strings and by bytes."""
    ids = target.text_ids()
    source_names = {source.names[i] for i in source.text_ids()}
    return Overlap(
        by_name=sum(target.names[i] in source_names for i in ids),
        by_bytes=_count(source.find(target.tokens[i]) for i in ids),
        target_tokens=len(ids),
    )


def _count(found: Iterable[int | None]) -> int:
    return sum(i is not None for i in found)
