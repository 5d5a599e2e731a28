"""The hypernetwork of ZeTT: from the source pieces that spell a token to its input row, output row and bias.

Paper: Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer", NeurIPS 2024, section 3.
Reference: bminixhofer/zett.

Pieces are packed by their real number: nothing is computed for padding, and of the last layer only the first
position, which alone is read. What comes out is the same as with padding (see the tests).

Differences from the reference:
    - the position of an item beyond the first reaches every layer by plain tables of ours; RoBERTa's own has a
      padding index that leaves one position without a gradient;
    - all rescalers are fixed after they are set, also the one of untied output rows, and begin with a shift of 0;
    - `arch="residual"` is ours: the mean of the piece rows plus a head that begins at zero; with `keep_single` tokens
      that the source has keep their rows bit for bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.models.blocks.ragged import Packed, equal_runs

ARCHS = ("paper", "residual")
INIT_STD = 0.02
"""Of weights at the beginning, and of source rows as the network sees them (RoBERTa's initializer_range)."""
PROJECTOR_EPS, BODY_EPS = 1e-6, 1e-5


@dataclass(frozen=True)
class HypernetConfig:
    """Shape of the network; `for_model` gives the paper's."""

    dim: int
    """Width of the language model's rows."""
    tied: bool
    """Input and output rows are one table: one head."""
    vocab_size: int
    """Source tokens; pieces from this id on are bytes that the source has no token for."""
    hidden: int
    """Width of the network."""
    inner: int
    """Inner width of its layers and projectors."""
    layers: int = 3
    """Transformer layers."""
    heads: int = 12
    """Attention heads."""
    longest: int = 7
    """Pieces that are read of a token; longer ones are cut."""
    bias: bool = False
    """Predict a bias of the output (models whose head has one)."""
    extra: int = 0
    """Rows for bytes that the source has no token for."""
    languages: tuple[str, ...] = ()
    """Languages with a vector of their own; none: no language vector."""
    arch: str = "paper"
    """paper, or residual: the mean of the piece rows plus what the network adds."""
    keep_single: bool = False
    """Of residual networks: a token that is one piece of the source keeps its row; nothing is added."""

    def __post_init__(self) -> None:
        choose("arch", self.arch, ARCHS)
        if self.keep_single and self.arch != "residual":
            raise BadOption("keep_single is for residual networks alone", hint="arch residual")
        if self.hidden % self.heads:
            raise BadOption(f"hidden is {self.hidden}, expected a multiple of heads, which is {self.heads}")
        for name in ("dim", "vocab_size", "hidden", "inner", "layers", "heads", "longest"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")

    @staticmethod
    def for_model(dim: int, *, tied: bool, vocab_size: int, bias: bool = False) -> "HypernetConfig":
        """The paper's shape: as wide as the model, inner width twice that, heads of 64 (32 heads at 4,096).

        Below 512 the heads are 32 wide (ours), so that small networks have several.
        """
        heads = 32 if dim == 4096 else max(1, dim // (64 if dim >= 512 else 32))
        while dim % heads:
            heads -= 1
        return HypernetConfig(dim, tied, vocab_size, dim, 2 * dim, heads=heads, bias=bias)

    @property
    def input_dim(self) -> int:
        """Width of a source row as the network reads it: input row, for untied models with the output row behind."""
        return self.dim if self.tied else 2 * self.dim


class Predicted(NamedTuple):
    """What the network says of some tokens.

    Attributes:
        rows: input rows, shape `(tokens, dim)`.
        output_rows: output rows of untied models, shape `(tokens, dim)`, or None.
        bias: biases of the output, shape `(tokens,)`, or None.
    """

    rows: Tensor
    output_rows: Tensor | None
    bias: Tensor | None

    @property
    def head_rows(self) -> Tensor:
        """The rows with which logits are made."""
        return self.rows if self.output_rows is None else self.output_rows


class Rescaler(nn.Module):
    """A fixed `weight * x + shift` for each dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim), requires_grad=False)
        self.shift = nn.Parameter(torch.zeros(dim), requires_grad=False)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Scales and shifts."""
        return x * self.weight + self.shift

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "rows dim"], mean: Tensor | float, std: Tensor | float) -> None:
        """Sets weight and shift so that `x` gets this mean and standard deviation in each dimension."""
        x = x.float()
        self.weight.copy_(torch.as_tensor(std) / (x.std(dim=0) + 1e-8))
        self.shift.copy_(torch.as_tensor(mean) - (x * self.weight).mean(dim=0))


class Projector(nn.Module):
    """`norm(x + gelu(outer gelu(inner x)))`, with the tanh form of gelu."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, eps=PROJECTOR_EPS)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Applies the block."""
        h = functional.gelu(self.inner(x), approximate="tanh")
        h = functional.gelu(self.outer(h), approximate="tanh")
        normed: Tensor = self.norm(x + h)
        return normed


class Layer(nn.Module):
    """A transformer layer with the norms after the sums, as in RoBERTa, over packed rows."""

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__()
        width = config.hidden
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=BODY_EPS)
        self.inner, self.outer = nn.Linear(width, config.inner), nn.Linear(config.inner, width)
        self.last_norm = nn.LayerNorm(width, eps=BODY_EPS)

    def forward(
        self, x: Float[Tensor, "items hidden"], runs: list[tuple[int, int]], *, first_only: bool = False
    ) -> Float[Tensor, "kept hidden"]:
        """Applies the layer.

        Args:
            x: rows one after the other, from short to long.
            runs: pairs (rows, length).
            first_only: compute the first item of each row alone.
        """
        asking = first_items(x, runs) if first_only else x
        seen = self._attend(self.query(asking), self.key(x), self.value(x), runs, first_only=first_only)
        asking = self.norm(asking + self.out(seen))
        normed: Tensor = self.last_norm(asking + self.outer(functional.gelu(self.inner(asking))))
        return normed

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, runs: list[tuple[int, int]], *, first_only: bool
    ) -> Tensor:
        found = []
        at = asked = 0
        for rows, length in runs:
            wanted = 1 if first_only else length
            k, v = (self._split(part[at : at + rows * length], rows, length) for part in (key, value))
            q = self._split(query[asked : asked + rows * wanted], rows, wanted)
            seen = v if length == 1 else functional.scaled_dot_product_attention(q, k, v)
            found.append(seen.transpose(1, 2).reshape(rows * wanted, -1))
            at, asked = at + rows * length, asked + rows * wanted
        return torch.cat(found)

    def _split(self, x: Tensor, rows: int, length: int) -> Tensor:
        return x.view(rows, length, self.heads, -1).transpose(1, 2)


