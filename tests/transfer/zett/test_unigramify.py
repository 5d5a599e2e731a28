"""Unigram scores from a linear program: against brute force, by hand, and for tokenizers that cannot be a Unigram."""

import builtins
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tokenizers import Tokenizer

from tokenlayer.core.errors import BadOption, BadText, MissingExtra
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.zett.segmentations import all_cuts, k_best, lattice
from tokenlayer.transfer.zett.unigramify import UnigramifyConfig, accuracy, log_priors, solve, unigramify

TEXTS = list(SENTENCES.values())
PIECES = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"ca", b"aa"]


def loaded(text):
    return LoadedTokenizer(json.loads(text))


def bpe(merges):
    """A byte-level BPE whose bytes are all there and whose merges are given."""
    data = json.loads(FAMILIES["byte-level"]())
    names = [name for name in data["model"]["vocab"] if len(name) == 1 or name.startswith("<|")]
    names += [a + b for a, b in merges]
    data["model"]["vocab"] = {name: i for i, name in enumerate(dict.fromkeys(names))}
    data["model"]["merges"] = [list(pair) for pair in merges]
    return LoadedTokenizer(data)


@given(st.text("abc", max_size=7), st.lists(st.floats(-9, 0, width=32), min_size=8, max_size=8), st.integers(1, 6))
def test_the_best_cuts_are_those_of_brute_force(text, scores, k):
    places = lattice(text.encode(), {piece: i for i, piece in enumerate(PIECES)}, 3)
    every = sorted((sum(scores[i] for i in cut) for cut in all_cuts(places)), reverse=True)
    found = k_best(places, scores, k)
    assert [total for total, _ in found] == pytest.approx(every[:k])
    assert len({cut for _, cut in found}) == len(found)
    for total, cut in found:
        assert b"".join(PIECES[i] for i in cut) == text.encode()
        assert total == pytest.approx(sum(scores[i] for i in cut))


def test_a_string_that_no_token_reaches_has_no_cut():
    assert k_best(lattice(b"ax", {b"a": 0}, 1), [0.0], 3) == []
    assert k_best(lattice(b"", {b"a": 0}, 1), [0.0], 3) == [(0.0, ())]


def test_priors_are_counts_times_bytes_over_their_sum():
    ids = {b"a": 0, b"b": 1, b"ab": 2, b"zz": 3}
    found = log_priors([(b"ab", 3), (b"a", 2)], ids, 2, 5)
    weights = np.array([5.0, 3.0, 6.0, 1.0])  # zz: half a count of two bytes
    np.testing.assert_allclose(found[:4], np.log(weights / weights.sum()))
    assert found[4] < -1e5


def test_the_program_moves_the_cheapest_scores_just_as_far_as_needed():
    prior = np.array([-1.0, -1.0, -5.0, -9.0])  # a, b, ab, not in question
    config = UnigramifyConfig(margin=0.5, prior_weight=0.01)
    scores = solve(prior, [(2,)], np.array([1.0]), [(0, (0, 1))], config)
    # ab must reach a + b + 0.5: 3.5 nats, divided among the three scores as the solver likes
    assert scores[2] - scores[0] - scores[1] == pytest.approx(0.5, abs=1e-6)
    assert np.abs(scores - prior).sum() == pytest.approx(3.5, abs=1e-6)
    assert scores[3] == prior[3]


def test_of_two_pre_tokens_that_exclude_each_other_the_more_frequent_one_wins():
    prior = np.full(3, -1.0)
    true, other = [(0, 1), (2,)], [(2,), (0, 1)]  # the same string cut in two ways
    for times, sign in (((5.0, 1.0), 1), ((1.0, 5.0), -1)):
        scores = solve(prior, true, np.array(times), [(0, other[0]), (1, other[1])], UnigramifyConfig(margin=0.1))
        assert sign * (scores[0] + scores[1] - scores[2]) >= 0.1 - 1e-6


