import json
import pickle
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.data.counts import PretokenCounts, count_pretokens, count_sources, token_total
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Document, Source
from tokenlayer.data.shards import ShardFailed

BYTE_LEVEL = ("gpt2", "gpt2-digits", "cl100k", "qwen2", "o200k")
HARD = [
    "It's 3,141.59 — don't  \n\n\t x\r\n\r\n   y   ",
    "ÇAĞRI'NIN İŞİ kaſt Straße ﬆ ĳ ’s 'ſ",
    "e\u0301 नमस्ते العربية\u200f 日本語 한국어 ๑๒๓ ⅷ ½ ²",
    "\U0001f468\u200d\U0001f469 \x00\x85\u2028\u00a0\u3000.\u1c89\U00010d4a\U00016d80",
    "a\n \n  \n   b" * 3,
    " ",
]


def trained(name="gpt2", normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"], data["normalizer"] = pre_tokenizer(name), normalizer
    tokenizer = Tokenizer.from_str(json.dumps(data))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8"), *HARD], trainer)
    return tokenizer


TOKENIZER = trained()


def documents(texts, group="g"):
    return [Document(t, group, str(i)) for i, t in enumerate(texts)]


def encoded(tokenizer, texts):
    return sum(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))


@pytest.mark.parametrize("name", [*BYTE_LEVEL, "metaspace", "whitespace"])
@pytest.mark.parametrize("normalizer", [None, {"type": "NFKC"}, {"type": "Lowercase"}])
def test_totals_equal_encoding_all_the_text(name, normalizer):
    tokenizer = trained(name, normalizer)
    cutter = Cutter(tokenizer)
    texts = [*Path(__file__).read_text(encoding="utf-8").split("\n\n"), *HARD]
    assert token_total(count_pretokens(documents(texts), cutter), cutter.lengths) == {"g": encoded(tokenizer, texts)}


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=st.text(max_size=40))
def test_the_fast_cut_is_the_tokenizers_cut(name, text):
    cutter = CUTTERS[name]
    cutter._unchecked = 0
    raw = [p for p, _ in cutter._pre_tokenizer.pre_tokenize_str(text)]
    assert "".join(cutter(text)) == text
    from tokenlayer.core.byte_alphabet import to_alphabet

    assert [to_alphabet(p.encode()) for p in cutter(text)] == raw


CUTTERS = {name: Cutter(trained(name)) for name in BYTE_LEVEL}


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=st.text(st.sampled_from("ab1.\n \t\u00a0\u180e\u0308é,/'"), max_size=30))
def test_chunks_are_cut_as_the_text_is(name, text):
    cutter = CUTTERS[name]
    cutter._unchecked = 0
    assert cutter.by_chunks
    assert [p for chunk in cutter.chunks(text) for p in cutter(chunk)] == cutter(text)


@given(st.lists(st.text(st.sampled_from("ab1 .\n\u00a0éß"), max_size=8), max_size=8))
def test_joined_chunks_have_the_pre_tokens_of_each(texts):
    cutter = CUTTERS["cl100k"]
    cutter._unchecked = 0
    chunks = [chunk for text in texts for chunk in cutter.chunks(text)]
    joined = list(cutter.joined(chunks))
    assert Counter(p for text in joined for p in cutter(text)) == Counter(p for c in chunks for p in cutter(c))


def test_a_chunk_is_cut_once_however_often_it_occurs():
    class Counting(Cutter):
        asked: ClassVar[list[str]] = []

        def __call__(self, text):
            self.asked.append(text)
            return super().__call__(text)

    assert count_pretokens(documents(["a b b b", "a b"]), Counting(TOKENIZER)).total == 6
    assert Counting.asked == ["a", " b"]


def test_many_chunks_are_cut_early(monkeypatch):
    monkeypatch.setattr("tokenlayer.data.counts.MOST_CHUNKS", 2)
    texts = [*HARD, "one two three four one two"]
    plain = count_pretokens(documents(texts), lambda text: Cutter(TOKENIZER)(text))
    assert count_pretokens(documents(texts), Cutter(TOKENIZER)) == plain


def marked(*, crossing=False):
    """A BPE model as Llama's: spaces become marks, and no pre-tokenizer cuts."""
    vocab = ["<unk>", "▁", "a", "b", ".", "▁a", "▁▁", "ab", *(["b▁"] if crossing else [])]
    merges = [("▁", "a"), ("▁", "▁"), ("a", "b"), *([("b", "▁")] if crossing else [])]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, merges, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


@given(st.text(st.sampled_from("ab. x"), max_size=20))
def test_without_a_pre_tokenizer_texts_are_cut_where_no_token_reaches_over(text):
    for tokenizer in (MARKED, CROSSING):
        cutter = Cutter(tokenizer)
        assert sum(cutter.lengths(cutter(text))) == encoded(tokenizer, [text])


MARKED, CROSSING = marked(), marked(crossing=True)


