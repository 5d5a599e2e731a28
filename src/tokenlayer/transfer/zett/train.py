"""Trains a hypernetwork for a model and writes it as a folder: one network, with which any tokenizer fits the model.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024.
Reference: bminixhofer/zett.

Shapes: source rows `(vocab, dim)`, for untied models `(vocab, 2 * dim)`; what the network takes and gives is in
`network`, what a step is in `objective`, how tokenizers are sampled in `sampler`.

Errors: `BadText` for texts that are missing, damaged or empty; `BadOption` for sizes that do not fit;
`BadCheckpoint` for a sentence encoder with a pooling that is not built; `OutputExists` for a folder that is there.

Differences from the paper: those of `network` (scalers, positions), `sampler` (true character boundaries) and `texts`
(documents are joined by an empty line). `arch="residual"`, `identity="split"` and `rows_per_step` are ours and off
unless asked for. Encoders without a language-model head learn from themselves, see `encoder` (ours). Control tokens
that the model knows by number keep their numbers in sampled vocabularies.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from tokenlayer.core.errors import BadOption
from tokenlayer.core.outputs import check_free, check_room, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.data.documents import parse_source
from tokenlayer.models.loading import OpenedModel, check_device, load_model, most_positions, opened_model, weight_stamps
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.engine import Hooks, Trained, train
from tokenlayer.train.estimate import estimate
from tokenlayer.train.metrics import read_rows
from tokenlayer.train.summary import add_training
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.encoder import SPANS, SentenceReader, pooling_of
from tokenlayer.transfer.zett.files import check_source, load_hypernet, save_hypernet
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig
from tokenlayer.transfer.zett.objective import SourceRows, ZettObjective
from tokenlayer.transfer.zett.predict import source_table
from tokenlayer.transfer.zett.reading import MAIN, Reader
from tokenlayer.transfer.zett.texts import TrainingTexts

Progress = Callable[[str, int, int], None]
"""Called with a step's name, units done and units in all."""
ANCHORS = 2_048
"""Tokens on which the rescalers are set."""
CHARS_PER_TOKEN = 16
"""Characters of a training text for each token of the block: more than any tokenizer needs."""
METRICS = "metrics.jsonl"
PAPER = "Minixhofer et al., Zero-Shot Tokenizer Transfer, NeurIPS 2024"


@dataclass(frozen=True)
class HypernetRun:
    """A hypernetwork to train: what on, of what shape, where."""

    texts: tuple[str, ...]
    """`[GROUP[=WEIGHT]:]PATH` of each text; a group is a language."""
    training: ZettConfig = field(default_factory=ZettConfig)
    """Steps, rates and sizes."""
    arch: str = "paper"
    """paper, or residual: begins at the mean of the pieces; see `network`."""
    hidden: int | None = None
    """Width of the network; None takes the model's."""
    layers: int = 3
    """Its transformer layers."""
    languages: bool = False
    """Give each language a vector of its own."""
    tempering: float | None = None
    """Draw languages by their share of the weights to this power; the paper has 0.1 for its 26 languages."""
    precision: str = "float32"
    """float32, or bfloat16: the frozen model and all matrix products in bfloat16."""
    device: str = "cpu"
    """Where it is trained."""
    start: str = ""
    """Folder of a hypernetwork for the model that training goes on from, in its shape; "": random weights."""
    keep_single: bool = False
    """Of residual networks: tokens that are one piece of the source keep its row."""
    seed: int = 0
    """Same seed, same weights (on one machine and device)."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise BadOption("a hypernetwork is trained on texts", hint="give one with --texts LANGUAGE:FILE")
        if self.start and self.hidden is not None:
            raise BadOption(f"a hypernetwork that goes on from {self.start} has its width", hint="leave hidden out")


def train_hypernet(
    model: str | Path,
    out: Path,
    config: HypernetRun,
    *,
    force: bool = False,
    dry_run: bool = False,
    finish: Callable[[Report, Path], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Trains a hypernetwork for a model.

    A run that was stopped goes on when it is called again with the same settings: its state is beside `out`.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        out: the folder to write; it appears only when the training is done.
        config: see `HypernetRun`.
        force: replace an existing folder that we wrote.
        dry_run: try a step of each stage, say what the run would need; write nothing.
        finish: called with the report and the unfinished folder, to put files beside the weights.
        progress: see `Progress`.

    Returns:
        The report: losses, bits per byte on training texts, tokens, seconds.

    Raises:
        TokenLayerError: a subclass that says what is wrong; an interrupted run keeps its state.
    """
    check_device(config.device)
    if not dry_run:
        check_free(out, force=force)
    with opened_model(model, out.absolute().parent) as source:
        report = Report(title=f"a hypernetwork for {Path(str(model)).name}")
        report.settings = {"model": str(model), "out": str(out), **_plain(config), "paper": PAPER}
        report.settings["date"] = time.strftime("%Y-%m-%d")
        objective = make_objective(source, config, report.warn)
        _describe(report, objective, config)
        if dry_run:
            estimate(objective, engine_config(config)).add_to(report)
            return report
        check_room(out, 16 * sum(p.numel() for p in objective.network.parameters()), "the state and the hypernetwork")
        state = training_state(out)
        trained = _train(objective, config, source, state, progress)
        with fresh_folder(out, force=force) as folder:
            about = {"model": source.name, "training": asdict(config.training), "texts": list(config.texts)}
            if config.start:
                about["start"] = dict(load_hypernet(Path(config.start)).about)
            save_hypernet(folder, objective.network, source.tokenizer, about)
            shutil.copyfile(state / METRICS, folder / METRICS)
            _tell(report, trained, read_rows(folder / METRICS))
            report.next_command = f"tokenlayer swap {model} TOKENIZER --init zett --hypernet {out} --out DIR"
            if finish is not None:
                finish(report, folder)
        shutil.rmtree(state)
    return report


