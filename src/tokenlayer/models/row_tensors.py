"""Which stored tensors of a checkpoint have one row per token.

Two sources are asked. The model class that `config.json` names is built without memory (torch's `meta` device)
and says which parameter embeds tokens, which one scores them and which bias is added; those parameter names are
then looked up among the stored names, which may lack or have a prefix. Classes that transformers does not ship
(`auto_map`) are never executed: a table of usual names together with the shape takes their place.

Tying, as transformers 5 does it on loading (`PreTrainedModel.tie_weights`, seen on 5.23): with
`tie_word_embeddings` on and both matrices stored, they are tied only if their values are equal; if they differ,
**both are used and nothing is tied**; if only the head is stored, it serves as the input embedding too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.config_parts import VOCAB_KEYS, architecture_of
from tokenlayer.models.model_names import ModelNames, class_name, kind_of, names_by_class
from tokenlayer.models.safetensors_io import FLOATS, TensorInfo, same_values

INPUT_ENDINGS = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "wte.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
    "token_embedding.weight",
    "word_embedding.weight",
    "tokens_embed.weight",
    "embedding.weight",
    "embeddings.weight",
    "embed.weight",
    "shared.weight",
)
"""How the names of stored input embeddings end, most telling first."""

OUTPUT_ENDINGS = (
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "predictions.decoder.weight",
    "output_layer.weight",
    "vocab_projector.weight",
    "generator_lm_head.weight",
    "shared_head.head.weight",
    "pred_layer.proj.weight",
    "decoder.weight",
    "output.weight",
    "ff_out.weight",
    "head.weight",
)
"""How the names of stored heads end, most telling first."""

BIAS_ENDINGS = (
    "lm_head.bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "lm_head.decoder.bias",
    "embed_out.bias",
    "vocab_projector.bias",
    "generator_lm_head.bias",
    "decoder.bias",
    "output.bias",
)
"""How the names of stored output biases end."""

HEADED = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForImageTextToText")
"""How the names of classes with a head end."""


@dataclass(frozen=True)
class RowTensors:
    """The stored tensors with one row per token.

    Attributes:
        input: name of the input embedding, shape `(rows, dim)`. Where a tied table is stored only as the head,
            this is the name of the head.
        output: name of the head if it is a table of its own, shape `(rows, its own dim)`; None if the head is
            tied, or there is none.
        biases: names of the output biases, each of shape `(rows,)`.
        tied: whether one table serves as input and output rows.
        rows: number of rows, padded rows included.
        dim: width of the input embedding.
        aliases: further stored tensors that repeat one of the above bit for bit: `{their name: its name}`.
    """

    input: str
    output: str | None
    biases: tuple[str, ...]
    tied: bool
    rows: int
    dim: int
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every table and bias that new rows are needed for; aliases follow by themselves."""
        return (self.input, *((self.output,) if self.output else ()), *self.biases)

    @property
    def stored(self) -> frozenset[str]:
        """Every stored tensor that must change when the vocabulary does."""
        return frozenset((*self.names, *self.aliases))


@dataclass(frozen=True)
class FoundRows:
    """The row tensors, what the model is for, and what a user should know about them."""

    rows: RowTensors
    kind: str
    """`"decoder"`, `"masked"` or `"encoder"` (no head)."""
    notes: tuple[str, ...]


def find_rows(
    config: Mapping[str, Any], text_config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], folder: Path
) -> FoundRows:
    """Finds the token tables among stored tensors.

    Args:
        config: config.json.
        text_config: its part about the language model.
        tensors: every stored tensor by name.
        folder: for messages.

    Raises:
        BadCheckpoint: there is no table, or several candidates; stored rows and config disagree; the rows are
            not floats; the model has tables that we do not rewrite (per-layer tables, encoder-decoders).
    """
    asked = names_by_class(config)
    if config.get("is_encoder_decoder") is True or (isinstance(asked, ModelNames) and asked.encoder_decoder):
        raise BadCheckpoint(
            f"{folder} is an encoder-decoder ({config.get('model_type')}), expected a decoder, a masked model or an "
            "encoder",
            hint="pick a model with one stack of layers",
        )
    _refuse_layer_tables(tensors, folder)
    if isinstance(asked, ModelNames) and asked.others:
        raise BadCheckpoint(
            f"{folder} is a {class_name(config)}, whose {', '.join(asked.others[:3])} depends on the vocabulary in a "
            "way of its own and is not rewritten",
            hint="pick a model whose vocabulary only shows in its embedding, head and output bias",
        )
    search = _Search(tensors, folder)
    if isinstance(asked, ModelNames):
        found = search.by_class(asked)
        if found is not None:
            return found
        asked = f"no stored tensor fits the names that {class_name(config)} uses"
    return search.by_table(config, text_config, asked)


