"""Rows of shared tokens copied, others mixed from shared tokens that are used alike in target text.

Paper: Dobler and de Melo, "FOCUS: Effective Embedding Initialization for Monolingual Specialization of Multilingual
Models", EMNLP 2023, section 3. Reference implementation: konstantinjdobler/focus (PyPI deepfocus); numbers of the
auxiliary vectors are its defaults.

Shapes: the plan is `(target vocab, source vocab + 1)`; a row has as many entries as sparsemax keeps.

Errors: `BadVectors` when no shared token has an auxiliary vector, which happens with vectors of another tokenizer.

Differences from the paper:
    - tokens are matched by bytes and control tokens by role, not by canonical strings;
    - control tokens, which text never produces, take no part in mixing;
    - rows without a vector are drawn with mean and spread of the source's ordinary tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenlayer.core.errors import BadVectors
from tokenlayer.core.neighbours import TILE_BYTES, nonzero_rows, unit_rows
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.sparsemax import sparsemax
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.data.static_vectors import StaticVectors, VectorConfig, train_vectors
from tokenlayer.transfer.mixing import Rows, filled
from tokenlayer.transfer.parts import Pair

Auxiliary = VectorConfig(dim=100, min_count=10, negative=10, epochs=3, min_n=3, max_n=6)
"""How the reference trains auxiliary vectors: `FOCUS(...)` and the defaults of fastText behind it."""


@dataclass(frozen=True)
class FocusConfig:
    """Defaults are the paper's."""

    vectors: VectorConfig = Auxiliary
    """How auxiliary vectors are trained by `token_text_vectors`."""
    seed: int = 42
    """For rows without a vector; the number is the reference's."""


def focus(pair: Pair, vectors: StaticVectors, config: FocusConfig | None = None) -> RowPlan:
    """Copies the rows of shared tokens and mixes the others from them by sparsemax of cosines.

    Time is that of one product `other tokens x shared tokens x dim` and a partial sort of it.

    Args:
        pair: the model's own vocabulary and the one to move to.
        vectors: auxiliary vectors whose words are token names of the target; `token_text_vectors` makes them.
        config: see `FocusConfig`.

    Returns:
        A plan with origin `"copy"` for shared tokens, `"neighbours"` for tokens with a vector, and `"gaussian"` for
        the others, which are too rare to have one.

    Raises:
        BadVectors: no shared token has a vector.
    """
    config = config or FocusConfig()
    settled, origin = pair.settled(shared=True)
    table = _auxiliary(pair.target, vectors)
    text = [kind in (Kind.NORMAL, Kind.BYTE) for kind in pair.target.kinds]
    known = nonzero_rows(table).tolist()
    shared = [i for i, match in enumerate(pair.matches) if match is not None and text[i] and known[i]]
    wanted = [i for i, row in enumerate(settled) if row is None and known[i]]
    if not shared:
        raise BadVectors(
            "no token that both vocabularies hold has an auxiliary vector",
            hint="train them on text that was cut by the target tokenizer: token_text_vectors(texts, vocab, encode)",
        )
    mixed = _mixed(table, wanted, shared, [match for i in shared if (match := pair.matches[i]) is not None])
    return filled(pair, settled, origin, [("neighbours", mixed)], config.seed)


def token_text_vectors(
    texts: Callable[[], Iterable[str]] | Sequence[str],
    vocab: ByteVocab,
    encode: Callable[[str], Sequence[int]],
    config: VectorConfig = Auxiliary,
) -> StaticVectors:
    """Trains auxiliary vectors on text in the target language, each token being a word under its name.

    Args:
        texts: target texts, or a function that starts over at each call.
        vocab: the target vocabulary.
        encode: text -> token ids; `LoadedTokenizer.encode` is one.
        config: see `VectorConfig`.

    Raises:
        BadVectors: no token is seen `config.min_count` times.
        MissingExtra: gensim is not installed.
    """
    return train_vectors(texts, config, tokenize=lambda line: [vocab.names[i] for i in encode(line)])


def _auxiliary(vocab: ByteVocab, vectors: StaticVectors) -> Tensor:
    """Vectors of tokens that were seen often enough to be known by name; zeros for the others."""
    seen = [i for i, name in enumerate(vocab.names) if name and vectors.find(name) is not None]
    table = torch.zeros(len(vocab), vectors.dim)
    table[seen] = torch.from_numpy(vectors.vectors([vocab.names[i] for i in seen]))
    return table


def _mixed(table: Tensor, wanted: list[int], shared: list[int], sources: list[int]) -> Rows:
    """For each wanted token the sparsemax of its cosines to the shared ones, as shares of their source rows."""
    rows: Rows = [None] * len(table)
    units = unit_rows(table[shared])
    for ids in torch.tensor(wanted, dtype=torch.int64).split(max(1, TILE_BYTES // 4 // len(shared))):
        weights = sparsemax(unit_rows(table[ids]) @ units.T)
        at, columns = weights.nonzero(as_tuple=True)
        mixed: list[dict[int, float]] = [{} for _ in ids]
        for n, column, share in zip(at.tolist(), columns.tolist(), weights[at, columns].tolist(), strict=True):
            mixed[n][sources[column]] = mixed[n].get(sources[column], 0.0) + share
        for i, row in zip(ids.tolist(), mixed, strict=True):
            rows[i] = row
    return rows
