"""Mean lengths by number of merges, over batches."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
from tests import tiny_tokenizers

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.lengths import LengthTable, lengths_by_merges
from tokenlayer.transfer.dynamic.segment import DynamicBPE

TEXTS = list(tiny_tokenizers.SENTENCES.values())[:7]


@cache
def bpe(per: str = "batch", boundary: str = "word") -> DynamicBPE:
    data = json.loads(tiny_tokenizers.byte_level())
    return DynamicBPE(LoadedTokenizer(data), boundary=boundary, per=per)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_totals_are_those_of_segmenting_each_batch(per):
    table = lengths_by_merges(bpe(per), iter(TEXTS), batch_texts=3, max_length=60)
    batches = [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    last = len(table.totals) - 1
    for merges in (0, 1, 2, 10, last // 2, last):
        found = [bpe(per).segment(batch, merges=merges, max_length=60) for batch in batches]
        assert table.totals[merges] == sum(sum(one.lengths) for one in found)
        assert table.means[merges] == table.totals[merges] / 7
    more = [bpe(per).segment(batch, merges=last + 50, max_length=60) for batch in batches]
    assert table.totals[-1] == sum(sum(one.lengths) for one in more)
    assert table.totals[-2] > table.totals[-1]
    assert (table.texts, table.batch_texts, table.per, table.max_length) == (7, 3, per, 60)


def test_merges_for_a_reduction_are_the_first_that_reach_it():
    table = lengths_by_merges(bpe(), TEXTS, batch_texts=3)
    table = dataclasses.replace(table, totals=(100, 90, 85, 82, 80))
    assert [table.merges_for(r) for r in (0.0, 0.25, 0.5, 0.51, 0.75, 0.9, 0.91, 1.0)] == [0, 1, 1, 2, 2, 3, 4, 4]
    assert table.reachable == pytest.approx(0.2)
    with pytest.raises(BadOption, match="reduction is 50, expected 0") as raised:
        table.merges_for(50.0)
    assert raised.value.hint == "50 % is 0.5"


def test_texts_without_anything_to_merge():
    table = lengths_by_merges(bpe(), ["", " "])
    assert (table.totals, table.merges_for(1.0), table.reachable) == ((1,), 0, 0.0)
    assert lengths_by_merges(bpe(), [""]).reachable == 0.0


def test_a_table_comes_back_from_its_file(tmp_path):
    table = lengths_by_merges(bpe(), TEXTS, batch_texts=3)
    table.save(tmp_path / "lengths.json")
    assert LengthTable.load(tmp_path / "lengths.json") == table
    table.check(bpe())


def test_a_table_is_not_used_with_another_tokenizer_or_boundary():
    table = lengths_by_merges(bpe(), TEXTS)
    other = DynamicBPE(LoadedTokenizer(json.loads(tiny_tokenizers.split_byte_level())), boundary="word")
    with pytest.raises(VocabMismatch, match="measured with another tokenizer"):
        table.check(other)
    with pytest.raises(BadOption, match="measured with boundary word, expected pretoken"):
        table.check(bpe("batch", "pretoken"))
    with pytest.raises(BadOption, match="measured with per batch, expected sample"):
        table.check(bpe("sample"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "x"}, "field 'format' is not"),
        ({"totals": "100"}, "field 'totals' is '100', expected list"),
        ({"totals": []}, "field 'totals' is not a descending list"),
        ({"totals": [3, 4]}, "field 'totals' is not a descending list"),
        ({"totals": [3, None]}, "field 'totals' is not a descending list"),
        ({"texts": 0}, "field 'texts' is 0, expected at least 1"),
        ({"longest": "7"}, "field 'longest' is '7', expected int or NoneType"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, change, says):
    path = tmp_path / "lengths.json"
    lengths_by_merges(bpe(), TEXTS).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadText, match=says):
        LengthTable.load(path)
    path.write_text("{")
    with pytest.raises(BadText, match="cannot read"):
        LengthTable.load(path)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(BadText, match="there is no text"):
        lengths_by_merges(bpe(), [])
    with pytest.raises(BadOption, match="batch_texts is 0"):
        lengths_by_merges(bpe(), TEXTS, batch_texts=0)
    fixed = DynamicBPE(LoadedTokenizer(json.loads(tiny_tokenizers.byte_level())), merges=[(b"a", b"b")])
    with pytest.raises(BadOption, match="a fixed list of merges has no reachable reduction"):
        lengths_by_merges(fixed, TEXTS)


def test_drawn_numbers_of_merges_follow_their_law():
    totals = tuple(1000 - n for n in range(501))
    table = LengthTable(totals, 10, 5, "pretoken", "batch", None, None, "")
    draws = 2000
    for law, deviation in (("uniform", 1 / 12**0.5), ("normal", 1 / 6)):
        generator = np.random.default_rng(0)
        shares = np.array([table.draw(generator, law) for _ in range(draws)]) / 500
        assert abs(shares.mean() - 0.5) < 4 * deviation / draws**0.5 + 0.002  # merges are whole numbers
        assert abs(shares.std() - deviation) < 4 * deviation / (2 * draws) ** 0.5 + 0.002
        assert shares.min() >= 0
        assert shares.max() <= 1
        again = np.random.default_rng(0)
        assert table.draw(again, law) == round(shares[0] * 500)
    with pytest.raises(BadOption, match="law is 'poisson'"):
        table.draw(np.random.default_rng(0), "poisson")
