"""New pieces for each type of domain terms (drugs, diseases, ...), and a choice per word and sentence of which to use.

Paper: Hasan et al., "Infusing clinical knowledge into tokenisers for language models", 2024 (Computers in Biology and
Medicine 2025). Reference implementation: abulhasanbbk/K-Tokenizer.

Shapes: new tables are `(source tokens + new pieces, dim)`; ids of the source stay, new pieces follow in the order of
the types. Rows past the tokenizer are taken by new pieces first.

Errors: `BadTokenizer` for a base that is not WordPiece; `BadText` for a type with fewer than two words; `BadOption` for
a number out of range or a type without a name of its own; those of `write_checkpoint`.

Differences from the paper:
    - terms are cut into words by the base's own normaliser and pre-tokenizer, which also cut the texts; the paper cuts
      at white space and can find pieces such as `5-h` that no BERT ever meets (`words="whitespace"`);
    - continuation pieces are looked up without `##`, marked by their place, and selected by probability;
      `compat=True` does what the released code does instead (see `typed_pieces` and `arbitration`);
    - a candidate with an unknown token is no candidate; if the base's is the only such one, a typed one is taken;
    - rows of new pieces are the mean of their base pieces (the code behind the paper's is not released); a piece that
      the base cannot spell is drawn around the mean row;
    - the released commands pass `rollback` 0, which is the base tokenizer; the default here is 1.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokenlayer.core.errors import BadOption, BadTokenizer, choose
from tokenlayer.core.outputs import check_free, check_room, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.rowplan import Noise, RowPlan
from tokenlayer.core.tokenizer_json import model_type, token_family
from tokenlayer.core.vocab import ROLES
from tokenlayer.models.checkpoint_write import needed_bytes, write_checkpoint
from tokenlayer.models.loading import OpenedModel, opened_model
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.models.verify import verify_checkpoint
from tokenlayer.transfer import ktokeniser_report
from tokenlayer.transfer.arbitration import BASE, CHOICES_FILE, Choices, check_rules
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.swap import new_table
from tokenlayer.transfer.terms import TermSet, typed_name
from tokenlayer.transfer.typed_pieces import PREFIX, TypedPieces, TypedPiecesConfig, select, typed_pieces

if TYPE_CHECKING:
    from tokenlayer.transfer.k_tokenizer import KTokenizer

WORDS = ("pre-tokens", "whitespace")
INITS = ("pieces", "gaussian")
PAPER = "Hasan et al., Infusing clinical knowledge into tokenisers for language models, 2024"

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""


@dataclass(frozen=True)
class KTokeniserConfig:
    """Defaults are the paper's, but for `rollback` (see the module)."""

    size: int = 10_000
    """Most pieces of a type (those that the base has too are counted)."""
    sizes: Mapping[str, int] = field(default_factory=lambda: {"disease": 3000})
    """Most pieces of single types; the paper has 10,000 for drugs and 3,000 for diseases."""
    merges: int = 20
    """Most merges for one word."""
    longest_piece: int = 5
    """Longest piece in characters."""
    syllables: bool = True
    """Cut a long first piece into syllables; the patterns are those of English."""
    syllable_min: int = 4
    """A first piece of this many characters is cut."""
    longest_word: int = 100
    """Longer words of the terms are left out."""
    words: str = "pre-tokens"
    """Words of terms: `pre-tokens` of the base tokenizer, or `whitespace` as in the paper."""
    rollback: float = 1.0
    """A sentence keeps its choices if they save less than this share of its base pieces (and no negative one)."""
    min_count: int = 1000
    """Typed pieces of a word that count less than this together are not taken (1,200 in the document task)."""
    keep_upper: bool = True
    """Words in upper case, mostly abbreviations, keep their base pieces."""
    lower_for_lookup: bool = True
    """Typed pieces are looked up in lower case, also with a cased base."""
    init: str = "pieces"
    """Rows of new pieces: mean of their base `pieces`, or `gaussian` around the mean row (a baseline)."""
    seed: int = 0
    """For drawn rows."""
    compat: bool = False
    """Do what the released code does."""

    def __post_init__(self) -> None:
        choose("words", self.words, WORDS)
        choose("init", self.init, INITS)
        check_rules(self.rollback, self.min_count)
        for name, size in {"size": self.size, **{f"sizes[{kind!r}]": n for kind, n in self.sizes.items()}}.items():
            if size < 1:
                raise BadOption(f"{name} is {size}, expected at least 1")
        self.for_pieces()

    def for_pieces(self) -> TypedPiecesConfig:
        """The part that `typed_pieces` reads."""
        names = ("merges", "longest_piece", "syllables", "syllable_min", "longest_word", "compat")
        return TypedPiecesConfig(**{name: getattr(self, name) for name in names})


