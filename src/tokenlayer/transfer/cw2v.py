"""New rows as convex combinations of old ones, whose weights word2vec learns on text in the target's tokens.

Paper: Mundra et al., "An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for Language
Models", CoNLL 2024 (Constrained Word2Vec). Reference implementation: AI4Bharat/VocabAdaptation_LLM
(word2vec/skipgram_constraint_roberta.py); its loss and start are options here.

New rows are `softmax(A1 A2) @ old rows`. With `v` the input rows and `u` the output rows (the same when tied), each
pair of a token `c` and one near it `o` gives `-log s(u_o v_c) - sum_j log s(-u_nj v_c)`. Old rows do not move.

Shapes: plans are `(target vocab, source vocab + 1)`; see `tokenlayer.core.rowplan.RowPlan`. Rows that are learned
hold as many of the largest weights as `plan_bytes` allows, and the mean column for the rest (`softmax_rows.thin`), so
that every row stays in the convex hull; what that moves is reported.

Errors: `BadText` for a stream without pairs; `VocabMismatch` for ids outside the target or rows that are too few;
`BadOption` for numbers outside their range, rows that are not floats, or a batch too large for reference negatives.

Differences from the paper:
    - negatives are those of SGNS: the reference sums their products inside one log-sigmoid
      (`negatives="reference"`), and draws them without replacement, which needs `5 x batch` distinct tokens;
    - A1 ~ N(0, 1/rank) and A2 = 0, so that each row starts at the exact mean; the reference starts from Uniform[0, 1)
      (`init="reference"`), where the logits of all rows share an arbitrary bias;
    - Adam's epsilon is 1e-15, not 1e-8: at the mean start gradients are about 1/vocab^2, and 1e-8 would freeze them;
    - only rows that occur in a batch are computed, in float32; pairs come in a new random order in each pass;
    - `Cw2vConfig.fast()` is ours: rank 128, 16 times the batch at 100 times the rate, and products in bf16. It is for a
      CPU, where the defaults take hours (docs/results/cw2v.md has both);
    - rows of tokens that the text does not hold are put back to their start: A2 moves them too;
    - tokens are matched by bytes, not by fuzzy strings; control tokens are matched by role and do not mix;
    - the Llama run of the repository (full softmax, window 1) is left out.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from tokenlayer.core.errors import BadOption, VocabMismatch, choose
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.seeds import derive_seed, numpy_generator
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.skipgram import (
    Sampling,
    TokenStream,
    pair_batches,
    sgns_loss,
    with_replacement,
    without_replacement,
)
from tokenlayer.transfer.softmax_rows import ENTRY_BYTES, PRODUCTS, SoftmaxRows, thin

INITS = ("mean", "reference")
NEGATIVES = ("canonical", "reference")
PAPER = ("rank", "window", "negatives_per_pair", "epochs", "batch", "learning_rate", "weight_decay", "subsample")
"""Settings whose defaults are the paper's."""
ADAM_EPS = 1e-15
"""See the differences above."""
PAIRS_AT_A_TIME = 8192
"""Pairs whose rows are laid out in memory at a time."""

Progress = Callable[[int, int, float], object]
"""Called after each step with steps done, steps of all passes (later ones as long as this), and the loss in nats."""


