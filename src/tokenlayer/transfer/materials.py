"""What a user gives an initialiser beside the two tokenizers: texts, word vectors, a dictionary, a donor model."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption, VocabMismatch, choose
from tokenlayer.data.dictionaries import Dictionary, read_dictionary
from tokenlayer.data.documents import Documents, parse_source
from tokenlayer.data.static_vectors import StaticVectors, VectorConfig, train_vectors
from tokenlayer.data.vector_files import read_vectors
from tokenlayer.models.loading import OpenedModel, opened_model
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.focus import token_text_vectors
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.target import Target

LINES_AT_A_TIME = 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Materials:
    """Where the materials are; an initialiser that needs one that is not given says so."""

    texts: tuple[str, ...] = ()
    """Texts for which the new tokenizer is meant: `[GROUP[=WEIGHT]:]PATH` of each."""
    source_texts: tuple[str, ...] = ()
    """Texts of the kind that the model knows already."""
    vectors: str = ""
    """Word vectors of the target texts' language; without `source_vectors`, of both languages in one space."""
    source_vectors: str = ""
    """Word vectors of the language that the model knows."""
    dictionary: str = ""
    """Word list that aligns the two: source word TAB target words."""
    swap_dictionary: bool = False
    """The word list goes from target to source."""
    donor: str = ""
    """A model whose own tokenizer is the target."""
    hypernet: str = ""
    """Folder of a hypernetwork that was trained for the model."""
    vector_epochs: int = 20
    """Passes over the texts when word vectors are trained from them; 5 aligned far worse (docs/results/wechsel.md)."""
    init_config: str = ""
    """TOML file with fields of the initialiser's own config, or the name of one of its presets."""
    exclude_untrained: bool = False
    """Leaves rows that were never trained out of means, spreads and mixtures; see `parts.untrained`."""

    @property
    def have(self) -> frozenset[str]:
        """What can be made of these: `texts`, `aligned vectors`, ..."""
        both = bool(self.vectors and not self.source_vectors and not self.source_texts)
        files = bool(self.vectors and self.source_vectors)
        sides = bool((self.vectors or self.texts) and (self.source_vectors or self.source_texts))
        known = {
            "texts": bool(self.texts),
            "source texts": bool(self.source_texts),
            "aligned vectors": both or files or (sides and bool(self.dictionary)),
            "donor": bool(self.donor),
            "hypernet": bool(self.hypernet),
        }
        return frozenset(name for name, there in known.items() if there)


OPTIONS = {
    "texts": "--texts FILE (target-language text)",
    "source texts": "--source-texts FILE",
    "aligned vectors": "--texts, --source-texts and --dictionary; or --vectors and --source-vectors; or --vectors FILE "
    "that serves both languages",
    "donor": "--donor MODEL",
    "hypernet": "--hypernet FOLDER, which `tokenlayer transfer hypernet` writes",
}
"""What to type for each thing that `Materials.have` names."""


@dataclass(frozen=True, eq=False)
class Given:
    """The materials made ready, each when it is first asked for, and kept for further initialisers.

    Attributes:
        pair: source and target vocabulary.
        source: the model's tokenizer; plain initialisers do without, as without `target` and `rows`.
        target: the tokenizer to move to.
        rows: reads the model's input rows.
        output_rows: reads its output rows; None when they are tied to the others, or there are none.
        materials: see `Materials`.
        warn: takes one sentence for each thing that is unusual.
        device: where an initialiser that trains does so.
        progress: called with a step's name, units done and units in all.
    """

    pair: Pair
    source: LoadedTokenizer | None = None
    target: LoadedTokenizer | None = None
    rows: Callable[[], Tensor] | None = None
    output_rows: Callable[[], Tensor] | None = None
    materials: Materials = field(default_factory=Materials)
    warn: Callable[[str], object] = lambda sentence: None
    device: str = "cpu"
    progress: Callable[[str, int, int], object] | None = None

    def texts(self) -> Iterator[str]:
        """The target texts, from the start at each call."""
        return _texts(self.materials.texts)

    def source_texts(self) -> Iterator[str]:
        """The source texts, from the start at each call."""
        return _texts(self.materials.source_texts)

    @cached_property
    def target_vectors(self) -> StaticVectors:
        """Word vectors of the target language: read, or trained on the target texts."""
        return self._vectors(self.materials.vectors, self.materials.texts)

    @cached_property
    def source_vectors(self) -> StaticVectors:
        """Word vectors of the source language: read, the target's file if it serves both, or trained."""
        given = self.materials
        if given.vectors and not given.source_vectors and not given.source_texts:
            return self.target_vectors
        return self._vectors(given.source_vectors, given.source_texts)

    @cached_property
    def dictionary(self) -> Dictionary | None:
        """The word list, if one was given."""
        path = self.materials.dictionary
        return read_dictionary(path, swap=self.materials.swap_dictionary) if path else None

    def token_ids(self) -> Iterator[list[int]]:
        """The target texts as target tokens, line by line."""
        if self.target is None:
            raise BadOption("tokens of texts need the target tokenizer")
        lines = (line for text in self.texts() for line in text.splitlines() if line.strip())
        while some := list(islice(lines, LINES_AT_A_TIME)):
            yield from self.target.encode_batch(some)

    @cached_property
    def token_vectors(self) -> StaticVectors:
        """Vectors of the target's tokens by name, trained on the target texts cut into tokens."""
        if self.target is None:
            raise BadOption("vectors of tokens need the target tokenizer")
        return token_text_vectors(self.texts, self.pair.target, self.target.encode)

    @cached_property
    def donor_rows(self) -> Tensor:
        """Input rows of the donor, one for each target token; zeros for tokens that the donor lacks.

        Raises:
            VocabMismatch: the donor's tokenizer is not the target.
        """
        with TemporaryDirectory() as scratch, opened_model(self.materials.donor, Path(scratch)) as donor:
            names = {name: i for i, name in enumerate(donor.tokenizer.vocab.names) if name}
            table = donor.checkpoint.read(donor.checkpoint.rows.input).float()
            known = [(i, names[name]) for i, name in enumerate(self.pair.target.names) if name in names]
        text = set(self.pair.target.text_ids())
        found = sum(i in text for i, _ in known)
        if found < 0.9 * len(text):
            raise VocabMismatch(
                f"the donor {self.materials.donor} has {found} of the {len(text)} target tokens",
                hint="the donor is a model whose own tokenizer you are moving to",
            )
        rows = torch.zeros(len(self.pair.target), table.shape[1])
        rows[[i for i, _ in known]] = table[[j for _, j in known]]
        return rows

    def _vectors(self, path: str, texts: Sequence[str]) -> StaticVectors:
        if path:
            return read_vectors(path)
        return train_vectors(partial(_texts, texts), VectorConfig(epochs=self.materials.vector_epochs))


