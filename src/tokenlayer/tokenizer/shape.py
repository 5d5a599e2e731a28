"""The form of a tokenizer before it is trained: its stages and special tokens, from a config or another tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenlayer.core.errors import BadOption, BadTokenizer
from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.core.tokenizer_json import components, guess_roles, has_component, model_type, space_mark, token_family
from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.config import DEFAULT_SPECIAL, KINDS, LearnConfig

BYTE_TOKENS = tuple(f"<0x{b:02X}>" for b in range(256))
UNK = "<unk>"
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_NORMALIZERS: dict[str, Any] = {
    "none": None,
    "nfc": {"type": "NFC"},
    "nfkc": {"type": "NFKC"},
    "lowercase": {"type": "Lowercase"},
}
_BERT_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
_CONFIG_NOT_COPIED = (
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "auto_map", "tokenizer_class"),
    *("tokenizer_file", "name_or_path", "vocab_file", "merges_file", "add_bos_token", "add_eos_token"),
    *("add_prefix_space", "legacy", "backend", "is_local", "local_files_only", "chat_template", "processor_class"),
    *("special_tokens_map_file", "sp_model_kwargs"),
)
"""Fields of tokenizer_config.json that name files, ids or classes of the tokenizer that was copied from."""


@dataclass(frozen=True)
class Shape:
    """All of a tokenizer.json but its vocabulary.

    Attributes:
        kind: BPE, Unigram or WordPiece.
        stages: normalizer, pre_tokenizer, post_processor and decoder.
        model: fields of the model beside its vocabulary.
        special: control tokens with their flags, in the order of their ids.
        roles: role -> name of a control token.
        config: fields for tokenizer_config.json.
        template: chat template, or "".
        training_split: a pre-tokenizer for training alone, where the tokenizer itself has none.
    """

    kind: str
    stages: Mapping[str, Any]
    model: Mapping[str, Any]
    special: tuple[Mapping[str, Any], ...]
    roles: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    training_split: Mapping[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The control tokens."""
        return [str(token["content"]) for token in self.special]

    @property
    def byte_level(self) -> bool:
        """Whether tokens are spelled in the byte alphabet."""
        return has_component(self.stages["pre_tokenizer"], "ByteLevel")

    @property
    def byte_tokens(self) -> tuple[str, ...]:
        """The tokens `<0x00>` to `<0xFF>` if the model falls back to bytes, else none."""
        return BYTE_TOKENS if self.model.get("byte_fallback") else ()

    @property
    def fixed(self) -> int:
        """Tokens that are there whatever the text is."""
        return len(self.special) + (256 if self.byte_level else len(self.byte_tokens))

    def check_size(self, vocab_size: int) -> None:
        """Refuses a vocabulary that cannot even hold the fixed tokens.

        Raises:
            BadOption: with both numbers.
        """
        if vocab_size < self.fixed:
            raise BadOption(
                f"vocab_size is {vocab_size}, expected at least {self.fixed}: {len(self.special)} special tokens "
                f"and {self.fixed - len(self.special)} bytes",
                hint=f"--vocab-size {max(1024, 2 * self.fixed)}",
            )


def shape_of(config: LearnConfig, like: LoadedTokenizer | None = None) -> Shape:
    """Returns the shape that a config asks for, with the stages and roles of `like` if it is given.

    Raises:
        BadOption: the config asks for another kind or other stages than `like` has.
        BadTokenizer: `like` is of a kind that cannot be learned.
    """
    return _from_config(config) if like is None else _from_like(config, like)


def _from_config(config: LearnConfig) -> Shape:
    kind = config.kind or "bpe"
    name = config.pre_tokenizer or ("bert" if kind == "wordpiece" else "cl100k")
    cutter = pre_tokenizer(name)
    names = list(config.special_tokens if config.special_tokens is not None else DEFAULT_SPECIAL[kind])
    falls_back = config.byte_fallback and kind != "wordpiece" and not has_component(cutter, "ByteLevel")
    unk = _unk(kind, names, has_component(cutter, "ByteLevel"))
    if unk and unk not in names:
        names.insert(0, unk)
    if config.normalizer is None and kind == "wordpiece":
        normalizer: Any = _BERT_NORMALIZER
    else:
        normalizer = _NORMALIZERS[config.normalizer or "none"]
    return Shape(
        kind=KINDS[kind],
        stages={
            "normalizer": normalizer,
            "pre_tokenizer": _with_digits(cutter) if config.digits else cutter,
            "post_processor": _bert_template(names) if kind == "wordpiece" else None,
            "decoder": _decoder(kind, cutter),
        },
        model=_model(kind, unk, falls_back),
        special=tuple({"content": name, **_FLAGS} for name in names),
        roles=_roles(names),
        template=config.chat_template or "",
    )


def _unk(kind: str, names: list[str], byte_level: bool) -> str | None:
    if kind == "wordpiece":
        return "[UNK]"
    return None if byte_level else next((n for n in names if n in ("<unk>", "[UNK]")), UNK)


def _model(kind: str, unk: str | None, falls_back: bool) -> dict[str, Any]:
    if kind == "bpe":
        fill = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        return {"type": "BPE", "unk_token": unk, "fuse_unk": unk is not None, "byte_fallback": falls_back, **fill}
    if kind == "unigram":
        return {"type": "Unigram", "unk_token": unk, "byte_fallback": falls_back}
    return {
        "type": "WordPiece",
        "unk_token": unk,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,  # BERT, tokenization.py
    }