def first_items(x: Float[Tensor, "items hidden"], runs: list[tuple[int, int]]) -> Float[Tensor, "rows hidden"]:
    """The first item of each row."""
    found, at = [], 0
    for rows, length in runs:
        found.append(x[at : at + rows * length : length])
        at += rows * length
    return torch.cat(found)


class Hypernet(nn.Module):
    """Predicts rows from pieces; see the module's text.

    Args:
        config: its shape.
        seed: for the random weights that it begins with.
    """

    def __init__(self, config: HypernetConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        width, inner = config.hidden, config.inner
        self.in_scaler = Rescaler(config.input_dim)
        self.fallback = nn.Embedding(max(config.extra, 1), config.input_dim)
        self.project = nn.Linear(config.input_dim, width)
        self.project_block = Projector(width, inner)
        self.position = nn.Embedding(config.longest + 1, width)
        self.kind = nn.Parameter(torch.zeros(width))
        self.language = nn.Embedding(len(config.languages), width) if config.languages else None
        self.norm = nn.LayerNorm(width, eps=BODY_EPS)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.head_block, self.head = Projector(width, inner), nn.Linear(width, config.dim)
        self.scaler = Rescaler(config.dim)
        self.output_block = None if config.tied else Projector(width, inner)
        self.output_head = None if config.tied else nn.Linear(width, config.dim)
        self.output_scaler = None if config.tied else Rescaler(config.dim)
        self.bias_head = nn.Linear(width, 1) if config.bias else None
        self._draw(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, INIT_STD, generator=generator)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        self.kind.normal_(0.0, INIT_STD, generator=generator)
        if self.config.arch == "residual":
            for head in (self.head, self.output_head):
                if head is not None:
                    head.weight.zero_()

    @torch.no_grad()
    def fit_scalers(self, source: Float[Tensor, "vocab input_dim"], anchors: Packed) -> None:
        """Sets the rescalers, once, before training: predictions begin with mean and spread of the real rows.

        Args:
            source: the source rows, without padded ones.
            anchors: the pieces of the tokens on which predictions are looked at (2,048 in the reference).
        """
        source = source.float()
        self.in_scaler.fit(source, 0.0, INIT_STD)
        heads = [(self.scaler, source[:, : self.config.dim])]
        if self.output_scaler is not None:
            heads.append((self.output_scaler, source[:, self.config.dim :]))
        if self.config.arch == "residual":
            for scaler, rows in heads:
                scaler.weight.copy_(rows.std(dim=0))
            return
        hidden = self.read(anchors, source)
        for (scaler, rows), raw in zip(heads, self._raw(hidden), strict=True):
            scaler.fit(raw, rows.mean(dim=0), rows.std(dim=0))

    def forward(
        self, pieces: Packed, source: Float[Tensor, "vocab input_dim"], language: int | None = None
    ) -> Predicted:
        """Predicts rows.

        Args:
            pieces: source ids that spell each token, at least one and at most `longest` of them; ids from
                `vocab_size` on are bytes that the source has no token for.
            source: the source rows; for untied models with the output row behind the input row.
            language: the number of the language, for a network with language vectors.

        Raises:
            BadOption: a token without pieces or with too many, or a language is missing or unknown.
        """
        self._check(pieces, language)
        hidden = self.read(pieces, source, language)
        raw = self._raw(hidden)
        scalers = [self.scaler, self.output_scaler][: len(raw)]
        rows = [scaler(one) for scaler, one in zip(scalers, raw, strict=True) if scaler is not None]
        if self.config.arch == "residual":
            base = self.mean_rows(pieces, source)
            if self.config.keep_single:
                alone = (pieces.lengths == 1) & (pieces.values[pieces.starts[:-1]] < self.config.vocab_size)
                rows = [one.masked_fill(alone[:, None], 0.0) for one in rows]
            rows = [base[:, at * self.config.dim : (at + 1) * self.config.dim] + one for at, one in enumerate(rows)]
        bias = None if self.bias_head is None else self.bias_head(hidden)[:, 0]
        return Predicted(rows[0], rows[1] if len(rows) > 1 else None, bias)

    def _check(self, pieces: Packed, language: int | None) -> None:
        lengths = pieces.lengths
        if len(pieces) == 0 or int(lengths.min()) < 1 or int(lengths.max()) > self.config.longest:
            raise BadOption(f"a token has no pieces, or more than the {self.config.longest} that this network reads")
        count = len(self.config.languages)
        if (language is None) != (count == 0) or (language is not None and not 0 <= language < count):
            known = ", ".join(self.config.languages)
            raise BadOption(
                f"language is {language}, this hypernetwork has {count} languages",
                hint=f"one of: {known}" if known else "give no language",
            )

    def read(
        self, pieces: Packed, source: Float[Tensor, "vocab input_dim"], language: int | None = None
    ) -> Float[Tensor, "tokens hidden"]:
        """The hidden state of each token at its first piece."""
        packed, order = pieces.by_length()
        runs = equal_runs(packed.lengths)
        x = self.project_block(self.project(self._inputs(packed.values, source)))
        x = x + self.position(packed.positions()) + self.kind
        if language is not None and self.language is not None:
            x = _with_last(x, runs, self.language.weight[language])
            runs = [(rows, length + 1) for rows, length in runs]
        x = self.norm(x)
        layer: nn.Module
        for layer in self.layers:
            x = layer(x, runs, first_only=layer is self.layers[-1])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        states: Tensor = x[back]
        return states

    def mean_rows(self, pieces: Packed, source: Float[Tensor, "vocab input_dim"]) -> Float[Tensor, "tokens input_dim"]:
        """Mean of the source rows of each token's pieces; bytes without a token count as the mean of all rows."""
        return mean_of_pieces(pieces, source, self.config.vocab_size)

    def _inputs(self, ids: Int[Tensor, " items"], source: Tensor) -> Tensor:
        size = self.config.vocab_size
        x: Tensor = self.in_scaler(source[ids.clamp(max=size - 1)].float())
        if self.config.extra == 0:
            return x
        return torch.where((ids < size)[:, None], x, self.fallback((ids - size).clamp(min=0)))

    def _raw(self, hidden: Tensor) -> list[Tensor]:
        """Predictions before they are rescaled."""
        found = [self.head(self.head_block(hidden)).float()]
        if self.output_block is not None and self.output_head is not None:
            found.append(self.output_head(self.output_block(hidden)).float())
        return found


def mean_of_pieces(pieces: Packed, source: Float[Tensor, "vocab dim"], size: int) -> Float[Tensor, "tokens dim"]:
    """Mean of the source rows of each token's pieces, in float32.

    Args:
        pieces: of each token; ids from `size` on are bytes without a token, which count as the mean of all rows.
        source: the source rows.
        size: how many of them stand for tokens.
    """
    known = pieces.values < size
    rows = source[pieces.values.clamp(max=size - 1)].float()
    if not bool(known.all()):
        rows = torch.where(known[:, None], rows, source.float().mean(dim=0))
    total = torch.zeros(len(pieces), rows.shape[1], device=rows.device)
    return total.index_add_(0, pieces.owners(), rows) / pieces.lengths[:, None]


def _with_last(x: Tensor, runs: list[tuple[int, int]], last: Tensor) -> Tensor:
    """The rows with one more item behind each."""
    found, at = [], 0
    for rows, length in runs:
        mine = x[at : at + rows * length].view(rows, length, -1)
        found.append(torch.cat([mine, last.expand(rows, 1, -1)], dim=1).flatten(0, 1))
        at += rows * length
    return torch.cat(found)
