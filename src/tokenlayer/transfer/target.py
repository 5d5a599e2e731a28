"""The target tokenizer made ready for a model: special tokens, roles, post-processor, files.

A model knows some control tokens: its roles (bos, eos, pad...), what its tokenizer puts around a text, what its chat
template writes. A target that lacks one would spell it as text, and chat or stopping would break without a
word. Such tokens are appended to the target, with the source's rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenlayer.core.errors import choose
from tokenlayer.core.matching import RoleMatch
from tokenlayer.core.vocab import ROLES, ByteVocab
from tokenlayer.models.loading import OpenedModel
from tokenlayer.models.safetensors_io import read_json
from tokenlayer.models.score import start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.parts import Pair

SPECIALS = ("add", "keep")


@dataclass(frozen=True, eq=False)
class Target:
    """A target tokenizer that fits a source model.

    Attributes:
        tokenizer: the tokenizer to write.
        pair: source and target vocabulary.
        added: control tokens that were appended.
        lacking: control tokens that the model uses and the target cannot write as one token.
        token_map: source id -> target id for tokens that are the same.
    """

    tokenizer: LoadedTokenizer
    pair: Pair
    added: tuple[str, ...]
    lacking: tuple[str, ...]
    token_map: Mapping[int, int]

    def special_ids(self) -> dict[str, int | list[int] | None]:
        """Ids by role for the configs: `{"eos_token_id": 2, ...}`; bos, eos and pad are always named."""
        roles = self.tokenizer.vocab.roles
        return {f"{role}_token_id": roles.get(role) for role in ROLES if role in roles or role in ("bos", "eos", "pad")}

    def start_token(self, source: LoadedTokenizer) -> int | None:
        """The token that texts start after: where the source's has gone, else the target's own."""
        theirs, own = start_token(source), start_token(self.tokenizer)
        return own if theirs is None else self.token_map.get(theirs, own)


def prepare_target(
    source: LoadedTokenizer, target: LoadedTokenizer, specials: str = "add", fixed_pad: int | None = None
) -> Target:
    """Makes a target tokenizer fit a source model.

    Args:
        source: the model's tokenizer.
        target: the tokenizer to move to; its own ids do not change, but for `fixed_pad`.
        specials: `"add"` appends the control tokens that the model uses and the target lacks; `"keep"` leaves the
            target as it is and reports them.
        fixed_pad: the id that the pad token must have (see `OpenedModel.fixed_pad`); the token that has it in the
            target exchanges ids with the pad token.

    Raises:
        BadOption: another value of `specials`.
    """
    choose("specials", specials, SPECIALS)
    lacking = _lacking(source, target.vocab)
    added = tuple(lacking) if specials == "add" else ()
    longer = target.with_control_tokens(added)
    pad = _pad_id(source.vocab, longer.vocab)
    if fixed_pad is not None and pad not in (None, fixed_pad):
        longer = longer.with_exchanged(pad, fixed_pad)
    token_map = _token_map(Pair(source.vocab, longer.vocab))
    ready = _with_surroundings(longer, source, token_map)
    ready = ready.with_roles(_roles(source.vocab, longer.vocab, token_map))
    pair = Pair(source.vocab, ready.vocab)
    return Target(ready, pair, added, () if added else tuple(lacking), token_map)


def special_ids(source: OpenedModel, target: Target) -> dict[str, int | list[int] | None]:
    """Ids by role for the configs; a model that stops at several tokens goes on stopping at each that is left."""
    ids = target.special_ids()
    file = source.checkpoint.folder / "generation_config.json"
    stops = (read_json(file) if file.is_file() else {}).get("eos_token_id")
    stops = stops if stops is not None else source.checkpoint.text_config.get("eos_token_id")
    if isinstance(stops, list):
        mapped = [target.token_map[i] for i in stops if i in target.token_map]
        if mapped:
            ids["eos_token_id"] = list(dict.fromkeys(mapped))
    return ids


def surroundings(tokenizer: LoadedTokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer's post-processor puts before and after a text."""
    inner = tokenizer.encode("a")
    whole = list(tokenizer.backend.encode("a").ids)
    for at in range(len(whole) - len(inner) + 1):
        if whole[at : at + len(inner)] == inner:
            return whole[:at], whole[at + len(inner) :]
    return [], []


