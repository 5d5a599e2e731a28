"""Any tokenizer, from any of its file formats, as one canonical tokenizer.json and a `ByteVocab`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenlayer.core.errors import BadTokenizer, TokenLayerError
from tokenlayer.core.spelling import read_vocab, split_broken
from tokenlayer.core.vocab import ROLES, ByteVocab, Kind
from tokenlayer.models.tokenizer_edit import with_added, with_exchanged_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
MAX_JSON_BYTES = 512 * 1024 * 1024
"""A larger tokenizer.json is refused before it is read; the largest published ones have about 35 MB."""


@dataclass(frozen=True, eq=False)
class LoadedTokenizer:
    """A tokenizer that was read from a file or folder.

    Attributes:
        data: the canonical tokenizer.json, parsed.
        config: tokenizer_config.json, `{}` when there was none; holds the chat template.
        roles: special roles by token id.
        where: path or hub id it was read from.
        warnings: what was unusual about the files.
    """

    data: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, int] = field(default_factory=dict)
    where: str = ""
    warnings: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """The canonical tokenizer.json as it is written."""
        return json.dumps(self.data, ensure_ascii=False)

    @cached_property
    def backend(self) -> "Tokenizer":
        """The `tokenizers` object: never truncates, pads or drops out; special strings in a text are text."""
        backend = _backend(self)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        return backend

    @cached_property
    def vocab(self) -> ByteVocab:
        """The vocabulary in bytes."""
        backend = self.backend
        return _at(self.where, lambda: read_vocab(self.data, backend, self.roles or None))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens around it; special strings inside it count as text."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts; the same ids as `encode`, faster."""
        return [list(e.ids) for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes: whole characters as text, stray bytes by the tokens that stand for them.

        Raises:
            BadTokenizer: a stray byte has no token.
        """
        ids: list[int] = []
        for part, stray in split_broken(data):
            ids += self._stray(part) if stray else self.encode(part.decode("utf-8"))
        return ids

    def _stray(self, part: bytes) -> list[int]:
        found = [self.vocab.find(bytes([b])) for b in part]
        if None in found:
            raise BadTokenizer(
                f"byte 0x{part[found.index(None)]:02x} is not part of a UTF-8 character, and {self.where} has no "
                "token for it alone",
                hint="use a byte-level tokenizer or one with byte fallback, or clean the text",
            )
        return [i for i in found if i is not None]

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token; control tokens give `b""`."""
        return [self.vocab.tokens[i] for i in ids]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens, one after the other."""
        return b"".join(self.token_bytes(ids))

    def normalised(self, text: str) -> str:
        """The text as the tokenizer's normaliser sees it (space marks written as spaces again)."""
        normaliser = self.backend.normalizer
        return text if normaliser is None else str(normaliser.normalize_str(text)).replace("▁", " ")

    @property
    def chat_template(self) -> str | None:
        """The default chat template, or None."""
        template = self.config.get("chat_template")
        if isinstance(template, list):
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def with_roles(self, roles: Mapping[str, int]) -> "LoadedTokenizer":
        """Returns a copy with other roles; nothing is parsed again."""
        other = self._renewed(roles=dict(roles))
        other.__dict__["vocab"] = replace(self.vocab, roles=dict(roles))
        return other

    def _renewed(self, **changes: Any) -> "LoadedTokenizer":
        """A copy with the same data, which keeps what was made of it."""
        other = replace(self, **changes)
        other.__dict__.update({key: self.__dict__[key] for key in ("text", "backend", "vocab") if key in self.__dict__})
        return other

    def with_post_processor(self, part: Any) -> "LoadedTokenizer":
        """Returns a copy that puts other tokens around a text; the vocabulary is not parsed again."""
        other = replace(self, data={**self.data, "post_processor": part})
        other.__dict__["vocab"] = self.vocab
        return other

    def files(self, like: "LoadedTokenizer | None" = None) -> dict[str, str]:
        """The files of a tokenizer folder by name; settings and chat template are those of `like` if it is given."""
        other = like or self
        names = {f"{role}_token": self.vocab.names[i] for role, i in self.vocab.roles.items()}
        kept = {key: other.config[key] for key in ("model_max_length", "padding_side") if key in other.config}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **kept,
            **names,
        }
        files = {"tokenizer.json": self.text}
        if other.chat_template is not None:
            files["chat_template.jinja"] = other.chat_template
        files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False)
        return files

    def with_control_tokens(self, names: Sequence[str]) -> "LoadedTokenizer":
        """Returns a copy with new control tokens appended after the last id; old texts keep their ids."""
        if not names:
            return self
        vocab = self.vocab
        ids = {name: len(vocab) + n for n, name in enumerate(names)}
        other = replace(self, data=with_added(self.data, ids), roles=vocab.roles)
        other.__dict__["vocab"] = replace(
            vocab,
            tokens=vocab.tokens + (b"",) * len(names),
            kinds=vocab.kinds + (Kind.CONTROL,) * len(names),
            names=vocab.names + tuple(names),
        )
        return other

    def with_exchanged(self, one: int, other: int) -> "LoadedTokenizer":
        """Returns a copy in which two tokens have each other's id; every text keeps its pieces."""
        moved = {one: other, other: one}
        roles = {role: moved.get(i, i) for role, i in self.vocab.roles.items()}
        return replace(self, data=with_exchanged_ids(self.data, one, other, self.vocab), roles=roles)