@dataclass(frozen=True)
class Cw2vConfig:
    """Defaults are those of the paper's RoBERTa run."""

    rank: int = 1024
    """Width of the two factors of the weight matrix."""
    window: int = 5
    """Tokens on each side that are context."""
    negatives_per_pair: int = 5
    """Negative samples of each pair."""
    epochs: int = 5
    """Passes over the text."""
    batch: int = 4096
    """Pairs in one step."""
    learning_rate: float = 3e-4
    """Of Adam."""
    weight_decay: float = 0.0
    """Of Adam, on both factors."""
    subsample: float = 1.0
    """A token that occurs `n` times is a centre with probability `sqrt(subsample / n)`; 0 takes every one."""
    init: str = "mean"
    """Where rows start: mean, or reference (Uniform[0, 1) factors)."""
    negatives: str = "canonical"
    """canonical, or reference (one log-sigmoid of the sum, drawn without replacement)."""
    jitter: float = 0.0
    """With `init="mean"`: standard deviation of the logits at the start, so that rows are not all the same."""
    products: str = "float32"
    """float32, or bfloat16: in what matrices are multiplied while training; sums and softmax stay float32."""
    tail: float = 1e-3
    """Weight that a row of the plan may move to become sparse (sum of absolute differences)."""
    plan_bytes: int = 1 << 30
    """Memory for the entries of a plan; caps the entries of a row, whatever `tail` says."""

    def __post_init__(self) -> None:
        for name in ("rank", "window", "negatives_per_pair", "epochs", "batch", "plan_bytes"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1", hint=_default(name))
        for name in ("weight_decay", "subsample", "jitter", "tail"):
            if not getattr(self, name) >= 0:
                raise BadOption(f"{name} is {getattr(self, name):g}, expected at least 0", hint=_default(name))
        if not self.learning_rate > 0:
            raise BadOption(
                f"learning_rate is {self.learning_rate:g}, expected above 0", hint=_default("learning_rate")
            )
        choose("init", self.init, INITS)
        choose("negatives", self.negatives, NEGATIVES)
        choose("products", self.products, PRODUCTS)
        if self.jitter and self.init != "mean":
            raise BadOption("jitter and init 'reference' exclude each other: those rows differ from the start")

    @staticmethod
    def fast() -> "Cw2vConfig":
        """Minutes on a CPU instead of hours, at a loss as low; ours, see the differences above."""
        return Cw2vConfig(rank=128, batch=16 * 4096, learning_rate=3e-2, products="bfloat16")


def _default(name: str) -> str:
    return f"the paper's is {getattr(Cw2vConfig, name):g}" if name in PAPER else f"leave {name} out"


@dataclass(frozen=True, eq=False)
class Cw2v:
    """What was learned.

    Attributes:
        plan: the plan of the input rows (of both when tied). Origin `"cw2v"` for learned rows, `"unseen"` for rows
            left at their start.
        output_plan: the plan of the output rows, or None when tied.
        unseen: target tokens that the text does not hold, though they need a row.
        losses_nats: mean loss of a pair in each pass.
        moved: the most weight that any row of a plan moved to become sparse (sum of absolute differences, at most 2).
    """

    plan: RowPlan
    output_plan: RowPlan | None
    unseen: tuple[int, ...]
    losses_nats: tuple[float, ...]
    moved: float


def cw2v(
    pair: Pair,
    rows: Shaped[Tensor, "rows dim"],
    stream: Iterable[Sequence[int]],
    config: Cw2vConfig | None = None,
    *,
    output_rows: Shaped[Tensor, "output_rows dim"] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Cw2v:
    """Learns convex weights over the source's ordinary rows for each target token that the source lacks.

    A step costs about `new tokens of the batch x source vocab x (6 x rank + 4 x dim)` operations (and `2 x (rank +
    dim)` more where weights do not fit into `softmax_rows.KEEP_BYTES`), whatever the batch; memory is the two factors
    with Adam's state, the tables, and these weights.

    Args:
        pair: the model's own vocabulary and the one to move to.
        rows: the source's input rows (padded rows may follow).
        stream: token ids of the target, one sequence a text. Mixed text (source and target language in one sentence)
            is the paper's choice: new tokens then meet known ones.
        config: see `Cw2vConfig`.
        output_rows: the source's output rows when they are not tied.
        seed: same seed, same plan.
        device: where to train.
        progress: see `Progress`.
        warn: takes one sentence for each thing that is unusual.

    Returns:
        The plan, or two for an untied model, with what was not learned and what the plan's sparse form moved.

    Raises:
        BadOption: rows that are not floats, or reference negatives with too large a batch.
        BadText: the stream has no pairs, or only one distinct token.
        VocabMismatch: an id outside the target, or fewer rows than source tokens.
    """
    config = config or Cw2vConfig()
    _check_rows(pair, rows, output_rows)
    settled, origin = pair.settled(shared=True)
    fixed = pair.plan([row or {} for row in settled], origin)
    learned = [i for i, row in enumerate(settled) if row is None]
    tokens = TokenStream.of(stream, len(pair.target))
    if not learned:
        return Cw2v(fixed, None if output_rows is None else fixed, (), (), 0.0)
    rank = _rank(config.rank, len(pair.support), warn)
    tables = []
    for side, held in (("input", rows), ("output", output_rows)):
        if held is not None:
            start = partial(SoftmaxRows, held[pair.support].float(), len(learned), rank, init=config.init)
            start = partial(start, jitter=config.jitter, seed=derive_seed(seed, "cw2v", side), products=config.products)
            tables.append(_Table(fixed.apply(held.float()), learned, start).to(device))
    losses = _train(tables, tokens, config, seed=seed, progress=progress)
    unseen = tuple(i for i in learned if not tokens.counts[i])
    if unseen:
        named = ", ".join(pair.target.label(i) for i in unseen[:3])
        warn(f"{len(unseen)} of {len(learned)} new tokens are not in the text and stay at their start: {named}")
    made = [_plan(pair, fixed, table, set(unseen), config) for table in tables]
    moved = max(gap for _, gap in made)
    return Cw2v(made[0][0], made[1][0] if len(made) > 1 else None, unseen, tuple(losses), moved)


def _check_rows(pair: Pair, rows: Tensor, output_rows: Tensor | None) -> None:
    for name, held in (("rows", rows), ("output_rows", output_rows)):
        if held is None:
            continue
        if not held.is_floating_point():
            raise BadOption(
                f"{name} are {str(held.dtype).removeprefix('torch.')}, expected floats: they look quantised",
                hint="take the checkpoint from before quantisation",
            )
        if len(held) < len(pair.source):
            raise VocabMismatch(f"{name} has {len(held)} rows, the source has {len(pair.source)} tokens")


def _rank(rank: int, old: int, warn: Callable[[str], object]) -> int:
    if rank > old:
        warn(f"rank is {rank}, the source has {old} ordinary tokens: rank {old} says as much")
    return min(rank, old)


class _Table(nn.Module):
    """One row for each target token: settled ones as they are, the others as softmax mixtures."""

    fixed: Tensor
    place: Tensor

    def __init__(self, fixed: Tensor, learned: list[int], at_start: Callable[[], SoftmaxRows]) -> None:
        super().__init__()
        place = torch.full((len(fixed),), -1)
        place[learned] = torch.arange(len(learned))
        self.register_buffer("fixed", fixed)
        self.register_buffer("place", place)
        self.learned, self.at_start, self.mixed = learned, at_start, at_start()

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of some target tokens."""
        place = self.place[ids]
        open_ = (place >= 0).nonzero()[:, 0]
        return self.fixed[ids].index_put((open_,), self.mixed(place[open_]))


def _train(
    tables: list[_Table], tokens: TokenStream, config: Cw2vConfig, *, seed: int, progress: Progress | None
) -> list[float]:
    """Runs all passes and returns the mean loss of each."""
    factors = [factor for table in tables for factor in (table.mixed.left, table.mixed.right)]
    fused = tables[0].place.device.type in ("cpu", "cuda")
    adam = torch.optim.Adam(
        factors, lr=config.learning_rate, eps=ADAM_EPS, weight_decay=config.weight_decay, fused=fused
    )
    summed = config.negatives == "reference"
    draw = (without_replacement if summed else with_replacement)(tokens.counts, config.negatives_per_pair)
    sampling = Sampling(config.window, config.subsample, config.batch)
    losses, done = [], 0
    for epoch in range(config.epochs):
        generator = numpy_generator(seed, "cw2v-pairs", epoch)
        steps, batches = pair_batches(tokens, sampling, generator)
        total, pairs = 0.0, 0
        expected = done + steps * (config.epochs - epoch)
        for centres, contexts in batches:
            drawn = (centres, contexts, draw(contexts, generator))
            ids = [torch.from_numpy(some).to(tables[0].place.device) for some in drawn]
            loss = batch_loss(tables[0], tables[-1], *ids, summed=summed)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            value = float(loss.detach())
            total, pairs = total + value * len(centres), pairs + len(centres)
            done += 1
            if progress is not None:
                progress(done, expected, value)
        losses.append(total / max(pairs, 1))
    return losses


def batch_loss(
    inputs: nn.Module, outputs: nn.Module, centres: Tensor, contexts: Tensor, negatives: Tensor, *, summed: bool
) -> Tensor:
    """The loss of a batch; each distinct token's row is computed once for each table.

    Args:
        inputs: ids -> input rows.
        outputs: ids -> output rows; the same module when tied.
        centres: ids, shape `(pairs,)`.
        contexts: ids, shape `(pairs,)`.
        negatives: ids, shape `(pairs, negatives)`.
        summed: see `sgns_loss`.
    """
    parts = [centres, contexts, negatives.flatten()]
    if inputs is outputs:
        ids, place = torch.cat(parts).unique(return_inverse=True)
        made = held = inputs(ids)
        centre, context, negative = place.split([len(part) for part in parts])
    else:
        ids, place = torch.cat(parts[1:]).unique(return_inverse=True)
        held = outputs(ids)
        context, negative = place.split([len(part) for part in parts[1:]])
        ids, centre = centres.unique(return_inverse=True)
        made = inputs(ids)
    parts = [some.split(PAIRS_AT_A_TIME) for some in (centre, context, negative.view(negatives.shape))]
    sums = [checkpoint(_sum, made, held, some, summed, use_reentrant=False) for some in zip(*parts, strict=True)]
    return torch.stack(sums).sum() / len(centres)


def _sum(inputs: Tensor, outputs: Tensor, places: tuple[Tensor, Tensor, Tensor], summed: bool) -> Tensor:
    """The loss of some pairs by the places of their rows: centres, contexts, negatives."""
    v, u, n = (embedding(place, rows) for place, rows in zip(places, (inputs, outputs, outputs), strict=True))
    return sgns_loss(v, u, n, summed=summed) * len(v)


def _plan(pair: Pair, fixed: RowPlan, table: _Table, unseen: set[int], config: Cw2vConfig) -> tuple[RowPlan, float]:
    """The sparse plan of a trained table, and the most weight that a row moved for it."""
    most = max(1, config.plan_bytes // ENTRY_BYTES // len(table.learned))
    origin, moved = list(fixed.origin), 0.0
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    seen = [i for i in table.learned if i not in unseen]
    for rule, ids, mixed in (("cw2v", seen, table.mixed), ("unseen", sorted(unseen), table.at_start())):
        target_ids = iter(ids)
        for _, weights in mixed.blocks(table.place[ids].to(mixed.left.device)):
            columns, shares, rest, gaps = (part.cpu() for part in thin(weights, most, config.tail))
            moved = max([moved, *gaps.tolist()])
            for column, share, mean in zip(columns, shares, rest, strict=True):
                i = next(target_ids)
                rows[i], origin[i] = _entries(pair, column[share > 0], share[share > 0], mean), rule
    return _assembled(pair, fixed, rows, origin), moved


def _entries(pair: Pair, columns: Tensor, shares: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Source ids and shares of a row in the order of the ids, the mean column last."""
    ids, order = torch.tensor(pair.support)[columns].sort()
    if mean == 0:
        return ids, shares[order]
    return torch.cat([ids, torch.tensor([len(pair.source)])]), torch.cat([shares[order], mean[None]])


def _assembled(pair: Pair, fixed: RowPlan, rows: dict[int, tuple[Tensor, Tensor]], origin: list[str]) -> RowPlan:
    """The fixed rows with the learned ones in their places."""
    starts, columns, shares = fixed.weights.crow_indices(), fixed.weights.col_indices(), fixed.weights.values()
    entries = [
        rows[i] if i in rows else (columns[starts[i] : starts[i + 1]], shares[starts[i] : starts[i + 1]])
        for i in range(fixed.new_vocab)
    ]
    return RowPlan.from_entries(
        torch.tensor([len(one) for one, _ in entries]),
        torch.cat([one for one, _ in entries]),
        torch.cat([one for _, one in entries]),
        origin,
        old_vocab=len(pair.source),
        support=pair.support,
    )