def role_table(target: Target) -> list[tuple[str, str, Any, str, int, str]]:
    """Rows (role, source token, source id, target token, target id, how) for control tokens worth showing."""
    source, vocab = target.pair.source, target.tokenizer.vocab
    shown = [m for m in target.pair.roles if m.role or m.how not in ("none", "same name") or m.target in _late(target)]
    return [_role_row(m, source, vocab) for m in shown[:40]]


def _late(target: Target) -> set[int]:
    return {i for name in target.added if (i := target.tokenizer.vocab.find_name(name)) is not None}


def _role_row(match: RoleMatch, source: ByteVocab, vocab: ByteVocab) -> tuple[str, str, Any, str, int, str]:
    name = "" if match.source is None else source.names[match.source]
    how = "mean row" if match.how == "none" else match.how
    return match.role, name, "" if match.source is None else match.source, vocab.names[match.target], match.target, how


def _pad_id(source: ByteVocab, target: ByteVocab) -> int | None:
    """The target's pad token: its own, else the one that has the name of the source's."""
    named = target.find_name(source.names[source.roles["pad"]]) if "pad" in source.roles else None
    return target.roles.get("pad", named)


def _lacking(source: LoadedTokenizer, target: ByteVocab) -> list[str]:
    """Names of control tokens that the source uses and the target has no counterpart of, in the source's id order.

    What the chat template writes needs the very name; roles and what stands around a text need the role.
    """
    vocab = source.vocab
    template = source.chat_template or ""
    written = {i for i in vocab.control_ids() if vocab.names[i] and vocab.names[i] in template}
    role_of = {i: role for role, i in vocab.roles.items() if role != "unk"}
    around = {i for side in surroundings(source) for i in side}
    have = {target.names[i] for i in target.control_ids()}
    return [
        vocab.names[i]
        for i in sorted(written | role_of.keys() | around)
        if vocab.names[i] not in have and (i in written or role_of.get(i) not in target.roles)
    ]


def _token_map(pair: Pair) -> dict[int, int]:
    """Source id -> target id: same bytes or name first, then roles; the lowest target id wins."""
    found: dict[int, int] = {}
    for i, match in enumerate(pair.matches):
        if match is not None:
            found.setdefault(match, i)
    for role in pair.roles:
        if role.source is not None and role.how in ("same role", "same job"):
            found.setdefault(role.source, role.target)
    return found


def _roles(source: ByteVocab, target: ByteVocab, token_map: Mapping[int, int]) -> dict[str, int]:
    """The target token of each role: what the model itself uses, else what the target says."""
    roles = dict(target.roles)
    for role, i in source.roles.items():
        if i in token_map and (role != "unk" or role in roles):
            roles[role] = token_map[i]
    return roles


def _with_surroundings(
    target: LoadedTokenizer, source: LoadedTokenizer, token_map: Mapping[int, int]
) -> LoadedTokenizer:
    """The tokenizer whose post-processor puts around a text what the source's does."""
    before, after = ([token_map[i] for i in side if i in token_map] for side in surroundings(source))
    if (before, after) == surroundings(target):
        return target
    kept = [p for p in _processors(target.data.get("post_processor")) if p.get("type") == "ByteLevel"]
    added = [_template(before, after, target.vocab)] if before or after else []
    steps = [*kept, *added]
    sequence = {"type": "Sequence", "processors": steps}
    return target.with_post_processor(steps[0] if len(steps) == 1 else sequence if steps else None)


def _processors(part: Any) -> list[dict[str, Any]]:
    if not isinstance(part, dict):
        return []
    return list(part["processors"]) if part.get("type") == "Sequence" else [part]


def _template(before: list[int], after: list[int], target: ByteVocab) -> dict[str, Any]:
    def special(i: int, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": target.names[i], "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    first = [*(special(i, 0) for i in before), text("A", 0), *(special(i, 0) for i in after)]
    second = [text("B", 1), *(special(i, 1) for i in after)]
    names = {target.names[i]: i for i in [*before, *after]}
    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in names.items()}
    return {"type": "TemplateProcessing", "single": first, "pair": [*first, *second], "special_tokens": tokens}
