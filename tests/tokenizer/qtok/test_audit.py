import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tests.tokenizer.qtok.test_classify import loaded, vocabulary

from tokenlayer.core.errors import BadOption, BadTokenizer, MissingExtra
from tokenlayer.data.documents import Document
from tokenlayer.tokenizer.qtok import habits
from tokenlayer.tokenizer.qtok.audit import audit, qtok
from tokenlayer.tokenizer.qtok.classify import Entry, classify
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.languages import (
    ALPHABETS,
    Ranker,
    alphabet_coverage,
    candidates_of,
    fits_alphabet,
    language_shares,
)
from tokenlayer.tokenizer.qtok.overlap import families, jaccard_matrix, only_in, text_sets
from tokenlayer.tokenizer.qtok.tables import completeness, core_entries, token_lines
from tokenlayer.tokenizer.qtok.texts import premiums, split_words, use_of_texts

ALL = {name: loaded(make()) for name, make in FAMILIES.items()}
QUIET = QtokConfig(languages=False)


def documents(*codes):
    return [Document(SENTENCES[code], code, code) for code in codes]


def entry(text, script="Latin"):
    place = "spaced" if text.startswith(" ") else "inner"
    return Entry(0, text.encode(), text, f"{place}_alpha", script)


# --- natural languages ------------------------------------------------------------------------------------------


def test_shares_sum_to_100_and_the_reference_s_do_not():
    entries = [entry("ab"), entry("cd"), entry("ef"), entry("unknown"), entry("x")]
    candidates = {"ab": ["de", "en", "fr", "es"], "cd": ["de"], "ef": ["en", "nl"], "x": ["en"]}
    shares = language_shares(entries, candidates)
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["de"] == pytest.approx(100 * 1.25 / 3)
    legacy = language_shares(entries, candidates, legacy=True)
    assert sum(legacy.values()) == pytest.approx(100 * 3 / 7)


def test_candidates_are_few_and_fit_the_alphabet():
    pytest.importorskip("py3langid")
    ranker = Ranker()
    for word, most in (("w", 4), ("de", 4), ("sch", 3), ("стры", 3), ("estos", 2), ("Zeitung", 1)):
        script = "Cyrillic" if word == "стры" else "Latin"
        found = ranker(word, script)
        assert len(found) <= most
        assert set(found) <= set(ALPHABETS[script])
        assert ranker(f" {word}", script.upper()) == found
    assert ranker("людей", "Cyrillic")
    assert ranker("中", "Han") == ()


def test_a_text_that_the_ranker_knows_nothing_of_has_no_language():
    pytest.importorskip("py3langid")
    assert Ranker()(" Park", "Latin") == ()


def test_fits_alphabet():
    assert fits_alphabet("Ыы", frozenset("ы"))
    assert fits_alphabet("ыї", frozenset("ы"))
    assert not fits_alphabet("ыїї", frozenset("ы"))


def test_single_characters_and_other_scripts_are_not_ranked():
    found = candidates_of([entry("a"), entry(" a"), entry("中文", "Han")], lambda text, script: ("en",))
    assert found == {" a": ("en",)}


def test_alphabet_coverage():
    english = vocabulary([*"abcdefghijklmnopqrstuvwxyz", *(f"▁{c}" for c in "ABCDEFGHIJKLM")])
    assert alphabet_coverage(classify(english))["en"] == 39 / 52
    assert alphabet_coverage(classify(english))["ru"] == 0


def test_without_the_extra_languages_are_left_out_with_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingExtra, match="needs py3langid"):
        Ranker()
    report = qtok({"one": vocabulary(["▁a"])})
    assert report.warnings[0].startswith("no natural languages: saying which languages entries may belong to needs")
    assert "tokenlayer[languages]" in report.warnings[0]
    assert not any(t.name.startswith("languages of") for t in report.tables)


# --- completeness and overlap -----------------------------------------------------------------------------------


def test_core_singletons_and_characters():
    entries = {"a": classify(vocabulary(["▁the", "▁der", "x", "y"])), "b": classify(vocabulary(["▁the", "x"]))}
    core = core_entries(entries)
    assert core == {b" the", b"x"}
    found = completeness(entries["a"], core, {" the": ("en",), " der": ("de", "nl"), "x": ("en",)})
    assert found == {"word-initial": 2, "core": 2, "singletons": 1, "characters": 2}


def test_families_by_average_linkage():
    matrix = [[1.0, 0.97, 0.2, 0.2], [0.97, 1.0, 0.2, 0.2], [0.2, 0.2, 1.0, 0.95], [0.2, 0.2, 0.95, 1.0]]
    assert families("abcd", matrix, 0.95) == [["a", "b"], ["c"], ["d"]]
    assert families("abcd", matrix, 0.9) == [["a", "b"], ["c", "d"]]
    chain = [[1.0, 0.96, 0.9], [0.96, 1.0, 0.96], [0.9, 0.96, 1.0]]  # 2 is as near to 1 as 0 is, but not to both
    assert families("abc", chain, 0.95) == [["a", "b"], ["c"]]


