"""Merging against a recount of all pairs, and what must hold of units in every batch."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny_tokenizers

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.boundaries import BOUNDARIES, PlainText
from tokenlayer.transfer.dynamic.merging import MergePool
from tokenlayer.transfer.dynamic.segment import DynamicBPE, Segmentation, merges_to_reach

TEXTS = list(tiny_tokenizers.SENTENCES.values())


@cache
def tokenizer(family: str) -> LoadedTokenizer:
    return LoadedTokenizer(json.loads(tiny_tokenizers.FAMILIES[family]()))


@cache
def bpe(family: str, boundary: str = "pretoken", per: str = "batch", longest: int | None = None) -> DynamicBPE:
    return DynamicBPE(tokenizer(family), boundary=boundary, per=per, longest=longest, warn=lambda _: None)


def unit_bytes(vocab: ByteVocab, found: Segmentation) -> list[list[bytes]]:
    size = len(vocab)
    return [[found.new[u - size] if u >= size else vocab.tokens[u] for u in row] for row in found.rows]


def values(found: Segmentation) -> tuple:
    return found.rows, found.new, found.spans, found.words, found.pieces, found.merges


@dataclass
class Unit:
    """A unit of the slow way: its run is that of its tokens, None where nothing may be merged."""

    data: bytes
    word: int | None
    size: int
    run: int | None


def recount(texts: list[list[Unit]], valid, most: int) -> list[tuple[bytes, bytes]]:
    """The method as it is written: all pairs are counted again for each merge. Changes the texts."""
    made: list[tuple[bytes, bytes]] = []
    while len(made) < most:
        counts: dict[tuple[bytes, bytes], int] = {}
        for text in texts:
            for left, right in pairwise(text):
                if left.run is not None and left.run == right.run and valid(left.data + right.data):
                    counts[left.data, right.data] = counts.get((left.data, right.data), 0) + 1
        if not counts:
            break
        best = max(counts, key=counts.__getitem__)  # the first one seen, of several
        made.append(best)
        for text in texts:
            at = 0
            while at + 1 < len(text):
                left, right = text[at], text[at + 1]
                if left.run is not None and left.run == right.run and (left.data, right.data) == best:
                    text[at : at + 2] = [Unit(left.data + right.data, left.word, left.size + right.size, left.run)]
                at += 1
    return made


def as_units(vocab: ByteVocab, texts: list[PlainText]) -> list[list[Unit]]:
    found = []
    for text in texts:
        units = [Unit(vocab.tokens[i], word, 1, None) for i, word in zip(text.ids, text.words, strict=True)]
        for number, (begin, end) in enumerate(text.runs):
            for at in range(begin, end):
                units[at].run = number
        found.append(units)
    return found


def white_space(data: bytes) -> bool:
    marks = set(b" \n\t\r")
    return not marks & set(data[1:]) or (set(data) <= marks and data != b"\n\n")


def assert_same_as_recount(cutter: DynamicBPE, texts: list[str], most: int) -> None:
    plain = cutter._cut(texts, max_length=None, specials=True)
    slow = as_units(cutter.vocab, plain)
    made = recount(slow, white_space, most)
    found = cutter.segment(texts, merges=most)
    assert found.merges == tuple(made)
    assert unit_bytes(cutter.vocab, found) == [[unit.data for unit in text] for text in slow]
    assert found.words == [[unit.word for unit in text] for text in slow]
    assert found.pieces == [[unit.size for unit in text] for text in slow]


some_texts = st.lists(
    st.one_of(
        st.text(alphabet="ab", max_size=30), st.text(alphabet="aab -.\n\té", max_size=30), st.sampled_from(TEXTS)
    ),
    max_size=5,
)


@settings(max_examples=60)
@given(some_texts, st.sampled_from(sorted(tiny_tokenizers.FAMILIES)), st.sampled_from(BOUNDARIES), st.integers(0, 60))
def test_merges_are_those_of_the_recount(texts, family, boundary, most):
    assert_same_as_recount(bpe(family, boundary), texts, most)


@settings(max_examples=150)
@given(st.lists(st.lists(st.sampled_from(b"abc"), min_size=2, max_size=14), max_size=6))
def test_pool_is_the_recount_on_runs_of_few_letters(runs):
    vocab = ByteVocab(tuple(bytes([b]) for b in range(256)), (Kind.NORMAL,) * 256, ("",) * 256)
    texts = [[Unit(bytes([b]), 0, 1, 0) for b in run] for run in runs]
    pool = MergePool(vocab, lambda joined: joined[:2] != b"ca")
    starts = [pool.add(run) for run in runs]
    pool.merge_frequent(None)
    slow = recount(texts, lambda joined: joined[:2] != b"ca", 10**9)
    assert pool.made == slow
    for count in (0, len(slow) // 2, len(slow)):
        again = [[Unit(bytes([b]), 0, 1, 0) for b in run] for run in runs]
        recount(again, lambda joined: joined[:2] != b"ca", count)
        cut = [pool.units(start, len(run), count) for start, run in zip(starts, runs, strict=True)]
        assert [[last - first for first, last in one] for one in cut] == [
            [unit.size for unit in text] for text in again
        ]
        assert pool.removed[count] == sum(map(len, runs)) - sum(map(len, again))


def letters(*words: str, most: int | None = None) -> tuple[list[tuple[bytes, bytes]], list[list[str]]]:
    vocab = ByteVocab(tuple(bytes([b]) for b in range(256)), (Kind.NORMAL,) * 256, ("",) * 256)
    pool = MergePool(vocab, lambda _: True)
    starts = [pool.add(word.encode()) for word in words]
    pool.merge_frequent(most)
    cuts = [pool.units(start, len(word), len(pool.made)) for start, word in zip(starts, words, strict=True)]
    return pool.made, [[word[a:b] for a, b in cut] for word, cut in zip(words, cuts, strict=True)]


def test_overlaps_count_and_merge_from_the_left():
    assert letters("bcbc", "aaa", most=1) == ([(b"b", b"c")], [["bc", "bc"], ["a", "a", "a"]])  # 2 and 2: the first
    assert letters("aaa", "bcbc", most=1) == ([(b"a", b"a")], [["aa", "a"], ["b", "c", "b", "c"]])
    assert letters("aaaaa", most=2) == ([(b"a", b"a"), (b"aa", b"aa")], [["aaaa", "a"]])


def test_places_merge_in_reading_order_after_some_were_lost():
    made, cut = letters("aba", "babaaa", "ba", "aaa", most=2)
    assert made == [(b"b", b"a"), (b"a", b"a")]
    assert cut == [["a", "ba"], ["ba", "ba", "aa"], ["ba"], ["aa", "a"]]


def test_a_tie_goes_to_the_pair_that_stands_first_now():
    # After "ab" is merged, the first "bc" is gone: "de" now stands before the other two, and both count two.
    made, _ = letters("abc", "ab", "ab", "de", "bc", "bc", "de")
    assert made[:3] == [(b"a", b"b"), (b"d", b"e"), (b"b", b"c")]


def test_a_unit_made_in_two_ways_is_one_unit():
    names = (b"a", b"c", b"ab", b"bc", b"d")
    pool = MergePool(ByteVocab(names, (Kind.NORMAL,) * 5, ("",) * 5), lambda _: True)
    starts = [pool.add(run) for run in ([2, 1, 4], [0, 3, 4], [2, 1], [0, 3])]
    pool.merge_frequent(3)
    assert pool.made == [(b"ab", b"c"), (b"a", b"bc"), (b"abc", b"d")]
    assert [pool.units(start, size, 3) for start, size in zip(starts, (3, 3, 2, 2), strict=True)] == (
        [[(0, 3)], [(0, 3)], [(0, 2)], [(0, 2)]]
    )
    assert pool.removed == [0, 2, 4, 6]


@pytest.mark.parametrize("family", tiny_tokenizers.FAMILIES)
def test_no_merges_are_the_plain_tokens(family):
    found = bpe(family).segment(TEXTS, merges=0)
    plain = tokenizer(family).backend.encode_batch(TEXTS)
    assert found.rows == [one.ids for one in plain]
    assert found.spans == [one.offsets for one in plain]
    assert (found.new, found.merges) == ((), ())
    assert found.lengths == found.plain_lengths == [len(one.ids) for one in plain]


@pytest.mark.parametrize("family", tiny_tokenizers.FAMILIES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_units_spell_the_same_bytes_in_fewer_rows(family, boundary):
    cutter = bpe(family, boundary)
    found = cutter.segment(TEXTS * 2, reduction=1.0)
    plain = [tokenizer(family).decode_bytes(one.ids) for one in tokenizer(family).backend.encode_batch(TEXTS * 2)]
    assert [b"".join(row) for row in unit_bytes(cutter.vocab, found)] == plain
    assert [sum(row) for row in found.pieces] == found.plain_lengths
    assert sum(found.lengths) < sum(found.plain_lengths)
    assert all(cutter.vocab.find(data) is None for data in found.new)
    assert len(set(found.new)) == len(found.new)
    used = dict.fromkeys(u - len(cutter.vocab) for row in found.rows for u in row if u >= len(cutter.vocab))
    assert list(used) == list(range(len(found.new)))  # numbered as they come, none without a place


def test_bytes_of_a_token_of_the_model_get_its_id():
    cutter = bpe("byte-level")
    vocab = cutter.vocab
    whole = next(token for token in vocab.tokens if len(token) == 2 and token.isalpha())
    one, two = vocab.find(whole[:1]), vocab.find(whole[1:])
    text = PlainText([one, two], [(0, 1), (1, 2)], [0, 0], [(0, 2)])
    cutter = DynamicBPE(tokenizer("byte-level"))
    cutter._cut = lambda *_, **__: [text]
    found = cutter.segment(["  "], merges=1)
    assert (found.rows, found.new, found.pieces, found.spans) == ([[vocab.find(whole)]], (), [[2]], [[(0, 2)]])


def test_byte_tokens_that_make_a_known_character_get_its_id():
    loaded = tokenizer("sentencepiece-bpe")
    vocab = loaded.vocab
    stray = [vocab.find_name(f"<0x{b:02X}>") for b in "ö".encode()]
    cutter = DynamicBPE(loaded, boundary="word")
    cutter._cut = lambda *_, **__: [PlainText(stray, [(0, 1), (0, 1)], [0, 0], [(0, 2)])]
    found = cutter.segment(["ö"], merges=1)
    assert (found.rows, found.spans) == ([[vocab.find("ö".encode())]], [[(0, 1)]])


def test_a_token_that_was_not_merged_keeps_its_id():
    loaded = tokenizer("sentencepiece-bpe")
    a, double, z = loaded.vocab.find(b"a"), loaded.vocab.find_name("<0x61>"), loaded.vocab.find(b"z")
    cutter = DynamicBPE(loaded, boundary="word")
    runs = PlainText([double, z, a, z, double], [(i, i + 1) for i in range(5)], [0] * 5, [(0, 5)])
    cutter._cut = lambda *_, **__: [runs]
    found = cutter.segment(["azaza"], merges=1)
    assert found.merges == ((b"a", b"z"),)  # both kinds of "a" are one
    assert [len(row) for row in found.rows] == [3]
    assert found.rows[0][2] == double


def test_a_unit_has_the_word_of_its_left_part():
    text = "fox\u00a0fox a"
    found = bpe("byte-level", "sentence").segment([text] * 2, reduction=1.0)
    assert [text[a:b] for a, b in found.spans[0]] == ["fox\u00a0fox", " a"]
    assert found.words[0] == [0, 2]


def test_template_and_unknown_tokens_stay():
    cutter = bpe("wordpiece", "sentence")
    found = cutter.segment(["watu wote 日 wamezaliwa", ""], reduction=1.0)
    vocab = cutter.vocab
    assert found.rows[1] == [vocab.roles["cls"], vocab.roles["sep"]]
    assert (found.spans[1], found.words[1], found.pieces[1]) == ([(0, 0), (0, 0)], [None, None], [1, 1])
    assert vocab.roles["unk"] in found.rows[0]
    assert cutter.segment(["", "a b"], merges=0, specials=False).rows[0] == []


def test_an_unknown_token_that_is_not_listed_as_added_is_not_merged():
    data = json.loads(tiny_tokenizers.wordpiece())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "[UNK]"]
    cutter = DynamicBPE(LoadedTokenizer(data), boundary="sentence")
    found = cutter.segment(["watu 日."] * 2, reduction=1.0)
    at = found.rows[0].index(cutter.vocab.find_name("[UNK]"))
    assert (found.spans[0][at], found.pieces[0][at]) == ((5, 6), 1)


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece-bpe", "unigram"])
def test_special_strings_in_a_text_are_not_merged(family):
    special = tokenizer(family).vocab.names[tokenizer(family).vocab.control_ids()[-1]]
    texts = [f"aa{special}aa {special}", "aaaa"] * 3
    cutter = bpe(family, "sentence")
    found = cutter.segment(texts, reduction=1.0)
    begin = texts[0].index(special)
    inside = [i for i, (a, b) in enumerate(found.spans[0]) if a < begin + len(special) and b > begin]
    assert all(found.pieces[0][i] == 1 for i in inside)
    assert found.spans[0][inside[0]][0] >= begin
    assert found.spans[0][inside[-1]][1] <= begin + len(special)
    assert max(found.pieces[1]) > 1


@pytest.mark.parametrize("family", ["byte-level", "wordpiece"])
def test_no_unit_has_more_pieces_than_are_read(family):
    vocab = tokenizer(family).vocab
    free, bounded = (bpe(family, "word", "batch", n).segment(TEXTS, reduction=1.0) for n in (None, 3))
    most = [max((len(vocab.spell(data)) or len(data)) for data in found.new) for found in (free, bounded)]
    assert most[0] > 3
    assert most[1] == 3


def test_fixed_merges_cut_the_same_batch_in_the_same_way():
    texts = ["abab abcabc xbc bc bc", *TEXTS]
    found = bpe("byte-level").segment(texts, reduction=1.0)
    fixed = DynamicBPE(tokenizer("byte-level"), merges=found.merges)
    assert values(fixed.segment(texts, merges=len(found.merges))) == values(found)
    some = bpe("byte-level").segment(texts, merges=40)
    assert values(fixed.segment(texts, merges=40)) == values(some)


def test_fixed_merges_are_made_once_each_where_they_are_valid():
    rules = [(b"f", b"ox"), (b"x", b" f"), (b"qz", b"zz"), (b"o", b"x"), (b"f", b"ox")]
    text = "fox fox"
    fixed = DynamicBPE(tokenizer("byte-level"), merges=rules, boundary="sentence")
    found = fixed.segment([text], merges=5)
    assert found.merges == ((b"o", b"x"), (b"f", b"ox"))
    assert found.spans[0] == [(0, 3), (3, 5), (5, 7)]
    assert fixed.segment([text], merges=3).merges == ()
    assert fixed.segment([text], merges=4).merges == ((b"o", b"x"),)


def names_of(cutter: DynamicBPE, texts: list[str], **how) -> list[tuple]:
    found = cutter.segment(texts, **how)
    return list(zip(unit_bytes(cutter.vocab, found), found.spans, found.words, found.pieces, strict=True))


@settings(max_examples=12)
@given(st.lists(st.sampled_from([*TEXTS, "", "aaaa baba"]), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_neighbours_change_nothing_per_sample_or_with_fixed_merges(texts, draw):
    alone = bpe("byte-level", "pretoken", "sample")
    rules = bpe("byte-level").segment(TEXTS, merges=80).merges
    fixed = DynamicBPE(tokenizer("byte-level"), merges=rules)
    ways = [(alone, {"merges": 5}), (alone, {"reduction": 0.5}), (fixed, {"merges": 80})]
    order = list(range(len(texts)))
    draw.shuffle(order)
    for cutter, how in ways:
        together = names_of(cutter, texts, **how)
        assert together == [names_of(cutter, [text], **how)[0] for text in texts]
        shuffled = names_of(cutter, [texts[i] for i in order], **how)
        assert shuffled == [together[i] for i in order]


def test_neighbours_do_change_a_batch():
    alone, together = (
        [names_of(bpe("byte-level", "word"), texts, merges=1)[0]] for texts in (["abcb"], ["abcb", "cb"])
    )
    assert alone != together


def test_per_sample_lists_the_merges_of_each_text():
    found = bpe("byte-level", "word", "sample").segment(["abab", "", "cdcd"], merges=1)
    assert found.merges == ((b"a", b"b"), (b"c", b"d"))
    assert found.new == (b"ab", b"cd") or all(len(row) == 2 for row in (found.rows[0], found.rows[2]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 0.9, 1.0])
def test_a_reduction_takes_the_first_number_of_merges_that_reaches_it(share):
    cutter = bpe("byte-level")
    lengths = [sum(cutter.segment(TEXTS[:8], merges=m).lengths) for m in range(2)]
    curve = cutter.lengths_by_merges(TEXTS[:8])[0]
    assert curve[:2] == lengths
    found = cutter.segment(TEXTS[:8], reduction=share)
    wanted = share * (curve[0] - curve[-1])
    made = len(found.merges)
    assert curve[0] - sum(found.lengths) >= wanted - 1e-6
    assert made == 0 or curve[0] - curve[made - 1] < wanted
    assert values(found) == values(cutter.segment(TEXTS[:8], merges=made))
    assert values(cutter.segment(TEXTS[:8], merges=10**6)) == values(cutter.segment(TEXTS[:8], reduction=1.0))


def test_lengths_after_each_merge_are_those_of_the_rows():
    for cutter in (bpe("unigram", "word"), bpe("byte-level", "word", "sample")):
        curves = cutter.lengths_by_merges(TEXTS[:4])
        for count in (0, 1, 3, 10, 10**6):
            at = sum(curve[min(count, len(curve) - 1)] for curve in curves)
            assert at == sum(cutter.segment(TEXTS[:4], merges=count).lengths)


def test_a_share_that_is_no_exact_number_is_reached():
    removed = list(range(101))  # 0.07 * 100 is a little more than 7
    assert [merges_to_reach(removed, n / 100) for n in range(101)] == removed
    assert merges_to_reach([0], 1.0) == 0


@pytest.mark.parametrize("family", ["byte-level", "wordpiece"])
@pytest.mark.parametrize("specials", [True, False])
def test_texts_are_cut_to_max_length_as_the_tokenizer_cuts(family, specials):
    from tokenizers import Tokenizer

    loaded = tokenizer(family)
    other = Tokenizer.from_str(loaded.text)
    other.enable_truncation(5)
    found = bpe(family).segment(TEXTS, merges=0, max_length=5, specials=specials)
    assert found.rows == [one.ids for one in other.encode_batch(TEXTS, add_special_tokens=specials)]
    merged = bpe(family).segment(TEXTS, reduction=1.0, max_length=5, specials=specials)
    assert max(merged.plain_lengths) == 5


def test_empty_batches_and_empty_texts():
    cutter = bpe("byte-level")
    assert values(cutter.segment([], reduction=1.0)) == ([], (), [], [], [], ())
    found = cutter.segment(["", " ", ""], reduction=0.5)
    assert found.rows[0] == found.rows[2] == []
    assert found.lengths == [0, 1, 0]


def test_equal_texts_have_equal_units():
    rows = bpe("byte-level").segment(["Alle Menschen"] * 3 + TEXTS, merges=30).rows
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "merges is None and reduction is None, expected exactly one"),
        ({"merges": 3, "reduction": 0.5}, "merges is 3 and reduction is 0.5, expected exactly one"),
        ({"merges": -1}, "merges is -1, expected 0 or more"),
        ({"reduction": 1.5}, "reduction is 1.5, expected 0 "),
        ({"reduction": -0.1}, "reduction is -0.1, expected 0 "),
        ({"reduction": float("nan")}, "reduction is nan, expected 0 "),
        ({"merges": 1, "max_length": 2}, "max_length is 2, expected more than the 2 tokens around each text"),
    ],
)
def test_bad_numbers_are_refused(how, says):
    with pytest.raises(BadOption, match=says):
        bpe("wordpiece").segment(["a"], **how)


def test_bad_settings_are_refused():
    loaded = tokenizer("byte-level")
    with pytest.raises(BadOption, match="boundary is 'pretokens', expected one of: pretoken, word") as raised:
        DynamicBPE(loaded, boundary="pretokens")
    assert raised.value.hint == "did you mean 'pretoken'?"
    with pytest.raises(BadOption, match="per is 'text', expected one of: batch, sample"):
        DynamicBPE(loaded, per="text")
    with pytest.raises(BadOption, match="longest is 0, expected at least 1"):
        DynamicBPE(loaded, longest=0)
    with pytest.raises(BadOption, match="merge 1 is b'a' and b'', expected two byte strings"):
        DynamicBPE(loaded, merges=[(b"a", b"b"), (b"a", b"")])
    with pytest.raises(BadOption, match="reduction was asked of a fixed list") as raised:
        DynamicBPE(loaded, merges=[(b"a", b"b")]).segment(["ab"], reduction=0.5)
    assert raised.value.hint == "give merges, 0 to 1"
    with pytest.raises(BadText, match="text 1 of the batch has a lone surrogate at character 1"):
        bpe("byte-level").segment(["a", "b\ud800"], merges=0)
