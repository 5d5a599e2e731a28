"""The choice of a word and of a sentence, by hand; what was written comes back."""

import math

import pytest

from tokenlayer.core.errors import BadOption, BadTokenizer
from tokenlayer.transfer.arbitration import BASE, Choices, shortening


def rules(**changes):
    given = {"pieces": {"drug": [], "disease": []}, "counts": {"ab": 9, "c": 4, "d": 4}, "total": 1000, "min_count": 0}
    return Choices(**{**given, **changes})


def test_the_score_counts_unknown_pieces_as_one_and_strips_the_mark():
    p = (1 + 9 + 4 + 1) / 1000
    assert rules().score(["ab", "##c", "##zzz"]) == pytest.approx(-p * math.log2(p))
    released = (1 + 9 + 1 + 1) / 1000
    assert rules(compat=True).score(["ab", "##c", "##zzz"]) == pytest.approx(-released * math.log2(released))


def test_the_smallest_score_wins_and_ties_go_to_the_first_type_then_the_base_last():
    few, same, many = ["c"], ["d"], ["ab", "##c"]
    assert rules().choose({"drug": many, "disease": few, BASE: many}) == "disease"
    assert rules().choose({"drug": few, "disease": same, BASE: few}) == "drug"
    assert rules().choose({"disease": same, "drug": few, BASE: few}) == "drug"  # the order of the types, not of these
    assert rules().choose({"drug": many, "disease": few, BASE: same}) == "disease"
    assert rules().choose({"drug": many, "disease": many, BASE: few}) == BASE


def test_rare_typed_candidates_upper_case_and_unknown_words():
    few, many = ["c"], ["ab", "##c"]
    assert rules(min_count=6).choose({"drug": few, "disease": few, BASE: many}) == BASE
    assert rules(min_count=5).choose({"drug": few, "disease": few, BASE: many}) == "drug"  # 5 counts are not below
    assert rules(min_count=6).choose({"drug": few, "disease": many, BASE: many}) == "drug"  # one of them suffices
    assert rules().choose({"drug": few, "disease": few, BASE: many}, upper=True) == BASE
    assert rules(keep_upper=False).choose({"drug": few, "disease": few, BASE: many}, upper=True) == "drug"
    assert rules().choose({"drug": None, "disease": many, BASE: many}) == "disease"
    assert rules().choose({"drug": None, "disease": None, BASE: many}) == BASE
    assert rules().choose({"drug": None, "disease": many, BASE: None}) == "disease"
    assert rules().choose({"drug": None, "disease": None, BASE: None}) == BASE


@pytest.mark.parametrize(
    ("rollback", "base", "chosen", "kept"),
    [
        (0.0, 10, 8, False),
        (0.0, 10, 10, False),
        (1.0, 10, 1, True),
        (1.0, 10, 20, True),
        (7.0, 10, 20, True),
        (0.2, 10, 9, True),
        (0.2, 10, 8, False),
        (0.2, 10, 10, True),
        (0.2, 10, 11, False),
        (0.2, 0, 0, True),
    ],
)
def test_a_sentence_keeps_its_choices_if_0_le_r_lt_f(rollback, base, chosen, kept):
    assert rules(rollback=rollback).keeps(base, chosen) is kept


def test_r_is_the_share_that_is_saved():
    assert shortening(10, 8) == pytest.approx(0.2)
    assert shortening(10, 15) == pytest.approx(-0.5)
    assert shortening(0, 0) == 0


def test_a_low_sum_of_all_typed_candidates_is_rare():
    known = rules(min_count=6)
    assert known.rare([known.score(["c"]), known.score(["d"])])
    assert not known.rare([known.score(["c"]), known.score(["ab"])])
    assert not rules(min_count=0).rare([known.score(["zzz"])])


def test_numbers_and_files_that_are_wrong_say_so():
    with pytest.raises(BadOption, match="total is 0"):
        rules(total=0)
    with pytest.raises(BadOption, match="a type is called 'base'"):
        rules(pieces={"base": []})
    with pytest.raises(BadTokenizer, match="x.json does not describe a K-Tokeniser: format"):
        Choices.from_json('{"format": "other"}', "x.json")
    for text in ("[]", "{", '{"format": "tokenlayer-k-tokeniser/1", "pieces": {}}'):
        with pytest.raises(BadTokenizer, match="does not describe a K-Tokeniser"):
            Choices.from_json(text)


def test_what_was_written_comes_back():
    one = rules(rollback=0.065, compat=True, pieces={"β": ["##ß"]})
    again = Choices.from_json(one.to_json())
    assert again.to_json() == one.to_json()
    assert again.score(["ab"]) == one.score(["ab"])
