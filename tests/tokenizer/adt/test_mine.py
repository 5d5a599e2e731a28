"""Mining a vocabulary: which pairs are tried, which are kept, and what is refused."""

from dataclasses import replace

import pytest
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.core.errors import BadOption, BadText, BadTokenizer
from tokenlayer.tokenizer.adt.languages import LANGUAGES, is_word, language
from tokenlayer.tokenizer.adt.lexicon import count_words, entry_texts, read_lexicon, words_of_vocab
from tokenlayer.tokenizer.adt.mine import AdtConfig, mine_traps

WORDS = {"moves": 5.0, "table": 4.0, "stable": 3.0, "cats": 2.0, "tall": 2.0, "stall": 1.0, "it": 99.0}
FALLS = bpe("stable", "stall", "moves", "table", "cats", "tall")


def test_confirmed_traps_are_cut_wrongly_in_their_sentence():
    mined = mine_traps(FALLS, WORDS)
    found = {(t.w1, t.w2): t for t in mined.confirmed}
    assert ("moves", "table") in found
    assert ("cats", "tall") in found
    for trap in mined.confirmed:
        cut, ends = 0, set()
        for token in FALLS.token_bytes(FALLS.encode(trap.sentence)):
            cut += len(token)
            ends.add(cut)
        assert trap.boundary not in ends
        assert trap.sentence[slice(*trap.span)] == trap.w1 + trap.w2
        assert trap.w1.endswith(trap.trap[:1]) or trap.trap.startswith(trap.w1)
    assert mined.wrong >= len(mined.confirmed)
    assert mined.tried == mined.wrong + len(mine_traps(FALLS, WORDS, AdtConfig(per_trap=0, per_word=0)).right)


def test_pairs_that_are_cut_right_are_kept_as_controls_and_never_confirmed():
    resists = bpe("moves", "table", "stable")
    mined = mine_traps(resists, WORDS, AdtConfig(per_trap=0, per_word=0))
    assert ("moves", "table") in {(t.w1, t.w2) for t in mined.right}
    assert ("moves", "table") not in {(t.w1, t.w2) for t in mined.confirmed}
    assert not any(t.wrong for t in mined.right)


def test_compounds_are_no_traps():
    whole = {**WORDS, "movestable": 1.0}
    assert ("moves", "table") not in {(t.w1, t.w2) for t in mine_traps(FALLS, whole).confirmed}
    with_entry = bpe("stable", "moves", "table", "movestable", "stall", "cats", "tall")
    assert ("moves", "table") not in {(t.w1, t.w2) for t in mine_traps(with_entry, WORDS).confirmed}


def test_short_words_and_short_traps_are_left_out():
    mined = mine_traps(
        bpe("it", "sit", "cats", "item", "stall", "tall"), {**WORDS, "item": 1.0}, AdtConfig(words="lexicon")
    )
    assert all(len(word) >= 3 for t in mined.confirmed for word in (t.w1, t.w2, t.trap))
    assert all(
        len(word) >= 5 for t in mine_traps(FALLS, WORDS, AdtConfig(shortest=5)).confirmed for word in (t.w1, t.w2)
    )


def test_words_need_not_be_entries_if_the_lexicon_says_so():
    few = bpe("stable", "move")
    with pytest.raises(BadTokenizer, match=r"of 274 entries 6 have .*, and 0 of these") as caught:
        mine_traps(few, {"moves": 1.0, "table": 1.0})
    assert "--words lexicon" in caught.value.hint
    found = mine_traps(few, WORDS, AdtConfig(words="lexicon")).confirmed
    assert ("moves", "table") in {(t.w1, t.w2) for t in found}


def test_an_entry_that_is_no_word_is_a_trap_only_if_asked_for():
    tokenizer = bpe("stab", "moves", "table")
    words = {"moves": 1.0, "table": 1.0}
    with pytest.raises(BadText, match="none of 2 words next to another hides one of 2 entries"):
        mine_traps(tokenizer, words)
    (trap, *_) = mine_traps(tokenizer, words, AdtConfig(traps="entries")).confirmed
    assert (trap.trap, trap.kind) == ("stab", "tail+head")


def test_a_trap_that_needs_a_space_hides_only_at_the_start_of_the_first_word():
    texts = {"stable": (False, True), "moves": (True, True)}
    spaced = bpe(" stable", "moves", "table", "cast", spaced=False)
    assert entry_texts(spaced.vocab)["stable"] == texts["stable"]
    mined = mine_traps(spaced, {**WORDS, "stab": 1.0, "lever": 1.0, "les": 1.0}, AdtConfig(words="lexicon"))
    assert all(
        t.sentence[t.span[0] :].startswith(t.trap) for t in (*mined.confirmed, *mined.right) if t.trap == "stable"
    )


def test_bounds_cap_traps_and_words():
    tails = {f"{letter}{letter}s": 1.0 for letter in "abcdefgh"} | {"table": 1.0, "stable": 1.0}
    some = AdtConfig(words="lexicon", per_trap=2, per_word=0)
    assert len([t for t in mine_traps(bpe("stable"), tails, some).confirmed if t.trap == "stable"]) == 2
    by_word = replace(some, per_trap=0, per_word=3)
    assert len([t for t in mine_traps(bpe("stable"), tails, by_word).confirmed if t.w2 == "table"]) == 3
    assert len(mine_traps(bpe("stable"), tails, replace(by_word, per_word=0)).confirmed) > 5