def training_state(out: Path) -> Path:
    """The folder beside `out` from which training goes on when the same command is run again."""
    return out.absolute().parent / f".{out.absolute().name}.training"


def make_objective(source: OpenedModel, config: HypernetRun, warn: Callable[[str], object]) -> ZettObjective:
    """The network, the frozen model and the texts, ready to train.

    Raises:
        BadCheckpoint: an encoder that pools its states in a way that is not built.
        BadOption: a block that the model cannot read.
        BadText: a text is missing, damaged or empty.
    """
    checkpoint, training = source.checkpoint, config.training
    texts = TrainingTexts(
        [parse_source(one) for one in config.texts],
        batch_texts=training.batch,
        text_chars=CHARS_PER_TOKEN * training.block,
        sampler=training.sampler,
        seed=config.seed,
        tempering=config.tempering,
        warn=warn,
    )
    rows = source_rows(source)
    model, _ = load_model(checkpoint.folder, checkpoint.kind, dtype=config.precision, device=config.device)
    most = most_positions(model)
    if most is not None and training.block > most:
        raise BadOption(f"block is {training.block}, {source.name} reads at most {most} tokens", hint=f"--block {most}")
    network = make_network(source, rows, config, texts.languages if config.languages else ()).to(config.device)
    reader: nn.Module | Reader = model
    if checkpoint.kind == "encoder":
        reader = SentenceReader(model, source.tokenizer, pooling=pooling_of(checkpoint.folder))
    return ZettObjective(
        network,
        reader,
        source.tokenizer,
        rows.to(config.device),
        texts,
        config=training,
        masked=checkpoint.kind == "masked",
        seed=config.seed,
        warn=warn,
    )


def source_rows(source: OpenedModel) -> SourceRows:
    """The rows of a model's tokens in float32; padded rows take no part."""
    checkpoint, names = source.checkpoint, source.checkpoint.rows
    table = source_table(checkpoint.read(names.input), checkpoint.read(names.output) if names.output else None)
    size = len(source.tokenizer.vocab)
    bias = checkpoint.read(names.biases[0]).float()[:size] if names.biases else None
    return SourceRows(table[:size].contiguous(), bias, not names.output)


def make_network(source: OpenedModel, rows: SourceRows, config: HypernetRun, languages: Sequence[str] = ()) -> Hypernet:
    """A network with random weights and rescalers set for the rows of a model."""
    vocab = source.tokenizer.vocab
    if config.start:
        return _started(config, rows, vocab)
    shape = HypernetConfig.for_model(rows.dim, tied=rows.tied, vocab_size=len(vocab), bias=rows.bias is not None)
    if config.hidden is not None:
        wide = HypernetConfig.for_model(config.hidden, tied=True, vocab_size=1)
        shape = replace(shape, hidden=config.hidden, inner=wide.inner, heads=wide.heads)
    decomposer = Decomposer(vocab, shape.longest)
    shape = replace(
        shape,
        layers=config.layers,
        arch=config.arch,
        keep_single=config.keep_single,
        extra=decomposer.extra,
        languages=tuple(languages),
    )
    network = Hypernet(shape, config.seed)
    draw = numpy_generator(config.seed, "zett-anchors")
    normal = vocab.text_ids()
    chosen = draw.choice(len(normal), size=min(ANCHORS, len(normal)), replace=False)
    anchors, _ = decomposer.pieces([vocab.tokens[normal[i]] for i in chosen])
    network.fit_scalers(rows.table, anchors)
    return network


