"""From the data of a tokenizer.json to a `ByteVocab`; every field that we rely on is checked."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenlayer.core.byte_alphabet import from_alphabet_or_none
from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.vocab import ByteVocab, Kind

MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
HINT = "re-save the tokenizer with the `tokenizers` library, or check that the file is whole"

ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|begin_of_sentence|>", "<SOS>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|end_of_sentence|>", "<EOT>", "<|im_end|>"),
    "pad": ("<pad>", "[PAD]", "<|padding|>", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
    "sep": ("[SEP]",),
    "cls": ("[CLS]",),
    "mask": ("[MASK]", "<mask>"),
}
"""Names that say a role by themselves, for a bare tokenizer.json without a config beside it."""


@dataclass(frozen=True)
class _Entries:
    """The vocabulary as the file has it."""

    names: dict[int, str]
    added: dict[int, dict[str, Any]]
    size: int


def model_type(data: Mapping[str, Any]) -> str:
    """Returns the kind of model of a tokenizer.json, also of old files that do not say it.

    Raises:
        BadTokenizer: no model, or one that we do not know.
    """
    model = data.get("model")
    if not isinstance(model, dict):
        raise BadTokenizer(f"field 'model' is {type(model).__name__}, expected an object", hint=HINT)
    said = model.get("type")
    if said is None:
        said = "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"
    if said not in MODELS:
        raise BadTokenizer(f"field 'model.type' is {said!r}, expected one of: {', '.join(MODELS)}", hint=HINT)
    return str(said)


def vocab_from_json(
    data: Mapping[str, Any],
    roles: Mapping[str, int] | None = None,
    added_ids: Mapping[str, int] | None = None,
) -> ByteVocab:
    """Builds the vocabulary in bytes of a tokenizer.json that was read into `data`.

    Args:
        data: the parsed file.
        roles: special roles by token id when something beside the file says them; None guesses them from
            well-known names.
        added_ids: id of each added token as the library that encodes has it; it does not always follow the
            file (a file that gives two tokens one id is read without a word). None trusts the file.

    Raises:
        BadTokenizer: a field is missing, has the wrong type, or names an id twice; an id is absurdly large.
    """
    kind = model_type(data)
    entries = _entries(data, kind, added_ids)
    family = token_family(data)
    names = tuple(entries.names.get(i, "") for i in range(entries.size))
    tokens: list[bytes] = []
    kinds: list[Kind] = []
    reader = _Reader(data, kind, family)
    for i in range(entries.size):
        one, its_kind = reader.read(names[i], entries.added.get(i)) if i in entries.names else (b"", Kind.UNUSED)
        tokens.append(one)
        kinds.append(its_kind)
    found = ByteVocab(
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        names=names,
        roles=dict(roles) if roles is not None else guess_roles(names, kinds),
        family=family,
        model=kind,
        merges=_merges(data, kind, {name: i for i, name in entries.names.items()}),
        lossy=tuple(_losses(data, kind, family)),
    )
    for role, i in found.roles.items():
        if not 0 <= i < len(found):
            raise BadTokenizer(f"the {role} token has id {i}, the tokenizer has ids 0 to {len(found) - 1}", hint=HINT)
    return found


def guess_roles(names: tuple[str, ...], kinds: list[Kind]) -> dict[str, int]:
    """Returns the roles that well-known names of control tokens say."""
    control = {name: i for i, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind is Kind.CONTROL}
    roles = {}
    for role, known in ROLE_NAMES.items():
        hits = [control[name] for name in known if name in control]
        if hits:
            roles[role] = hits[0]
    return roles


def components(part: Any) -> Iterator[dict[str, Any]]:
    """Yields a pipeline stage of a tokenizer.json and everything nested in its sequences."""
    if not isinstance(part, dict):
        return
    yield part
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        for inner in part.get(key) or ():
            yield from components(inner)


def has_component(part: Any, name: str) -> bool:
    """Whether a stage of that type is anywhere in `part`."""
    return any(c.get("type") == name for c in components(part))


def token_family(data: Mapping[str, Any]) -> str:
    """How the names of a tokenizer.json spell bytes: see `ByteVocab.family`."""
    if any(has_component(data.get(stage), "ByteLevel") for stage in ("pre_tokenizer", "normalizer")):
        return "byte-level"
    if model_type(data) == "WordPiece":
        return "wordpiece"
    if space_mark(data) is not None:
        return "sentencepiece"
    return "byte-level" if has_component(data.get("decoder"), "ByteLevel") else "plain"


def space_mark(data: Mapping[str, Any]) -> str | None:
    """The character that stands for a space in token names (`▁`), or None."""
    for stage in ("pre_tokenizer", "decoder"):
        for part in components(data.get(stage)):
            if part.get("type") == "Metaspace":
                return str(part.get("replacement", "▁"))
    for part in components(data.get("normalizer")):
        if part.get("type") == "Replace" and part.get("pattern") == {"String": " "}:
            return str(part.get("content")) or None
    return None


class _Reader:
    """Reads one name of the file into bytes and a kind."""

    def __init__(self, data: Mapping[str, Any], kind: str, family: str) -> None:
        model = data["model"]
        self.family = family
        self.mark = space_mark(data) or ""
        self.unk = model.get("unk_token")
        if kind == "Unigram" and isinstance(model.get("unk_id"), int) and 0 <= model["unk_id"] < len(model["vocab"]):
            self.unk = model["vocab"][model["unk_id"]][0]
        self.byte_fallback = bool(model.get("byte_fallback"))
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.isolates = has_component(data.get("pre_tokenizer"), "BertPreTokenizer")

    def read(self, name: str, added: dict[str, Any] | None) -> tuple[bytes, Kind]:
        if added is not None:
            return (b"", Kind.CONTROL) if added.get("special") else self._added(name)
        if name == self.unk:
            return b"", Kind.CONTROL
        if self.byte_fallback and (hit := BYTE_TOKEN.fullmatch(name)):
            return bytes([int(hit[1], 16)]), Kind.BYTE
        if self.family == "byte-level":
            spelled = from_alphabet_or_none(name)
            return (b"", Kind.UNUSED) if not spelled else (spelled, Kind.NORMAL)
        if self.family == "wordpiece":
            return self._wordpiece(name)
        return _utf8(name.replace(self.mark, " ") if self.mark else name)

    def _added(self, name: str) -> tuple[bytes, Kind]:
        return _utf8(name.replace(self.mark, " ") if self.mark else name)

    def _wordpiece(self, name: str) -> tuple[bytes, Kind]:
        if self.prefix and name.startswith(self.prefix) and name != self.prefix:
            inner = name[len(self.prefix) :]
            never = self.isolates and is_isolated(inner[0])
            return (b"", Kind.UNUSED) if never else _utf8(inner)
        if self.isolates and name and is_isolated(name[0]):
            return _utf8(name) if len(name) == 1 else (b"", Kind.UNUSED)
        return _utf8(" " + name)


def is_isolated(char: str) -> bool:
    """Whether BERT's pre-tokenizer makes the character a word of its own (punctuation, CJK)."""
    code = ord(char)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    cjk = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2CEAF
    compat = 0xF900 <= code <= 0xFAFF or 0x2F800 <= code <= 0x2FA1F
    return ascii_sign or cjk or compat or unicodedata.category(char).startswith("P")