def load_tokenizer(where: str | Path, *, pre_tokenizer: str | None = None) -> LoadedTokenizer:
    """Reads a tokenizer from a folder, a tokenizer.json, a SentencePiece `.model`, a tiktoken rank file or a GGUF.

    Args:
        where: a path, or a hub id such as `org/name` when no such path exists (the only case that
            touches the network).
        pre_tokenizer: the published pre-tokenizer that goes with a bare tiktoken rank file
            (`cl100k`, `o200k`, `gpt2`, ...); by default known from the file name.

    Raises:
        BadTokenizer: nothing readable is there; the message names the conversion where one exists.
    """
    path = Path(where)
    if not path.exists():
        path = _from_hub(str(where))
    if path.is_dir():
        return _from_folder(path, pre_tokenizer)
    return _from_file(path, pre_tokenizer)


def _from_file(path: Path, pre_tokenizer: str | None) -> LoadedTokenizer:
    from tokenlayer.models import gguf_tokenizer, sentencepiece_file, tiktoken_file

    name = str(path)
    head = _head(path)
    if head.startswith(b"GGUF"):
        data, config, roles = gguf_tokenizer.read(path)
        return LoadedTokenizer(data, config, roles, name)
    if head.lstrip()[:1] == b"{":
        loaded = LoadedTokenizer(read_json(path), where=name)
        loaded.__dict__["text"] = path.read_text(encoding="utf-8")
        return loaded
    if tiktoken_file.looks_like(head):
        data, roles = tiktoken_file.read(path, pre_tokenizer)
        return LoadedTokenizer(data, {}, roles, name)
    if path.suffix == ".model" or sentencepiece_file.looks_like(head):
        data, roles = sentencepiece_file.read(path)
        return LoadedTokenizer(data, {}, roles, name)
    raise BadTokenizer(
        f"{path} is not a tokenizer file that we know (begins with {head[:12]!r})",
        hint="expected tokenizer.json, a SentencePiece .model, a tiktoken rank file, a .gguf, or a folder",
    )


def _from_folder(folder: Path, pre_tokenizer: str | None) -> LoadedTokenizer:
    config = _optional_json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    found = next((p for p in _candidates(folder) if p.is_file()), None)
    if found is None:
        raise _nothing_in(folder)
    read = _from_file(found, pre_tokenizer)
    loaded = read._renewed(config={**read.config, **config}, where=str(folder))
    return loaded.with_roles({**loaded.vocab.roles, **_config_roles(folder, loaded.config, loaded.vocab)})