def _with_digits(cutter: dict[str, Any]) -> dict[str, Any]:
    parts = cutter["pretokenizers"] if cutter["type"] == "Sequence" else [cutter]
    if any(p["type"] == "Digits" for p in parts):
        return cutter
    return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, *parts]}


def _decoder(kind: str, cutter: dict[str, Any]) -> dict[str, Any]:
    if kind == "wordpiece":
        return {"type": "WordPiece", "prefix": "##", "cleanup": True}
    if has_component(cutter, "ByteLevel"):
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    parts: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if has_component(cutter, "Metaspace"):  # as in Llama's tokenizer.json
        parts.insert(0, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "})
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": parts}


def _bert_template(names: list[str]) -> dict[str, Any] | None:
    """`[CLS] A [SEP]`, and `B [SEP]` after it for pairs; ids are filled in when they are known."""
    if "[CLS]" not in names or "[SEP]" not in names:
        return None
    cls, sep, sep_b = ({"SpecialToken": {"id": n, "type_id": t}} for n, t in (("[CLS]", 0), ("[SEP]", 0), ("[SEP]", 1)))
    a, b = ({"Sequence": {"id": n, "type_id": t}} for n, t in (("A", 0), ("B", 1)))
    tokens = {n: {"id": n, "ids": [0], "tokens": [n]} for n in ("[CLS]", "[SEP]")}
    single = [cls, a, sep]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, b, sep_b], "special_tokens": tokens}


def _roles(names: list[str]) -> dict[str, str]:
    return {role: names[i] for role, i in guess_roles(tuple(names), [Kind.CONTROL] * len(names)).items()}


def _from_like(config: LearnConfig, like: LoadedTokenizer) -> Shape:
    data, kind = like.data, model_type(like.data)
    _check_like(config, like, kind)
    special = _special_of(like)
    known = {token["content"] for token in special}
    special += [{"content": name, **_FLAGS} for name in config.special_tokens or () if name not in known]
    drop = ("vocab", "merges", "dropout", "unk_id")
    roles = {role: like.vocab.names[i] for role, i in like.roles.items()} or {
        role: like.vocab.names[i] for role, i in like.vocab.roles.items()
    }
    return Shape(
        kind=kind,
        stages={stage: data.get(stage) for stage in ("normalizer", "pre_tokenizer", "post_processor", "decoder")},
        model={"type": kind, **{k: v for k, v in data["model"].items() if k not in drop}, **_unk_of(like, kind)},
        special=tuple(special),
        roles=roles,
        config={k: v for k, v in like.config.items() if k not in _CONFIG_NOT_COPIED and not k.endswith("_token")},
        template=config.chat_template or like.chat_template or "",
        training_split=_training_split(data),
    )


def _check_like(config: LearnConfig, like: LoadedTokenizer, kind: str) -> None:
    if kind not in KINDS.values():
        raise BadTokenizer(f"{like.where} is a {kind} tokenizer, which cannot be learned", hint="leave out --like")
    if config.kind is not None and KINDS[config.kind] != kind:
        raise BadOption(f"kind is {config.kind!r}, but {like.where} is a {kind} tokenizer", hint="leave out --kind")
    for name in ("pre_tokenizer", "normalizer"):
        if getattr(config, name) is not None:
            raise BadOption(
                f"{name} {getattr(config, name)!r} and like exclude each other: {like.where} brings its own",
                hint=f"leave out --{name.replace('_', '-')} or --like",
            )
    if config.digits:
        raise BadOption(f"digits and like exclude each other: {like.where} brings its own pre-tokenizer")
    model = like.data["model"]
    marks = [model.get(k) for k in ("continuing_subword_prefix", "end_of_word_suffix")]
    if kind == "BPE" and any(marks):
        raise BadTokenizer(
            f"{like.where} is a BPE that marks word ends with {next(filter(None, marks))!r}, which is not supported",
            hint="use the tokenizer of a byte-level or SentencePiece model",
        )
    if kind == "WordPiece" and token_family(like.data) != "wordpiece":
        raise BadTokenizer(f"{like.where} is a WordPiece over bytes, which is not supported")


def _special_of(like: LoadedTokenizer) -> list[Mapping[str, Any]]:
    """The control tokens by id, with their flags; those that only the model's vocabulary holds have the usual ones."""
    flags = {t["content"]: {k: bool(t.get(k)) for k in _FLAGS} for t in like.data.get("added_tokens") or ()}
    names = [like.vocab.names[i] for i in like.vocab.control_ids()]
    return [{"content": name, **flags.get(name, _FLAGS)} for name in dict.fromkeys(names) if name]


def _unk_of(like: LoadedTokenizer, kind: str) -> dict[str, Any]:
    """Unigram names its unknown token by id, which we keep by name until the ids are known."""
    model = like.data["model"]
    if kind != "Unigram":
        return {}
    at = model.get("unk_id")
    return {"unk_token": None if at is None else model["vocab"][at][0]}


def _training_split(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """SentencePiece BPE has no pre-tokenizer in its file, but was trained on words that begin with the space mark."""
    stage = data.get("pre_tokenizer")
    cuts = [c for c in components(stage) if c.get("type") != "Sequence"]
    mark = space_mark(data)
    if any(c.get("type") != "Split" or c.get("pattern") != {"String": " "} for c in cuts):
        return None
    if mark is None:
        raise BadTokenizer("this tokenizer has neither a pre-tokenizer nor a space mark to learn words by")
    pattern = f"{mark}?[^{mark}]+|{mark}+(?![^{mark}])|{mark}+"
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
