"""The table of rows that were predicted before."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.core.errors import BadOption
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.dynamic.cache import EmbeddingCache
from tokenlayer.transfer.dynamic.rows import UnitRows

WORDS = [f"word{n}".encode() for n in range(12)]


class Counting(UnitRows):
    """Rows that remember what they were asked for."""

    def __call__(self, tokens, **options):
        self.asked = [*getattr(self, "asked", []), list(tokens)]
        return super().__call__(tokens, **options)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return load_tokenizer(write(tmp_path_factory.mktemp("cache"), FAMILIES["split-byte-level"]())).vocab


def counting(vocab, seed=0):
    table = torch.randn(len(vocab), 3, generator=torch.Generator().manual_seed(seed))
    return Counting(vocab, table, tied=True, method="fvt", seed=seed)


def test_a_call_gives_the_rows_in_the_order_asked_and_makes_what_is_missing_once(vocab):
    rows = counting(vocab)
    cache = EmbeddingCache(rows, 10)
    first = cache.get_many([WORDS[0], WORDS[1], WORDS[0]])
    assert torch.equal(first, rows([WORDS[0], WORDS[1], WORDS[0]]).rows)
    rows.asked.clear()
    again = cache.get_many([WORDS[2], WORDS[1], WORDS[3], WORDS[2]])
    assert rows.asked == [[WORDS[2], WORDS[3]]]
    assert torch.equal(again[1], first[1])
    assert (cache.hits, cache.misses, cache.hit_rate) == (1, 4, 0.2)
    assert cache.get_many([]).shape == (0, 3)


def test_the_least_recently_needed_go_first(vocab):
    cache = EmbeddingCache(counting(vocab), 3)
    cache.get_many(WORDS[:3])
    cache.get_many(WORDS[:1])  # the first is needed again
    cache.get_many(WORDS[3:4])
    assert [word in cache for word in WORDS[:4]] == [True, False, True, True]
    assert cache.evictions == 1


def test_what_a_batch_needs_is_never_evicted_by_it(vocab):
    cache = EmbeddingCache(counting(vocab), 3)
    cache.get_many(WORDS[:3])
    found = cache.get_many([WORDS[3], WORDS[0], WORDS[4]])  # the first is the oldest, and is needed
    assert torch.equal(found, counting(vocab)([WORDS[3], WORDS[0], WORDS[4]]).rows)
    assert WORDS[0] in cache


def test_a_batch_of_more_than_the_capacity_makes_the_table_grow(vocab):
    cache = EmbeddingCache(counting(vocab), 2)
    cache.get_many(WORDS[:2])
    found = cache.get_many(WORDS)
    assert torch.equal(found, counting(vocab)(WORDS).rows)
    assert len(cache) == len(cache.table) == len(WORDS)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6), max_size=12), st.integers(1, 7))
def test_values_and_contents_are_those_of_a_plain_model(vocab, calls, capacity):
    rows = counting(vocab)
    cache = EmbeddingCache(rows, capacity)
    kept: OrderedDict[bytes, None] = OrderedDict()
    size = capacity
    for call in calls:
        assert torch.equal(cache.get_many(call), rows(call).rows)
        asked = dict.fromkeys(call)
        size = max(size, len(asked)) if any(word not in kept for word in asked) else size
        for word in sorted(asked, key=lambda one: one not in kept):  # known ones are touched first
            kept[word] = None
            kept.move_to_end(word)
        while len(kept) > size:
            kept.popitem(last=False)
        assert list(cache._slots) == list(kept)
        assert len(set(cache._slots.values())) == len(kept)


def test_rows_of_another_source_are_not_mixed_with_old_ones(vocab):
    cache = EmbeddingCache(counting(vocab), 4)
    old = cache.get_many(WORDS[:2])
    cache.renew(counting(vocab))
    assert len(cache) == 2
    cache.renew(counting(vocab, seed=1))
    assert len(cache) == 0
    assert not torch.equal(cache.get_many(WORDS[:2]), old)


def test_a_table_without_rows_is_refused(vocab):
    with pytest.raises(BadOption, match="capacity is 0"):
        EmbeddingCache(counting(vocab), 0)