def test_a_prior_that_costs_more_than_the_pre_token_stays():
    prior = np.array([-1.0, -1.0, -5.0])
    scores = solve(prior, [(2,)], np.array([1.0]), [(0, (0, 1))], UnigramifyConfig(prior_weight=2.0))
    np.testing.assert_allclose(scores, prior)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_of_every_family_become_a_unigram(family):
    tokenizer = loaded(FAMILIES[family]())
    found = unigramify(tokenizer, TEXTS)
    assert found.accuracy > 0.98
    assert accuracy(tokenizer, found.tokenizer, TEXTS)[0] == pytest.approx(found.accuracy)
    assert found.tokenizer.data["model"]["type"] == "Unigram"
    vocab = found.tokenizer.vocab
    assert vocab.missing_bytes() == []
    assert vocab.roles == tokenizer.vocab.roles
    assert [vocab.names[i] for i in tokenizer.vocab.control_ids()] == [
        tokenizer.vocab.names[i] for i in tokenizer.vocab.control_ids()
    ]
    for text in (*TEXTS, "☃ 𝒳", "<s>"):
        ids = found.tokenizer.encode(text)
        made = found.tokenizer.decode_bytes(ids).decode()
        assert made.replace(" ", "") == found.tokenizer.normalised(text).replace(" ", "") or family == "wordpiece"
    assert Tokenizer.from_str(found.tokenizer.text).get_vocab_size() == len(vocab)


def test_a_bpe_that_is_no_unigram_is_reported_below_one():
    ties = bpe([("a", "a")])  # aaa is aa a: the same tokens as a aa, so no scores tell them apart
    found = unigramify(ties, ["aaa b"], UnigramifyConfig(own_text=False))
    word, times, true, cut = found.wrong[0]
    assert found.accuracy == 0.5
    assert found.accuracy_distinct == 0.5
    assert (word, times, cut) == (b"aaa", 1, true[::-1])
    order = bpe([("b", "c"), ("a", "b"), ("bc", "d")])  # abc is a bc, although ab is a token
    assert unigramify(order, ["ab abc bcd abcd"], UnigramifyConfig(own_text=False)).accuracy == 1.0


def test_own_text_makes_tokens_right_that_the_texts_lack():
    tokenizer = bpe([("a", "b"), ("ab", "c")])
    fitted, other = ["a b c " * 2000], ["abc"]
    for own in (True, False):
        found = unigramify(tokenizer, fitted, UnigramifyConfig(own_text=own))
        assert found.accuracy == 1.0
        assert accuracy(tokenizer, found.tokenizer, other) == (float(own), 1)


def test_constraints_are_added_until_nothing_else_wins():
    tokenizer = loaded(FAMILIES["split-byte-level"]())
    whole = unigramify(tokenizer, TEXTS)
    once = unigramify(tokenizer, TEXTS, UnigramifyConfig(rounds=1))
    assert 1 < whole.rounds < UnigramifyConfig().rounds
    sooner = unigramify(tokenizer, TEXTS, UnigramifyConfig(enough=0.2))
    assert sooner.rounds < whole.rounds
    assert whole.constraints > once.constraints
    assert whole.accuracy >= once.accuracy


def test_the_same_texts_give_the_same_scores():
    tokenizer = loaded(FAMILIES["byte-level"]())
    one, other = (unigramify(tokenizer, TEXTS[:4]).scores for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.0}, "margin is 0.0, expected more than 0"),
        ({"prior_weight": -1.0}, "prior_weight is -1.0, expected more than 0"),
        ({"best": 1}, "best is 1, expected at least 2"),
        ({"rounds": 0}, "rounds is 0, expected at least 1"),
        ({"enough": -0.1}, "enough is -0.1, expected at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, message):
    with pytest.raises(BadOption, match=message):
        UnigramifyConfig(**changes)


def test_texts_are_needed_and_so_is_scipy(monkeypatch):
    tokenizer = loaded(FAMILIES["byte-level"]())
    with pytest.raises(BadText, match="the texts hold no pre-token"):
        unigramify(tokenizer, [""])
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="fitting Unigram scores needs SciPy") as error:
        unigramify(tokenizer, TEXTS)
    assert error.value.hint == "pip install 'tokenlayer[lp]'"
