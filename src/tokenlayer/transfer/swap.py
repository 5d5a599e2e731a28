"""The main job: give a checkpoint another tokenizer, check the result, say what it cost."""

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch, choose
from tokenlayer.core.outputs import check_free, check_room, clear_folder, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.seeds import torch_generator
from tokenlayer.data.documents import Documents, Source
from tokenlayer.data.packing import PARTED
from tokenlayer.models.checkpoint import Checkpoint
from tokenlayer.models.checkpoint_write import needed_bytes, write_checkpoint
from tokenlayer.models.compare import EvalText, Side, measure
from tokenlayer.models.loading import OpenedModel, check_device, load_model, opened_model, weight_stamps
from tokenlayer.models.score import WindowConfig, start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.models.verify import verify_checkpoint
from tokenlayer.transfer import swap_report
from tokenlayer.transfer.heal import HealConfig, Healed, heal
from tokenlayer.transfer.hull import check_hull, greedy_changes
from tokenlayer.transfer.initialisers import AUTO, INITIALISERS, best_for, check_init, make_plan, predict_language
from tokenlayer.transfer.materials import Materials, given_for
from tokenlayer.transfer.target import Target, prepare_target, special_ids
from tokenlayer.transfer.zett.byte_level import to_byte_level

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""


@dataclass(frozen=True)
class SwapConfig:
    """How a swap is done and what is measured."""

    init: str = "pieces"
    """How new rows are made: a name in `tokenlayer list transfer`, or `auto`."""
    materials: Materials = field(default_factory=Materials)
    """Texts, word vectors, word list or donor model, for initialisers that need them."""
    specials: str = "add"
    """`add` appends control tokens that the model uses and the target lacks; `keep` only reports them."""
    pad_multiple: int = 1
    """Rows are padded up to a multiple of this."""
    split: bool = False
    """Gives the tables of a single-file checkpoint a file of their own, so that later swaps link the body."""
    check_hull: bool = False
    """Says whether every new row is a mixture of old rows, and tries it on random hidden states."""
    heal: HealConfig | None = None
    """How training goes on after the swap; None does not train."""
    texts: tuple[EvalText, ...] = ()
    """Texts to score before and after."""
    prompts: tuple[str, ...] = ()
    """Prompts to continue greedily before and after."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """How texts are cut for scoring."""
    dtype: str | None = None
    """Type in which the models run for scoring; None is float32 on a CPU, the stored type elsewhere."""
    device: str = "cpu"
    """Where the models run for scoring."""
    seed: int = 0
    """For initialisers that draw rows, and for training."""
    pre_tokenizer: str | None = None
    """Pre-tokenizer of a bare tiktoken rank file."""
    byte_level: bool = False
    """Rewrites the tokenizer in bytes first, so that it spells every text: see `transfer.zett.byte_level`."""

    def __post_init__(self) -> None:
        if choose("init", self.init, [*INITIALISERS, AUTO]) != AUTO:
            check_init(self.init, self.materials)
        if self.heal is not None and self.heal.train == "hypernet" and self.init != "zett":
            raise BadOption(
                f"heal train=hypernet goes on with the hypernetwork of the swap, but init is {self.init}",
                hint="swap with --init zett --hypernet FOLDER",
            )
        if self.pad_multiple < 1:
            raise BadOption(f"pad_multiple is {self.pad_multiple}, expected at least 1", hint="1 pads nothing")
        names = [t.name for t in self.texts]
        if len(set(names)) != len(names):
            raise BadOption(f"two texts have one name: {sorted(names)}", hint="give each --eval file its own name")
        for text in self.texts:
            if not text.text.strip():
                raise BadText(f"the text {text.name} is empty", hint="give an --eval file with some text in it")


def swap(
    model: str | Path,
    tokenizer: str | Path,
    out: Path,
    config: SwapConfig | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    finish: Callable[[Report, Path], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Gives a model another tokenizer and writes an ordinary Hugging Face folder.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizer: folder, tokenizer.json, SentencePiece model, tiktoken ranks, GGUF or hub id.
        out: the folder to write; it appears only when everything is written and checked.
        config: see `SwapConfig`.
        force: replace an existing folder that we (or `save_pretrained`) wrote.
        dry_run: plan and report, write nothing.
        finish: called with the report and the unfinished folder, to put files beside the weights.
        progress: see `Progress`.

    Returns:
        The report: rows by origin, special roles, numbers before and after.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    config = config or SwapConfig()
    chosen, why = best_for(config.materials) if config.init == AUTO else (config.init, "")
    config = replace(config, init=chosen)
    began = time.perf_counter()
    check_device(config.device)
    if config.heal is not None:
        config.heal.check_texts()
    if not dry_run:
        check_free(out, force=force)
    target_files = load_tokenizer(tokenizer, pre_tokenizer=config.pre_tokenizer)
    if config.byte_level:
        target_files = to_byte_level(target_files).tokenizer
    with opened_model(model, out.absolute().parent) as source:
        if config.heal is not None:
            config.heal.check_kind(source.checkpoint.kind)
        job = _plan(source, target_files, config, progress)
        report = swap_report.begin(job, config, out)
        if why:
            report.settings["why this init"] = why
            report.add_table("init auto", ("chosen", "why"), [(chosen, why)])
        if config.check_hull:
            _check_hull(job, report, config.seed)
        if dry_run:
            report.add("seconds", time.perf_counter() - began, "s")
            return report
        check_room(out, needed_bytes(source.checkpoint, job.rows, out=out), "the new checkpoint")
        before = _side(job, config, progress)
        with fresh_folder(out, force=force) as folder:
            report.warnings += _write(job, folder, config, report)
            unhealed = None if config.heal is None else _heal(job, folder, config, report, progress)
            after = _side(job, config, progress, written=folder)
            swap_report.complete(report, job, config, before=before, after=after, unhealed=unhealed)
            report.add("seconds", time.perf_counter() - began, "s")
            report.add("peak memory", peak_memory_mb(), "MB")
            if finish is not None:
                finish(report, folder)
    shutil.rmtree(healing_state(out), ignore_errors=True)
    return report


def healing_state(out: Path) -> Path:
    """The folder beside `out` from which training goes on when the same swap is run again."""
    return out.absolute().parent / f".{out.absolute().name}.healing"


@dataclass(frozen=True, eq=False)
class Job:
    """A planned swap.

    Attributes:
        source: the opened model.
        target: the target tokenizer, made ready.
        plan: one row per target token, then padded rows.
        asked: what the target tokenizer was called.
        warnings: what the initialiser found unusual.
    """

    source: OpenedModel
    target: Target
    plan: RowPlan
    asked: str
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the new tables, padded rows included."""
        return self.plan.new_vocab

    def tables(self) -> dict[str, Tensor]:
        """New input rows, output rows and biases by tensor name; each is made when asked, in the stored dtype."""
        return {name: new_table(self.source.checkpoint, name, self.plan) for name in self.source.checkpoint.rows.names}


