"""Continues training after a swap, on text for which the new tokenizer is meant: what averaged rows lost comes back.

What is trained: all token rows (`rows`), only rows that were not copied (`new-rows`; the others stay bit for bit),
rows and LoRA factors beside every linear layer (`lora`, merged at the end), or everything (`all`). Decoders predict the
next token, masked models masked ones; encoders, which predict nothing, learn the line vectors of the source model.
With `distill` a decoder also learns from the source model on the same text (see `distill`).

The rates with LoRA are those of Mundra et al., CoNLL 2024 (r 16, alpha 32, dropout 0.05, full training of the rows,
2e-4, warm-up 10 %).
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadCheckpoint, BadOption, BadText, MissingExtra, choose
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.data.documents import Documents, Source, parse_source
from tokenlayer.data.packing import mixed, shuffled
from tokenlayer.models.checkpoint import Checkpoint
from tokenlayer.models.loading import OpenedModel, load_model, most_positions
from tokenlayer.models.safetensors_io import FLOATS
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import Sample, SampleStream
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.engine import Hooks, train
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Schedule, Shard
from tokenlayer.transfer.heal_losses import CausalLoss, Item, LineLoss, MaskedLoss, item_length
from tokenlayer.transfer.zett import nshot
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import load_hypernet
from tokenlayer.transfer.zett.predict import language_number
from tokenlayer.transfer.zett.train import source_rows

TRAINED = {"rows": 1e-3, "new-rows": 1e-3, "lora": 2e-4, "all": 5e-5, "hypernet": nshot.RATE}
"""What can be trained, and at which learning rate if none is given."""
BODY_TRAINED = ("lora", "all", "hypernet")
"""Of them those that change more than the token tables."""
SAVE_SECONDS = 300.0
"""Between two savings of what a stopped run goes on from."""


@dataclass(frozen=True)
class HealConfig:
    """How training goes on after a swap."""

    texts: tuple[str, ...]
    """`[GROUP[=WEIGHT]:]PATH` of each text; windows are drawn from them by weight."""
    budget_tokens: int = 500_000
    """Tokens to train on; a text that is shorter is read again."""
    train: str = "rows"
    """rows, new-rows, lora, all; or hypernet: all, with rows that the hypernetwork of the swap goes on predicting."""
    learning_rate: float | None = None
    """At its highest; None takes the one for what is trained."""
    window: int = 512
    """Tokens that the model sees at a time."""
    batch_tokens: int = 4096
    """Tokens of an optimiser step."""
    micro_tokens: int = 1024
    """Tokens in memory at a time; changes no result but for rounding."""
    distill: float = 0.0
    """Share of the loss that comes from the source model; encoders learn from it alone."""
    temperature: float = 100.0
    """Of the source model's span probabilities."""
    mask_rate: float = 0.15
    """Masked models: share of the tokens to predict."""
    lora_rank: int = 16
    """Rank of the LoRA factors."""
    lora_alpha: int = 32
    """Scale of the LoRA factors, divided by their rank."""
    lora_dropout: float = 0.05
    """Dropout in front of the LoRA factors."""

    def __post_init__(self) -> None:
        choose("train", self.train, TRAINED)
        if not self.texts:
            raise BadOption("healing needs a text", hint="give one with --heal FILE")
        for name in ("budget_tokens", "batch_tokens", "micro_tokens", "lora_rank"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.window < 8:
            raise BadOption(f"window is {self.window}, expected at least 8")
        if not 0 <= self.distill <= 1:
            raise BadOption(f"distill is {self.distill:g}, expected a share from 0 to 1")
        if not 0 < self.mask_rate < 1:
            raise BadOption(f"mask_rate is {self.mask_rate:g}, expected a share between 0 and 1")

    @property
    def sources(self) -> list[Source]:
        """The texts as sources."""
        return [parse_source(spec) for spec in self.texts]

    def check_texts(self) -> None:
        """Reads the first document of each text, so that a missing file is found before any work.

        Raises:
            BadText: a text is missing, damaged or empty.
        """
        for one in self.sources:
            if next(Documents([one]).texts(), None) is None:
                raise BadText(f"the text {one.path} is empty", hint="give a --heal file with some text in it")

    def check_kind(self, kind: str) -> None:
        """Refuses what a kind of model or this environment cannot do, before any work.

        Raises:
            BadOption: distillation for a masked model.
            MissingExtra: peft is not installed, with `train="lora"`.
        """
        if self.train == "hypernet" and (kind != "decoder" or self.distill):
            raise BadOption(
                f"train=hypernet is for decoders without distill, this is a {kind} with distill {self.distill:g}",
                hint="use --heal-train all",
            )
        if kind == "masked" and self.distill:
            raise BadOption("distill is for decoders and encoders, this is a masked model", hint="leave out --distill")
        if self.train == "lora" and find_spec("peft") is None:
            raise MissingExtra("peft", "train", "--heal-train lora")

    def phase(self) -> Phase:
        """Steps and rates."""
        rate = self.learning_rate or TRAINED[self.train]
        schedule = Schedule(rate, "constant", 0) if self.train == "hypernet" else Schedule(rate)
        return Phase("heal", -(-self.budget_tokens // self.batch_tokens), schedule)


@dataclass(frozen=True, eq=False)
class Healed:
    """What training gave.

    Attributes:
        tables: new rows and biases by stored tensor name, float32.
        body: other tensors that changed, by stored name, float32.
        losses_nats: mean loss of each step.
        tokens: tokens that were trained on.
        parameters: numbers that were trained.
        passes: how often the texts were begun.
        seconds: wall time.
    """

    tables: dict[str, Tensor]
    body: dict[str, Tensor] = field(default_factory=dict)
    losses_nats: list[float] = field(default_factory=list)
    tokens: int = 0
    parameters: int = 0
    passes: int = 1
    seconds: float = 0.0

    def stored_tables(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """The tables in the dtype of the files."""
        return {name: table.to(FLOATS[checkpoint.tensors[name].dtype]) for name, table in self.tables.items()}


def heal(
    folder: Path,
    source: OpenedModel,
    target: LoadedTokenizer,
    plan: RowPlan,
    config: HealConfig,
    *,
    starts: tuple[int | None, int | None] = (None, None),
    seed: int = 0,
    device: str = "cpu",
    state: Path | None = None,
    about: str = "",
    hypernet: tuple[str, str] = ("", ""),
    progress: Callable[[int, int], object] | None = None,
) -> Healed:
    """Trains a swapped checkpoint.

    Args:
        folder: the swapped checkpoint; it is only read.
        source: the model that it was made from.
        target: the tokenizer of the folder.
        plan: where its rows came from.
        config: see `HealConfig`.
        starts: the token before a text, of the source and of the target tokenizer.
        seed: same seed, same weights (on one machine and device).
        device: where to train; on a GPU with bfloat16 activations over float32 weights.
        state: folder from which a run that was stopped goes on; see `train`.
        about: what else decides the result; a state of another text is refused.
        hypernet: folder and language of the hypernetwork that made the rows, for `train="hypernet"`.
        progress: called with steps done and steps in all.

    Raises:
        BadText: a text is missing, damaged or too short.
        BadOption: distillation for a masked model, or a masked model without a mask token; `train="hypernet"` for
            rows that no hypernetwork made.
        MissingExtra: peft is not installed, with `train="lora"`.
        BadCheckpoint: a trained tensor has no place in the source's files.
    """
    began = time.perf_counter()
    config.check_kind(source.checkpoint.kind)
    model, _ = load_model(folder, source.checkpoint.kind, dtype="float32", device=device)
    tables = _table_parameters(model, source.checkpoint)
    body = _body_names(model, source.checkpoint, tables) if config.train in BODY_TRAINED else {}
    trained = _choose_trained(model, tables, plan, config)
    loss = _loss(model, source, target, config, starts=starts, device=device)
    items, passes = _items(loss, config, model, seed)
    stream = SampleStream(items, item_length, batch_tokens=config.batch_tokens, micro_tokens=config.micro_tokens)
    objective: _Healing | nshot.NShotObjective = _Healing(model, trained, loss, stream, config.phase())
    if config.train == "hypernet":
        objective = _n_shot(model, source, target, plan, stream, config=config, hypernet=hypernet)
    groups = objective.parameter_groups(config.phase())
    parameters = sum(p.numel() for group in groups for p in group.parameters.values())
    done = train(objective, _engine(seed, device), state=state, about={"about": about}, hooks=Hooks(progress))
    if config.train == "lora":
        _merge_lora(model)
    if isinstance(objective, nshot.NShotObjective):
        objective.put_tables()
    now = dict(model.named_parameters())
    made = {name: p.detach().cpu() for name, p in tables.items()}
    changed = {stored: now[name].detach().cpu() for stored, name in body.items()}
    seconds = time.perf_counter() - began
    return Healed(made, changed, done.losses, done.tokens, parameters, 1 + max(passes, default=0), seconds)


def _n_shot(
    model: nn.Module,
    source: OpenedModel,
    target: LoadedTokenizer,
    plan: RowPlan,
    stream: SampleStream[Any],
    *,
    config: HealConfig,
    hypernet: tuple[str, str],
) -> nshot.NShotObjective:
    """The hypernetwork and the model that it made rows for, trained together."""
    ids = [i for i, rule in enumerate(plan.origin) if rule == "predicted"]
    if not ids or not hypernet[0]:
        raise BadOption(
            "train=hypernet needs rows that a hypernetwork predicted", hint="swap with --init zett --hypernet FOLDER"
        )
    network = load_hypernet(Path(hypernet[0])).network
    rows = source_rows(source)
    device = next(model.parameters()).device
    decomposer = Decomposer(source.tokenizer.vocab, network.config.longest, network.config.vocab_size)
    pieces, _ = decomposer.pieces([target.vocab.tokens[i] for i in ids])
    return nshot.NShotObjective(
        network.to(device),
        model,
        rows.to(device),
        (torch.tensor(ids), pieces),
        stream,
        phase=config.phase(),
        vocab=len(target.vocab),
        language=language_number(network, hypernet[1]),
    )


def _engine(seed: int, device: str) -> TrainConfig:
    """On a GPU with bfloat16 activations."""
    precision = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    return TrainConfig(seed=seed, precision=precision, device=device, save_seconds=SAVE_SECONDS, keep=1)


def _table_parameters(model: Any, checkpoint: Checkpoint) -> dict[str, nn.Parameter]:
    """The loaded parameters behind the stored token tables, by stored name."""
    rows = checkpoint.rows
    found: dict[str, nn.Parameter] = {rows.input: model.get_input_embeddings().weight}
    head: Any = model.get_output_embeddings() if checkpoint.kind != "encoder" else None
    if head is not None and rows.output:
        found[rows.output] = head.weight
    for name in rows.biases:
        found[name] = head.bias
    if set(found) != set(rows.names):
        raise BadCheckpoint(f"{checkpoint.folder} has token tables that cannot be trained: {sorted(rows.names)}")
    return found


def _choose_trained(
    model: nn.Module, tables: dict[str, nn.Parameter], plan: RowPlan, config: HealConfig
) -> dict[str, nn.Parameter]:
    """Parameters by name that get a gradient; all others are frozen."""
    model.requires_grad_(config.train in ("all", "hypernet"))
    if config.train == "lora":
        _add_lora(model, config)
    if config.train in BODY_TRAINED:
        model.train()
    for parameter in tables.values():
        parameter.requires_grad_(True)
        if config.train == "new-rows":
            new = torch.tensor([rule != "copy" for rule in plan.origin], device=parameter.device)
            parameter.register_hook(partial(_only, new))
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _only(new: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of new rows; zero for the others, which AdamW without decay then leaves bit for bit."""
    return gradient * (new[:, None] if gradient.ndim == 2 else new)


def _add_lora(model: Any, config: HealConfig) -> None:
    from peft import LoraConfig, get_peft_model

    chosen = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        get_peft_model(model, chosen)  # puts its layers into the model itself


def _merge_lora(model: nn.Module) -> None:
    """Adds the factors to the layers beside which they stand, and leaves the plain layers."""
    from peft.tuners.lora import LoraLayer

    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        module.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.get_base_layer())


def _loss(
    model: nn.Module,
    source: OpenedModel,
    target: LoadedTokenizer,
    config: HealConfig,
    *,
    starts: tuple[int | None, int | None],
    device: str,
) -> CausalLoss | MaskedLoss | LineLoss:
    kind = source.checkpoint.kind
    if kind == "masked":
        return MaskedLoss(model, target, config.mask_rate)
    teacher = None
    if kind == "encoder" or config.distill:
        teacher, _ = load_model(source.checkpoint.folder, kind, dtype="float32", device=device)
        teacher.requires_grad_(False)
    if kind == "encoder":
        assert teacher is not None
        return LineLoss(model, target, teacher, source.tokenizer)
    pair = None if teacher is None else (teacher, source.tokenizer)
    return CausalLoss(model, target, pair, starts=starts, share=config.distill, temperature=config.temperature)


def _items(
    loss: CausalLoss | MaskedLoss | LineLoss, config: HealConfig, model: nn.Module, seed: int
) -> tuple[Iterator[Item], list[int]]:
    """An endless mixture of what a loss takes, and the passes begun so far (a list that grows)."""
    sources = config.sources
    window = min(config.window, most_positions(model) or config.window)
    passes: list[int] = []

    def stream(source: Source, turn: int) -> Iterator[Item]:
        passes.append(turn)
        return shuffled(loss.items(Documents([source]).texts(), window), seed + turn)

    streams = [partial(stream, Source(one.path, one.group)) for one in sources]
    return mixed(streams, [one.weight for one in sources], seed), passes


class _Batch(NamedTuple):
    """What a loss takes, and its tokens."""

    data: Any
    tokens: int


class _Healing(Objective):
    """A swapped model with one of the losses."""

    def __init__(
        self,
        model: nn.Module,
        trained: dict[str, nn.Parameter],
        loss: CausalLoss | MaskedLoss | LineLoss,
        stream: SampleStream[Item],
        phase: Phase,
    ) -> None:
        self.model, self.trained, self.stream = model, trained, stream
        self.loss: Any = loss
        self.phases = [phase]

    def modules(self) -> Mapping[str, nn.Module]:
        return {"model": self.model}

    def parameter_groups(self, phase: Phase) -> list[ParameterGroup]:
        return [ParameterGroup(self.trained)]

    def micro_batches(self, phase: Phase, step: int, shard: Shard) -> Iterator[list[Sample]]:
        return self.stream.step(step, shard)

    def corrupt(self, phase: Phase, batch: list[Sample], seed: int) -> _Batch:
        return _Batch(self.loss.prepare(batch, seed), sum(item_length(sample.item) for sample in batch))

    def counts(self, phase: Phase, batch: _Batch) -> Mapping[str, float]:
        return {"loss": float(self.loss.terms(batch.data))}

    def losses(self, phase: Phase, batch: _Batch) -> Mapping[str, LossParts]:
        return {"loss": self.loss(batch.data)}

    def tokens(self, batch: _Batch) -> int:
        return batch.tokens


def _body_names(model: nn.Module, checkpoint: Checkpoint, tables: dict[str, nn.Parameter]) -> dict[str, str]:
    """Stored name -> parameter name of all that is no token table.

    Classes load some files under other names: of the stored tensors that hold the same numbers, it is the one whose
    name ends alike for longest.
    """
    seen = {id(parameter) for parameter in tables.values()}
    by_leaf: dict[str, list[str]] = {}
    for stored in checkpoint.tensors.keys() - checkpoint.rows.stored:
        by_leaf.setdefault(stored.rpartition(".")[2], []).append(stored)
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in seen:
            continue
        free = (stored for stored in by_leaf.get(name.rpartition(".")[2], ()) if stored not in found)
        near = sorted(free, key=lambda stored: -_alike(stored, name))
        held = next((stored for stored in near if _holds(checkpoint, stored, parameter)), None)
        if held is None:
            raise BadCheckpoint(
                f"the parameter {name} has no tensor of its own in {checkpoint.folder}",
                hint="train rows only: --heal-train rows",
            )
        found[held] = name
    return found


def _alike(one: str, other: str) -> int:
    """How many parts at the end of two names are the same."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _holds(checkpoint: Checkpoint, stored: str, parameter: nn.Parameter) -> bool:
    if tuple(checkpoint.tensors[stored].shape) != tuple(parameter.shape):
        return False
    there = checkpoint.read(stored)
    return torch.equal(there.float(), parameter.detach().cpu())
