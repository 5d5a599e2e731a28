"""The nearest rows of one table to each row of another by cosine: exact, in tiles, the same on every machine.

A float32 product finds a few candidates more than asked for; their cosines are then taken in float64, which decides
the order. A row whose candidates are too close to call in float32 is searched again in float64. Keys that are equal
bit for bit are searched as one: tokens that differ by white space have one word vector.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from tokenlayer.core.errors import BadOption, BadVectors

TILE_BYTES = 64 << 20
"""Cosines that are held at a time; a tile of 1,024 x 16,384 is about the fastest on a CPU."""
NORM_FLOOR = 1e-8
"""Added to a norm before dividing by it; wechsel, `WECHSEL.apply`."""
_TILE_ROWS = 1024
_SPARE = 8
"""Candidates beyond k, so that an order that float32 gets wrong is still among them."""
_RESCORED = 1 << 17
"""Numbers in float64 that are held at a time while candidates are scored again; they should fit into a cache."""
_GROUP = 16
"""Cosines whose maximum is looked at before they are; of 8 to 64 the fastest."""
_TOO_CLOSE = 4e-6
"""Cosines of unit rows that float32 cannot tell apart: ten times the largest error seen at 1,000 dimensions."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest keys of each query, nearest first; of equal cosines the lower id comes first.

    Attributes:
        ids: int64, shape `(queries, k)`; -1 where there is none.
        cosines: float32, shape `(queries, k)`; 0 where there is none.
    """

    ids: Int[Tensor, "queries k"]
    cosines: Float32[Tensor, "queries k"]


def nearest(
    queries: Float[Tensor, "queries dim"],
    keys: Float[Tensor, "keys key_dim"],
    k: int,
    *,
    tile_bytes: int = TILE_BYTES,
) -> Neighbours:
    """Finds the `k` keys with the largest cosine to each query.

    A query of zeros has no neighbours, a key of zeros is nobody's. Time is that of one dense product and a little;
    memory is the result, a float32 copy of the keys (two if some are zeros), and about twice `tile_bytes`.

    Args:
        queries: any length; they need not be normalised.
        keys: the same.
        k: neighbours of each query, at most the number of keys.
        tile_bytes: bound on the cosines that are held at a time.

    Raises:
        BadOption: `k` or `tile_bytes` is below 1, or there are fewer than `k` keys.
        BadVectors: the widths differ, or a vector is not finite.
    """
    _check(queries, keys, k, tile_bytes)
    query_ids = torch.nonzero(nonzero_rows(queries)).flatten()
    found = Neighbours(torch.full((len(queries), k), -1), torch.zeros(len(queries), k))
    groups, units = _key_groups(keys, k)
    if not len(units) or not len(query_ids):
        return found
    rows = max(1, min(_TILE_ROWS, tile_bytes // 4))
    for block in query_ids.split(rows):
        at, cosines = _nearest_units(unit_rows(queries[block]), units, min(k, len(units)), max(1, tile_bytes // 4))
        ids, cosines = _members(at, cosines, groups, k)
        found.ids[block, : ids.shape[1]] = ids
        found.cosines[block, : ids.shape[1]] = cosines.float()
    return found


def distinct_rows(table: Float[Tensor, "rows dim"]) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " rows"]]:
    """Finds rows that are equal bit for bit.

    Returns:
        The first row of each kind, ascending, and for each row the place of its kind among them. They are found by
        64-bit hashes and compared: two kinds are never taken for one, but one kind may (hardly ever) be two.
    """
    if not len(table):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    table = table.float().contiguous()
    factors = torch.randint(1, 1 << 62, (table.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    blocks = [(part.view(torch.int32) * factors).sum(dim=1) for part in table.split(_TILE_ROWS)]
    _, kind = torch.unique(torch.cat(blocks), return_inverse=True)
    numbers = torch.arange(len(table))
    first = torch.full((int(kind.max()) + 1,), len(table)).scatter_reduce_(0, kind, numbers, "amin")[kind]
    parts = zip(numbers.split(_TILE_ROWS), first.split(_TILE_ROWS), strict=True)
    same = torch.cat([(table[rows] == table[of]).all(dim=1) for rows, of in parts])
    kinds, place = torch.unique(torch.where(same, first, numbers), return_inverse=True)
    return kinds, place


def nonzero_rows(table: Float[Tensor, "rows dim"]) -> Bool[Tensor, " rows"]:
    """Which rows have any entry that is not zero."""
    return (table != 0).any(dim=1)


def unit_rows(table: Float[Tensor, "rows dim"]) -> Float32[Tensor, "rows dim"]:
    """Divides each row by its length plus 1e-8, in float32 whatever the input; a row of zeros stays one."""
    table = table.float()
    norms: Tensor = torch.linalg.vector_norm(table, dim=1, keepdim=True)
    return table / (norms + NORM_FLOOR)


def _key_groups(keys: Tensor, k: int) -> tuple[Int[Tensor, "distinct members"], Float32[Tensor, "distinct dim"]]:
    """Unit rows of the distinct keys that are not zero, and the first `k` ids of each, ascending, filled up with -1."""
    ids = torch.nonzero(nonzero_rows(keys)).flatten()
    if not len(ids):
        return ids[:, None], unit_rows(keys[ids])
    first, place = distinct_rows(keys if len(ids) == len(keys) else keys[ids])
    order = place.argsort(stable=True)
    counts = place.bincount()
    within = torch.arange(len(ids)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    groups = torch.full((len(first), min(k, int(counts.max()))), -1)
    kept = within < groups.shape[1]
    groups[place[order[kept]], within[kept]] = ids[order[kept]]
    whole = len(first) == len(keys)
    return groups, unit_rows(keys if whole else keys[ids[first]])


def _members(at: Tensor, cosines: Tensor, groups: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first `k` ids by (-cosine, id) of groups of equal keys; -1 and 0 where there are fewer."""
    if groups.shape[1] == 1:
        return groups[at, 0], cosines
    ids = groups[at].flatten(1)
    spread = cosines.repeat_interleave(groups.shape[1], dim=1).masked_fill(ids < 0, -torch.inf)
    ids, spread = _ranked(ids, spread, min(k, ids.shape[1]))
    return ids, spread.masked_fill(ids < 0, 0)