def parse_sizes(specs: Sequence[str]) -> dict[str, int]:
    """Reads `TYPE=NUMBER` of each.

    Raises:
        BadOption: one is not of that form.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
        kind, number = typed_name(spec, "the size of a type", "drug=10000")
        if not number.isdecimal():
            raise BadOption(
                f"the size of type {kind!r} is {number!r}, expected a number", hint="for example drug=10000"
            )
        sizes[kind] = int(number)
    return sizes


def ktokeniser(
    model: str | Path,
    terms: TermSet,
    out: Path,
    config: KTokeniserConfig | None = None,
    *,
    explain: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    finish: Callable[[Report, Path], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Gives a WordPiece model typed pieces and writes a folder to fine-tune.

    Load the tokenizer with `KTokenizer.from_pretrained(out)` (of `tokenlayer.transfer.k_tokenizer`), the model as any.

    Args:
        model: checkpoint folder or hub id of an encoder.
        terms: terms by type; take them from training data only where you measure on it.
        out: the folder to write; it appears only when everything is written and checked.
        config: see `KTokeniserConfig`.
        explain: texts for which the report shows candidates, scores and choice of each word.
        force: replace an existing folder that we wrote.
        dry_run: build and report, write nothing.
        finish: called with the report and the unfinished folder, to put files beside the weights.
        progress: see `Progress`.

    Returns:
        The report: pieces per type, words of the terms that are cut otherwise, pieces per word before and after.

    Raises:
        BadTokenizer: the model's tokenizer is not WordPiece, or is a K-Tokeniser already.
        BadText: the terms of a type have fewer than two words.
        TokenLayerError: any other that opening or writing a checkpoint has; nothing is left behind.
    """
    config = config or KTokeniserConfig()
    began = time.perf_counter()
    if not dry_run:
        check_free(out, force=force)
    with opened_model(model, out.absolute().parent) as source:
        _refuse_ours(source)
        built = build(source.tokenizer, terms, config, progress)
        plan = rows_of(source.tokenizer, built.tokenizer, config)
        plan = plan.padded(max(plan.new_vocab, source.checkpoint.rows.rows))
        settings = {**asdict(config), "model": str(model), "out": str(out), "paper": PAPER}
        report = ktokeniser_report.begin(terms, built, plan, settings)
        needed = needed_bytes(source.checkpoint, plan.new_vocab, out=out)
        report.add("room needed on disk", needed / 1e6, "MB")
        ktokeniser_report.explain_texts(report, built.load(), explain)
        if dry_run:
            report.next_command = "the same command with --out, without --dry-run"
            return report
        check_room(out, needed, "the new checkpoint")
        with fresh_folder(out, force=force) as folder:
            report.warnings += _write(source, built, plan, folder, report)
            report.add("seconds", time.perf_counter() - began, "s")
            if finish is not None:
                finish(report, folder)
    return report


def _refuse_ours(source: OpenedModel) -> None:
    if (source.checkpoint.folder / CHOICES_FILE).is_file():
        raise BadTokenizer(f"{source.name} is a K-Tokeniser already", hint="give the model that it was made from")


@dataclass(frozen=True, eq=False)
class Built:
    """A K-Tokeniser before it has a model.

    Attributes:
        base: the tokenizer that it started from.
        tokenizer: all tokens in one vocabulary; cuts by longest match, without a choice.
        choices: what the choice is made from.
        found: all pieces of each type, before the selection.
        selected: the pieces of each type that were kept.
    """

    base: LoadedTokenizer
    tokenizer: LoadedTokenizer
    choices: Choices
    found: Mapping[str, TypedPieces]
    selected: Mapping[str, Mapping[str, int]]

    @property
    def first_id(self) -> int:
        """Id of the first new piece."""
        return len(self.base.vocab)

    def files(self) -> dict[str, str]:
        """The files of the tokenizer by name."""
        return self.tokenizer.files(like=self.base) | {CHOICES_FILE: self.choices.to_json()}

    def load(self) -> "KTokenizer":
        """The tokenizer object (imports transformers)."""
        import tempfile

        from tokenlayer.transfer.k_tokenizer import KTokenizer

        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files().items():
                Path(folder, name).write_text(content, encoding="utf-8")
            made: KTokenizer = KTokenizer.from_pretrained(folder, local_files_only=True)
            return made


