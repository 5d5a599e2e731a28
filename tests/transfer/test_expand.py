"""Continued BPE: against a brute-force trainer; old ids, old merges and English stay as they were."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_tokenizers import SENTENCES, byte_level, sentencepiece_bpe, split_byte_level, unigram
from tokenizers import Tokenizer

from tokenlayer.core.errors import BadOption, BadText, BadTokenizer
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.expand import ExpandConfig, count_words, expand, recut
from tokenlayer.transfer.merges import Words, learn_merges

NEW = ("ru", "hi", "el", "am", "ka", "ar")
TEXTS = [SENTENCES[key] for key in NEW] * 3
ANY = ExpandConfig(drop_ascii=False)


def load(text: str) -> LoadedTokenizer:
    return LoadedTokenizer(json.loads(text), where="here")


def grown(old: LoadedTokenizer, **settings) -> LoadedTokenizer:
    return expand(old, TEXTS, 60, ExpandConfig(**settings)).tokenizer


# --- merges ---------------------------------------------------------------------------------------------------------


def brute_force(words: list[list[int]], counts: list[int], size: int, n: int, min_count: int = 1):
    """Counts every pair anew for every merge."""
    words, merges = [list(word) for word in words], []
    for made in range(size, size + n):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in zip(words, counts, strict=True):
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < min_count:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((*best, made, pairs[best]))
        for word in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [made]
                at += 1
    return merges, words


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=9), st.integers(1, 4)), min_size=1, max_size=8),
    st.integers(1, 12),
)
def test_merges_equal_a_brute_force_trainer(given_words, n):
    words, counts = [w for w, _ in given_words], [c for _, c in given_words]
    ours, ids = Words(words, counts), itertools.count(4)
    found = [
        (m.left, m.right, m.made, m.count)
        for m in itertools.islice(learn_merges(ours, lambda left, right: next(ids), 1), n)
    ]
    expected, cut = brute_force(words, counts, 4, n)
    assert found == expected
    assert ours.tokens() == [word for word in cut if word]
    assert ours.total() == sum(len(w) * c for w, c in zip(cut, counts, strict=True))


def test_runs_are_merged_from_the_left_and_rare_or_refused_pairs_never():
    words = Words([[0] * 7, [1, 2], [3, 4]], [1, 5, 1])
    refused: list[tuple[int, int]] = []

    def propose(left: int, right: int) -> int | None:
        if (left, right) == (1, 2):
            refused.append((left, right))
            return None
        return 9 + left

    found = [(m.left, m.right, m.count) for m in learn_merges(words, propose, 2)]
    assert found == [(0, 0, 6), (9, 9, 2)]
    assert refused == [(1, 2)]
    assert words.tokens() == [[18, 9, 0], [1, 2], [3, 4]]
    assert words.uses(19).tolist() == [1, 5, 5, 1, 1, 0, 0, 0, 0, 1, *[0] * 8, 1]


# --- tokenizers -----------------------------------------------------------------------------------------------------


def slow_expand(old: LoadedTokenizer, texts: list[str], n: int, allowed) -> list[tuple[str, str]]:
    """Merges by names, everything counted anew, pre-tokens from the tokenizer itself."""
    bare = Tokenizer(old.backend.model)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(piece for piece, _ in old.backend.pre_tokenizer.pre_tokenize_str(text))
    cut = {word: bare.encode(word, add_special_tokens=False).tokens for word in words}
    ids = {name: i for i, name in enumerate(old.vocab.names)}
    merges: list[tuple[str, str]] = []
    while len(merges) < n:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, tokens in cut.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += words[word]
        usable = [p for p in pairs if pairs[p] > 1 and "".join(p) not in ids and allowed("".join(p))]
        best = min(usable, key=lambda p: (-pairs[p], ids[p[0]], ids[p[1]]))
        ids["".join(best)] = len(ids)
        merges.append(best)
        for tokens in cut.values():
            at = 0
            while at < len(tokens) - 1:
                if (tokens[at], tokens[at + 1]) == best:
                    tokens[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def has_no_ascii(name: str) -> bool:
    return all(char not in "!\"#$%&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~" and not char.isascii() for char in name[1:])


@pytest.mark.parametrize("make", [byte_level, split_byte_level])
def test_merges_of_a_tokenizer_equal_the_slow_way(make):
    old = load(make())
    found = expand(old, TEXTS, 40, ANY)
    expected = slow_expand(old, TEXTS, 40, lambda name: True)
    assert [tuple(m) for m in found.tokenizer.data["model"]["merges"][-40:]] == expected


@pytest.mark.parametrize("make", [byte_level, sentencepiece_bpe, split_byte_level])
@pytest.mark.parametrize("drop_ascii", [True, False])
def test_old_ids_and_merges_stay_and_new_ones_follow(make, drop_ascii):
    old = load(make())
    found = expand(old, TEXTS, 60, ExpandConfig(drop_ascii=drop_ascii))
    new, vocab = found.tokenizer, found.tokenizer.vocab
    assert vocab.names[: len(old.vocab)] == old.vocab.names
    assert vocab.tokens[: len(old.vocab)] == old.vocab.tokens
    assert found.added == range(len(old.vocab), len(old.vocab) + 60)
    n = len(old.data["model"]["merges"])
    assert new.data["model"]["merges"][:n] == old.data["model"]["merges"]
    assert len(new.data["model"]["merges"]) == n + 60 - len(found.characters)
    assert new.data["added_tokens"] == old.data["added_tokens"]
    assert len(set(vocab.names)) == len(vocab)
    assert found.lost == ()
    assert found.tokens_after < found.tokens_before
    for text in SENTENCES.values():
        assert new.decode_bytes(new.encode(text)) == old.decode_bytes(old.encode(text))


def test_the_new_tokenizer_cuts_as_the_learner_did():
    """The library, applying all merges by rank, ends where training ended: old merges do run first."""
    old = load(byte_level())
    new = expand(old, TEXTS, 60, ANY).tokenizer
    counts = count_words(old, TEXTS)
    words = Words([e.ids for e in Tokenizer(old.backend.model).encode_batch(list(counts))], list(counts.values()))
    ids = itertools.count(len(old.vocab))
    names = set(old.vocab.names)
    known = list(old.vocab.names)

    def propose(left: int, right: int) -> int | None:
        if known[left] + known[right] in names:
            return None
        names.add(known[left] + known[right])
        known.append(known[left] + known[right])
        return next(ids)

    list(itertools.islice(learn_merges(words, propose, 2), 60))
    found = [e.ids for e in Tokenizer(new.backend.model).encode_batch(list(counts))]
    assert found == words.tokens()


PLAIN = load(byte_level())
GROWN = {"byte-level": grown(PLAIN), "sentencepiece": grown(load(sentencepiece_bpe()))}
OLD = {"byte-level": PLAIN, "sentencepiece": load(sentencepiece_bpe())}


@pytest.mark.parametrize("family", GROWN)
@settings(max_examples=200)
@given(text=st.text(st.characters(max_codepoint=127), max_size=40))
def test_no_ascii_text_is_cut_otherwise(family, text):
    assert GROWN[family].encode(text) == OLD[family].encode(text)


def test_without_drop_ascii_english_does_change():
    """What the option is for."""
    english = [SENTENCES["en"], SENTENCES["code"], "nothing in particular; something else in general"] * 5
    old = load(byte_level(400))
    assert recut(old, expand(old, english + TEXTS, 60, ANY).tokenizer, english).changed > 0
    kept = recut(old, expand(old, english + TEXTS, 60).tokenizer, english)
    assert (kept.texts, kept.changed, kept.tokens_before) == (15, 0, kept.tokens_after)


def test_new_tokens_hold_no_ascii_but_a_leading_space():
    for new, old in zip(GROWN.values(), OLD.values(), strict=True):
        data = new.vocab.tokens[len(old.vocab) :]
        assert all(min(one.removeprefix(b" ")) >= 0x80 for one in data)
        assert any(one.startswith(b" ") for one in data)


def test_new_ids_follow_added_tokens_that_come_last():
    old = load(split_byte_level()).with_control_tokens(["<a>", "<b>"])
    late = {**old.data, "model": {**old.data["model"], "vocab": dict(old.data["model"]["vocab"])}}
    for name in ("<a>", "<b>"):
        del late["model"]["vocab"][name]  # as Llama 3 has its control tokens
    for start in (old, LoadedTokenizer(late)):
        found = expand(start, TEXTS, 20)
        vocab = found.tokenizer.vocab
        assert found.first_id == len(start.vocab)
        assert [vocab.find_name(name) for name in ("<a>", "<b>")] == [len(start.vocab) - 2, len(start.vocab) - 1]
        assert max(i for text in TEXTS for i in found.tokenizer.encode(text)) >= found.first_id


def test_unknown_characters_of_a_sentencepiece_vocabulary_get_tokens_first():
    old = load(sentencepiece_bpe())
    assert any(old.vocab.find_name(c) is None for c in SENTENCES["am"])
    found = expand(old, [SENTENCES["am"]] * 3, 30, ExpandConfig(coverage=1.0))
    new = found.tokenizer
    assert len(found.characters) == len({c for c in SENTENCES["am"] if old.vocab.find_name(c) is None and c != " "})
    assert len(new.encode(SENTENCES["am"])) < len(old.encode(SENTENCES["am"])) / 2
    assert new.backend.decode(new.encode(SENTENCES["am"])) == SENTENCES["am"]
    few = expand(old, [SENTENCES["am"]] * 3, 12, ExpandConfig(coverage=0.5))
    assert 0 < len(few.characters) < len(found.characters)


def test_words_of_a_sentencepiece_text_begin_with_the_mark():
    old = load(sentencepiece_bpe())
    counts = count_words(old, ["two  words", "two"])
    assert counts == {"▁two": 2, "▁": 1, "▁words": 1}
    assert count_words(PLAIN, ["two words é"]) == {"two": 1, "Ġwords": 1, "ĠÃ©": 1}


def test_it_reports_what_cannot_be_reached_alone():
    found = expand(PLAIN, TEXTS, 60)
    names = found.tokenizer.vocab.names
    bare = Tokenizer(found.tokenizer.backend.model)
    for i in found.added:
        assert (bare.encode(names[i]).ids == [i]) == (i not in found.unspelled)
    used = {i for text in TEXTS for i in found.tokenizer.encode(text)}
    assert set(found.unused) == set(found.added) - used
    before, after = (sum(len(t.encode(text)) for text in TEXTS) for t in (PLAIN, found.tokenizer))
    assert (found.tokens_before, found.tokens_after) == (before, after)
    assert 0 < found.changed < 1


def test_pairs_that_are_tokens_already_are_passed_over_and_listed():
    """`bc` is a token; `a` `b` merges first, so `b` + `c` never meets its merge in `abc` + ..."""
    data = json.loads(byte_level(300))
    base = {name: i for name, i in data["model"]["vocab"].items() if len(name) == 1}
    vocab = {**base, **{name: 1000 + n for n, name in enumerate(["ab", "bc", "abc"])}}
    data["added_tokens"] = []
    vocab = {name: n for n, name in enumerate(vocab)}
    data["model"] |= {"vocab": vocab, "merges": [["a", "b"], ["b", "c"], ["a", "bc"]]}
    found = expand(LoadedTokenizer(data), ["abc abc abc abc"], 1, ANY)
    assert found.present == ("abc",)
    assert found.tokenizer.vocab.names[-1] == "Ġab"


def test_length_and_count_are_limits():
    found = expand(PLAIN, TEXTS, 20, ExpandConfig(longest_bytes=4, min_count=3))
    assert max(len(one) for one in found.tokenizer.vocab.tokens[found.first_id :]) <= 4
    told: list[tuple[int, int]] = []
    expand(PLAIN, TEXTS, 20, progress=lambda n, of: told.append((n, of)))
    assert told == [(n, 20) for n in range(1, 21)]


def test_old_files_that_write_merges_as_text_keep_doing_so():
    data = json.loads(byte_level())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    found = expand(LoadedTokenizer(data), TEXTS, 20)
    assert all(isinstance(merge, str) for merge in found.tokenizer.data["model"]["merges"])
    assert found.tokenizer.data["model"]["merges"] == [
        " ".join(pair) for pair in expand(PLAIN, TEXTS, 20).tokenizer.data["model"]["merges"]
    ]


def test_added_tokens_that_reach_beyond_their_text_are_warned_about():
    data = json.loads(byte_level())
    data["added_tokens"] = [{**data["added_tokens"][0], "special": False, "lstrip": True}]
    said: list[str] = []
    expand(LoadedTokenizer(data), TEXTS, 5, warn=said.append)
    assert said[0].startswith("added tokens are learned from like other text: added token '<|endoftext|>' is lstrip")


def test_it_can_be_done_again():
    once = expand(PLAIN, TEXTS, 30).tokenizer
    twice = expand(once, TEXTS, 30).tokenizer
    assert twice.data["model"]["merges"] == expand(PLAIN, TEXTS, 60).tokenizer.data["model"]["merges"]


def test_bad_input_is_refused():
    for n in (0, -3):
        with pytest.raises(BadOption, match=f"n_add is {n}, expected at least 1"):
            expand(PLAIN, TEXTS, n)
    with pytest.raises(BadText, match=r"only \d+ of 5000 tokens can be learned from \d+ distinct pre-tokens") as error:
        expand(PLAIN, TEXTS, 5000)
    most = int(error.value.hint.split()[-1])
    assert len(expand(PLAIN, TEXTS, most).added) == most
    with pytest.raises(BadText, match=f"only {most} of {most + 1} tokens can be learned"):
        expand(PLAIN, TEXTS, most + 1)
    with pytest.raises(BadText, match="only 0 of 3 tokens .* without ASCII"):
        expand(PLAIN, ["plain English only, plain English only"] * 3, 3)
    for texts in ([], ["", ""]):
        with pytest.raises(BadText, match="there is no text to learn from"):
            expand(PLAIN, texts, 3)
    with pytest.raises(BadTokenizer, match="here is a sentencepiece Unigram, only byte-level and SentencePiece BPE"):
        expand(load(unigram()), TEXTS, 3)
    data = json.loads(byte_level())
    data["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(BadTokenizer, match="marks words with '</w>'"):
        expand(LoadedTokenizer(data, where="x"), TEXTS, 3)
    with pytest.raises(BadOption, match="min_count is 0, expected at least 1"):
        ExpandConfig(min_count=0)
    with pytest.raises(BadOption, match="coverage is 2, expected 0 to 1"):
        ExpandConfig(coverage=2.0)


def test_what_was_written_loads_in_the_library_and_in_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    found = expand(PLAIN, TEXTS, 60)
    (tmp_path / "tokenizer.json").write_text(found.tokenizer.text, encoding="utf-8")
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in SENTENCES.values():
        assert plain.encode(text, add_special_tokens=False) == found.tokenizer.encode(text)
    assert len(plain) == len(found.tokenizer.vocab)
    assert np.array_equal([plain.convert_ids_to_tokens(i) for i in found.added], found.tokenizer.vocab.names[-60:])
