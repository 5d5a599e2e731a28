"""Instances: what a question may hold, its control, and how answers are judged."""

import json
from dataclasses import replace

import pytest
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.tokenizer.adt.build import (
    RETRIES,
    build_instances,
    check,
    instance_of,
    matched,
    read_instances,
    write_jsonl,
    writer_prompt,
)
from tokenlayer.tokenizer.adt.join import Pair
from tokenlayer.tokenizer.adt.judge import judge, plain
from tokenlayer.tokenizer.adt.languages import Template, language
from tokenlayer.tokenizer.adt.mine import AdtConfig, mine_traps, try_pair
from tokenlayer.tokenizer.adt.own import SPANS, own_set

TOKENIZER = bpe("stable", "stall", "moves", "table", "cats", "tall")
WORDS = {"moves": 5.0, "table": 4.0, "stable": 3.0, "cats": 2.0, "tall": 2.0, "stall": 1.0}
MINED = mine_traps(TOKENIZER, WORDS, AdtConfig(per_trap=0, per_word=0))


def test_every_instance_has_a_control_that_is_cut_right_and_a_question_that_names_no_word():
    built = build_instances(MINED.confirmed, TOKENIZER, lang="en")
    assert built.instances
    assert not built.dropped
    for one in built.instances:
        assert check(one, TOKENIZER, wrong=True) == ""
        assert one.control == one.sentence[: one.boundary] + " " + one.sentence[one.boundary :]
        ends, at = set(), 0
        for token in TOKENIZER.token_bytes(TOKENIZER.encode(one.control)):
            at += len(token)
            ends.add(at)
        assert ends & set(range(one.gap[0], one.gap[1] + 1))
        words = plain(one.question).split()
        assert not {*one.words, one.trap_answer} & set(words)
        assert one.answer in one.words
        assert one.cut == "wrong"
        assert len(one.checks) == 5


def test_questions_for_first_and_second_word_are_balanced():
    built = build_instances(MINED.confirmed, TOKENIZER, lang="en", seed=3)
    asked = [one.words.index(one.answer) for one in built.instances]
    assert abs(sum(asked) - len(asked) / 2) <= 0.5
    assert all(("second" in one.question) == (side == 1) for one, side in zip(built.instances, asked, strict=True))


def test_traps_that_are_cut_right_make_matched_instances():
    resists = bpe("moves", "table", "stable")
    right = mine_traps(resists, WORDS).right
    built = build_instances(right, resists, lang="en")
    assert built.instances
    assert {one.cut for one in built.instances} == {"right"}


def test_matched_instances_ask_for_the_same_word_and_are_taken_once():
    found = own_set()[:6]
    right = [replace(one, id=f"{one.id}-right", cut="right") for one in (*reversed(found), found[0])]
    pairs = matched(found, right)
    assert len(pairs) == len({id(one) for one in pairs}) == 6
    assert all(a.words.index(a.answer) == b.words.index(b.answer) for a, b in zip(found, pairs, strict=True))
    assert matched(found[:1], right)[0].words == found[0].words
    assert len(matched(found, right[:2])) == 2


def bad(**changes):
    one = own_set()[0]
    return replace(one, **changes)


def test_checks_say_what_is_wrong():
    one = bad()
    assert check(None, TOKENIZER, wrong=True) == "not written"
    assert check(one, TOKENIZER, wrong=True) == ""
    assert check(one, TOKENIZER, wrong=False) == "the sentence is cut wrong"
    assert check(one, bpe("moves", "table"), wrong=True) == "the sentence is cut right"
    for word in ("moves", "Table!", "ＳＴＡＢＬＥ"):
        assert check(bad(question=f"Is it {word}?"), TOKENIZER, wrong=True) == "the question names a word"
    assert check(bad(question="Is it tables or unstable?"), TOKENIZER, wrong=True) == ""
    assert check(bad(trap_answer="MOVES"), TOKENIZER, wrong=True) == "the answers are the same"
    twice = f"{one.sentence} movestable"
    assert check(bad(sentence=twice), TOKENIZER, wrong=True) == "the words do not stand together once"
    assert check(bad(span=(0, 3)), TOKENIZER, wrong=True) == "the words do not stand together once"


def test_a_control_that_is_cut_wrong_is_no_control():
    tokenizer = bpe("stable", "s table", spaced=False)
    whole = {**tokenizer.data["pre_tokenizer"], "use_regex": False}
    data = {**tokenizer.data, "pre_tokenizer": whole}
    loose = type(tokenizer)(data, where="loose")
    assert check(own_set()[0], loose, wrong=True) == "the control is cut wrong"