def _utf8(text: str) -> tuple[bytes, Kind]:
    data = text.encode("utf-8", "surrogatepass")
    return (data, Kind.NORMAL) if data else (b"", Kind.UNUSED)


def _entries(data: Mapping[str, Any], kind: str, added_ids: Mapping[str, int] | None) -> _Entries:
    """All (id, name) pairs of the file, checked."""
    names: dict[int, str] = {}
    for name, said in _model_entries(data["model"].get("vocab"), kind):
        _claim(names, said, name, "model.vocab")
    added: dict[int, dict[str, Any]] = {}
    listed = data.get("added_tokens") or []
    if not isinstance(listed, list):
        raise BadTokenizer(f"field 'added_tokens' is {type(listed).__name__}, expected a list", hint=HINT)
    for at, token in enumerate(listed):
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise BadTokenizer(f"field 'added_tokens[{at}]' has no text 'content': {str(token)[:80]}", hint=HINT)
        i: Any = token.get("id") if added_ids is None else added_ids.get(token["content"], token.get("id"))
        _claim(names, i, token["content"], f"added_tokens[{at}]")
        added[i] = token
    if not names:
        raise BadTokenizer("the vocabulary is empty: fields 'model.vocab' and 'added_tokens' name no token", hint=HINT)
    size = max(names) + 1
    if size > 2 * len(names) + 65_536:
        raise BadTokenizer(
            f"token id {size - 1} ({names[size - 1]!r}) in a vocabulary of {len(names)} tokens: "
            "ids may have small gaps, not this",
            hint=HINT,
        )
    return _Entries(names, added, size)