def test_the_seed_draws_other_candidates_and_the_same_ones_again():
    tails = {f"{a}{b}s": 1.0 for a in "abcdefgh" for b in "abcdefgh"} | {"table": 1.0, "stable": 1.0}
    config = AdtConfig(words="lexicon", order="random", tried=10)
    one, again, other = (mine_traps(bpe("stable"), tails, replace(config, seed=s)) for s in (1, 1, 2))
    assert one == again
    assert one != other
    assert one.tried == 10
    assert one.pairs == 64


def test_chinese_words_stand_in_chinese_sentences():
    words = {"研究": 9.0, "生命": 8.0, "研究生": 7.0, "上海": 3.0, "海关": 2.0, "上": 99.0}
    tokenizer = bpe("研究生", "命", "上海", spaced=False)
    mined = mine_traps(tokenizer, words, AdtConfig("zh", words="lexicon"))
    (trap,) = [t for t in mined.confirmed if t.trap == "研究生"]
    assert (trap.w1, trap.w2, trap.hit, trap.kind) == ("研究", "生命", True, "whole+head")
    assert all(len(word) >= 2 for t in mined.confirmed for word in (t.w1, t.w2))


def test_a_vocabulary_without_the_language_is_refused_with_counts():
    with pytest.raises(BadTokenizer, match=r"no entry of 2 or more letters of the language 'th': \d+ entries"):
        mine_traps(FALLS, {"ตาก": 1.0, "กลม": 1.0}, AdtConfig("th", words="lexicon"))
    with pytest.raises(BadText, match="none of the 7 words has 2 or more letters of the language 'zh'") as caught:
        mine_traps(FALLS, WORDS, AdtConfig("zh", words="lexicon"))
    assert "--lexicon" in caught.value.hint


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"lang": "xx"}, "lang is 'xx', expected one of: en, zh, ja, th"),
        ({"words": "all"}, "words is 'all', expected one of: vocabulary, lexicon"),
        ({"traps": "all"}, "traps is 'all'"),
        ({"order": "best"}, "order is 'best'"),
        ({"tried": 0}, "tried is 0, expected at least 1"),
        ({"per_trap": -1}, "per_trap is -1, expected at least 0"),
    ],
)
def test_bad_settings_are_refused(bad, said):
    with pytest.raises(BadOption, match=said) as caught:
        AdtConfig(**bad)
    assert caught.value.hint


def test_lexicons_are_read_with_and_without_frequencies(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("今天 16 nr\nB超 3 n\n上海\t7\n今天 4\n\n研究\n", encoding="utf-8")
    assert read_lexicon(path, language("zh")) == {"今天": 20.0, "上海": 7.0, "研究": 1.0}
    with pytest.raises(BadText, match="holds no word of the language 'en' in 6 lines"):
        read_lexicon(path, language("en"))
    with pytest.raises(BadText, match="cannot read the lexicon"):
        read_lexicon(tmp_path / "none.txt", language("en"))
    path.write_text("cat -3\n")
    with pytest.raises(BadText, match="line 1: the frequency is '-3', expected a number from 0"):
        read_lexicon(path, language("en"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadText, match="cannot read the lexicon"):
        read_lexicon(path, language("en"))


def test_words_are_counted_with_and_without_spaces():
    english = count_words(["the cat, the Cat; x2 don't"], language("en"), FALLS.vocab)
    assert english == {"the": 2.0, "cat": 1.0, "x": 1.0, "don": 1.0, "t": 1.0}
    tokenizer = bpe("研究生", "生命", spaced=False)
    counted = count_words(["研究生命，研究"], language("zh"), tokenizer.vocab)
    assert counted == {"研究": 2.0, "研究生": 1.0, "生命": 1.0}
    assert count_words(["研究生命"], language("zh"), tokenizer.vocab, ["生命", "没有"]) == {"生命": 1.0}
    with pytest.raises(BadText, match="hold no word of the language 'ja'"):
        count_words(["abc"], language("ja"), tokenizer.vocab)


def test_words_of_a_vocabulary_are_its_entries_with_or_without_a_space():
    found = words_of_vocab(bpe(" moves", "table", spaced=False).vocab, WORDS, language("en"))
    assert found == {"moves": 5.0, "table": 4.0}


@pytest.mark.parametrize(
    ("code", "good", "bad"),
    [("zh", "研究", "研a"), ("ja", "すし屋", "寿司!"), ("th", "กลม", "กa"), ("en", "cat", "Cat")],
)
def test_letters_of_each_language(code, good, bad):
    assert is_word(good, language(code), 2)
    assert not is_word(bad, language(code), 2)
    assert not is_word(good[:1], language(code), 2)


@pytest.mark.parametrize("of", LANGUAGES.values(), ids=LANGUAGES)
def test_templates_hold_the_pair_once_and_questions_do_not(of):
    for template in of.templates:
        assert template.sentence.count("{pair}") == 1
        assert "{pair}" not in template.question
        assert template.question.count("{which}") == 1
    assert of.options.count("{one}") == of.options.count("{other}") == 1