def test_a_writer_is_asked_again_and_then_dropped_with_counts():
    asked = []

    def writer(prompt):
        asked.append(prompt)
        return ["No span here.\nWhat is it?", "one line", "The desk movestable here.\nIs it a table?"][len(asked) % 3]

    trap = try_pair(TOKENIZER, Pair("moves", "table", "stable", 1), "See #{pair} now")
    built = build_instances([trap], TOKENIZER, lang="en", writer=writer)
    assert built.instances == ()
    assert len(asked) == RETRIES
    assert sum(built.dropped.values()) == 1
    assert "'moves' followed by 'table'" in asked[0]


def test_a_writer_that_does_well_is_taken_and_checked_with_the_tokenizer():
    trap = try_pair(TOKENIZER, Pair("moves", "table", "stable", 1), "See #{pair} now")
    built = build_instances(
        [trap], TOKENIZER, lang="en", writer=lambda _: "He says #movestable, as ever.\nWhat is seen?"
    )
    (one,) = built.instances
    assert one.provenance == "writer"
    assert one.sentence[slice(*one.span)] == "movestable"
    assert one.control == "He says #moves table, as ever."
    split = build_instances([trap], TOKENIZER, lang="en", writer=lambda _: "He moves table legs.\nWhat is seen?")
    assert split.dropped == {"the writer's sentence lacks the span": 1}
    assert "movestable" in writer_prompt(Pair("moves", "table", "stable", 1), language("en"), 0)


def test_sets_are_read_back_and_verified_by_slicing(tmp_path):
    path = tmp_path / "adt.jsonl"
    write_jsonl(path, own_set())
    assert read_instances(path) == own_set()
    (line, *_) = path.read_text().splitlines()
    for change, said in (
        ({"boundary": 999}, "span, boundary and control do not fit the sentence"),
        ({"control": "another"}, "span, boundary and control do not fit the sentence"),
        ({"answer": "stable"}, "the answer is none of the two words"),
        ({"lang": "xx"}, "lang is 'xx'"),
        ({"more": 1}, "line 1 is no instance"),
    ):
        path.write_text(json.dumps(json.loads(line) | change) + "\n")
        with pytest.raises(BadText, match=said) as caught:
            read_instances(path)
        assert caught.value.hint
    path.write_text("[1]\n")
    with pytest.raises(BadText, match="line 1 is no instance"):
        read_instances(path)
    path.write_text("\n")
    with pytest.raises(BadText, match="holds no instance"):
        read_instances(path)
    with pytest.raises(BadText, match="cannot read the set"):
        read_instances(tmp_path / "none.jsonl")


def test_our_own_set_is_whole_and_says_that_it_is_ours():
    found = own_set()
    assert len(found) == sum(map(len, SPANS.values()))
    assert len({one.id for one in found}) == len(found)
    for one in found:
        assert one.provenance == "ours, by hand"
        assert one.trap_answer in one.sentence
        assert one.trap_answer not in one.words
        start = one.sentence.index(one.trap_answer)
        assert start < one.boundary < start + len(one.trap_answer)
        assert language(one.lang)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("table", "right"),
        ("The second word is Table.", "right"),
        ("ＴＡＢＬＥ！", "right"),
        ("stable", "trapped"),
        ("It is 'stable', not table", "trapped"),
        ("", "abstained"),
        ("I don't know.", "abstained"),
        ("moves", "wrong"),
        ("tables", "wrong"),
        ("unstable", "wrong"),
    ],
)
def test_answers_are_judged_by_whole_words(said, verdict):
    assert judge(said, "table", "stable", spaced=True) == verdict


def test_a_word_inside_the_other_is_not_named_by_it():
    assert judge("上海", "海", "上海", spaced=False) == "trapped"
    assert judge("是研究生。", "研究", "研究生", spaced=False) == "trapped"
    assert judge("是 研究。", "研究", "研究生", spaced=False) == "right"
    assert judge("大象", "大象", "象", spaced=False) == "right"
    with pytest.raises(BadOption, match="are the same word"):
        judge("x", "Table", "ｔａｂｌｅ", spaced=True)


def test_templates_of_a_caller_work_with_any_pair():
    one = instance_of(
        Pair("moves", "table", "stable", 1),
        language("en"),
        Template("{pair}", "The {which}?"),
        asked=0,
        vocabulary="v",
        provenance="p",
    )
    assert (one.sentence, one.control, one.question, one.answer) == ("movestable", "moves table", "The first?", "moves")