def _started(config: HypernetRun, rows: SourceRows, vocab: ByteVocab) -> Hypernet:
    """The network that training goes on from."""
    saved = load_hypernet(Path(config.start))
    check_source(saved, vocab, dim=rows.dim, tied=rows.tied, where=config.start)
    network = Hypernet(
        replace(saved.network.config, keep_single=config.keep_single or saved.network.config.keep_single)
    )
    network.load_state_dict(saved.network.state_dict())
    return network


def _train(
    objective: ZettObjective, config: HypernetRun, source: OpenedModel, state: Path, progress: Progress | None
) -> Trained:
    def tell(done: int, steps: int) -> None:
        if progress is not None:
            progress("training the hypernetwork, steps", done, steps)

    return train(
        objective,
        engine_config(config),
        state=state,
        metrics=state / METRICS,
        about=_decides(config, source),
        hooks=Hooks(progress=tell),
    )


def engine_config(config: HypernetRun) -> TrainConfig:
    """The settings of the engine: AdamW of the paper."""
    return TrainConfig(
        seed=config.seed,
        log_every=max(1, min(10, config.training.steps // 50)),
        weight_decay=0.01,  # paper, appendix: with betas (0.9, 0.95), not on norms and biases
        clip=config.training.clip,
        precision=config.precision,
        device=config.device,
    )


def _decides(config: HypernetRun, source: OpenedModel) -> dict[str, Any]:
    """All beside the engine's own settings that decides what training gives, by name."""
    sources = [parse_source(one) for one in config.texts]
    sizes = [Path(one.path).stat().st_size if Path(one.path).is_file() else 0 for one in sources]
    digest = hashlib.blake2b(source.tokenizer.text.encode(), digest_size=12).hexdigest()
    found = {**_plain(config), "bytes of the texts": sizes, "tokenizer": digest, "model": source.name}
    found["weights"] = [list(stamp) for name in (source.name, config.start) if name for stamp in weight_stamps(name)]
    del found["device"]
    return {name: json.loads(json.dumps(value)) for name, value in found.items()}


def _plain(config: HypernetRun) -> dict[str, Any]:
    plain: dict[str, Any] = asdict(config)
    training = plain.pop("training")
    sampler = training.pop("sampler")
    return {**plain, **training} | {f"sampler {name}": value for name, value in sampler.items()}


def _describe(report: Report, objective: ZettObjective, config: HypernetRun) -> None:
    network, training = objective.network, config.training
    model = sum(p.numel() * p.element_size() for p in objective.reader.model.parameters())
    report.add("parameters", sum(p.numel() for p in network.parameters()))
    report.add("frozen model and its rows", (model + 4 * objective.source.table.numel()) / 1e6, "MB")
    stages = [
        ("identity", training.identity_steps, training.identity_rate),
        ("main", training.main_steps, training.rate),
    ]
    report.add_table("stages", ("stage", "steps", "highest rate"), [row for row in stages if row[1]])
    shares = zip(objective.texts.languages, objective.texts.shares, strict=True)
    rows = [(name, round(float(share), 4)) for name, share in shares]
    report.add_table("texts", ("language", "share of the steps"), rows)


def _tell(report: Report, trained: Trained, rows: Sequence[Mapping[str, Any]]) -> None:
    """Losses of both stages and what the run read."""
    add_training(report, trained, rows)
    found = [row["parts"] for row in rows if row["phase"] == MAIN]
    few = max(1, len(found) // 10)
    sentences = any(SPANS in parts for parts in found)
    first, last = (sum(_told(parts, sentences) for parts in some) / few for some in (found[:few], found[-few:]))
    if sentences:
        report.add("sentence vectors of sampled tokenizers, 1 - cosine", last, baseline=first)
    else:
        report.add("bits per byte of sampled tokenizers", last, "bits", baseline=first)


def _told(parts: Mapping[str, float], sentences: bool) -> float:
    return parts[MAIN] if sentences else parts[MAIN] / math.log(2) / parts["bytes per token"]
