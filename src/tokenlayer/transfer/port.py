"""A swap that was made once for a base model, ported to a fine-tune of that model.

    tables := those of the swapped base        body := fine-tune + lambda * (swapped base - base)

A swap without training leaves the body of the base as it is: the second term is zero, and the body of the fine-tune
is kept bit for bit (its shards are linked). After training (`swap --heal ... --heal-train all`) lambda says how much
of what the body learned for the new tokens goes into the fine-tune.

Control tokens are where a fine-tune differs most from its base: it has learned to stop at them and to take turns. A
control token that the fine-tune has trained (its row differs from the base's, or the base has no such token) gets
**the fine-tune's row**, not the swap's; one that the swapped tokenizer lacks is appended.

Paper: Minixhofer et al., "Zero-Shot Tokenizer Transfer", NeurIPS 2024 (transfer to fine-tuned models). Reference
implementation: bminixhofer/zett, `scripts/apply_to_ft.py`.

Differences from the reference: rows of control tokens (above; there, all rows come from the swap); shapes and
vocabularies are compared first; bodies are mixed in float32, one tensor at a time.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint, BadOption, VocabMismatch
from tokenlayer.core.outputs import check_free, check_room, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import Kind
from tokenlayer.models.checkpoint import Checkpoint
from tokenlayer.models.checkpoint_write import needed_bytes, write_checkpoint
from tokenlayer.models.loading import OpenedModel, opened_model
from tokenlayer.models.safetensors_io import FLOATS, TensorInfo, same_values
from tokenlayer.models.verify import verify_checkpoint
from tokenlayer.transfer.target import Target, prepare_target, special_ids

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""

PAPER = "Minixhofer et al., Zero-Shot Tokenizer Transfer, NeurIPS 2024"


def port(
    finetune: str | Path,
    base: str | Path,
    swapped: str | Path,
    out: Path,
    *,
    lam: float = 0.5,
    force: bool = False,
    dry_run: bool = False,
    finish: Callable[[Report, Path], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Gives a fine-tune the tokenizer that its base model was given, and writes an ordinary folder.

    Memory is that of the new tables and a few copies of the largest tensor; a body that the swap did not change is
    linked, not read.

    Args:
        finetune: folder or hub id of the fine-tune.
        base: the model that it was tuned from. Vocabulary and shapes must be the fine-tune's; the fine-tune may have
            more control tokens.
        swapped: what `swap` (and training) made of the base.
        out: the folder to write.
        lam: the share of the swap's change of the body that is added, 0 to 1 (the paper tries 0, 0.3, 0.5, 0.7).
        force: replace an existing folder that we (or `save_pretrained`) wrote.
        dry_run: compare and report, write nothing.
        finish: called with the report and the unfinished folder, to put files beside the weights.
        progress: see `Progress`.

    Returns:
        The report: how many rows come from where, how many tensors of the body changed.

    Raises:
        BadOption: `lam` is outside 0 to 1.
        VocabMismatch: vocabularies or shapes differ; the first differing token or tensor is named.
        TokenLayerError: any other subclass; nothing is left behind.
    """
    began = time.perf_counter()
    if not (math.isfinite(lam) and 0 <= lam <= 1):
        raise BadOption(f"lambda is {lam}, expected 0 to 1", hint="0 keeps the body of the fine-tune; the paper's: 0.5")
    if not dry_run:
        check_free(out, force=force)
    with ExitStack() as stack:
        one, two, three = (
            stack.enter_context(opened_model(where, out.absolute().parent)) for where in (finetune, base, swapped)
        )
        job = PortJob(one, two, three, lam)
        job.check()
        report = _begin(job, out, progress)
        if not dry_run:
            _write(job, report, out, force=force, finish=finish, progress=progress)
        report.add("seconds", time.perf_counter() - began, "s")
    return report