def given_for(
    source: OpenedModel,
    target: Target,
    materials: Materials,
    warn: Callable[[str], object],
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], object] | None = None,
) -> Given:
    """What an initialiser gets in a swap of an opened model to a target; see `Given`."""
    checkpoint, names = source.checkpoint, source.checkpoint.rows
    return Given(
        target.pair,
        source.tokenizer,
        target.tokenizer,
        partial(checkpoint.read, names.input),
        partial(checkpoint.read, names.output) if names.output else None,
        materials,
        warn,
        device,
        progress,
    )


def materials_for(name: str, given: Mapping[str, Any], names: Sequence[str]) -> Materials:
    """The materials of one tokenizer of several: those without a name in front, and those with its own.

    Args:
        name: the tokenizer.
        given: fields of `Materials`; a path may be written `NAME:PATH`.
        names: all tokenizers; any other name in front of a text is its group.
    """

    def mine(spec: str) -> str | None:
        owner, colon, path = spec.partition(":")
        if not colon or owner not in names:
            return spec
        return path if owner == name else None

    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, str):
            found[key] = mine(value) or ""
        elif isinstance(value, list | tuple):
            kept = [path for one in value if (path := mine(one)) is not None]
            many = key in ("texts", "source_texts")
            found[key] = tuple(kept) if many else next(iter(kept), "")
        else:
            found[key] = value
    return Materials(**found)


def check_given(init: str, needs: Iterable[str], materials: Materials) -> None:
    """Refuses to start without what an initialiser needs.

    Raises:
        BadOption: with what is missing and the option that gives it.
    """
    missing = [need for need in needs if need not in materials.have]
    if missing:
        raise BadOption(
            f"init {init} needs {', '.join(missing)}", hint="give " + "; ".join(OPTIONS[need] for need in missing)
        )


def own_config(init: str, config: type[T], given: str, presets: Mapping[str, Callable[[], T]]) -> T:
    """The config of an initialiser as the user gave it: by fields in a TOML file, by the name of a preset, or not.

    Args:
        init: the initialiser, for messages.
        config: its config class; fields that the file does not name keep their defaults, or those of its `preset`.
        given: the file or the preset; `""` gives the defaults.
        presets: by name.

    Raises:
        BadOption: no such file or preset, no TOML, an unknown field, or a value that is not allowed.
    """
    if not given or given in presets:
        return presets[given]() if given else config()
    path = Path(given)
    if not path.is_file():
        names = ", ".join(presets)
        raise BadOption(
            f"init config {given} is neither a file nor a preset of {init}", hint=f"presets: {names or 'none'}"
        )
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"{path} is not a TOML file: {error}", hint="write one `field = value` a line") from error
    base = presets[choose("preset", str(fields.pop("preset")), presets)]() if "preset" in fields else config()
    known = vars(base)
    for name, value in fields.items():
        held = known[choose(f"the setting in {path}", name, known)]
        kind = int if held is None else type(held)  # a limit that there is none of
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise BadOption(
                f"{name} in {path} is {value!r}, expected {kind.__name__}",
                hint=f"its default is {getattr(config(), name)!r}",
            )
        fields[name] = kind(value)
    return config(**{**known, **fields})


def _texts(sources: Sequence[str]) -> Iterator[str]:
    return Documents([parse_source(one) for one in sources]).texts()
