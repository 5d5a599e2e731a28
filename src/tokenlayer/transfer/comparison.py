"""Several tokenizers and initialisers side by side on one model: bits per byte of each on each text.

The model is loaded once and scored once with its own tokenizer; for each run only its token tables are exchanged, in
the stored dtype, so that the numbers are those of a real swap. Every run is a line of `runs.jsonl`; running again goes
on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.report import Report
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.models.compare import EvalText, Side, line_similarity, measure
from tokenlayer.models.loading import OpenedModel, check_device, load_model, opened_model, weight_stamps
from tokenlayer.models.score import WindowConfig, start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.initialisers import INITIALISERS, make_plan
from tokenlayer.transfer.materials import Given, Materials, check_given, given_for
from tokenlayer.transfer.swap import new_table
from tokenlayer.transfer.target import Target, prepare_target

RUNS = "runs.jsonl"

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""


@dataclass(frozen=True)
class Candidate:
    """A tokenizer to move to, with what initialisers need for it."""

    name: str
    tokenizer: str
    materials: Materials = field(default_factory=Materials)


@dataclass(frozen=True)
class CompareConfig:
    """What is run and how it is scored."""

    inits: tuple[str, ...] = ("pieces", "copy", "copy-gaussian-full", "mean")
    """Initialisers; one that lacks what it needs for a tokenizer is left out there, with a warning."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """For initialisers that draw rows; the others run once."""
    texts: tuple[EvalText, ...] = ()
    """Texts to score."""
    specials: str = "add"
    """See `SwapConfig.specials`."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """How texts are cut for scoring."""
    dtype: str | None = None
    """Type in which the model runs; None is float32 on a CPU, the stored type elsewhere."""
    device: str = "cpu"
    """Where the model runs."""

    def __post_init__(self) -> None:
        for init in self.inits:
            choose("init", init, INITIALISERS)
        if not self.texts:
            raise BadOption("there is no text to score", hint="give one with --eval FILE:LANG")
        if not self.seeds or not self.inits:
            raise BadOption("there is nothing to run: give at least one init and one seed")


@dataclass(frozen=True, eq=False)
class _Job:
    """One run: a tokenizer, an initialiser, a seed."""

    candidate: Candidate
    init: str
    seed: int
    key: str


def compare(
    model: str | Path,
    candidates: Sequence[Candidate],
    out: Path,
    config: CompareConfig,
    *,
    progress: Progress | None = None,
) -> Report:
    """Scores a model with each tokenizer and initialiser.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        candidates: tokenizers by name.
        out: folder of `runs.jsonl`; finished runs in it are not repeated.
        config: see `CompareConfig`.
        progress: see `Progress`.

    Returns:
        The report: one table row for each tokenizer, initialiser and text.

    Raises:
        BadOption: two candidates have one name, or nothing can be run.
        TokenLayerError: a model or tokenizer that cannot be read.
    """
    names = [one.name for one in candidates]
    if len(set(names)) != len(names) or not names:
        raise BadOption(f"tokenizers need names of their own, found {names}", hint="name them: --to tr=DIR")
    check_device(config.device)
    out.mkdir(parents=True, exist_ok=True)
    report = Report(title=f"{Path(model).name}: {len(candidates)} tokenizers, {len(config.inits)} initialisers")
    report.settings = {"model": str(model), "tokenizers": {c.name: c.tokenizer for c in candidates}, "out": str(out)}
    report.settings |= {"inits": list(config.inits), "seeds": list(config.seeds), **asdict(config.window)}
    targets = {one.name: load_tokenizer(one.tokenizer) for one in candidates}
    jobs = _jobs(str(model), candidates, targets, config, report)
    log = _Log(out / RUNS)
    source_key = _key(str(model), config)
    todo = [job for job in jobs if job.key not in log.runs]
    if todo or source_key not in log.runs:
        with TemporaryDirectory(dir=out) as scratch, opened_model(model, Path(scratch)) as source:
            _Session(source, targets, config, log, report.warn).run(todo, source_key, progress)
    _tell(report, jobs, log.runs[source_key], log.runs, config)
    return report


def _jobs(
    model: str,
    candidates: Sequence[Candidate],
    targets: dict[str, LoadedTokenizer],
    config: CompareConfig,
    report: Report,
) -> list[_Job]:
    jobs = []
    for one in candidates:
        for init in config.inits:
            try:
                check_given(init, INITIALISERS[init].needs, one.materials)
            except BadOption as error:
                report.warn(f"{error.message} for {one.name}; left out")
                continue
            network = weight_stamps(one.materials.hypernet) if "hypernet" in INITIALISERS[init].needs else []
            for seed in config.seeds if INITIALISERS[init].random else config.seeds[:1]:
                what = (targets[one.name].text, init, seed, asdict(one.materials), config.specials, *network)
                jobs.append(_Job(one, init, seed, _key(model, config, *what)))
    return jobs


def _key(model: str, config: CompareConfig, *what: Any) -> str:
    """Names a run by all that decides its numbers; weights count by size and date of their files."""
    scoring = [asdict(text) for text in config.texts], asdict(config.window), config.dtype, config.device
    text = json.dumps([model, weight_stamps(model), scoring, what], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class _Log:
    """Finished runs by key, on disk line by line; a line that was cut off is as if it were not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            self.runs[found["key"]] = found
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, key: str, **found: Any) -> None:
        self.runs[key] = {"key": key, **found}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.runs[key], ensure_ascii=False) + "\n")