def _candidates(folder: Path) -> list[Path]:
    rest = [*sorted(folder.glob("*.tiktoken")), *sorted(folder.glob("*.gguf"))]
    return [folder / "tokenizer.json", folder / "tokenizer.model", folder / "spiece.model", *rest]


def _nothing_in(folder: Path) -> BadTokenizer:
    names = {p.name for p in folder.iterdir()}
    slow = sorted(names & {"vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"})
    if slow:
        return BadTokenizer(
            f"{folder} has {', '.join(slow)} but no tokenizer.json",
            hint='convert it once: python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        )
    return BadTokenizer(
        f"{folder} holds no tokenizer: no tokenizer.json, .model, .tiktoken or .gguf among {len(names)} files",
        hint="copy the tokenizer.json that belongs to the model into the folder, or give its path",
    )


def _config_roles(folder: Path, config: Mapping[str, Any], vocab: ByteVocab) -> dict[str, int]:
    """Roles that the files beside the tokenizer say: by name first, else by the ids of the model's config."""
    by_name = {**_optional_json(folder / "special_tokens_map.json"), **config}
    by_id = _optional_json(folder / "config.json")
    by_id = {**by_id.get("text_config", {}), **by_id}
    control = set(vocab.control_ids())
    roles: dict[str, int] = {}
    for role in ROLES:
        said = by_name.get(f"{role}_token")
        name = said.get("content") if isinstance(said, dict) else said
        named = vocab.find_name(name) if isinstance(name, str) else None
        numbered = by_id.get(f"{role}_token_id")
        if named is not None:
            roles[role] = named
        elif isinstance(numbered, int) and numbered in control:
            roles[role] = numbered
    return roles


def _from_hub(name: str) -> Path:
    """Downloads the tokenizer files of a hub id; any other name is a missing path."""
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")) or "\\" in name:
        raise BadTokenizer(f"{name} does not exist", hint="give a folder, a tokenizer.json, or a hub id org/name")
    from huggingface_hub import snapshot_download

    wanted = ["tokenizer*", "special_tokens_map.json", "chat_template.jinja", "config.json", "*.tiktoken", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise BadTokenizer(
            f"{name} is neither a path here nor a hub id that could be fetched: {type(error).__name__}",
            hint="check the spelling; without a network, give a local folder",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of bounded size.

    Raises:
        BadTokenizer: unreadable, too large, not JSON (with line and column), or not an object.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise BadTokenizer(f"{path} has {size / 1e6:,.0f} MB; a tokenizer has at most {MAX_JSON_BYTES / 1e6:,.0f} MB")
    try:
        data = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise BadTokenizer(f"{path} is not UTF-8 at byte {error.start}", hint="is the file whole?") from error
    except json.JSONDecodeError as error:
        raise BadTokenizer(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            hint="is the file whole? copy or download it again",
        ) from error
    except RecursionError as error:
        raise BadTokenizer(f"{path} nests too deeply to be a tokenizer") from error
    if not isinstance(data, dict):
        raise BadTokenizer(f"{path} holds {type(data).__name__}, expected an object")
    return data


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise BadTokenizer(f"cannot read {path}: {error.strerror}") from error


def _backend(tokenizer: LoadedTokenizer) -> "Tokenizer":
    from tokenizers import Tokenizer

    from tokenlayer.core.tokenizer_json import vocab_from_json

    try:
        return Tokenizer.from_str(tokenizer.text)
    except Exception as error:  # the library raises bare Exception for every fault of a file
        _at(tokenizer.where, lambda: vocab_from_json(tokenizer.data))  # ours says more, when it is one that we check
        raise BadTokenizer(
            f"{tokenizer.where}: the tokenizers library refuses the file: {str(error)[:300]}",
            hint="one of the fields normalizer, pre_tokenizer, post_processor, decoder or model has a wrong value",
        ) from error


def _at(where: str, step: Callable[[], T]) -> T:
    """Runs `step`; an error of ours gets the place in front."""
    try:
        return step()
    except TokenLayerError as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error
