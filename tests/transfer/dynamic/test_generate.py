"""Generation step by step, with a model's own vocabulary and with a larger one."""

import math
from dataclasses import replace

import pytest
import torch
import transformers
from tests.tiny_models import DIM, gpt2, llama_config, make, phi, tied_llama, untied_llama
from tests.tiny_swaps import load

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.transfer.dynamic.big_vocab import BigVocab, with_new_tokens
from tokenlayer.transfer.dynamic.generate import (
    GenerateConfig,
    decode,
    generate,
    generate_batch,
    prefill,
    read_states,
)
from tokenlayer.transfer.dynamic.index import IndexConfig

SIZE = 60
PROMPT = [5, 17, 30, 8]


def gemma2(folder):
    """Scaled embeddings, a soft cap of the logits, sliding windows."""
    config = transformers.Gemma2Config(
        vocab_size=SIZE, hidden_size=DIM, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=6, final_logit_softcapping=0.7,
        attn_logit_softcapping=5.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return make(transformers.Gemma2ForCausalLM, config, folder)


def cohere(folder):
    """A logit scale."""
    config = transformers.CohereConfig(
        vocab_size=SIZE, hidden_size=DIM, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, logit_scale=0.25, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    return make(transformers.CohereForCausalLM, config, folder)


MAKERS = [tied_llama, untied_llama, gemma2, cohere, gpt2, phi]


def letters(size=SIZE):
    """A vocabulary whose tokens are letters; 0 to 2 are control tokens."""
    tokens = [b"", b"", b"", *[bytes([97 + n % 26]) * (1 + n // 26) for n in range(size - 3)]]
    names = ["<pad>", "<s>", "</s>", *[f"t{n}" for n in range(3, size)]]
    kinds = [Kind.CONTROL] * 3 + [Kind.NORMAL] * (size - 3)
    return ByteVocab(tuple(tokens), tuple(kinds), tuple(names), {"bos": 1, "eos": 2})


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def model(request, tmp_path):
    return OutsideRows(load(request.param(tmp_path / "m")), SIZE)


@pytest.fixture
def llama(tmp_path):
    return OutsideRows(load(tied_llama(tmp_path / "m")), SIZE)


def own(model, ends=()):
    return BigVocab.of_model(model, letters(), ends)


def big(model, more=200, ends=()):
    """The model's own tokens and random ones, some longer than any of its own rows."""
    draw = torch.Generator().manual_seed(3)
    spread = 0.2 * torch.linspace(0.3, 2.0, more)[:, None]
    one = own(model)

    def longer(table):
        if table is None:
            return None
        shape = (more, *table.shape[1:])
        return torch.cat([table.detach(), (spread if table.ndim == 2 else 0.2) * torch.randn(shape, generator=draw)])

    vocab = with_new_tokens(one.vocab, [b"new%d" % n for n in range(more)])
    return BigVocab(vocab, longer(one.rows), longer(one.output_rows), longer(one.bias), tuple(ends), SIZE)


def by_reading_all(model, vocab, prompt, steps):
    """Greedy, with the whole prefix read again for each token and all logits computed."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            seq = torch.tensor([ids])
            hidden = model.hidden(seq, torch.ones_like(seq, dtype=torch.bool), vocab.rows)
            ids.append(int(vocab.head(model).logits(hidden[0, -1:]).argmax()))
    return ids[len(prompt) :]


def test_greedy_with_the_own_vocabulary_is_what_transformers_generates(model):
    with torch.no_grad():
        wanted = model.model.generate(
            torch.tensor([PROMPT]), do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
        )
    found = generate(model, own(model), PROMPT, GenerateConfig(max_new_tokens=12))
    assert found.ids == wanted[0, len(PROMPT) :].tolist()
    assert found.finish == "length"
    assert found.data == b"".join(letters().tokens[i] for i in found.ids)


def test_kept_keys_and_values_give_what_reading_all_gives(model):
    vocab = big(model)
    found = generate(model, vocab, [*PROMPT, SIZE + 7, SIZE + 100], GenerateConfig(max_new_tokens=10))
    assert found.ids == by_reading_all(model, vocab, [*PROMPT, SIZE + 7, SIZE + 100], 10)
    assert any(i >= SIZE for i in found.ids)  # new tokens were chosen and their rows went in


def test_states_of_texts_are_what_the_head_is_given(model):
    vocab = big(model)
    found = read_states(model, vocab, [[*PROMPT, SIZE + 3], [], [9, 4]], window=3)
    assert found.shape == (7, DIM)
    torch.testing.assert_close(found[2], prefill(model, vocab, [PROMPT[:3]]).hidden[0])
    torch.testing.assert_close(found[6], prefill(model, vocab, [[9, 4]]).hidden[0])
    with pytest.raises(BadText, match="there is no text to read"):
        read_states(model, vocab, [[]])


@pytest.mark.parametrize("kind", ["screen", "hnsw", "ivf"])
def test_an_index_gives_the_tokens_of_all_logits(model, kind):
    vocab = big(model)
    settings = IndexConfig(kind, wide=128, lists=4, probes=1.0, rank=DIM)
    states = read_states(model, vocab, [PROMPT, [7, 9, 11]])
    exact = generate(model, vocab, PROMPT, GenerateConfig(max_new_tokens=10))
    found = generate(model, vocab.index(settings, states), PROMPT, GenerateConfig(max_new_tokens=10))
    assert found.ids == exact.ids
    assert found.logprobs_nats is None  # of twenty terms no total is known
    assert len(exact.logprobs_nats) == 10


def test_log_probabilities_are_those_of_all_tokens(model):
    vocab = big(model)
    found = generate(model, vocab, PROMPT, GenerateConfig(max_new_tokens=5, temperature=2.0, seed=4))
    ids = torch.tensor([[*PROMPT, *found.ids]])
    with torch.no_grad():
        hidden = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool), vocab.rows)
    wanted = vocab.head(model).logits(hidden[0, 3:-1]).log_softmax(dim=1).gather(1, ids[0, 4:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found.logprobs_nats), wanted, rtol=1e-3, atol=1e-4)


def test_log_probabilities_are_those_of_transformers(model):
    """With its soft cap, logit scale and bias."""
    found = generate(model, own(model), PROMPT, GenerateConfig(max_new_tokens=5))
    ids = torch.tensor([[*PROMPT, *found.ids]])
    with torch.no_grad():
        logprob = model.model(input_ids=ids).logits[0, 3:-1].float().log_softmax(dim=1)
    wanted = logprob.gather(1, ids[0, 4:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found.logprobs_nats), wanted, rtol=1e-3, atol=1e-4)


def test_a_batch_of_unequal_prompts_gives_what_each_alone_gives(model):
    vocab = big(model)
    prompts = [[9], [5, 17, SIZE + 3, 8, 22, 40, 7], PROMPT]
    config = GenerateConfig(max_new_tokens=8)
    together = generate_batch(model, vocab, prompts, config)
    alone = [generate(model, vocab, prompt, config) for prompt in prompts]
    assert [one.ids for one in together] == [one.ids for one in alone]


def test_generation_goes_on_from_a_state(llama):
    vocab = big(llama)
    state = prefill(llama, vocab, [PROMPT])
    assert state.position.tolist() == [4]
    assert state.hidden.shape == (1, DIM)
    (one,) = decode(llama, own(llama), state, GenerateConfig(max_new_tokens=6))
    assert one.ids == generate(llama, own(llama), PROMPT, GenerateConfig(max_new_tokens=6)).ids


def test_the_kept_share_of_the_probability_is_told(llama):
    vocab = own(llama)
    state = prefill(llama, vocab, [PROMPT])
    logits = vocab.head(llama).logits(state.hidden)[0].detach() / 1.5
    probs = logits.softmax(dim=0).sort(descending=True).values
    config = GenerateConfig(max_new_tokens=3, temperature=1.5, top_k=4, min_p=0.0)
    found = decode(llama, vocab, state, config)[0]
    assert len(found.kept) == 3
    assert found.kept[0] == pytest.approx(float(probs[:4].sum()), rel=1e-4)
    few = replace(config, min_p=float(probs[1] / probs[0]) * 0.999)  # leaves two
    assert generate(llama, vocab, PROMPT, few).kept[0] == pytest.approx(float(probs[:2].sum()), rel=1e-4)
    assert generate(llama, vocab, PROMPT, replace(config, temperature=0.0)).kept is None  # nothing was drawn
    indexed = vocab.index("hnsw")
    assert generate(llama, indexed, PROMPT, config).kept is None  # unknown


def test_draws_have_the_right_frequencies(llama):
    vocab = own(llama)
    state = prefill(llama, vocab, [PROMPT] * 400)
    logits = vocab.head(llama).logits(state.hidden)[0].detach()
    best = logits.topk(3)
    config = GenerateConfig(max_new_tokens=1, temperature=0.8, top_k=3, min_p=0.0, seed=1)
    found = [one.ids[0] for one in decode(llama, vocab, state, config)]
    for token, share in zip(best.indices.tolist(), (best.values / 0.8).softmax(dim=0).tolist(), strict=True):
        bound = 4 * math.sqrt(share * (1 - share) / len(found))  # four standard deviations
        assert abs(found.count(token) / len(found) - share) < bound
    assert set(found) <= set(best.indices.tolist())


def test_the_same_seed_draws_the_same_whatever_the_batch(llama):
    vocab = big(llama)
    config = GenerateConfig(max_new_tokens=8, temperature=3.0, min_p=0.0, seed=5)
    first = generate(llama, vocab, PROMPT, config)
    assert generate(llama, vocab, PROMPT, config).ids == first.ids
    assert generate_batch(llama, vocab, [PROMPT, [9, 4]], config)[0].ids == first.ids
    assert generate(llama, vocab, PROMPT, replace(config, seed=6)).ids != first.ids


@pytest.mark.parametrize("penalty", [1.3, 5.0])
def test_the_repetition_penalty_is_that_of_transformers(llama, penalty):
    with torch.no_grad():
        wanted = llama.model.generate(
            torch.tensor([PROMPT]), do_sample=False, max_new_tokens=12, eos_token_id=None, repetition_penalty=penalty
        )
    config = GenerateConfig(max_new_tokens=12, repetition_penalty=penalty, candidates=SIZE)
    assert generate(llama, own(llama), PROMPT, config).ids == wanted[0, len(PROMPT) :].tolist()


def test_an_end_token_ends_the_text_and_a_bias_brings_it_in(llama):
    vocab = own(llama, ends=(2,))
    plain = generate(llama, vocab, PROMPT, GenerateConfig(max_new_tokens=6))
    assert 2 not in plain.ids
    config = GenerateConfig(max_new_tokens=6, eos_bias=1000.0, candidates=1, top_k=1)
    for one in (vocab, vocab.index("hnsw")):
        found = generate(llama, one, PROMPT, config)  # though it is not among the candidates
        assert (found.ids, found.data, found.finish) == ([2], b"", "end")
    third = generate(llama, own(llama, ends=(plain.ids[2],)), PROMPT, GenerateConfig(max_new_tokens=6))
    assert third.ids == plain.ids[: plain.ids.index(plain.ids[2]) + 1]


DISTINCT = GenerateConfig(max_new_tokens=5, repetition_penalty=1000.0, candidates=SIZE)
"""Never the same token twice."""


@pytest.fixture
def script(llama):
    """Gives a vocabulary whose first tokens, drawn by `DISTINCT`, spell some byte strings."""

    def scripted(*spelled):
        vocab = big(llama)
        ids = generate(llama, vocab, PROMPT, DISTINCT).ids
        assert len(set(ids)) == len(ids)
        given = dict(zip(ids, spelled, strict=False))
        tokens = tuple(given.get(i, token) for i, token in enumerate(vocab.vocab.tokens))
        return replace(vocab, vocab=replace(vocab.vocab, tokens=tokens))

    return scripted


def test_a_stop_string_is_found_over_tokens_and_cut_off(llama, script):
    found = generate(llama, script(b"say <", b"/s", b"> and more"), PROMPT, replace(DISTINCT, stop=("</s>",)))
    assert (found.text, found.finish, len(found.ids)) == ("say ", "stop", 3)
    found = generate(llama, script(b"a", b"b"), PROMPT, replace(DISTINCT, stop=("ab",)))
    assert (found.text, found.finish, len(found.ids)) == ("", "stop", 2)


def test_of_two_stop_strings_the_earlier_one_cuts(llama, script):
    found = generate(llama, script(b"one. two; three"), PROMPT, replace(DISTINCT, stop=(";", ". ")))
    assert (found.text, found.finish) == ("one", "stop")


def test_a_stop_string_that_names_a_control_token_is_found_by_id(llama):
    vocab = own(llama)
    ids = generate(llama, vocab, PROMPT, GenerateConfig(max_new_tokens=3)).ids
    kinds = tuple(Kind.CONTROL if i == ids[1] else kind for i, kind in enumerate(vocab.vocab.kinds))
    tokens = tuple(b"" if i == ids[1] else token for i, token in enumerate(vocab.vocab.tokens))
    names = tuple("<|end|>" if i == ids[1] else name for i, name in enumerate(vocab.vocab.names))
    marked = replace(vocab, vocab=replace(vocab.vocab, kinds=kinds, tokens=tokens, names=names))
    found = generate(llama, marked, PROMPT, GenerateConfig(max_new_tokens=9, stop=("<|end|>",)))
    assert found.finish == "stop"
    assert found.ids == ids[: ids.index(ids[1]) + 1]


def test_a_begun_character_is_shown_as_such(llama, script):
    assert generate(llama, script(b"caf\xc3"), PROMPT, replace(DISTINCT, max_new_tokens=1)).text == "caf\ufffd"


def test_a_finished_text_of_a_batch_gets_nothing_more(llama):
    vocab = own(llama)
    alone = generate(llama, vocab, PROMPT, GenerateConfig(max_new_tokens=8)).ids
    ended = replace(vocab, ends=(alone[0],))
    first, second = generate_batch(llama, ended, [PROMPT, [9, 4, 4]], GenerateConfig(max_new_tokens=8))
    assert first.ids == alone[:1]
    assert first.finish == "end"
    assert second.ids == generate(llama, ended, [9, 4, 4], GenerateConfig(max_new_tokens=8)).ids


def test_bfloat16_models_take_float32_rows(tmp_path):
    model = OutsideRows(load(tied_llama(tmp_path / "m")).to(torch.bfloat16), SIZE)
    vocab = big(model)
    wide = replace(vocab, rows=vocab.rows.float())
    config = GenerateConfig(max_new_tokens=8)
    assert generate(model, wide, PROMPT, config).ids == generate(model, vocab, PROMPT, config).ids


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"candidates": 0, "top_k": 0}, "candidates is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_k": 30}, "top_k is 30, expected at most candidates, which is 20"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"stop": ("",)}, "a stop string is empty"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(BadOption, match=says):
        GenerateConfig(**settings)


def test_bad_prompts_and_vocabularies_are_refused(llama, tmp_path):
    vocab = own(llama)
    with pytest.raises(BadText, match="a prompt has no tokens"):
        generate_batch(llama, vocab, [PROMPT, []])
    with pytest.raises(BadText, match="id 60 of prompt 0 is outside the vocabulary of 60"):
        generate(llama, vocab, [5, 60])
    with pytest.raises(BadOption, match="prompt of 4 positions and max_new_tokens 61 are more than the 64"):
        generate(llama, vocab, PROMPT, GenerateConfig(max_new_tokens=61))
    other = replace(vocab, rows=vocab.rows.detach() + 1)
    with pytest.raises(VocabMismatch, match="are not those of the model's own tokens"):
        generate(llama, other, PROMPT)
    small = make(transformers.LlamaForCausalLM, llama_config(tie_word_embeddings=True, vocab_size=30), tmp_path / "s")
    with pytest.raises(VocabMismatch, match="begins with 60 rows of a model"):
        generate(OutsideRows(load(small), 30), vocab, PROMPT)