@dataclass(frozen=True, eq=False)
class _Session:
    """A loaded model and what runs on it need."""

    source: OpenedModel
    targets: dict[str, LoadedTokenizer]
    config: CompareConfig
    log: _Log
    warn: Callable[[str], object]

    def run(self, todo: Sequence[_Job], source_key: str, progress: Progress | None) -> None:
        """Scores the source if that is still to be done, then every job; each is kept as soon as it is there."""
        checkpoint, texts = self.source.checkpoint, self.config.texts
        model, _ = load_model(checkpoint.folder, checkpoint.kind, dtype=self.config.dtype, device=self.config.device)
        start = start_token(self.source.tokenizer)
        before = None
        if source_key not in self.log.runs or checkpoint.kind == "encoder":
            before = self._scored(model, self.source.tokenizer, start)
            numbers = _numbers(before, before, self.source.tokenizer, texts)
            self.log.add(source_key, run="source", kind=checkpoint.kind, **numbers)
        for done, (target, given, job) in enumerate(self._prepared(todo)):
            if progress is not None:
                progress("runs", done, len(todo))
            began = time.perf_counter()
            plan = make_plan(job.init, given, job.seed)
            with_tables(model, self.source, plan)
            seconds = time.perf_counter() - began
            begins = target.start_token(self.source.tokenizer)
            found = _numbers(self._scored(model, target.tokenizer, begins), before, target.tokenizer, texts)
            about = {"run": job.candidate.name, "init": job.init, "seed": job.seed, "origin": plan.counts()}
            cost = {"plan_seconds": seconds, "plan_megabytes": plan.weights.values().numel() * 12 / 1e6}
            self.log.add(job.key, **about, **cost, **found)
        if progress is not None:
            progress("runs", len(todo), len(todo))

    def _scored(self, model: nn.Module, tokenizer: LoadedTokenizer, start_id: int | None) -> Side:
        config, kind = self.config, self.source.checkpoint.kind
        return measure(model, tokenizer, kind, config.texts, (), start_id=start_id, config=config.window)

    def _prepared(self, jobs: Sequence[_Job]) -> Iterator[tuple[Target, Given, _Job]]:
        """Each job with its target; vectors and matches of one target serve all of its jobs."""
        for name, mine in groupby(jobs, lambda job: job.candidate.name):
            target = prepare_target(
                self.source.tokenizer, self.targets[name], self.config.specials, self.source.fixed_pad
            )
            for n, job in enumerate(mine):
                if n == 0:
                    warn = partial(self._warn, name)
                    given = given_for(self.source, target, job.candidate.materials, warn, device=self.config.device)
                yield target, given, job

    def _warn(self, name: str, sentence: str) -> None:
        self.warn(f"{name}: {sentence}")