def test_families_equal_scipy_s():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    draw = np.random.default_rng(0)
    for _ in range(20):
        x = draw.random((7, 7))
        matrix = np.maximum(x, x.T)
        np.fill_diagonal(matrix, 1)
        tree = hierarchy.linkage((1 - matrix)[np.triu_indices(7, 1)], "average")
        flat = hierarchy.fcluster(tree, 0.4 - 1e-9, "distance")
        wanted = {frozenset(f"{i}" for i in np.flatnonzero(flat == k)) for k in set(flat)}
        assert {frozenset(g) for g in families("0123456", matrix.tolist(), 0.6)} == wanted


def test_overlap_is_by_bytes():
    marked, byte_level = vocabulary(["▁the", "a"]), ALL["byte-level"]
    sets = text_sets({"a": classify(marked), "b": classify(byte_level)})
    assert b" the" in sets["a"]
    assert jaccard_matrix({"x": {b"a", b"b"}, "y": {b"b", b"c"}})[0] == [1.0, 1 / 3]
    assert only_in({"x": {b"a", b"bb", b"c"}, "y": {b"a"}}, "x", 1) == (2, ["'bb'"])


def test_a_line_for_each_entry():
    tokenizers = {"a": vocabulary(["▁the"]), "b": vocabulary(["▁the", "<0xff>"])}
    lines = list(token_lines({k: classify(v) for k, v in tokenizers.items()}, {" the": ("en",)}))
    assert len(lines) == 1 + 2 + 3
    assert lines[2] == ("a", "1", "20746865", "' the'", "spaced_alpha", "Latin", "en", "2")
    assert lines[-1] == ("b", "2", "ff", "b'\\xff'", "pure_unicode", "", "", "1")


# --- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_sums_over_texts(family):
    tokenizer = ALL[family]
    use = use_of_texts(tokenizer, documents("de", "ja"))["de"]
    ids = tokenizer.encode(SENTENCES["de"])
    assert (use.tokens, use.bytes, use.documents) == (len(ids), len(SENTENCES["de"].encode()), 1)
    assert use.words == len(SENTENCES["de"].split())
    slow = sum(len(tokenizer.encode(word)) > 1 for word in SENTENCES["de"].split())
    if family in ("sentencepiece-bpe", "wordpiece"):  # a word alone is cut as in the text
        assert use.split == slow
    assert 0 < use.renyi_efficiency(len(tokenizer.vocab), 2.5) < 1


def test_split_words():
    text = "the naïve 日本"
    offsets = [(0, 3), (3, 6), (6, 9), (9, 10), (10, 11), (10, 11), (11, 12)]
    assert split_words(text, offsets) == (3, 2)
    assert split_words("", []) == (0, 0)
    assert split_words(" \n", [(0, 2)]) == (0, 0)
    assert split_words("日", [(0, 1), (0, 1), (0, 1)]) == (1, 1)


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5), st.integers(1, 4))
def test_split_words_is_the_plain_count(words, size):
    """Tokens of `size` letters inside each word, the space belonging to the first."""
    offsets, at = [], 0
    for word in words:
        offsets += [(at + n, min(at + n + size, at + len(word))) for n in range(0, len(word), size)]
        at += len(word) + 1
    assert split_words(" ".join(words), offsets) == (len(words), sum(len(w) > size for w in words))


def test_renyi_efficiency_of_even_use_is_one():
    use = use_of_texts(ALL["byte-level"], documents("en"))["en"]
    use.counts = dict.fromkeys(range(64), 2)
    use.tokens = 128
    assert use.renyi_efficiency(64, 2.5) == pytest.approx(1)
    assert np.isnan(use.renyi_efficiency(1, 2.5))


def test_partial_and_unknown_tokens_and_lost_texts():
    byte_level = use_of_texts(ALL["byte-level"], [Document("𐎠𐏁", "x", "0")])["x"]
    assert byte_level.partial == byte_level.tokens == 8
    assert (byte_level.unknown, byte_level.lossy) == (0, 0)
    cased = use_of_texts(ALL["wordpiece"], [Document("Ab 𐎠", "x", "0")])["x"]
    assert cased.unknown == 1
    assert cased.lossy == 1
    assert cased.first_loss.startswith("'Ab 𐎠' -> 'a")


def test_premium_is_tokens_over_the_reference_s():
    found = premiums(use_of_texts(ALL["byte-level"], documents("en", "hi")), "en")
    tokens = {code: len(ALL["byte-level"].encode(SENTENCES[code])) for code in ("en", "hi")}
    assert found == {"en": 1.0, "hi": tokens["hi"] / tokens["en"]}