@dataclass(frozen=True, eq=False)
class PortJob:
    """Three opened models and what follows from them.

    Attributes:
        finetune: the model that gets other tables.
        base: what it was tuned from.
        swapped: the base with other tables, perhaps trained.
        lam: share of the body's change.
    """

    finetune: OpenedModel
    base: OpenedModel
    swapped: OpenedModel
    lam: float

    def check(self) -> None:
        """Compares vocabularies and shapes.

        Raises:
            VocabMismatch: the first difference.
        """
        _check_vocabularies(self.finetune, self.base)
        _check_shapes(self.base.checkpoint, self.finetune.checkpoint)
        _check_shapes(self.base.checkpoint, self.swapped.checkpoint)
        pads = self.finetune.fixed_pad, self.swapped.fixed_pad
        if pads[0] != pads[1]:
            raise VocabMismatch(
                f"positions of {self.finetune.name} are counted from its pad id {pads[0]}, the pad id of "
                f"{self.swapped.name} is {pads[1]}",
                hint="swap the base with `tokenlayer swap`, which keeps that id",
            )

    @cached_property
    def target(self) -> Target:
        """The swapped tokenizer, with control tokens, roles and surroundings of the fine-tune."""
        return prepare_target(self.finetune.tokenizer, self.swapped.tokenizer, "add")

    @property
    def rows(self) -> int:
        """Rows of the new tables; appended tokens fill padded rows first."""
        return max(self.swapped.checkpoint.rows.rows, len(self.target.tokenizer.vocab))

    @cached_property
    def own_rows(self) -> dict[int, int]:
        """Target id -> id of the fine-tune, for the control tokens whose row is the fine-tune's."""
        source, target = self.finetune.tokenizer.vocab, self.target.tokenizer.vocab
        pairs = self.target.token_map.items()
        found = {new: i for i, new in pairs if source.kinds[i] is target.kinds[new] is Kind.CONTROL}
        trained = self._trained(sorted(set(found.values())))
        return {new: i for new, i in sorted(found.items()) if i in trained}

    def _trained(self, ids: list[int]) -> set[int]:
        """Those tokens of the fine-tune whose rows the base does not have."""
        known = len(self.base.tokenizer.vocab)
        shared = torch.tensor([i for i in ids if i < known], dtype=torch.long)
        differs = torch.zeros(len(shared), dtype=torch.bool)
        for ours, theirs in zip(self.finetune.checkpoint.rows.names, self.base.checkpoint.rows.names, strict=True):
            one, other = self.finetune.checkpoint.read(ours)[shared], self.base.checkpoint.read(theirs)[shared]
            differs |= (one != other.to(one.dtype)).reshape(len(shared), -1).any(dim=1)
        return {*(i for i in ids if i >= known), *shared[differs].tolist()}

    def tables(self) -> dict[str, Tensor]:
        """The new tables by the fine-tune's tensor names, in its dtype."""
        ours, theirs = self.finetune.checkpoint, self.swapped.checkpoint
        return {
            name: self._table(ours.read(name), theirs.read(other))
            for name, other in zip(ours.rows.names, theirs.rows.names, strict=True)
        }

    def _table(self, tuned: Tensor, swapped: Tensor) -> Tensor:
        new = torch.zeros(self.rows, *swapped.shape[1:], dtype=tuned.dtype)
        new[: len(swapped)] = swapped.to(tuned.dtype)
        for i, own in self.own_rows.items():
            new[i] = tuned[own]
        return new

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Names of the body's tensors that the swap (that is, training after it) changed."""
        return tuple(_changed(self.base.checkpoint, self.swapped.checkpoint))

    def body(self, scratch: Path, tell: Callable[[int], None]) -> dict[str, Tensor]:
        """The mixed tensors, each in a file under `scratch` that is mapped, not loaded."""
        if self.lam == 0:
            return {}
        found = {}
        for at, name in enumerate(self.changed):
            tuned, base, swapped = (one.checkpoint.read(name) for one in (self.finetune, self.base, self.swapped))
            new = mixed(tuned, base, swapped, self.lam)
            size, file = new.numel(), scratch / f"{at}.bin"
            held = torch.from_file(str(file), shared=True, size=size, dtype=new.dtype).reshape(new.shape)
            found[name] = held.copy_(new)
            tell(at + 1)
        return found