HIDDEN_STATES = 1000
"""Random hidden states on which old and new output rows are compared."""


def _check_hull(job: Job, report: Report, seed: int) -> None:
    """Whether a new token could be chosen where an old one was (Mundra et al. 2024), on paper and in numbers."""
    checkpoint = job.source.checkpoint
    name = checkpoint.rows.output or checkpoint.rows.input
    plan = job.plan.output or job.plan
    found = check_hull(plan)
    old = checkpoint.read(name)[: plan.old_vocab]
    hidden = torch.randn(HIDDEN_STATES, old.shape[1], generator=torch_generator(seed, "hull"))
    tried = greedy_changes(hidden, old, new_table(checkpoint, name, job.plan))
    report.add("rows outside the convex hull", len(found.unsafe), "rows", n=plan.new_vocab)
    report.add("hidden states where a new row wins", tried.changed, "", n=tried.positions)
    report.data["hull"] = found.sentence()
    if not found.safe:
        report.warn(found.sentence())


def new_table(checkpoint: Checkpoint, name: str, plan: RowPlan) -> Tensor:
    """Returns the new rows (or biases) of one token table of a checkpoint, in the stored dtype."""
    old = checkpoint.read(name)
    recipe = plan if name == checkpoint.rows.input else plan.output or plan
    if old.ndim == 2:
        return recipe.apply(old)
    return (plan.bias or recipe).apply(old[:, None])[:, 0].contiguous()