# --- habits -----------------------------------------------------------------------------------------------------


def test_entries_that_no_text_gives():
    tokenizer = vocabulary(["a", "b", "ab", "xyz", "▁", "▁a", "a▁"])
    names = {tokenizer.vocab.names[i]: why for i, why in habits.unreachable(tokenizer, classify(tokenizer)).items()}
    assert names == {"xyz": "merges", "a▁": "pre-tokenizer"}


@pytest.mark.parametrize("family", ["byte-level", "split-byte-level", "sentencepiece-bpe"])
def test_trained_entries_can_be_used(family):
    dead = habits.unreachable(ALL[family], classify(ALL[family]))
    assert len(dead) < 0.1 * len(ALL[family].vocab)


def test_suspects():
    entries = [entry(t) for t in ("\ue000", "a\ufffd", "аa", "--------", "ok", "日本ノ")]
    found = {kind: [e.text for e in some] for kind, some in habits.suspects(entries, {0}).items()}
    assert list(found.values()) == [["\ue000"], ["a\ufffd"], ["аa"], ["--------"], []]
    assert habits.suspects([Entry(3, b"x", "x", "char_alpha", "Latin")], set())["never used in the texts given"]


def test_digits_and_white_space():
    digits = vocabulary([*"1234567", "▁"])
    assert habits.digit_rule(digits) == "digit by digit"
    threes = vocabulary([*"1234567", "12", "123", "45", "456", "▁"])
    assert habits.digit_rule(threes) == "in threes from the left"
    assert habits.digit_rule(ALL["byte-level"]) in ("as learnt", "digit by digit")
    assert habits.pieces_of(ALL["byte-level"], "¿") in ("\\xc2 | \\xbf", "¿")
    spaces = habits.space_tokens(ALL["byte-level"])
    assert spaces["tab"] == 1
    assert spaces["16 spaces"] >= spaces["2 spaces"] > 0


def test_round_trips():
    assert habits.losses(ALL["byte-level"]) == {}
    assert "letter case" in habits.losses(ALL["wordpiece"])


# --- the report -------------------------------------------------------------------------------------------------


def test_one_tokenizer():
    report = qtok({"one": ALL["byte-level"]}, config=QUIET)
    assert report.title == "one looked into"
    assert report.metric("entries", "one").value == len(ALL["byte-level"].vocab)
    assert report.table("categories").columns == ("category", "one")
    assert not any("overlap" in t.name for t in report.tables)
    json.dumps(report.to_dict())


def test_several_tokenizers_with_texts():
    report = qtok(ALL, documents("en", "zh"), documents("en", "de", "hi"), reference="de")
    rows = {row[0]: row[1:] for row in report.table("categories").rows}
    for n, (label, one) in enumerate([("union", None), *ALL.items()]):
        wanted = report.metric("entries", label).value
        assert sum(row[n] for row in rows.values()) == wanted
        assert one is None or wanted == len(one.vocab)
    percent = np.array([row[1:] for row in report.table("categories, percent").rows])
    np.testing.assert_allclose(percent.sum(0), 100, atol=0.1)
    assert {row[0]: row[1] for row in report.table("premium over de").rows}["de"] == 1
    assert len(report.table("texts").rows) == 2 * len(ALL)
    languages = report.table("languages of Latin entries, percent")
    sums = np.array([row[1:] for row in languages.rows]).sum(0)
    np.testing.assert_allclose(sums[sums > 0], 100, atol=0.3)
    assert (sums > 0).sum() >= 4
    json.dumps(report.to_dict())


def test_the_same_tokenizer_twice_is_said():
    report = qtok({"a": ALL["unigram"], "b": ALL["unigram"]}, config=QUIET)
    assert report.metric("different tokenizers").value == 1
    assert report.warnings == ["a, b share more than 95 % of their entries"]


def test_compat_tables():
    report = qtok({"one": ALL["byte-level"]}, config=QtokConfig(compat=True, languages=False))
    assert "holes" not in {row[0] for row in report.table("categories").rows}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: audit({}), BadOption, "no tokenizer was given"),
        (lambda: audit({"x": vocabulary([])}, config=QUIET), BadTokenizer, "x: no entry of the vocabulary stands for"),
        (
            lambda: qtok(ALL, reference="en", config=QUIET),
            BadOption,
            "the reference is 'en', but there are no parallel",
        ),
        (lambda: qtok(ALL, (), documents("en"), config=QUIET), BadOption, "the parallel texts are all 'en'"),
        (
            lambda: qtok(ALL, (), documents("en", "de"), reference="fr", config=QUIET),
            BadOption,
            "the reference is 'fr', the parallel texts are: en, de",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.value.hint
