"""A sparse recipe for new rows: every initialiser returns one, one `apply` runs it."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from tokenlayer.core.errors import VocabMismatch
from tokenlayer.core.seeds import torch_generator

BLOCK = 8192
"""Rows (or entries) that are held in float32 at a time."""


@dataclass(frozen=True, eq=False)
class Noise:
    """Gaussian rows with mean zero that are added to some rows of a plan.

    Attributes:
        rows: int64, shape `(noisy,)`, ascending: which new rows get noise.
        kind: `"univariate"` draws each dimension by itself, `"multivariate"` with the full covariance,
            both with the spread of the plan's support rows.
        scale: factor on the standard deviation.
        seed: same seed, same rows.
    """

    rows: Int[Tensor, " noisy"]
    kind: str
    scale: float
    seed: int


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows that no recipe makes: a network predicted them.

    Attributes:
        ids: int64, shape `(given,)`: which new rows they are.
        rows: float32, shape `(given, dim)`.
    """

    ids: Int[Tensor, " given"]
    rows: Float[Tensor, "given dim"]


@dataclass(frozen=True, eq=False)
class RowPlan:
    """A sparse recipe for a new embedding table: `new = weights @ [old; mean of the support] + noise`.

    Attributes:
        weights: sparse CSR, shape `(new_vocab, old_vocab + 1)`, float32. The last column stands for the
            mean of the support rows, so that "the mean row" costs one entry and not a dense row.
        origin: for each new token the rule that filled its row
            (`"copy"`, `"role"`, `"pieces"`, `"mean"`, `"gaussian"`, `"random"`, `"padding"`, ...).
        support: int64, the source ids that mean and noise are computed over (never padded rows).
        noise: what is added on top, or None.
        output: another recipe for the output rows and biases of an untied model; None takes this one for both.
        bias: another recipe for the biases; None takes that of the output rows.
        given: rows that take the place of what `weights` gives, or None.
    """

    weights: Tensor
    origin: tuple[str, ...]
    support: Int[Tensor, " support"]
    noise: Noise | None = None
    output: "RowPlan | None" = None
    bias: "RowPlan | None" = None
    given: GivenRows | None = None

    @staticmethod
    def from_rows(
        rows: Sequence[Mapping[int, float]],
        origin: Sequence[str],
        old_vocab: int,
        support: Sequence[int] | None = None,
        noise: Noise | None = None,
    ) -> "RowPlan":
        """Builds a plan from one `{old id: share}` mapping per new token; id `old_vocab` is the mean row.

        Args:
            rows: shares of each new row.
            origin: the rule behind each row.
            old_vocab: number of source tokens.
            support: ids for mean and noise; all source tokens when None.
            noise: see `Noise`.

        Raises:
            VocabMismatch: an old id is outside `0..old_vocab`, or `rows` and `origin` differ in length.
        """
        if len(rows) != len(origin):
            raise VocabMismatch(f"the plan has {len(rows)} rows but {len(origin)} origins")
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        columns = np.fromiter((j for row in rows for j in sorted(row)), dtype=np.int64, count=starts[-1])
        shares = np.fromiter((row[j] for row in rows for j in sorted(row)), dtype=np.float32, count=starts[-1])
        _check_columns(starts, columns, old_vocab)
        weights = _csr(
            torch.from_numpy(starts), torch.from_numpy(columns), torch.from_numpy(shares), (len(origin), old_vocab + 1)
        )
        chosen = torch.arange(old_vocab) if support is None else torch.tensor(list(support), dtype=torch.int64)
        return RowPlan(weights, tuple(origin), chosen, noise)

    @staticmethod
    def from_entries(
        lengths: Int[Tensor, " rows"],
        columns: Int[Tensor, " entries"],
        shares: Float[Tensor, " entries"],
        origin: Sequence[str],
        *,
        old_vocab: int,
        support: Sequence[int],
    ) -> "RowPlan":
        """Builds a plan from all entries in row order.

        Args:
            lengths: entries of each row.
            columns: old id of each entry; `old_vocab` is the mean row.
            shares: share of each entry.
            origin: the rule behind each row.
            old_vocab: number of source tokens.
            support: ids for mean and noise.
        """
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        weights = _csr(starts, columns, shares, (len(origin), old_vocab + 1))
        return RowPlan(weights, tuple(origin), torch.tensor(list(support), dtype=torch.int64))

    @property
    def new_vocab(self) -> int:
        """Number of rows that the plan fills."""
        return len(self.origin)

    @property
    def old_vocab(self) -> int:
        """Number of source rows that the plan may draw from."""
        return int(self.weights.shape[1]) - 1

    def counts(self) -> dict[str, int]:
        """Returns how many rows each rule filled, most frequent first."""
        return dict(Counter(self.origin).most_common())

    def shares(self, token_id: int) -> dict[int, float]:
        """Returns `{old id: share}` of one new row; id `old_vocab` is the mean row."""
        starts = self.weights.crow_indices()
        here = slice(int(starts[token_id]), int(starts[token_id + 1]))
        columns, values = self.weights.col_indices()[here].tolist(), self.weights.values()[here].tolist()
        return dict(zip(columns, values, strict=True))

    def padded(self, rows: int) -> "RowPlan":
        """Returns the plan with mean rows of origin `"padding"` appended up to `rows` rows.

        A mean row scores the mean of the ordinary logits, which is never the largest one: greedy decoding cannot
        choose padding, as it could with zero rows under negative logits.

        Raises:
            VocabMismatch: `rows` is fewer than the plan has.
        """
        missing = rows - self.new_vocab
        if missing < 0:
            raise VocabMismatch(f"cannot pad a plan of {self.new_vocab} rows to {rows} rows")
        starts = self.weights.crow_indices()
        longer = torch.cat([starts, starts[-1] + torch.arange(1, missing + 1)])
        columns = torch.cat([self.weights.col_indices(), torch.full((missing,), self.old_vocab)])
        shares = torch.cat([self.weights.values(), torch.ones(missing)])
        weights = _csr(longer, columns, shares, (rows, self.old_vocab + 1))
        output = None if self.output is None else self.output.padded(rows)
        bias = None if self.bias is None else self.bias.padded(rows)
        return replace(self, weights=weights, origin=self.origin + ("padding",) * missing, output=output, bias=bias)

    def apply(self, old: Float[Tensor, "rows dim"]) -> Float[Tensor, "new_vocab dim"]:
        """Mixes the old rows in float32 and casts back to the dtype of `old`.

        A row that is one source row with weight 1 is copied bit for bit. Memory is the result plus a few
        blocks of float32 rows. `old` may have more rows than the plan knows: rows past the tokenizer are
        padding and take no part.

        Raises:
            VocabMismatch: `old` has fewer rows than the plan has source tokens, or given rows are of another width.
        """
        if old.shape[0] < self.old_vocab:
            raise VocabMismatch(
                f"the plan was made for {self.old_vocab} source tokens, the model has {old.shape[0]} rows",
                hint="use the tokenizer that belongs to this model; `tokenlayer doctor MODEL` shows both sizes",
            )
        new = torch.empty(self.new_vocab, old.shape[1], dtype=old.dtype)
        plain = self._plain_rows()
        first = self.weights.col_indices()
        starts = self.weights.crow_indices()
        for ids in torch.nonzero(plain).flatten().split(BLOCK):
            new[ids] = old[first[starts[ids]]]
        mean = mean_row(old, self.support) if bool((first == self.old_vocab).any()) else torch.zeros(old.shape[1])
        mixed = torch.nonzero(~plain).flatten()
        for ids in mixed.split(_block_sizes((starts[1:] - starts[:-1])[mixed])):
            new[ids] = self._mix(ids, old, mean).to(old.dtype)
        if self.noise is not None:
            for ids, drawn in draw_noise(self.noise, old, self.support):
                new[ids] = (new[ids].float() + drawn).to(old.dtype)
        if self.given is not None:
            self._put_given(new)
        return new

    def _put_given(self, new: Tensor) -> None:
        assert self.given is not None
        if self.given.rows.shape[1] != new.shape[1]:
            raise VocabMismatch(f"the plan holds rows of {self.given.rows.shape[1]} numbers, the table {new.shape[1]}")
        new[self.given.ids] = self.given.rows.to(new.dtype)

    def _plain_rows(self) -> Tensor:
        """Which rows are one source row with weight 1."""
        starts = self.weights.crow_indices()
        plain = (starts[1:] - starts[:-1]) == 1
        at = starts[:-1][plain]
        plain[plain.clone()] = (self.weights.values()[at] == 1) & (self.weights.col_indices()[at] < self.old_vocab)
        return plain

    def _mix(self, ids: Tensor, old: Tensor, mean: Tensor) -> Tensor:
        """Weighted sums of old rows for the new rows `ids`, in float32."""
        starts = self.weights.crow_indices()
        lengths = (starts[1:] - starts[:-1])[ids]
        before = torch.cumsum(lengths, 0) - lengths
        entry = torch.arange(int(lengths.sum())) + torch.repeat_interleave(starts[ids] - before, lengths)
        owner = torch.repeat_interleave(torch.arange(len(ids)), lengths)
        columns, shares = self.weights.col_indices()[entry], self.weights.values()[entry]
        of_mean = columns == self.old_vocab
        rows, owners = columns[~of_mean], owner[~of_mean]
        if old.dtype != torch.float32:
            old, rows = old[rows].float(), torch.arange(len(rows))
        offsets = torch.searchsorted(owners, torch.arange(len(ids)))
        mixed = embedding_bag(rows, old, offsets, mode="sum", per_sample_weights=shares[~of_mean])
        return mixed.addr_(torch.zeros(len(ids)).index_add_(0, owner[of_mean], shares[of_mean]), mean)