def build(
    base: LoadedTokenizer, terms: TermSet, config: KTokeniserConfig | None = None, progress: Progress | None = None
) -> Built:
    """Finds and selects the pieces of each type and puts them behind the tokens of a tokenizer.

    Raises:
        BadTokenizer: it is not WordPiece.
        BadText: the terms of a type have fewer than two words.
        BadOption: `config.sizes` names a type that the terms lack, other than the paper's.
    """
    config = config or KTokeniserConfig()
    _check(base, terms, config)
    split = term_words(base) if config.words == "pre-tokens" else str.split
    found = {}
    for kind, some in terms.terms.items():
        tell = partial(progress, f"words of type {kind}") if progress else None
        found[kind] = typed_pieces(some, config.for_pieces(), split, progress=tell)
    selected = {
        kind: select(one.pieces, size=config.sizes.get(kind, config.size), alphabetical=config.compat)
        for kind, one in found.items()
    }
    known = set(base.vocab.names)
    new = {kind: [piece for piece in kept if piece not in known] for kind, kept in selected.items()}
    whole = _with_pieces(base, list(dict.fromkeys(piece for some in new.values() for piece in some)))
    counts: Counter[str] = Counter()
    for one in found.values():
        counts.update(one.ngrams)
    asked = {name if config.compat else name.removeprefix(PREFIX) for name in whole.vocab.names}
    choices = Choices(
        new,
        {gram: counts[gram] for gram in sorted(asked & counts.keys())},
        counts.total(),
        rollback=config.rollback,
        min_count=config.min_count,
        keep_upper=config.keep_upper,
        lower_for_lookup=config.lower_for_lookup,
        compat=config.compat,
    )
    return Built(base, whole, choices, found, selected)


def term_words(base: LoadedTokenizer) -> Callable[[str], list[str]]:
    """Cuts a term into the words that the tokenizer's model would get."""
    normaliser, cutter = base.backend.normalizer, base.backend.pre_tokenizer

    def split(term: str) -> list[str]:
        text = term if normaliser is None else normaliser.normalize_str(term)
        return text.split() if cutter is None else [word for word, _ in cutter.pre_tokenize_str(text)]

    return split


def rows_of(base: LoadedTokenizer, whole: LoadedTokenizer, config: KTokeniserConfig | None = None) -> RowPlan:
    """Rows of all tokens: old ones copied, new ones the mean of the base pieces that spell them.

    Returns:
        A plan of origin `"copy"`, `"pieces"` or `"gaussian"` (drawn: what the base cannot spell, or all new pieces with
        `init="gaussian"`).
    """
    config = config or KTokeniserConfig()
    pair = Pair(base.vocab, whole.vocab)
    first = len(base.vocab)
    new = range(first, len(whole.vocab))
    spelled = pair.spell(list(new)) if config.init == "pieces" else [[] for _ in new]
    rows: list[dict[int, float]] = [{i: 1.0} for i in range(first)]
    for ids in spelled:
        rows.append({i: n / len(ids) for i, n in Counter(ids).items()} if ids else pair.mean)
    origin = ["copy"] * first + ["pieces" if ids else "gaussian" for ids in spelled]
    drawn = [first + at for at, ids in enumerate(spelled) if not ids]
    noise = Noise(torch.tensor(drawn, dtype=torch.int64), "univariate", 1.0, config.seed) if drawn else None
    return pair.plan(rows, origin, noise)


def _check(base: LoadedTokenizer, terms: TermSet, config: KTokeniserConfig) -> None:
    kind, family = model_type(base.data), token_family(base.data)
    if kind != "WordPiece" or base.data["model"].get("continuing_subword_prefix") != PREFIX:
        raise BadTokenizer(
            f"{base.where or 'the tokenizer'} is a {family} {kind}, expected WordPiece with continuation mark {PREFIX}",
            hint="K-Tokeniser is for BERT-like models; for BPE: tokenlayer transfer expand",
        )
    if BASE in terms.types:
        raise BadOption(f"a type is called {BASE!r}, which is the tokenizer's own cut", hint="rename the type")
    unknown = [kind for kind in config.sizes if kind not in terms.types and kind not in KTokeniserConfig().sizes]
    if unknown:
        choose("the type in sizes", unknown[0], terms.types)


def _with_pieces(base: LoadedTokenizer, pieces: list[str]) -> LoadedTokenizer:
    """The tokenizer with pieces after its last id; added tokens go into the model's vocabulary (see `with_added`)."""
    size, model = len(base.vocab), dict(base.data["model"])
    late = {token["content"]: token["id"] for token in base.data.get("added_tokens") or ()}
    model["vocab"] = {**late, **model["vocab"], **{piece: size + n for n, piece in enumerate(pieces)}}
    return LoadedTokenizer({**base.data, "model": model}, base.config, base.vocab.roles, base.where)


def _write(source: OpenedModel, built: Built, plan: RowPlan, folder: Path, report: Report) -> list[str]:
    """Writes the checkpoint and reads it back; returns notes of the writing."""
    checkpoint = source.checkpoint
    tables = {name: new_table(checkpoint, name, plan) for name in checkpoint.rows.names}
    roles = built.tokenizer.vocab.roles
    wanted = [role for role in ROLES if role in roles or role in ("bos", "eos", "pad")]
    notes = write_checkpoint(
        checkpoint,
        folder,
        rows=tables,
        vocab_size=plan.new_vocab,
        special_ids={f"{role}_token_id": roles.get(role) for role in wanted},
        files=built.files(),
        token_map={i: i for i in range(built.first_id)},
    )
    report.data["checks"] = verify_checkpoint(folder, checkpoint, tables, built.tokenizer)
    return notes