def mixed(tuned: Tensor, base: Tensor, swapped: Tensor, lam: float) -> Tensor:
    """Returns `tuned + lam * (swapped - base)`, computed in float32, in the dtype of `tuned`."""
    return (tuned.float() + lam * (swapped.float() - base.float())).to(tuned.dtype)


def _check_vocabularies(finetune: OpenedModel, base: OpenedModel) -> None:
    """The same text tokens under the same ids; control tokens may be renamed or more."""
    ours, theirs = finetune.tokenizer.vocab, base.tokenizer.vocab
    hint = "give the very model that the fine-tune was tuned from; tokens of text that it added cannot be ported"
    for i in range(max(len(ours), len(theirs))):
        one = (ours.tokens[i], ours.kinds[i]) if i < len(ours) else (b"", Kind.UNUSED)
        other = (theirs.tokens[i], theirs.kinds[i]) if i < len(theirs) else (b"", Kind.UNUSED)
        control = one[1] is Kind.CONTROL and other[1] in (Kind.CONTROL, Kind.UNUSED)
        if one != other and not control:
            said = [vocab.label(i).partition(" ")[2] if i < len(vocab) else "absent" for vocab in (ours, theirs)]
            raise VocabMismatch(
                f"token {i} is {said[0]} in {finetune.name} and {said[1]} in {base.name}, expected the same", hint=hint
            )
    if ours.merges != theirs.merges:
        pairs = zip(ours.merges, theirs.merges, strict=False)
        rank = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours.merges), len(theirs.merges)))
        raise VocabMismatch(f"the merges of {finetune.name} and {base.name} differ, first at rank {rank}", hint=hint)


def _check_shapes(base: Checkpoint, other: Checkpoint) -> None:
    """The same tensors with the same shapes, rows of the tables apart."""
    hint = f"all three models must be one architecture; compare {base.folder}/config.json with the other one"
    ours, theirs = [len(one.rows.names) for one in (base, other)]
    if base.rows.tied != other.rows.tied or ours != theirs or (base.rows.output is None) != (other.rows.output is None):
        raise VocabMismatch(
            f"{base.folder} has the token tables {', '.join(base.rows.names)}{' (tied)' * base.rows.tied}, "
            f"{other.folder} has {', '.join(other.rows.names)}{' (tied)' * other.rows.tied}",
            hint=hint,
        )
    for one, two in zip(base.rows.names, other.rows.names, strict=True):
        _same_shape(base.tensors[one].shape[1:], other.tensors[two].shape[1:], f"a row of {one}", (base, other))
    for name in [*_body(base), *_body(other)]:
        shapes = [tensors[name].shape if name in (tensors := one.tensors) else None for one in (base, other)]
        _same_shape(shapes[0], shapes[1], name, (base, other))


def _same_shape(
    one: tuple[int, ...] | None, two: tuple[int, ...] | None, name: str, places: tuple[Checkpoint, Checkpoint]
) -> None:
    if one != two:
        said = ["absent" if shape is None else f"of shape {shape}" for shape in (one, two)]
        raise VocabMismatch(
            f"{name} is {said[0]} in {places[0].folder} and {said[1]} in {places[1].folder}",
            hint="base, fine-tune and swapped base must have the same tensors and shapes",
        )


def _body(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if name not in checkpoint.rows.stored]


def _changed(base: Checkpoint, swapped: Checkpoint) -> Iterator[str]:
    for name in _body(base):
        one, other = base.tensors[name], swapped.tensors[name]
        if _same_bytes(one, other):
            continue
        if one.dtype not in FLOATS or other.dtype not in FLOATS:
            raise BadCheckpoint(
                f"{name} of {swapped.folder} is {other.dtype} and differs from that of {base.folder} ({one.dtype}); "
                f"only floats can be mixed ({', '.join(FLOATS)})",
                hint="use checkpoints with float weights",
            )
        yield name


