"""FOCUS: shared rows copied, the others by sparsemax over shared tokens alone, vectors trained on tokens."""

import numpy as np
import pytest
from tests.tiny_tokenizers import SENTENCES, byte_level
from tests.toy_vectors import dense, toy_pair, toy_vectors

from tokenlayer.core.errors import BadVectors
from tokenlayer.core.vocab import Kind
from tokenlayer.data.static_vectors import NgramConfig, VectorConfig
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer import focus as module
from tokenlayer.transfer.focus import Auxiliary, FocusConfig, focus, token_text_vectors


def slow_sparsemax(scores: np.ndarray) -> np.ndarray:
    best = np.sort(scores)[::-1]
    sizes = np.arange(1, len(best) + 1)
    size = sizes[1 + sizes * best > np.cumsum(best)].max()
    return np.maximum(scores - (best[:size].sum() - 1) / size, 0)


def toy(seed: int = 0):
    """A toy pair and vectors for nine of ten of its target tokens."""
    pair = toy_pair()
    return pair, toy_vectors([name for i, name in enumerate(pair.target.names) if i % 10], seed)


@pytest.mark.parametrize("tile_bytes", [64, 1 << 20])
def test_weights_equal_sparsemax_over_the_shared_tokens(tile_bytes, monkeypatch):
    monkeypatch.setattr(module, "TILE_BYTES", tile_bytes)
    pair, vectors = toy()
    plan, names = focus(pair, vectors), pair.target.names
    shared = [i for i, m in enumerate(pair.matches) if m is not None and i > 1 and vectors.find(names[i]) is not None]
    unit = {n: vectors.vector(n).astype(np.float64) / np.linalg.norm(vectors.vector(n)) for n in names}
    rows = [i for i, rule in enumerate(plan.origin) if rule == "neighbours"]
    assert len(rows) > 200
    for i in rows:
        weights = slow_sparsemax(np.array([unit[names[i]] @ unit[names[j]] for j in shared]))
        expected = np.zeros(len(pair.source) + 1)
        np.add.at(expected, [pair.matches[j] for j in shared], weights)
        np.testing.assert_allclose(dense(plan)[i], expected, atol=2e-6)


def test_shared_tokens_are_copied_and_tokens_that_were_not_seen_are_drawn():
    pair, vectors = toy()
    plan = focus(pair, vectors)
    shared = [i for i, match in enumerate(pair.matches) if match is not None]
    assert [plan.shares(i) for i in shared] == [{pair.matches[i]: 1.0} for i in shared]
    unseen = [i for i, m in enumerate(pair.matches) if m is None and vectors.find(pair.target.names[i]) is None]
    assert unseen == [i for i, rule in enumerate(plan.origin) if rule == "gaussian"]
    assert plan.noise.seed == FocusConfig().seed == 42


def test_only_shared_tokens_give_shares():
    pair, vectors = toy()
    sources = {match for match in pair.matches if match is not None}
    plan = focus(pair, vectors)
    mixed = [i for i, rule in enumerate(plan.origin) if rule == "neighbours"]
    assert {j for i in mixed for j in plan.shares(i)} <= sources - set(pair.source.control_ids())


def test_vectors_of_another_tokenizer_are_refused():
    with pytest.raises(BadVectors, match="no token that both vocabularies hold has an auxiliary vector") as caught:
        focus(toy_pair(), toy_vectors(["xyz"], 0))
    assert "token_text_vectors" in caught.value.hint


def test_auxiliary_vectors_are_trained_on_tokens_with_the_references_numbers():
    pytest.importorskip("gensim")
    import json

    tokenizer = LoadedTokenizer(json.loads(byte_level()))
    small = VectorConfig(dim=8, min_count=2, epochs=1, min_n=3, max_n=6, buckets=100)
    found = token_text_vectors([SENTENCES["en"]] * 4, tokenizer.vocab, tokenizer.encode, small)
    ids = tokenizer.encode(SENTENCES["en"])
    assert set(found.words) == {tokenizer.vocab.names[i] for i in ids}
    assert "Ġare" in found.words or any(word.startswith("Ġ") for word in found.words)
    assert found.counts.sum() == 4 * len(ids)
    assert found.ngrams == NgramConfig(3, 6, 100)
    assert (Auxiliary.dim, Auxiliary.min_count, Auxiliary.epochs, Auxiliary.negative) == (100, 10, 3, 10)
    assert all(kind is not Kind.CONTROL for kind in (tokenizer.vocab.kinds[i] for i in ids))
