"""Text in the longest tokens from the left."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tokenizers import Tokenizer

from tokenlayer.core.errors import BadText, BadTokenizer
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.dynamic.big_vocab import with_new_tokens
from tokenlayer.transfer.dynamic.longest_prefix import MAX_WORD, LongestPrefix, longest_prefix_json

NEW = [b" human beings", b" beings", b"Alle", "öße".encode(), "людей".encode(), b"hum", b" free and", b"10 000"]


def plain_vocab(tokens):
    return ByteVocab(tuple(tokens), (Kind.NORMAL,) * len(tokens), tuple(t.hex() for t in tokens))


def tokenizer(family):
    return LoadedTokenizer(json.loads(FAMILIES[family]()), where=family)


def by_trying_all(vocab, data):
    """The slow and obvious way."""
    ids = []
    while data:
        fitting = [i for i in vocab.text_ids() if vocab.tokens[i] and data.startswith(vocab.tokens[i])]
        best = max(fitting, key=lambda i: (len(vocab.tokens[i]), vocab.kinds[i] is Kind.NORMAL, -i))
        ids.append(best)
        data = data[len(vocab.tokens[best]) :]
    return ids


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.binary(min_size=1, max_size=5).map(lambda b: bytes(x % 3 for x in b)), max_size=12),
    st.lists(st.integers(0, 2), max_size=25),
)
def test_it_equals_trying_all_tokens(more, data):
    vocab = plain_vocab([b"\0", b"\1", b"\2", *more])
    assert LongestPrefix(vocab).encode(bytes(data)) == by_trying_all(vocab, bytes(data))


def test_the_longest_token_wins_though_a_shorter_one_would_go_on_better():
    vocab = plain_vocab([b"a", b"b", b"c", b"ab", b"bc"])
    assert LongestPrefix(vocab).encode(b"abc") == [3, 2]
    vocab = plain_vocab([b"a", b"b", b"abab"])
    assert LongestPrefix(vocab).encode(b"ababa") == [2, 0]
    assert LongestPrefix(vocab).encode(b"aba") == [0, 1, 0]  # no token of three bytes, though abab begins so
    assert LongestPrefix(vocab).encode(b"") == []


def test_of_equal_tokens_the_normal_one_with_the_lowest_id_is_taken():
    vocab = ByteVocab(
        (b"a", b"a", b"a", b""),
        (Kind.BYTE, Kind.NORMAL, Kind.NORMAL, Kind.CONTROL),
        ("<0x61>", "a", "a2", "<s>"),
    )
    assert LongestPrefix(vocab).encode(b"aa") == [1, 1]


def test_a_byte_without_a_token_is_refused():
    with pytest.raises(BadText, match="byte 0x62 at 2 has no token in a vocabulary of 2"):
        LongestPrefix(plain_vocab([b"a", b"aa"])).encode(b"aab")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_texts_keep_their_bytes_in_every_family(family):
    own = tokenizer(family)
    cut = LongestPrefix(with_new_tokens(own.vocab, [t for t in NEW if own.vocab.find(t) is None]), own)
    for text in SENTENCES.values():
        ids = own.encode(text)
        again = cut.encode_text(text)
        assert b"".join(cut.vocab.tokens[i] for i in again) == own.decode_bytes(ids)


def test_control_tokens_stay_and_are_never_found_in_text():
    own = tokenizer("byte-level")
    cut = LongestPrefix(with_new_tokens(own.vocab, NEW), own)
    end = own.vocab.find_name("<|endoftext|>")
    assert end is not None
    ids = [end, *own.encode("human beings"), end, *own.encode(" beings"), end]
    again = cut.recut(ids)
    assert [i for i in again if i == end] == [end] * 3
    assert again[0] == again[-1] == end
    assert len(again) < len(ids)
    assert end not in cut.encode_text("<|endoftext|>")


def test_tokens_do_not_reach_over_words():
    own = tokenizer("byte-level")
    cut = LongestPrefix(with_new_tokens(own.vocab, [b" free and", b"s.", b"rights."]), own)
    found = [cut.vocab.tokens[i] for i in cut.encode_text("born free and equal rights.")]
    assert b" free and" not in found
    assert b"rights." not in found


def test_a_text_needs_a_tokenizer():
    with pytest.raises(BadTokenizer, match="none was given"):
        LongestPrefix(plain_vocab([b"a"])).encode_text("a")


@pytest.mark.parametrize("family", ["byte-level", "split-byte-level"])
def test_the_tokenizers_library_cuts_the_same(family):
    own = tokenizer(family)
    new = [t for t in NEW if own.vocab.find(t) is None]
    vocab = with_new_tokens(own.vocab, new)
    data = longest_prefix_json(own, vocab, ["human beings"])
    assert data is not None
    theirs = Tokenizer.from_str(json.dumps(data))
    ours = LongestPrefix(vocab, own)
    used = set()
    for text in [*SENTENCES.values(), "human beings hum", "Alle Größe", "a" * MAX_WORD]:
        found = theirs.encode(text, add_special_tokens=False).ids
        assert found == ours.encode_text(text)
        assert theirs.decode(found) == text
        used |= set(found)
    assert used & set(range(len(own.vocab), len(vocab)))  # new tokens took part
    name = own.vocab.names[own.vocab.control_ids()[0]]
    assert theirs.encode(name, add_special_tokens=False).ids == own.vocab.control_ids()[:1]


def test_a_longer_word_makes_the_library_fail_rather_than_lose_it():
    own = tokenizer("byte-level")
    data = longest_prefix_json(own, with_new_tokens(own.vocab, NEW), [])
    with pytest.raises(Exception, match="UNK"):
        Tokenizer.from_str(json.dumps(data)).encode("a" * (MAX_WORD + 1))


def test_where_it_would_cut_otherwise_there_is_no_tokenizer_json():
    for family in ("sentencepiece-bpe", "unigram", "wordpiece"):
        own = tokenizer(family)
        assert longest_prefix_json(own, with_new_tokens(own.vocab, [b"zzzz"]), []) is None
    own = tokenizer("byte-level")
    added = {"id": len(own.vocab), "content": "  ", "special": False, "single_word": False, "lstrip": False}
    added |= {"rstrip": False, "normalized": False}
    spaced = LoadedTokenizer({**own.data, "added_tokens": [*own.data["added_tokens"], added]}, where="spaced")
    assert longest_prefix_json(spaced, with_new_tokens(spaced.vocab, NEW), []) is None


def test_a_control_token_that_the_library_would_find_in_text_prevents_the_file():
    data = json.loads(FAMILIES["byte-level"]())
    data["added_tokens"][0]["content"] = "stop"  # one word for the pre-tokenizer
    data["model"]["vocab"] = {("stop" if k == "<|endoftext|>" else k): v for k, v in data["model"]["vocab"].items()}
    own = LoadedTokenizer(data, where="odd")
    assert longest_prefix_json(own, with_new_tokens(own.vocab, NEW), []) is None