def _block_sizes(lengths: Tensor) -> list[int]:
    """Cuts rows with that many entries each into blocks of about `BLOCK` entries."""
    last = (torch.cumsum(lengths + 1, 0) - 1) // BLOCK
    sizes: list[int] = torch.unique_consecutive(last, return_counts=True)[1].tolist()
    return sizes


def mean_row(old: Tensor, support: Tensor) -> Tensor:
    """Returns the mean of the support rows in float32 (zeros for an empty support)."""
    total = torch.zeros(old.shape[1], dtype=torch.float64)
    for ids in support.split(BLOCK):
        total += old[ids].sum(dim=0, dtype=torch.float64)
    return (total / max(len(support), 1)).float()


def draw_noise(noise: Noise, old: Tensor, support: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields blocks of (new ids, float32 rows with mean zero and the spread of the support rows)."""
    generator = torch_generator(noise.seed, "row-noise", noise.kind)
    covariance = _covariance(old, support)
    if noise.kind == "multivariate":
        values, vectors = torch.linalg.eigh(covariance)
        root = (vectors * values.clamp(min=0).sqrt()).float().T
    else:
        root = covariance.diagonal().clamp(min=0).sqrt().float().diag()
    for ids in noise.rows.split(BLOCK):
        yield ids, noise.scale * (torch.randn(len(ids), old.shape[1], generator=generator) @ root)


def _covariance(old: Tensor, support: Tensor) -> Tensor:
    """Covariance of the support rows in float64, divided by their number, a block at a time."""
    mean = mean_row(old, support).double()
    total = torch.zeros(old.shape[1], old.shape[1], dtype=torch.float64)
    for ids in support.split(BLOCK):
        centred = old[ids].double() - mean
        total += centred.T @ centred
    return total / max(len(support), 1)


def _csr(starts: Tensor, columns: Tensor, shares: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, shares, size=shape, check_invariants=True)


def _check_columns(starts: np.ndarray, columns: np.ndarray, old_vocab: int) -> None:
    outside = (columns < 0) | (columns > old_vocab)
    if outside.any():
        at = int(np.argmax(outside))
        row = int(np.searchsorted(starts, at, side="right")) - 1
        raise VocabMismatch(
            f"row {row} of the plan uses source token {int(columns[at])}, the source has ids 0 to {old_vocab - 1}",
            hint="make the plan from the tokenizer of this very model",
        )