def _model_entries(vocab: Any, kind: str) -> Iterator[tuple[str, Any]]:
    wanted = list if kind == "Unigram" else dict
    if not isinstance(vocab, wanted):
        raise BadTokenizer(
            f"field 'model.vocab' is {type(vocab).__name__}, expected {wanted.__name__} for a {kind} model", hint=HINT
        )
    if isinstance(vocab, dict):
        yield from vocab.items()
        return
    for i, entry in enumerate(vocab):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise BadTokenizer(f"field 'model.vocab[{i}]' is {str(entry)[:60]}, expected [piece, score]", hint=HINT)
        yield entry[0], i


def _claim(names: dict[int, str], i: Any, name: str, where: str) -> None:
    if isinstance(i, bool) or not isinstance(i, int) or i < 0:
        raise BadTokenizer(f"field '{where}': token {name!r} has id {i!r}, expected a number from 0", hint=HINT)
    if names.setdefault(i, name) != name:
        raise BadTokenizer(f"field '{where}': id {i} belongs to {names[i]!r} and to {name!r}", hint=HINT)


def _merges(data: Mapping[str, Any], kind: str, ids: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """BPE rules as id pairs; both forms of the file ("a b" and ["a", "b"])."""
    if kind != "BPE":
        return ()
    listed = data["model"].get("merges")
    if not isinstance(listed, list):
        raise BadTokenizer(f"field 'model.merges' is {type(listed).__name__}, expected a list", hint=HINT)
    pairs = []
    for rank, rule in enumerate(listed):
        parts = rule.split(" ") if isinstance(rule, str) else rule
        if not isinstance(parts, list) or len(parts) != 2:
            raise BadTokenizer(f"field 'model.merges[{rank}]' is {rule!r}, expected two pieces", hint=HINT)
        if parts[0] not in ids or parts[1] not in ids:
            lost = parts[0] if parts[0] not in ids else parts[1]
            raise BadTokenizer(f"field 'model.merges[{rank}]': {lost!r} is not in the vocabulary", hint=HINT)
        pairs.append((ids[parts[0]], ids[parts[1]]))
    return tuple(pairs)


def _losses(data: Mapping[str, Any], kind: str, family: str) -> Iterator[str]:
    """One sentence for each thing that encoding and decoding does not give back."""
    for part in components(data.get("normalizer")):
        name = part.get("type")
        if name in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Lowercase", "StripAccents", "Strip"):
            yield f"the normaliser {name} changes some texts before they are cut"
        if name == "BertNormalizer":
            what = "lower-cases and strips accents" if part.get("lowercase") else "cleans control characters"
            yield f"the normaliser BertNormalizer {what}"
    if family == "wordpiece":
        yield "white space between words is not kept"
    if family != "byte-level" and not data["model"].get("byte_fallback"):
        yield f"characters outside the {kind} vocabulary become the unknown token"