@dataclass(frozen=True)
class _Search:
    tensors: Mapping[str, TensorInfo]
    folder: Path

    def by_class(self, asked: ModelNames) -> FoundRows | None:
        """Looks the parameter names of a class up; None if neither input rows nor a tied head are stored."""
        rows = asked.shape[0]
        inputs = self.stored_as(asked.inputs, asked.prefix, [asked.shape])
        widths = {(rows, info.shape[1]) for info in self.tensors.values() if len(info.shape) == 2}
        outputs = self.stored_as(asked.outputs, asked.prefix, sorted(widths))
        if asked.outputs and not outputs:
            outputs = self.ending(OUTPUT_ENDINGS, rows, {*inputs})[:1]
        if not inputs and not (asked.tied and outputs):
            return None
        biases = self.stored_as(asked.biases, asked.prefix, [(rows,)])
        found = self.reconcile(inputs, outputs, biases, asked.tied, asked.kind)
        self.check(found.rows, rows)
        return found

    def by_table(self, config: Mapping[str, Any], text_config: Mapping[str, Any], why: str) -> FoundRows:
        """Goes by usual names, and by a number of rows that holds at least the vocabulary of the config."""
        sizes = [text_config[key] for key in VOCAB_KEYS if type(text_config.get(key)) is int]
        inputs = self.ending(INPUT_ENDINGS, None, set())
        inputs = [name for name in inputs if not sizes or self.tensors[name].shape[0] >= min(sizes)][:1]
        if not inputs:
            raise self.no_table(why, sizes)
        rows = self.tensors[inputs[0]].shape[0]
        outputs = self.ending(OUTPUT_ENDINGS, rows, {*inputs})[:1]
        stems = {name.rpartition(".")[0] for name in outputs}
        biases = [name for name in self.ending(BIAS_ENDINGS, rows, set()) if not stems or _near(name, stems)]
        architecture = architecture_of(config)
        has_head = bool(outputs or biases) or architecture.endswith(HEADED)
        tied = has_head and (not outputs or text_config.get("tie_word_embeddings", config.get("tie_word_embeddings")))
        kind = kind_of(architecture, has_head) if architecture or not biases else "masked"
        found = self.reconcile(inputs, outputs, biases, bool(tied), kind)
        self.check(found.rows, rows)
        note = f"the token tables were found by their usual names ({found.rows.input}): {why}"
        return FoundRows(found.rows, found.kind, (note, *found.notes))

    def stored_as(self, names: Iterable[str], prefix: str, shapes: Iterable[tuple[int, ...]]) -> list[str]:
        """The stored names of parameters, in order, each once."""
        wanted = set(shapes)
        fitting = [name for name, info in self.tensors.items() if info.shape in wanted]
        stored = (_stored_name(name, prefix, self.tensors, fitting) for name in names)
        return list(dict.fromkeys(name for name in stored if name is not None))

    def ending(self, endings: tuple[str, ...], rows: int | None, without: set[str]) -> list[str]:
        """Stored names with one of the usual endings, most telling and least nested first."""
        found = []
        for name, info in self.tensors.items():
            rank = next((i for i, ending in enumerate(endings) if f".{name}".endswith(f".{ending}")), None)
            dims = 1 if endings is BIAS_ENDINGS else 2
            if rank is None or name in without or len(info.shape) != dims or rows not in (None, info.shape[0]):
                continue
            found.append((rank, name.count("."), name))
        return [name for *_, name in sorted(found)]

    def reconcile(self, inputs: list[str], outputs: list[str], biases: list[str], tied: bool, kind: str) -> FoundRows:
        """Decides what is tied from the config and from what is stored (module docstring)."""
        notes = []
        first, head = (inputs or outputs)[0], outputs[0] if outputs else None
        if kind != "encoder" and not tied and head is None:
            raise BadCheckpoint(
                f"{self.folder}: config.json says tie_word_embeddings is off, but no output rows are stored beside "
                f"{first}",
                hint="set tie_word_embeddings to true if the model was trained tied",
            )
        if tied and head not in (None, first) and not same_values(self.tensors[first], self.tensors[str(head)]):
            tied = False
            notes.append(
                f"config.json says the head is tied, but {head} is stored with other values than {first}; "
                "transformers uses both, so they are treated (and written) as untied"
            )
        rows, dim = self.tensors[first].shape if len(self.tensors[first].shape) == 2 else (0, 0)
        table = RowTensors(first, None if tied else head, tuple(biases), tied, rows, dim)
        aliases, left = self.repeats(table)
        notes += [f"{name} has {rows} rows too but is not used by this model; it keeps its old rows" for name in left]
        return FoundRows(RowTensors(first, table.output, table.biases, tied, rows, dim, aliases), kind, tuple(notes))

    def repeats(self, table: RowTensors) -> tuple[dict[str, str], list[str]]:
        """Further stored tensors that look like token tables: those that repeat a table, and the others."""
        aliases, left = {}, []
        for name in self.ending(INPUT_ENDINGS + OUTPUT_ENDINGS, table.rows, set(table.names)):
            same = (one for one in table.names if same_values(self.tensors[name], self.tensors[one]))
            original = next(same, None)
            if original is None:
                left.append(name)
            else:
                aliases[name] = original
        return aliases, left

    def check(self, found: RowTensors, rows: int) -> None:
        """Every table must have as many rows as the model expects, and float numbers."""
        for name in found.names:
            info = self.tensors[name]
            if info.dtype not in FLOATS:
                raise BadCheckpoint(
                    f"{name} in {info.file} is stored as {info.dtype}, expected one of: {', '.join(FLOATS)}; rows of "
                    "a quantised table cannot be mixed",
                    hint="use the checkpoint from before quantisation",
                )
            if info.shape[:1] != (rows,):
                raise BadCheckpoint(
                    f"{name} in {info.file} has {info.shape[0] if info.shape else 0} rows, config.json of "
                    f"{self.folder} asks for {rows}",
                    hint="config.json and weights must come from the same save",
                )

    def no_table(self, why: str, sizes: list[int]) -> BadCheckpoint:
        wanted = f" with at least {min(sizes)} rows" if sizes else ""
        return BadCheckpoint(
            f"no token embedding found in {self.folder}: {why}, and none of {len(self.tensors)} stored tensors has a "
            f"usual name (such as {', '.join(INPUT_ENDINGS[:3])}){wanted}",
            hint="point at the folder of a language model in safetensors format",
        )


