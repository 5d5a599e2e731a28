"""A vocabulary far larger than a model's own, with predicted rows: what generation can choose from.

Dynamic tokenization, section on generation with a vocabulary of a million tokens: BPE training goes on from the
model's vocabulary, all rows are predicted once by the hypernetwork, and an index takes the place of the softmax.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.errors import BadCheckpoint, BadOption, VocabMismatch, choose
from tokenlayer.core.outputs import check_free, check_room, fresh_folder
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.loading import DTYPES
from tokenlayer.models.losses import Head
from tokenlayer.models.outside_rows import HeadRows, OutsideRows
from tokenlayer.models.safetensors_io import FLOATS, TensorInfo, read_header, read_json, read_tensor
from tokenlayer.models.safetensors_write import write_safetensors
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.index import ExactSearch, IndexConfig, IndexSearch, build_index, load_index
from tokenlayer.transfer.dynamic.longest_prefix import longest_prefix_json
from tokenlayer.transfer.dynamic.rows import UnitRows
from tokenlayer.transfer.expand import ExpandConfig, expand

FORMAT = "tokenlayer-big-vocab/1"
CONFIG, TOKENS, TOKENIZER = "config.json", "tokens.json", "tokenizer.json"
AT_A_TIME = 5_000  # the paper's code
"""Tokens whose rows are predicted at a time."""
SHARD_BYTES = 500_000_000
MOST_TOKENS = 50_000_000
"""A folder that announces more is refused before memory is taken."""
NEW_SAMPLES = 2_000
"""New tokens on whose text a tokenizer.json is compared before it is written."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class BigVocab:
    """Tokens with their rows.

    Attributes:
        vocab: all tokens, the model's own first and under their own ids.
        rows: input rows, shape `(vocab, dim)`; further rows are padding.
        output_rows: those of the head, or None where they are the input rows (tied).
        bias: of the head, or None.
        ends: ids that end a text.
        own: how many tokens are the model's own.
        source: digest of what predicted the rows, or `""`.
        search: how the likeliest next tokens are found.
    """

    vocab: ByteVocab
    rows: Float[Tensor, "rows dim"]
    output_rows: Float[Tensor, "rows dim"] | None = None
    bias: Float[Tensor, " rows"] | None = None
    ends: tuple[int, ...] = ()
    own: int = 0
    source: str = ""
    search: ExactSearch | IndexSearch = field(default_factory=ExactSearch)

    def __post_init__(self) -> None:
        for name, table in (("input", self.rows), ("output", self.output_rows), ("bias", self.bias)):
            if table is not None and len(table) < len(self.vocab):
                raise VocabMismatch(f"there are {len(table):,} {name} rows for {len(self.vocab):,} tokens")
        bad = [i for i in self.ends if not 0 <= i < len(self.vocab)]
        if bad:
            raise BadOption(f"end id {bad[0]} is outside the vocabulary of {len(self.vocab):,} tokens")

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def head_rows(self) -> Tensor:
        """Output rows of the tokens, without padding."""
        return (self.rows if self.output_rows is None else self.output_rows)[: len(self)]

    @staticmethod
    def build(
        rows: UnitRows,
        tokens: Sequence[bytes],
        *,
        bias: Tensor | None = None,
        ends: Sequence[int] | None = None,
        dtype: str = "float32",
        progress: Progress | None = None,
    ) -> "BigVocab":
        """Copies the rows of the model's own tokens and predicts those of new ones.

        Args:
            rows: predicts rows.
            tokens: new tokens; those that the model has already, and repeated ones, are passed over.
            bias: the bias of the model's head, where it has one; new tokens get the predicted one, else its mean.
            ends: ids that end a text; None takes the end token of the vocabulary.
            dtype: of the rows.
            progress: called with tokens done and tokens in all.

        Raises:
            BadOption: an empty token, or an unknown dtype.
            BadCheckpoint: a predicted row is not finite.
        """
        kind = DTYPES[choose("dtype", dtype, DTYPES)]
        if b"" in tokens:
            raise BadOption(f"token {list(tokens).index(b'')} of the new ones is empty")
        new = [token for token in dict.fromkeys(tokens) if rows.vocab.find(token) is None]
        size, dim = len(rows.vocab), rows.dim
        table = torch.empty(size + len(new), dim, dtype=kind)
        output = None if rows.tied else torch.empty_like(table)
        table[:size] = rows.table[:, :dim]
        if output is not None:
            output[:size] = rows.table[:, dim:]
        biases = None if bias is None else bias[:size].float().mean().repeat(size + len(new))
        if bias is not None and biases is not None:
            biases[:size] = bias[:size].float()
        for start in range(0, len(new), AT_A_TIME):
            found = rows(new[start : start + AT_A_TIME])
            here = slice(size + start, size + start + len(found.rows))
            table[here] = found.rows
            if output is not None and found.output_rows is not None:
                output[here] = found.output_rows
            if biases is not None and found.bias is not None:
                biases[here] = found.bias
            if progress is not None:
                progress(start + len(found.rows), len(new))
        vocab = with_new_tokens(rows.vocab, new)
        if ends is None:
            ends = [rows.vocab.roles["eos"]] if "eos" in rows.vocab.roles else []
        big = BigVocab(vocab, table, output, biases, tuple(ends), size, rows.digest)
        big.check_finite("the predicted rows")
        return big

    @staticmethod
    def of_model(model: OutsideRows, vocab: ByteVocab, ends: Sequence[int] | None = None) -> "BigVocab":
        """A model's own vocabulary, on its own tables (no memory is taken).

        Args:
            model: the model.
            vocab: its tokens.
            ends: ids that end a text; None takes those of the model and its tokenizer.
        """
        head = model.head.module
        output = None if head.weight is model.table else head.weight
        found = end_ids(model.model, vocab) if ends is None else tuple(ends)
        return BigVocab(vocab, model.table, output, getattr(head, "bias", None), found, len(vocab))

    def to(self, device: torch.device, dtype: torch.dtype) -> "BigVocab":
        """The same elsewhere, or in another dtype; nothing is copied where nothing changes."""

        def moved(table: Tensor | None) -> Tensor | None:
            return None if table is None else table.detach().to(device, dtype)

        rows = self.rows.detach().to(device, dtype)
        return replace(self, rows=rows, output_rows=moved(self.output_rows), bias=moved(self.bias))

    def head(self, model: OutsideRows) -> Head:
        """The model's head with these rows, this bias and its own scale and soft cap of logits."""
        bias = None if self.bias is None else self.bias[: len(self)]
        return Head(HeadRows(self.head_rows, bias), model.head.adjust, len(self))

    def check_model(self, model: OutsideRows) -> None:
        """Refuses a model whose rows are not those in front.

        Raises:
            VocabMismatch: width, tying or some of the rows differ.
        """
        weight = model.head.module.weight
        found = (model.table.shape[1], weight is model.table)
        if found != (self.rows.shape[1], self.output_rows is None):
            raise VocabMismatch(
                f"the vocabulary has rows of width {self.rows.shape[1]}, tied: {self.output_rows is None}; "
                f"the model has width {found[0]}, tied: {found[1]}",
                hint="a vocabulary fits the model that it was built for",
            )
        if len(model.table) < self.own:
            raise VocabMismatch(
                f"the vocabulary begins with {self.own:,} rows of a model, this one has {len(weight):,}"
            )
        some = torch.linspace(0, self.own - 1, min(64, self.own)).long()
        for pair in ((self.rows, model.table), (self.head_rows, weight)):
            mine, theirs = (table.detach()[: self.own][some.to(table.device)].float().cpu() for table in pair)
            if not torch.allclose(mine, theirs, rtol=0.01, atol=1e-6):  # rows may have been rounded to another dtype
                raise VocabMismatch(
                    f"the first {self.own:,} rows of the vocabulary are not those of the model's own tokens",
                    hint="build it again for this model: its rows have changed since",
                )

    def index(self, kind: str | IndexConfig = "auto", states: Tensor | None = None) -> "BigVocab":
        """The same with an index of its output rows.

        Args:
            kind: exact, screen, ivf, hnsw, or auto (exact below 200,000 tokens, else screen), or all settings.
            states: hidden states of the model in texts like those to come (see `read_states`); make screen faster.

        Raises:
            BadOption: an unknown kind.
            MissingExtra: faiss is not installed.
        """
        config = kind if isinstance(kind, IndexConfig) else IndexConfig.named(kind, len(self))
        digest = "" if config.kind == "exact" else self.digest()
        bias = None if self.bias is None else self.bias[: len(self)]
        return replace(self, search=build_index(self.head_rows, bias, config, digest, states=states))

    def digest(self) -> str:
        """Tells the rows apart from any others."""
        found = hashlib.blake2b(digest_size=16)
        for name, table in self._tables().items():
            found.update(f"{name} {table.dtype} {list(table.shape)}".encode())
            for part in table.split(1 << 14):
                found.update(part.contiguous().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _tables(self) -> dict[str, Tensor]:
        tables = {"rows": self.rows, "output_rows": self.output_rows, "bias": self.bias}
        return {name: table.detach()[: len(self)].cpu() for name, table in tables.items() if table is not None}

    def check_finite(self, what: str) -> None:
        """Refuses rows with numbers that are not finite.

        Raises:
            BadCheckpoint: with the first such token.
        """
        for name, table in self._tables().items():
            for start in range(0, len(table), 1 << 14):
                good = torch.isfinite(table[start : start + (1 << 14)].float())
                good = good.all(dim=1) if good.ndim == 2 else good
                if not bool(good.all()):
                    bad = start + int(torch.nonzero(~good)[0])
                    raise BadCheckpoint(f"{what}: {name} of token {self.vocab.label(bad)} is not finite")

    def save(self, folder: Path, tokenizer: LoadedTokenizer | None = None, *, force: bool = False) -> None:
        """Writes a folder: rows in shards, tokens, index, and a tokenizer.json where one cuts as ours does.

        Args:
            folder: is there whole or not at all.
            tokenizer: the model's own, for the tokenizer.json.
            force: replace a folder that we would have written.

        Raises:
            OutputExists: the folder is taken.
            NoRoom: the disk has too little room.
            BadCheckpoint: a row is not finite.
        """
        check_free(folder, force=force)
        self.check_finite("nothing was written")
        tables = self._tables()
        per_row = sum(table[:1].nbytes for table in tables.values())
        check_room(folder.parent, per_row * len(self) * (1 if isinstance(self.search, ExactSearch) else 3), "saving")
        step = max(1, SHARD_BYTES // per_row)
        starts = range(0, len(self), step)
        with fresh_folder(folder, force=force) as out:
            names = [f"rows-{n:05d}-of-{len(starts):05d}.safetensors" for n in range(1, len(starts) + 1)]
            for name, start in zip(names, starts, strict=True):
                parts = {key: table[start : start + step].contiguous() for key, table in tables.items()}
                write_safetensors(out / name, parts, {"format": "pt"})
            config = {
                "format": FORMAT,
                "tokens": len(self),
                "own": self.own,
                "ends": list(self.ends),
                "shapes": {
                    key: [str(table.dtype).removeprefix("torch."), *table.shape] for key, table in tables.items()
                },
                "shards": names,
                "rows_digest": self.digest(),
                "source_digest": self.source,
            }
            _write_json(out / CONFIG, config)
            _write_json(out / TOKENS, _tokens_json(self.vocab))
            data = None if tokenizer is None else longest_prefix_json(tokenizer, self.vocab, self._samples())
            if data is not None:
                _write_json(out / TOKENIZER, data)
            if isinstance(self.search, IndexSearch):
                self.search.save(out)

    def _samples(self) -> list[str]:
        """Texts of new tokens, some of them joined."""
        step = max(1, (len(self) - self.own) // NEW_SAMPLES)
        some = [self.vocab.tokens[i].decode("utf-8", "ignore") for i in range(self.own, len(self), step)]
        return [text for text in [*some, *map("".join, zip(some, some[1:], some[2:], strict=False))] if text]

    @staticmethod
    def load(folder: Path) -> "BigVocab":
        """Reads what `save` wrote.

        Raises:
            BadCheckpoint: there is none, sizes disagree, a row is not finite, or rows or index are not those that
                were written together.
            MissingExtra: it has an index, and faiss is not installed.
        """
        if not (folder / CONFIG).is_file():
            raise BadCheckpoint(
                f"{folder} holds no vocabulary: it has no {CONFIG}",
                hint="give the folder that `tokenlayer transfer dynamic index` wrote",
            )
        config = read_json(folder / CONFIG)
        if config.get("format") != FORMAT:
            raise BadCheckpoint(f"{folder / CONFIG} has the format {config.get('format')!r}, expected {FORMAT!r}")
        tables = _read_tables(folder, config)
        vocab = _vocab_of_json(folder, int(config["tokens"]))
        big = BigVocab(
            vocab,
            tables["rows"],
            tables.get("output_rows"),
            tables.get("bias"),
            tuple(config["ends"]),
            config["own"],
            config["source_digest"],
        )
        big.check_finite(str(folder))
        digest = big.digest()
        if digest != config["rows_digest"]:
            raise BadCheckpoint(
                f"the rows in {folder} have the digest {digest}, {CONFIG} says {config['rows_digest']}",
                hint="build the folder again; a shard was exchanged or damaged",
            )
        return replace(big, search=load_index(folder, digest))


def with_new_tokens(vocab: ByteVocab, new: Sequence[bytes]) -> ByteVocab:
    """A vocabulary with further normal tokens behind; it spells nothing (see `LongestPrefix`)."""
    names = [to_alphabet(token) if vocab.family == "byte-level" else token.decode("latin-1") for token in new]
    return replace(
        vocab,
        tokens=(*vocab.tokens, *new),
        kinds=(*vocab.kinds, *[Kind.NORMAL] * len(new)),
        names=(*vocab.names, *names),
        speller=None,
        merges=(),
    )


def grow_vocabulary(
    tokenizer: LoadedTokenizer,
    texts: Iterable[str],
    size: int,
    *,
    min_count: int = 2,
    progress: Progress | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> list[bytes]:
    """Learns further tokens by going on with BPE training from a tokenizer's own merges.

    Args:
        tokenizer: byte-level or SentencePiece BPE.
        texts: what to learn from, read once.
        size: tokens in all, the tokenizer's own included.
        min_count: a pair must occur this often to become a token.
        progress: called with tokens learned and tokens wanted.
        warn: takes a sentence for each thing that is unusual.

    Returns:
        The new tokens, in the order in which they were learned.

    Raises:
        BadOption: the size is not above that of the tokenizer.
        BadTokenizer: the tokenizer is no BPE.
        BadText: there is too little text for so many tokens.
    """
    own = len(tokenizer.vocab)
    if size <= own:
        raise BadOption(f"size is {size:,}, expected more than the {own:,} tokens that the model has")
    settings = ExpandConfig(drop_ascii=False, min_count=min_count)
    found = expand(tokenizer, texts, size - own, settings, progress=progress, warn=warn)
    return [found.tokenizer.vocab.tokens[i] for i in found.added]


def end_ids(model: Any, vocab: ByteVocab) -> tuple[int, ...]:
    """Ids that end a text: those of the model's generation config, and the tokenizer's end token."""
    config = getattr(model, "generation_config", None) or model.config
    said = getattr(config, "eos_token_id", None)
    named = [vocab.roles["eos"]] if "eos" in vocab.roles else []
    ids = [*([said] if isinstance(said, int) else said or []), *named]
    return tuple(sorted({i for i in ids if i < len(vocab)}))


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _tokens_json(vocab: ByteVocab) -> dict[str, Any]:
    """Bytes one character each; names and kinds where the bytes do not say them."""
    plain = {i for i, kind in enumerate(vocab.kinds) if kind is Kind.NORMAL}
    return {
        "tokens": [token.decode("latin-1") for token in vocab.tokens],
        "names": list(vocab.names),
        "kinds": {str(i): kind.value for i, kind in enumerate(vocab.kinds) if i not in plain},
        "roles": dict(vocab.roles),
        "family": vocab.family,
        "model": vocab.model,
    }


def _vocab_of_json(folder: Path, size: int) -> ByteVocab:
    found = _read_tokens(folder / TOKENS)
    try:
        tokens = tuple(token.encode("latin-1") for token in found["tokens"])
        kinds = tuple(Kind(found["kinds"].get(str(i), Kind.NORMAL)) for i in range(len(tokens)))
        vocab = ByteVocab(tokens, kinds, tuple(found["names"]), found["roles"], found["family"], found["model"])
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise BadCheckpoint(f"{folder / TOKENS} is damaged: {error!r}") from error
    if not len(vocab.names) == len(tokens) == size:
        raise BadCheckpoint(
            f"{folder / TOKENS} has {len(tokens):,} tokens and {len(vocab.names):,} names, {CONFIG} says {size:,}"
        )
    return vocab


def _read_tokens(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadCheckpoint(f"{file} holds {type(found).__name__}, expected an object")
    return found


def _read_tables(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of all shards, whose sizes are compared before memory is taken."""
    try:
        size, shapes, names = config["tokens"], config["shapes"], config["shards"]
        wanted = {key: (kind, tuple(shape)) for key, (kind, *shape) in shapes.items()}
        for key in ("own", "ends", "rows_digest", "source_digest"):
            config[key]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{folder / CONFIG} lacks a setting or has one of another form: {error!r}") from error
    if not isinstance(size, int) or not 0 < size <= MOST_TOKENS or "rows" not in wanted:
        raise BadCheckpoint(f"{folder / CONFIG} announces {size} tokens, expected 1 to {MOST_TOKENS:,}")
    shards = [_read_shard(folder, str(name), set(wanted)) for name in names]
    tables = {}
    for key, (kind, shape) in wanted.items():
        parts = [shard[key] for shard in shards]
        found = (sum(part.shape[0] for part in parts), *parts[0].shape[1:]) if parts else ()
        if found != shape or shape[0] != size or any(str(FLOATS.get(p.dtype)) != f"torch.{kind}" for p in parts):
            raise BadCheckpoint(f"{key} in {folder} has {list(found)} numbers, {CONFIG} says {kind} {list(shape)}")
        table, at = torch.empty(shape, dtype=DTYPES[kind]), 0
        for part in parts:
            table[at : at + part.shape[0]] = read_tensor(part)
            at += part.shape[0]
        tables[key] = table
    return tables


def _read_shard(folder: Path, name: str, keys: set[str]) -> dict[str, TensorInfo]:
    if Path(name).name != name:
        raise BadCheckpoint(f"{folder / CONFIG} names the shard {name!r}, expected a file name")
    found = read_header(folder / name).tensors
    if set(found) != keys:
        raise BadCheckpoint(f"{folder / name} has the tensors {sorted(found)}, expected {sorted(keys)}")
    return found
