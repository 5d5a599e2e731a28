"""What a model is asked, and what comes out: against slow scores, hand-made answers, and counts by hand."""

import pytest
import torch
from tests.tiny_swaps import model_with_tokenizer
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.core.errors import BadText
from tokenlayer.models.loading import load_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.adt.evaluate import (
    Answer,
    TwoChoices,
    ask,
    difference_in_difference,
    differences,
    error_rates,
    tokenization_errors,
)
from tokenlayer.tokenizer.adt.own import own_set
from tokenlayer.tokenizer.adt.verify import wilson

ENGLISH = [one for one in own_set() if one.lang == "en"][:3]
TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}bot:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_with_tokenizer("tied_llama", tmp_path_factory.mktemp("adt") / "model")


@pytest.fixture(scope="module")
def model(folder):
    found = load_model(folder, "decoder")[0]
    found.config.max_position_embeddings = 512
    return found


def slow(model, prompt, option):
    """Nats of an option after a prompt in one pass over both."""
    with torch.inference_mode():
        logprob = model(input_ids=torch.tensor([prompt + option])).logits[0].float().log_softmax(-1)
    return sum(float(logprob[len(prompt) + n - 1, token]) for n, token in enumerate(option))


@pytest.mark.parametrize("chat", [False, True])
def test_margins_are_those_of_one_pass_over_prompt_and_answer(folder, model, chat):
    tokenizer = load_tokenizer(folder)
    if chat:
        tokenizer = type(tokenizer)(tokenizer.data, {"chat_template": TEMPLATE}, tokenizer.roles, "chat")
    chooser = TwoChoices(model, tokenizer, batch=2)
    found = {(a.id, a.condition): a for a in chooser.ask(ENGLISH)}
    assert len(found) == 9
    for one in ENGLISH:
        for condition in ("glued", "control", "forced"):
            margin = 0.0
            for order in (0, 1):
                prompt = chooser._front + chooser._prompt(one, condition, order)
                right, wrong = chooser._options(one)
                margin += slow(model, prompt, right) / len(one.answer) - slow(model, prompt, wrong) / len(
                    one.trap_answer
                )
            answer = found[one.id, condition]
            assert answer.margin == pytest.approx(margin / 2, abs=1e-4)
            assert answer.verdict == ("right" if answer.margin > 0 else "trapped")


def test_prompts_hold_both_options_in_both_orders_and_the_template_if_there_is_one(folder, model):
    tokenizer = load_tokenizer(folder)
    chooser, one = TwoChoices(model, tokenizer), ENGLISH[0]
    texts = [tokenizer.decode_bytes(chooser._prompt(one, "glued", order)).decode() for order in (0, 1)]
    assert texts[0].strip() == f"{one.sentence} {one.question} Answer with moves or stable.\nAnswer:"
    assert "Answer with stable or moves." in texts[1]
    control = tokenizer.decode_bytes(chooser._prompt(one, "control", 0)).decode()
    assert "moves table" in control
    chat = type(tokenizer)(tokenizer.data, {"chat_template": TEMPLATE}, tokenizer.roles, "chat")
    told = TwoChoices(model, chat)
    whole = told._front + told._prompt(one, "glued", 0)
    text = tokenizer.decode_bytes(whole).decode()
    assert "user: The new site is called movestable." in text
    assert text.endswith("Answer with moves or stable.\nbot:")
    special = tokenizer.vocab.find_name("<|endoftext|>")
    assert special is None or special in told._front


def test_a_free_answer_is_judged_and_abstentions_count_neither_way():
    said = {"movestable": "moves", "moves table": "moves", "gatesnail": "I don't know", "gates nail": "a snail"}
    answers = ask(ENGLISH[:2], lambda prompt: next(v for k, v in said.items() if k in prompt))
    assert [a.verdict for a in answers] == ["right", "right", "abstained", "trapped"]
    rates = {condition: rate for _, _, condition, rate in error_rates(ENGLISH[:2], answers)}
    assert (rates["glued"].hits, rates["glued"].n) == (0, 1)
    assert (rates["control"].hits, rates["control"].n) == (1, 2)
    assert rates["glued - control"].n == 1


def test_rates_have_wilson_intervals_and_differences_are_paired():
    ids = [one.id for one in ENGLISH]
    answers = [Answer(i, "glued", v) for i, v in zip(ids, ("trapped", "trapped", "right"), strict=True)]
    answers += [Answer(i, "control", v) for i, v in zip(ids, ("right", "trapped", "right"), strict=True)]
    rates = {condition: rate for _, _, condition, rate in error_rates(ENGLISH, answers)}
    assert (rates["glued"].value, rates["glued"].low, rates["glued"].high) == (2 / 3, *wilson(2, 3))
    assert rates["glued - control"].value == pytest.approx(1 / 3)
    assert differences(ids, answers, "control") == [1.0, 0.0, 0.0]
    assert "forced" not in rates


def test_difference_in_difference_adds_the_variances():
    one, other = [1.0, 0.0] * 40, [0.0, 0.0, 1.0, -1.0] * 25
    found = difference_in_difference(one, other)
    assert found.value == 0.5
    by_hand = 1.96 * (0.25 / 79 + 0.5 / 99) ** 0.5
    assert found.high - found.value == pytest.approx(by_hand, rel=1e-3)
    with pytest.raises(BadText, match="nothing to compare"):
        difference_in_difference([], other)


def test_languages_are_never_mixed_and_traps_are_tried_on_other_tokenizers():
    falls, resists = bpe("stable", "snail", "stall"), bpe("moves", "table", "gates", "nail", "cats", "tall")
    rows = tokenization_errors([*ENGLISH, *[o for o in own_set() if o.lang == "zh"]], [falls, resists])
    assert [(lang, rate.hits, rate.n) for _, lang, rate in rows] == [
        ("en", 3, 3),
        ("zh", 0, 16),
        ("en", 0, 3),
        ("zh", 0, 16),
    ]
    assert rows[0][2].low == wilson(3, 3)[0]


def test_an_empty_set_has_no_rate(folder, model):
    for call in (
        lambda: tokenization_errors([], [bpe()]),
        lambda: ask([], str),
        lambda: error_rates([], []),
        lambda: TwoChoices(model, load_tokenizer(folder)).ask([]),
    ):
        with pytest.raises(BadText, match="no instances, so there is no error rate") as caught:
            call()
        assert caught.value.hint