def _same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors are equal; those of one (linked) file are not read."""
    if (one.start, one.stop, one.dtype) == (other.start, other.stop, other.dtype) and one.file.samefile(other.file):
        return True
    if one.dtype in FLOATS:
        return same_values(one, other)
    return (one.dtype, one.shape) == (other.dtype, other.shape) and _raw(one) == _raw(other)


def _raw(info: TensorInfo) -> bytes:
    with info.file.open("rb") as file:
        file.seek(info.start)
        return file.read(info.bytes)


def _begin(job: PortJob, out: Path, progress: Progress | None) -> Report:
    """What is known before anything is written."""
    if progress is not None:
        progress("comparing bodies", 0, 1)
    names = [one.name for one in (job.finetune, job.base, job.swapped)]
    report = Report(title=f"{Path(names[0]).name} with the tokenizer of {Path(names[2]).name}")
    report.settings = {"model": names[0], "base": names[1], "swapped": names[2], "lambda": job.lam, "out": str(out)}
    report.settings |= {"paper": PAPER, "date": time.strftime("%Y-%m-%d")}
    vocab, own = job.target.tokenizer.vocab, job.own_rows
    before = len(job.swapped.tokenizer.vocab)
    late = sum(i >= before for i in own)
    report.add("vocab size", len(vocab), "tokens", baseline=len(job.finetune.tokenizer.vocab))
    report.add("rows", job.rows, "rows", baseline=job.finetune.checkpoint.rows.rows)
    origin = [
        ("the swap", min(before, job.rows) - (len(own) - late)),
        ("the fine-tune: control tokens that it trained", len(own) - late),
        ("the fine-tune: control tokens that the swap lacks", len(vocab) - before),
        ("padding", job.rows - len(vocab)),
    ]
    report.add_table("origin of rows", ("rows of", "rows", "share"), [(k, n, n / job.rows) for k, n in origin])
    shown = [(vocab.names[i], i, job.finetune.tokenizer.vocab.names[j], j) for i, j in list(own.items())[:40]]
    report.add_table("rows of the fine-tune", ("token", "id", "fine-tune's token", "its id"), shown)
    tensors, changed = len(_body(job.base.checkpoint)), len(job.changed)
    report.add("tensors of the body that the swap changed", changed, "tensors", n=tensors)
    report.add("tensors of the body that change", changed if job.lam else 0, "tensors", n=tensors)
    _warn(report, job)
    report.next_command = f"tokenlayer transfer port {names[0]} --base {names[1]} --swapped {names[2]} --out {out}"
    return report


def _warn(report: Report, job: PortJob) -> None:
    if job.target.added:
        report.warn(
            f"appended {len(job.target.added)} control tokens of the fine-tune that the swapped tokenizer lacks: "
            + ", ".join(job.target.added[:6])
        )
    if not job.lam and job.changed:
        report.warn(f"lambda is 0: what training did to {len(job.changed)} tensors of the swapped body is left out")
    if job.target.tokenizer.vocab.lossy:
        report.warn("not every text survives the new tokenizer: " + "; ".join(job.target.tokenizer.vocab.lossy))
    for note in (*job.finetune.checkpoint.notes, *job.swapped.tokenizer.warnings):
        report.warn(note)


def _write(
    job: PortJob,
    report: Report,
    out: Path,
    *,
    force: bool,
    finish: Callable[[Report, Path], None] | None,
    progress: Progress | None,
) -> None:
    source = job.finetune.checkpoint
    changed = job.changed if job.lam else ()
    scratch_bytes = sum(source.tensors[name].bytes for name in changed)
    check_room(out, needed_bytes(source, job.rows, out=out, body=changed) + scratch_bytes, "the ported checkpoint")
    with fresh_folder(out, force=force) as folder:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=folder.parent) as scratch:
            tables = job.tables()
            body = job.body(Path(scratch), _teller(progress, len(changed)))
            report.warnings += write_checkpoint(
                source,
                folder,
                rows=tables,
                vocab_size=job.rows,
                special_ids=special_ids(job.finetune, job.target),
                files=job.target.tokenizer.files(like=job.finetune.tokenizer),
                token_map=job.target.token_map,
                body=body,
            )
        report.data["checks"] = verify_checkpoint(folder, source, tables, job.target.tokenizer)
        report.next_command = f"tokenlayer report {out}"
        if finish is not None:
            finish(report, folder)


def _teller(progress: Progress | None, total: int) -> Callable[[int], None]:
    return lambda done: None if progress is None else progress("mixing bodies, tensors", done, total)