def _stored_name(name: str, prefix: str, tensors: Mapping[str, TensorInfo], fitting: list[str]) -> str | None:
    """The stored name of a parameter: itself, with or without the prefix, or the fitting name with the same end.

    The end must agree in two parts at least (`embed_tokens.weight`), and no other name may agree in as many.
    """
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in tensors:
            return candidate
    shared = {one: _shared_end(one, name) for one in fitting}
    most = max(shared.values(), default=0)
    best = [one for one, parts in shared.items() if parts == most]
    return best[0] if most >= 2 and len(best) == 1 else None


def _shared_end(one: str, other: str) -> int:
    """How many dotted parts two names share, counted from the end."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(one.count("."), other.count(".")) + 1)


def _near(name: str, stems: set[str]) -> bool:
    """Whether a bias stands in a head or one level above it."""
    above = name.rpartition(".")[0]
    return any(above in (stem, stem.rpartition(".")[0]) for stem in stems)


def _refuse_layer_tables(tensors: Mapping[str, TensorInfo], folder: Path) -> None:
    layered = [name for name in tensors if "embed_tokens_per_layer" in name]
    if layered:
        raise BadCheckpoint(
            f"{folder} has a second token table for its layers ({layered[0]}), which is not rewritten",
            hint="pick a model without per-layer embeddings (Gemma 3 rather than Gemma 3n)",
        )