def _plan(source: OpenedModel, wanted: LoadedTokenizer, config: SwapConfig, progress: Progress | None) -> Job:
    _check_rows(source.checkpoint, source.tokenizer)
    target = prepare_target(source.tokenizer, wanted, config.specials, source.fixed_pad)
    warnings: list[str] = []
    given = given_for(source, target, config.materials, warnings.append, device=config.device, progress=progress)
    plan = make_plan(config.init, given, config.seed)
    rows = -(-len(target.tokenizer.vocab) // config.pad_multiple) * config.pad_multiple
    return Job(source, target, plan.padded(rows), wanted.where, tuple(warnings))


def _check_rows(checkpoint: Checkpoint, tokenizer: LoadedTokenizer) -> None:
    size, rows = len(tokenizer.vocab), checkpoint.rows.rows
    if size <= rows:
        return
    label = tokenizer.vocab.label(rows)
    raise VocabMismatch(
        f"the tokenizer of {checkpoint.folder} has {size} tokens, the model has {rows} rows; "
        f"the first token without a row is {label}",
        hint="this tokenizer does not belong to this model, or tokens were added without resizing the model",
    )


def _heal(job: Job, folder: Path, config: SwapConfig, report: Report, progress: Progress | None) -> Side:
    """Measures the swapped checkpoint, trains it, and writes the folder again; returns what was measured."""
    assert config.heal is not None
    unhealed = _side(job, config, progress, written=folder, step="scoring before healing")
    out = Path(report.settings["out"])
    tell = None if progress is None else partial(progress, "healing, steps")
    healed = heal(
        folder,
        job.source,
        job.target.tokenizer,
        job.plan,
        config.heal,
        starts=(start_token(job.source.tokenizer), job.target.start_token(job.source.tokenizer)),
        seed=config.seed,
        device=config.device,
        state=healing_state(out),
        about=_decides(job, config),
        hypernet=(config.materials.hypernet, predict_language(config.materials) if config.init == "zett" else ""),
        progress=tell,
    )
    check_room(out, needed_bytes(job.source.checkpoint, job.rows, out=out, body=healed.body), "the healed checkpoint")
    clear_folder(folder)
    notes = _write(job, folder, config, report, healed)
    report.warnings += [note for note in notes if note not in report.warnings]
    swap_report.add_healing(report, config, healed)
    return unhealed


def _decides(job: Job, config: SwapConfig) -> str:
    """A digest of all that decides what training gives."""
    assert config.heal is not None
    texts = [
        (one.path, Path(one.path).stat().st_size if Path(one.path).is_file() else 0) for one in config.heal.sources
    ]
    what = (
        [job.source.name, weight_stamps(job.source.name), job.target.tokenizer.text, config.init, config.seed],
        [asdict(config.materials), asdict(config.heal), texts, config.device, job.rows],
        weight_stamps(config.materials.hypernet) if config.init == "zett" else [],
    )
    return hashlib.blake2b(json.dumps(what, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def _write(job: Job, folder: Path, config: SwapConfig, report: Report, healed: Healed | None = None) -> list[str]:
    """Writes the checkpoint and reads it back; returns notes of the writing."""
    checkpoint = job.source.checkpoint
    tables = job.tables() if healed is None else healed.stored_tables(checkpoint)
    notes = write_checkpoint(
        checkpoint,
        folder,
        rows=tables,
        vocab_size=job.rows,
        special_ids=special_ids(job.source, job.target),
        files=job.target.tokenizer.files(like=job.source.tokenizer),
        token_map=job.target.token_map,
        body={} if healed is None else healed.body,
        split=config.split,
    )
    report.data["checks"] = verify_checkpoint(folder, checkpoint, tables, job.target.tokenizer)
    return notes


def _side(
    job: Job, config: SwapConfig, progress: Progress | None, *, written: Path | None = None, step: str = ""
) -> Side:
    """Loads the source, or what was written, whole with plain transformers and measures it.

    Nothing is loaded when there are neither texts nor prompts.
    """
    if not config.texts and not config.prompts:
        return Side()
    checkpoint = job.source.checkpoint
    tokenizer = job.source.tokenizer if written is None else job.target.tokenizer
    start = start_token(tokenizer) if written is None else job.target.start_token(job.source.tokenizer)
    step = step or ("scoring before the swap" if written is None else "scoring after the swap")
    model, _ = load_model(written or checkpoint.folder, checkpoint.kind, dtype=config.dtype, device=config.device)
    return measure(
        model,
        tokenizer,
        checkpoint.kind,
        config.texts,
        config.prompts,
        start_id=start,
        config=config.window,
        progress=_counted(step, tokenizer, config.texts, progress),
    )


def _counted(
    step: str, tokenizer: LoadedTokenizer, texts: Sequence[EvalText], progress: Progress | None
) -> Callable[[str, int], None] | None:
    """Turns "so far in this text" into "so far in all texts"."""
    if progress is None:
        return None
    sizes = [len(tokenizer.encode(one.text)) for one in texts]
    before = {one.name: sum(sizes[:at]) for at, one in enumerate(texts)}
    return lambda name, done: progress(step, before[name] + done, sum(sizes))


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def settings_of(config: SwapConfig) -> dict[str, Any]:
    """The config as plain values; texts by name and size, not by content."""
    plain = asdict(replace(config, texts=()))
    plain |= {f"heal {name}": value for name, value in (plain.pop("heal") or {}).items()}
    plain |= {f"material {name}": value for name, value in plain.pop("materials").items() if value}
    plain["texts"] = [f"{t.name}:{t.language}" if t.language else t.name for t in config.texts]
    return plain


def read_texts(sources: Sequence[Source], most_bytes: int) -> tuple[EvalText, ...]:
    """Reads the first `most_bytes` of each source as a text to score; documents are parted by an empty line.

    Raises:
        BadText: a source is missing, damaged, empty, or not UTF-8.
    """
    return tuple(EvalText(Path(one.path).name, _first_bytes(one, most_bytes), one.group) for one in sources)


def _first_bytes(source: Source, most_bytes: int) -> str:
    found, size = [], 0
    for text in Documents([source]).texts():
        found.append(text)
        size += len(text.encode("utf-8")) + len(PARTED)
        if size > most_bytes:
            break
    text = PARTED.join(found).encode("utf-8")[:most_bytes].decode("utf-8", "ignore")
    if not text.strip():
        raise BadText(f"{source.path} is empty", hint="give an --eval file with some text in it")
    return text
