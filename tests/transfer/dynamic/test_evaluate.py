"""What units save and what they cost."""

import math

import pytest
import torch
from tests.transfer.dynamic.test_model import dynamic

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.models.compare import EvalText
from tokenlayer.transfer.dynamic.evaluate import EvaluateConfig, evaluate, stretches

TEXT = "the cat and the dog of the cats. " * 12
SMALL = EvaluateConfig(reductions=(0.0, 0.5, 1.0), context=12, continuation=5, batch=3, samples=4)


def lines(report):
    return {
        (row[1], row[2]): dict(zip(report.table("units").columns, row, strict=True))
        for row in report.table("units").rows
    }


def test_stretches_lie_one_after_the_other_and_have_the_text_s_own_tokens(tmp_path):
    tokenizer = dynamic("tied_llama", tmp_path).tokenizer
    found = stretches(tokenizer, TEXT, SMALL)
    ids = tokenizer.encode(TEXT)
    at = 0
    for one in found:
        prompt = tokenizer.encode(one.prompt)
        assert len(prompt) == 12
        while ids[at : at + 12] != prompt:
            at += 1
        assert ids[at + 12 : at + 17] == one.behind
        assert one.size == len(tokenizer.decode_bytes(one.behind))
        at += 17
    with pytest.raises(BadText, match="expected at least 17"):
        stretches(tokenizer, "the cat", SMALL)


def test_decoders_are_scored_on_the_tokens_behind_the_prompt(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    report = evaluate(model, [EvalText("a", TEXT)], SMALL)
    found = lines(report)
    plain, half, whole = (found["hypernet", share] for share in (0.0, 0.5, 1.0))
    nats, size = 0.0, 0
    for one in stretches(model.tokenizer, TEXT, SMALL):
        ids = torch.tensor([[*model.tokenizer.encode(one.prompt), *one.behind]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model.model(ids).logits[0, :, : len(model.tokenizer.vocab)], dim=-1)
        nats -= float(logprobs[11:-1].gather(1, ids[0, 12:, None]).sum())
        size += one.size
    assert plain["score"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    assert plain["units"] == plain["tokens"] == 48
    assert plain["units"] > half["units"] > whole["units"]
    assert whole["cost"] == pytest.approx(whole["score"] - plain["score"])
    assert report.metric("shorter").value == pytest.approx(100 * whole["shorter"])


def test_encoders_are_compared_with_their_plain_vectors(tmp_path):
    model = dynamic("bert_encoder", tmp_path)
    text = "the cat and the dog\nthe dog\n\nthe cats of the dogs\n"
    found = lines(
        evaluate(model, [EvalText("a", text)], EvaluateConfig(methods=("hypernet", "fvt"), batch=2, context=32))
    )
    assert found["hypernet", 0.0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert found["fvt", 1.0]["score"] < 1.0
    assert found["fvt", 1.0]["units"] == found["hypernet", 1.0]["units"]
    assert found["fvt", 1.0]["score"] != found["hypernet", 1.0]["score"]


def test_a_share_of_all_tokens_is_saved_as_far_as_merging_can(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    config = EvaluateConfig(shorter=(0.1, 0.99), context=12, continuation=5, batch=4, samples=4)
    found = lines(evaluate(model, [EvalText("a", TEXT)], config))
    assert 0.1 <= found["hypernet", 0.1]["shorter"] < 0.3
    whole = model.prepare([one.prompt for one in stretches(model.tokenizer, TEXT, config)], reduction=1.0)
    assert found["hypernet", 0.99]["units"] == sum(whole.segmentation.lengths)


def test_bad_input(tmp_path):
    with pytest.raises(BadOption, match="reduction is 1.5"):
        EvaluateConfig(reductions=(1.5,))
    with pytest.raises(BadOption, match="methods is"):
        EvaluateConfig(methods=("mean",))
    with pytest.raises(BadOption, match="batch is 0"):
        EvaluateConfig(batch=0)
    model = dynamic("bert_encoder", tmp_path)
    with pytest.raises(BadText, match="is empty"):
        evaluate(model, [EvalText("blank", "\n \n")], EvaluateConfig())
