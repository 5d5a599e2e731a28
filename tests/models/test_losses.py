"""Tiled scores of a head against dense log-softmax in float64, and heads against the models that own them."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny_models

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.losses import (
    TILE_BYTES,
    Head,
    captured_hidden,
    check_head,
    head_of,
    linear_scores,
    model_inputs,
)


def linear(dim, rows, bias, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(dim, rows, bias=bias)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return module.to(dtype), generator


def same(logits):
    return logits


def cap(logits):
    return 3 * torch.tanh(logits / 3)


def dense(module, hidden, vocab, adjust=same):
    """Log-softmax over the tokens in float64 from logits that were rounded as the module rounds them."""
    bias = None if module.bias is None else module.bias[:vocab]
    raw = torch.nn.functional.linear(hidden, module.weight[:vocab], bias)
    return torch.log_softmax(adjust(raw.double()), dim=-1)


@st.composite
def heads(draw):
    tokens, dim, vocab = draw(st.integers(1, 9)), draw(st.integers(1, 6)), draw(st.integers(1, 40))
    first = draw(st.lists(st.integers(0, 256), min_size=vocab, max_size=vocab))
    targets = draw(st.lists(st.integers(0, vocab - 1), min_size=tokens, max_size=tokens))
    more = draw(st.integers(0, 5)), draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**31))
    return tokens, dim, vocab, first, targets, more, draw(st.integers(1, 4 * vocab * (tokens + 2)))


@given(heads())
def test_tiles_give_the_dense_scores(case):
    """Any tile: below one row, not a divisor, above everything."""
    tokens, dim, vocab, first, targets, (padded, bias, capped, seed), tile = case
    module, generator = linear(dim, vocab + padded, bias, seed)
    hidden = torch.randn(tokens, dim, generator=generator)
    adjust = cap if capped else same
    with torch.inference_mode():
        got = linear_scores(
            Head(module, adjust, vocab), hidden, torch.tensor(targets), torch.tensor(first), tile_bytes=tile
        )
        slow = dense(module, hidden, vocab, adjust)
    assert got.logprob_nats.dtype == torch.float32
    for at, target in enumerate(targets):
        assert float(got.logprob_nats[at]) == pytest.approx(float(slow[at, target]), rel=1e-5, abs=1e-5)
        mass = np.zeros(257)
        for token, byte in enumerate(first):
            mass[byte] += float(slow[at, token].exp())
        assert mass[int(got.next_byte[at])] > mass.max() - 1e-5


@pytest.mark.parametrize("adjust", [same, cap])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 7, 64, 101])
def test_the_sum_over_the_vocabulary_is_in_float32(dtype, vocab, adjust):
    module, generator = linear(8, vocab + 3, True, seed=vocab, dtype=dtype)
    hidden = torch.randn(20, 8, generator=generator).to(dtype)
    targets = torch.arange(20) % vocab
    with torch.inference_mode():
        got = linear_scores(Head(module, adjust, vocab), hidden, targets, torch.zeros(vocab, dtype=torch.int64), 800)
        slow = dense(module, hidden, vocab, adjust).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(got.logprob_nats.double(), slow, rtol=1e-5, atol=1e-5)


def test_no_tile_is_larger_than_its_bytes_and_a_row_always_fits():
    rows = []

    def watched(logits):
        rows.append(logits.shape[0])
        assert logits.dtype == torch.float32
        return logits

    vocab = 10
    module, generator = linear(4, vocab, False, 0)
    hidden = torch.randn(23, 4, generator=generator)
    targets, first = torch.zeros(23, dtype=torch.int64), torch.zeros(vocab, dtype=torch.int64)
    for tile, most in ((1, 1), (40, 1), (79, 1), (80, 2), (400, 10), (10**6, 23)):
        rows.clear()
        with torch.inference_mode():
            linear_scores(Head(module, watched, vocab), hidden, targets, first, tile_bytes=tile)
        assert max(rows) == most
        assert sum(rows) == 23
        assert len(rows) == -(-23 // most)
    assert TILE_BYTES == 64 * 2**20


def test_extreme_logits_stay_finite():
    module = torch.nn.Linear(1, 3, bias=False)
    module.weight.data[:] = torch.tensor([[1e4], [-1e4], [0.0]])
    with torch.inference_mode():
        got = linear_scores(Head(module, same, 3), torch.ones(3, 1), torch.arange(3), torch.tensor([1, 2, 3]))
    assert got.logprob_nats.tolist() == [0, -2e4, -1e4]
    assert got.next_byte.tolist() == [1, 1, 1]


def test_many_unlikely_tokens_with_one_first_byte_win_together():
    """The likeliest byte need not be the first byte of the likeliest token."""
    module = torch.nn.Linear(1, 4, bias=False)
    module.weight.data[:] = torch.tensor([[1.0], [0.5], [0.5], [0.5]])
    with torch.inference_mode():
        got = linear_scores(Head(module, same, 4), torch.ones(1, 1), torch.zeros(1, dtype=torch.int64),
                            torch.tensor([9, 8, 8, 8]))  # fmt: skip
    assert got.next_byte.tolist() == [8]


def make(model_class, config):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = model_class(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def gemma2(**changes):
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    return make(transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**sizes | tiny_models.SPECIAL_IDS | changes))


def like_llama(model_class, config_class, **changes):
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    return make(model_class, config_class(**sizes | tiny_models.SPECIAL_IDS | changes))


ADJUSTED = {
    "soft cap of Gemma 2": lambda: gemma2(final_logit_softcapping=2.0),
    "no soft cap": lambda: gemma2(final_logit_softcapping=None),
    "multiplied scale of Cohere": lambda: like_llama(
        transformers.CohereForCausalLM, transformers.CohereConfig, logit_scale=0.25
    ),
    "divided scale of Granite": lambda: like_llama(
        transformers.GraniteForCausalLM, transformers.GraniteConfig, logits_scaling=4.0
    ),
    "bias of Phi": lambda: like_llama(transformers.PhiForCausalLM, transformers.PhiConfig),
    "bias of BERT": lambda: make(
        transformers.BertForMaskedLM, transformers.BertConfig(**tiny_models.bert_sizes(num_hidden_layers=1))
    ),
    "tied GPT-2": lambda: make(
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, **tiny_models.SPECIAL_IDS),
    ),
}


@cache
def cached(name):
    return ADJUSTED[name]()


@pytest.mark.parametrize("name", ADJUSTED)
@settings(max_examples=5)
@given(st.integers(1, 60))
def test_a_head_gives_the_logits_of_its_model(name, vocab):
    model = cached(name)
    ids = torch.arange(3, 11)[None]
    head = head_of(model, vocab)
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits[0, :, :vocab]
        with captured_hidden(head) as seen:
            model(input_ids=ids)
        torch.testing.assert_close(head.logits(seen[0][0]), wanted, rtol=1e-5, atol=1e-5)
        check_head(model, head, ids)


def test_the_adjustments_matter():
    """Guards the test above: without its cap or scale each model has other logits."""
    for name in list(ADJUSTED)[:4]:
        if name == "no soft cap":
            continue
        model, ids = ADJUSTED[name](), torch.arange(3, 11)[None]
        head = head_of(model, 60)
        with torch.inference_mode(), pytest.raises(BadCheckpoint, match=r"in a way that we do not know \(off by"):
            check_head(model, Head(head.module, same, head.vocab), ids)


def test_an_unknown_change_of_the_logits_is_refused(monkeypatch):
    model, ids = ADJUSTED["tied GPT-2"](), torch.arange(3, 11)[None]
    forward = type(model).forward

    def shifted(self, *args, **more):
        found = forward(self, *args, **more)
        found.logits = found.logits * 1.01
        return found

    monkeypatch.setattr(type(model), "forward", shifted)
    with torch.inference_mode(), pytest.raises(BadCheckpoint, match="GPT2LMHeadModel changes its logits"):
        check_head(model, head_of(model, 60), ids)


def test_the_heads_own_forward_is_back_afterwards_even_after_an_error():
    model, ids = ADJUSTED["tied GPT-2"](), torch.arange(3, 11)[None]
    head = head_of(model, 60)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        with captured_hidden(head) as seen:
            assert model(input_ids=ids).logits.shape == (1, 8, 1)
        assert seen[0].shape == (1, 8, 16)
        assert torch.equal(model(input_ids=ids).logits, before)
        with pytest.raises(KeyError), captured_hidden(head):
            raise KeyError
        assert torch.equal(model(input_ids=ids).logits, before)


def test_a_model_without_a_head_is_refused():
    model = transformers.BertModel(transformers.BertConfig(**tiny_models.bert_sizes()))
    with pytest.raises(BadCheckpoint, match="BertModel has no output head, so it gives no probabilities") as caught:
        head_of(model, 60)
    assert "causal or masked" in caught.value.hint


def test_a_model_is_told_to_keep_nothing_only_if_it_could():
    caching, plain = (SimpleNamespace(config=SimpleNamespace(**config)) for config in ({"use_cache": True}, {}))
    ids, real = torch.tensor([[3, 4]]), torch.tensor([[True, False]])
    assert model_inputs(caching, ids) == {"input_ids": ids, "use_cache": False}
    assert model_inputs(plain, ids, token_type_ids=ids) == {"input_ids": ids, "token_type_ids": ids}
    assert model_inputs(caching, ids, use_cache=True)["use_cache"]
    mask = model_inputs(plain, ids, real)["attention_mask"]
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[1, 0]]