def with_tables(model: nn.Module, source: OpenedModel, plan: RowPlan) -> None:
    """Puts the tables of a plan into a loaded model, in the dtype and on the device that it has."""
    rows = source.checkpoint.rows

    def made(name: str, like: Tensor) -> nn.Parameter:
        new = new_table(source.checkpoint, name, plan)
        return nn.Parameter(new.to(like.dtype).to(like.device), requires_grad=False)

    inputs: Any = model.get_input_embeddings()  # type: ignore[operator]
    head: Any = model.get_output_embeddings() if source.checkpoint.kind != "encoder" else None  # type: ignore[operator]
    inputs.weight = made(rows.input, inputs.weight)
    inputs.num_embeddings, inputs.padding_idx = plan.new_vocab, None
    if head is not None:
        head.weight = made(rows.output, head.weight) if rows.output else inputs.weight
        head.out_features = plan.new_vocab
        if getattr(head, "bias", None) is not None and rows.biases:
            head.bias = made(rows.biases[0], head.bias)
    config: Any = model.config
    getattr(config, "text_config", config).vocab_size = plan.new_vocab


def _numbers(
    side: Side, before: Side | None, tokenizer: LoadedTokenizer, texts: Sequence[EvalText]
) -> dict[str, dict[str, int | float]]:
    """By text: tokens, and bits per byte or (of encoders) the cosine to the source's line vectors."""
    found: dict[str, dict[str, int | float]] = {"tokens": {t.name: len(tokenizer.encode(t.text)) for t in texts}}
    if side.scores:
        found["score"] = {t.name: side.scores[t.name].scores.bits_per_byte for t in texts}
    elif before is not None:
        found["score"] = {t.name: line_similarity(before, side, t.name)[0] for t in texts}
    return found


def _tell(
    report: Report, jobs: Sequence[_Job], source: dict[str, Any], runs: dict[str, dict[str, Any]], config: CompareConfig
) -> None:
    """The table, what was best of each tokenizer and text, and the numbers for the plots."""
    encoder = source["kind"] == "encoder"
    measured = {"encoder": "cosine", "masked": "pseudo bits per byte"}.get(source["kind"], "bits per byte")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job in jobs:
        groups.setdefault((job.candidate.name, job.init), []).append(runs[job.key])
    rows, points = [], []
    for (name, init), found in groups.items():
        for text in config.texts:
            values = [run["score"][text.name] for run in found]
            saved = 1 - found[0]["tokens"][text.name] / max(source["tokens"][text.name], 1)
            spread = f"{min(values):.4f} to {max(values):.4f}, {len(values)} seeds" if len(values) > 1 else ""
            cost = fmean(run["plan_seconds"] for run in found), max(run["plan_megabytes"] for run in found)
            before = source["score"][text.name]
            rows.append((name, init, text.name, before, fmean(values), spread, saved, *cost))
            points.append({"tokenizer": name, "init": init, "text": text.name, "before": before, "values": values})
    columns = ("tokenizer", "init", "text", f"before, {measured}", measured, "range")
    report.add_table("comparison", (*columns, "tokens saved", "seconds", "MB of the plan"), rows)
    report.data["comparison"] = {"measured": measured, "points": points}
    ranked = sorted(rows, key=lambda row: -row[4] if encoder else row[4])
    best = {(row[0], row[2]): row for row in reversed(ranked)}
    order = dict.fromkeys((row[0], row[2]) for row in rows)
    winners = [(*key, best[key][1], best[key][4]) for key in order]
    report.add_table("best", ("tokenizer", "text", "init", measured), winners)