def test_a_token_that_reaches_over_a_space_keeps_the_text_whole():
    assert Cutter(MARKED)("a b  a") == ["▁a", "▁b", "▁▁a"]
    assert Cutter(CROSSING)("a b  a") == ["▁a▁b▁▁a"]


def test_added_tokens_of_spaces_are_found_after_nfc_as_before():
    tokenizer = trained("gpt2", {"type": "NFC"})
    tokenizer.add_tokens([AddedToken("   ", normalized=True), AddedToken("a b", normalized=False)])
    texts = ["x   e\u0301    a b\n   a bc", "   \u0308 a b"]
    cutter = Cutter(tokenizer)
    assert not cutter.by_chunks
    assert token_total(count_pretokens(documents(texts), cutter), cutter.lengths) == {"g": encoded(tokenizer, texts)}
    tokenizer.add_tokens([AddedToken("é", normalized=True)])
    with pytest.raises(BadOption, match="'é' is normalized"):
        Cutter(tokenizer)


def test_a_disputed_character_takes_the_slow_way():
    assert Cutter(TOKENIZER)._agree_on("Kö")
    assert not Cutter(TOKENIZER)._agree_on("\u212a")
    cutter = Cutter(TOKENIZER)
    assert cutter._agree_on("abc é 日")
    assert not cutter._agree_on("ſ")


def test_a_wrong_fast_way_is_not_trusted():
    cutter = Cutter(TOKENIZER)
    cutter._find = list
    assert cutter("It is") == ["It", " is"]
    assert cutter("It is") == ["It", " is"]


def test_added_tokens_in_the_text_count_once():
    tokenizer = trained()
    tokenizer.add_tokens([AddedToken("<|code|>", normalized=False, special=True), AddedToken("    ", normalized=False)])
    texts = ["a<|code|>b", "x      y<|code|><|code|>", "<|cod|>    "]
    for literal in (False, True):
        tokenizer.encode_special_tokens = literal
        cutter = Cutter(tokenizer)
        wanted = {"g": encoded(tokenizer, texts)}
        assert token_total(count_pretokens(documents(texts), cutter), cutter.lengths) == wanted
        again = pickle.loads(pickle.dumps(cutter))
        assert [again(t) for t in texts] == [cutter(t) for t in texts]


def test_added_tokens_that_reach_further_are_refused():
    tokenizer = trained()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    with pytest.raises(BadOption, match="added token '<mask>' is lstrip: texts cannot be cut at it exactly"):
        Cutter(tokenizer)


corpora = st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz ", max_size=12)), max_size=8)


def counted(corpus):
    return count_pretokens([Document(t, g, str(i)) for i, (g, t) in enumerate(corpus)], str.split)


@given(corpora, corpora, corpora)
def test_merging_is_adding_up_in_any_order(one, two, three):
    a, b, c = counted(one), counted(two), counted(three)
    assert (a + b) + c == a + (b + c) == c + a + b == counted([*three, *one, *two])
    assert a + PretokenCounts() == a


def test_sums():
    found = counted([("a", "x y x"), ("b", "x")])
    assert (found.groups, found.total, found.distinct) == (["a", "b"], 4, 3)
    assert (found.bytes, found.documents) == (Counter(a=5, b=1), Counter(a=1, b=1))
    assert token_total(found, lambda words: [len(w) + 1 for w in words]) == {"a": 6, "b": 2}


def test_save_and_load(tmp_path):
    found = count_pretokens(documents([*HARD, ""]), Cutter(TOKENIZER)) + counted([("ü", "x x"), ("empty", "")])
    found.save(tmp_path / "a.npz")
    assert PretokenCounts.load(tmp_path / "a.npz") == found
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    for name in ("b.npz", "gone.npz"):
        with pytest.raises(BadText, match=f"cannot read counts from .*{name}"):
            PretokenCounts.load(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_without_a_pre_tokenizer_it_does_not_pay():
    found = count_pretokens(documents(f"text number {i}" for i in range(5000)), lambda text: [text])
    assert (found.pays, found.complete, found.distinct, found.documents.total()) == (False, False, 0, 1000)
    with pytest.raises(BadOption, match="stopped after 1000 documents because pre-tokens hardly repeat") as caught:
        token_total(found, lambda words: [1 for _ in words])
    assert caught.value.hint.startswith("encode the whole text instead")
    assert count_pretokens(documents(["a b c"]), str.split).pays


def test_sources_in_shards_equal_one_loop(tmp_path):
    for name, text in {"a": "x y\n\nx", "b": "y z"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    sources = [Source(str(tmp_path / f"{n}.txt"), n) for n in "ab"]
    wanted = counted([("a", "x y"), ("a", "x"), ("b", "y z")])
    assert count_sources(sources, str.split, tmp_path / "one") == wanted
    (tmp_path / "a.txt").unlink()
    assert count_sources(sources, str.split, tmp_path / "one") == wanted
    with pytest.raises(ShardFailed, match=r"shard 00000\.npz: .*a\.txt does not exist"):
        count_sources(sources, str.split, tmp_path / "two")