def _nearest_units(
    queries: Float32[Tensor, "queries dim"], keys: Float32[Tensor, "keys dim"], k: int, tile: int
) -> tuple[Int[Tensor, "queries k"], Float64[Tensor, "queries k"]]:
    width = min(k + _SPARE, len(keys))
    rough, candidates = _candidates(queries, keys, width, tile)
    ids, cosines = _ranked(candidates, _cosines(queries, keys, candidates), k)
    if width < len(keys):
        unsure = torch.nonzero(rough[:, k - 1] - rough[:, -1] < _TOO_CLOSE).flatten()
        if len(unsure):  # splitting nothing gives one empty block
            for rows in unsure.split(max(1, tile // (4 * min(len(keys), _TILE_ROWS) * keys.shape[1]))):
                ids[rows], cosines[rows] = _searched_again(queries[rows], keys, k)
    return ids, cosines


def _candidates(queries: Tensor, keys: Tensor, width: int, tile: int) -> tuple[Tensor, Tensor]:
    """The largest float32 cosines of each query, descending, and their keys; one tile of keys at a time."""
    columns = max(width, tile // len(queries))
    values, ids = [], []
    held = torch.empty(len(queries) * _padded(min(columns, len(keys))))
    for start in range(0, len(keys), columns):
        part = keys[start : start + columns]
        wide = _padded(len(part))
        cosines = held[: len(queries) * wide].view(len(queries), wide)
        cosines[:, len(part) :] = -torch.inf
        torch.mm(queries, part.T, out=cosines[:, : len(part)])
        best, places = _largest(cosines, min(width, len(part)))
        values.append(best)
        ids.append(places + start)
    merged = torch.cat(values, dim=1).topk(width)
    return merged.values, torch.cat(ids, dim=1).gather(1, merged.indices)


def _padded(columns: int) -> int:
    return -(-columns // _GROUP) * _GROUP


def _largest(cosines: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` largest of each row, descending, and their columns, by way of the largest of each group."""
    groups = cosines.shape[1] // _GROUP
    if groups <= 2 * width:
        best = cosines.topk(width)
        return best.values, best.indices
    grouped = cosines.view(len(cosines), _GROUP, groups)  # a group is every `groups`-th column
    chosen = grouped.amax(dim=1).topk(width, sorted=False).indices
    columns = (chosen[:, None] + torch.arange(0, cosines.shape[1], groups)[:, None]).flatten(1)
    best = cosines.gather(1, columns).topk(width)
    return best.values, columns.gather(1, best.indices)


def _cosines(queries: Tensor, keys: Tensor, ids: Tensor) -> Tensor:
    """Cosines of each query to its own keys in float64; equal keys give equal bits wherever they stand."""
    found = torch.empty(ids.shape, dtype=torch.float64)
    rows = max(1, _RESCORED // (ids.shape[1] * keys.shape[1]))
    for q, some, out in zip(queries.split(rows), ids.split(rows), found.split(rows), strict=True):
        products = keys.index_select(0, some.flatten()).double().view(*some.shape, -1)
        torch.sum(products.mul_(q.double()[:, None]), dim=2, out=out)
    return found


def _ranked(ids: Tensor, cosines: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first `k` by (-cosine, id)."""
    ids, order = ids.sort(dim=1)
    cosines, by_cosine = cosines.gather(1, order).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, by_cosine)[:, :k], cosines[:, :k]


def _searched_again(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All cosines in float64, the first `k` by (-cosine, id)."""
    everything = torch.arange(len(keys)).expand(len(queries), -1)
    return _ranked(everything, _cosines_to_all(queries, keys), k)


def _cosines_to_all(queries: Tensor, keys: Tensor) -> Tensor:
    doubled = queries.double()
    return torch.cat([(doubled[:, None] * part.double()).sum(dim=2) for part in keys.split(_TILE_ROWS)], dim=1)


def _check(queries: Tensor, keys: Tensor, k: int, tile_bytes: int) -> None:
    if queries.shape[1] != keys.shape[1]:
        raise BadVectors(f"queries have {queries.shape[1]} dimensions, keys have {keys.shape[1]}")
    if not 1 <= k <= len(keys):
        raise BadOption(f"k is {k}, expected 1 to {len(keys)}, the number of vectors to choose from")
    if tile_bytes < 1:
        raise BadOption(f"tile_bytes is {tile_bytes}, expected at least 1")
    for name, table in (("query", queries), ("key", keys)):
        for start in range(0, len(table), _TILE_ROWS):
            total = table[start : start + _TILE_ROWS].sum(dim=1, dtype=torch.float64)
            broken = torch.nonzero(~torch.isfinite(total)).flatten()
            if len(broken):
                raise BadVectors(f"{name} {start + int(broken[0])} has an entry that is not a finite number")
