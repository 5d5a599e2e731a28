"""Scores of a text against plain forward passes, one prefix or one masked position at a time."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny_models
from tests.tiny_tokenizers import FAMILIES, SENTENCES, byte_level, unigram, wordpiece

from tokenlayer.core.errors import BadCheckpoint, BadOption, BadText
from tokenlayer.core.scores import TokenScores, bits_per_byte
from tokenlayer.core.vocab import Kind
from tokenlayer.models.score import (
    TextScores,
    WindowConfig,
    next_byte_agreement,
    score_text,
    start_token,
    token_ends,
)
from tokenlayer.models.tokenizer_files import LoadedTokenizer

PADDED = 5
"""Rows past the tokenizer in every model here; they are made loud, so that a probability for them would show."""
POSITIONS = 40


def loaded(text, **config):
    return LoadedTokenizer(json.loads(text), config)


@cache
def plain():
    return loaded(byte_level(300))


@cache
def bert_tokens():
    return loaded(wordpiece())


def build(model_class, config, vocab, seed=0):
    """A random model whose padded rows would take nearly all probability."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        head = model.get_output_embeddings()
        head.weight.data[vocab:] *= 30
        if head.bias is not None:
            head.bias.data[vocab:] = 50
    return model.eval()


@cache
def llama():
    size = len(plain().vocab)
    config = tiny_models.llama_config(
        vocab_size=size + PADDED, tie_word_embeddings=False, max_position_embeddings=POSITIONS
    )
    return build(transformers.LlamaForCausalLM, config, size)


@cache
def bert():
    size = len(bert_tokens().vocab)
    config = transformers.BertConfig(
        **tiny_models.bert_sizes(vocab_size=size + PADDED, max_position_embeddings=POSITIONS),
        tie_word_embeddings=False,
    )
    return build(transformers.BertForMaskedLM, config, size)


@cache
def after(prefix):
    """Next-token log-probabilities after a prefix, float64, over the tokens that exist."""
    with torch.inference_mode():
        logits = llama()(input_ids=torch.tensor([prefix])).logits[0, -1, : len(plain().vocab)]
    return torch.log_softmax(logits.double(), dim=-1)


def byte_masses(logprob, vocab):
    """Probability of each next byte, and of "none" (256), summed by a loop."""
    masses = np.zeros(257)
    for token, p in zip(vocab.tokens, logprob.exp().tolist(), strict=True):
        masses[token[0] if token else 256] += p
    return masses


def window_start(p, length, window, stride):
    """Where the window begins that scores position `p`: the first one that reaches past `p`."""
    late = max(0, -(-(p + 1 - window) // stride))
    return max(0, min(window + late * stride, length) - window)


def slow_causal(ids, start_id, window, stride):
    """Log-probability and next-byte masses of each token, a forward pass each."""
    vocab = plain().vocab
    context = ids if start_id is None else [start_id, *ids]
    first = [] if start_id is not None else [(-math.log(len(vocab)), None)]
    found = []
    for p in range(1, len(context)):
        begin = window_start(p, len(context), window, stride)
        logprob = after(tuple(context[begin:p]))
        found.append((float(logprob[context[p]]), byte_masses(logprob, vocab)))
    return first + found


TEXT = SENTENCES["en"][:50] + SENTENCES["ru"][:12] + SENTENCES["code"][:20]


@given(
    st.integers(1, len(TEXT)),
    st.integers(2, POSITIONS),
    st.data(),
    st.integers(1, 5),
    st.sampled_from(["eos", "none"]),
)
@settings(max_examples=25)
def test_each_token_has_the_score_of_its_own_forward_pass(length, window, data, batch, start):
    stride = data.draw(st.integers(1, window - 1))
    start_id = plain().vocab.roles["eos"] if start == "eos" else None
    text, config = TEXT[:length], WindowConfig(window, stride, batch)
    ids = plain().encode(text)
    got = score_text(llama(), plain(), text, start_id=start_id, config=config)
    slow = slow_causal(ids, start_id, window, stride)
    assert got.scores.token_ids.tolist() == ids
    assert len(got.scores.logprob_nats) == len(slow) == len(ids)
    np.testing.assert_allclose(got.scores.logprob_nats, [nats for nats, _ in slow], atol=2e-5, rtol=1e-5)
    for chosen, (_, masses) in zip(got.next_byte.tolist(), slow, strict=True):
        assert chosen == 256 if masses is None else masses[chosen] > masses.max() - 1e-6
    assert got.scores.total_bytes == len(text.encode())
    wanted = -sum(nats for nats, _ in slow) / math.log(2) / len(text.encode())
    assert got.scores.bits_per_byte == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("window", [2, 3, 16, 17, POSITIONS])
def test_every_position_is_new_in_exactly_one_window(window, monkeypatch):
    """The inputs that the model really gets hold each token's context once, whatever the batch."""
    seen = []
    forward = transformers.LlamaForCausalLM.forward

    def spy(self, input_ids, **more):
        seen.extend(input_ids.tolist())
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", spy)
    stride = max(1, window // 2)
    got = score_text(llama(), plain(), TEXT, start_id=0, config=WindowConfig(window, stride, 3))
    windows = seen[2:]  # the first two are the check of the head
    context = [0, *got.scores.token_ids.tolist()]
    assert all(len(row) < window for row in windows)
    lasts = [min(window, len(context))]
    while lasts[-1] < len(context):
        lasts.append(min(lasts[-1] + stride, len(context)))
    assert windows == [context[max(0, end - window) : end - 1] for end in lasts]


def test_a_text_shorter_than_a_window_needs_no_other_window():
    ids = plain().encode(TEXT[:12])
    assert len(ids) + 1 < POSITIONS
    whole = score_text(llama(), plain(), TEXT[:12], start_id=0).scores
    with torch.inference_mode():
        logits = llama()(input_ids=torch.tensor([[0, *ids]])).logits[0, :-1, : len(plain().vocab)].double()
    wanted = torch.log_softmax(logits, dim=-1)[torch.arange(len(ids)), torch.tensor(ids)]
    np.testing.assert_allclose(whole.logprob_nats, wanted, atol=2e-5)
    assert whole.nats == pytest.approx(-float(wanted.sum()), rel=1e-6)


def test_one_token_with_and_without_a_start():
    with_start = score_text(llama(), plain(), "a", start_id=0)
    assert with_start.scores.logprob_nats.tolist() == pytest.approx([float(after((0,))[plain().encode("a")[0]])], 1e-5)
    alone = score_text(llama(), plain(), "a", start_id=None)
    size = len(plain().vocab)
    assert alone.scores.logprob_nats.tolist() == pytest.approx([-math.log(size)])
    assert alone.scores.bits_per_byte == pytest.approx(math.log2(size))
    assert alone.next_byte.tolist() == [256]


@pytest.mark.parametrize("window, stride", [(POSITIONS + 1, POSITIONS), (512, 256), (10_000, 3)])
def test_a_window_is_cut_down_to_the_positions_of_the_model(window, stride):
    ids = plain().encode(TEXT)
    assert len(ids) > POSITIONS
    got = score_text(llama(), plain(), TEXT, start_id=0, config=WindowConfig(window, stride)).scores
    slow = slow_causal(ids, 0, POSITIONS, min(stride, POSITIONS // 2))
    np.testing.assert_allclose(got.logprob_nats, [nats for nats, _ in slow], atol=2e-5, rtol=1e-5)


def test_more_context_changes_scores_only_where_a_window_gives_it():
    """Guards the oracle above: another window does give other numbers."""
    small = score_text(llama(), plain(), TEXT, start_id=0, config=WindowConfig(8, 4)).scores.logprob_nats
    large = score_text(llama(), plain(), TEXT, start_id=0, config=WindowConfig(32, 4)).scores.logprob_nats
    np.testing.assert_allclose(small[:7], large[:7], atol=1e-5)
    assert np.abs(small[7:] - large[7:]).max() > 1e-2


def test_special_strings_are_text_and_special_tokens_are_never_scored():
    text = "a<|endoftext|>b"
    got = score_text(llama(), plain(), text, start_id=0).scores
    kinds = {plain().vocab.kinds[i] for i in got.token_ids.tolist()}
    assert kinds == {Kind.NORMAL}
    assert b"".join(plain().vocab.tokens[i] for i in got.token_ids) == text.encode()
    assert got.total_bytes == len(text)


def test_tokens_that_the_post_processor_adds_are_no_part_of_the_score():
    got = score_text(bert(), bert_tokens(), "all human beings", start_id=None, masked=True).scores
    whole = bert_tokens().backend.encode("all human beings").ids
    assert got.token_ids.tolist() == whole[1:-1]


def test_progress_ends_with_the_number_of_tokens():
    told = []
    got = score_text(llama(), plain(), TEXT, start_id=0, config=WindowConfig(9, 4, 2), progress=told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(got.scores.token_ids)
    masked = []
    got = score_text(bert(), bert_tokens(), TEXT, start_id=None, masked=True, progress=masked.append)
    assert masked[-1] == len(got.scores.token_ids)
    assert 0 < got.tokens_per_second == len(got.scores.token_ids) / got.seconds


def slow_masked(model, front, ids, back, mask, room, every):
    """One position at a time: it and the others of its phase are masked, in a row of its own."""
    found = []
    for begin in range(0, len(ids), room):
        part = ids[begin : begin + room]
        step = min(every, len(part))
        for i, truth in enumerate(part):
            hidden = [mask if (j - i) % step == 0 else token for j, token in enumerate(part)]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*front, *hidden, *back]])).logits[0, len(front) + i]
            logprob = torch.log_softmax(logits[: model.config.vocab_size - PADDED].double(), dim=-1)
            found.append(float(logprob[truth]))
    return found


@given(st.integers(1, 40), st.integers(3, POSITIONS), st.integers(2, 9), st.integers(1, 4))
@settings(max_examples=25)
def test_masked_scores_equal_one_row_per_position(length, window, every, batch):
    roles = bert_tokens().vocab.roles
    text = SENTENCES["en"][:length]
    ids = bert_tokens().encode(text)
    config = WindowConfig(window, 1, batch, every)
    got = score_text(bert(), bert_tokens(), text, start_id=None, masked=True, config=config).scores
    slow = slow_masked(bert(), [roles["cls"]], ids, [roles["sep"]], roles["mask"], window - 2, every)
    np.testing.assert_allclose(got.logprob_nats, slow, atol=2e-5, rtol=1e-5)
    assert got.bits_per_byte == pytest.approx(-sum(slow) / math.log(2) / len(text.encode()), rel=1e-5)


def test_a_short_masked_text_is_the_plain_pseudo_likelihood():
    """With as many passes as tokens, exactly one position is masked at a time."""
    roles, text = bert_tokens().vocab.roles, "all human"
    ids = bert_tokens().encode(text)
    config = WindowConfig(mask_every=len(ids) + 3)
    got = score_text(bert(), bert_tokens(), text, start_id=None, masked=True, config=config).scores
    for i, truth in enumerate(ids):
        row = [roles["cls"], *ids, roles["sep"]]
        row[i + 1] = roles["mask"]
        with torch.inference_mode():
            logits = bert()(input_ids=torch.tensor([row])).logits[0, i + 1, : len(bert_tokens().vocab)]
        assert got.logprob_nats[i] == pytest.approx(float(logits.double().log_softmax(0)[truth]), abs=2e-5)


@pytest.mark.parametrize("pad", [1, 3])
def test_positions_of_roberta_start_after_its_pad_id(pad):
    tokenizer = loaded(unigram()).with_exchanged(3, pad) if pad != 3 else loaded(unigram())
    size, roles = len(tokenizer.vocab), tokenizer.vocab.roles
    assert roles["pad"] == pad
    sizes = tiny_models.bert_sizes(vocab_size=size + PADDED, max_position_embeddings=POSITIONS)
    config = transformers.XLMRobertaConfig(**sizes | {"pad_token_id": pad}, tie_word_embeddings=False)
    model = build(transformers.XLMRobertaForMaskedLM, config, size)
    text = SENTENCES["en"][:70]
    ids = tokenizer.encode(text)
    room = POSITIONS - (pad + 1) - 2
    assert len(ids) > room
    got = score_text(model, tokenizer, text, start_id=None, masked=True).scores
    slow = slow_masked(model, [roles["bos"]], ids, [roles["eos"]], roles["mask"], room, 8)
    np.testing.assert_allclose(got.logprob_nats, slow, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["byte-level", "split-byte-level", "sentencepiece-bpe", "unigram"])
@pytest.mark.parametrize("language", ["en", "de", "ja", "emoji", "spaces", "marks"])
def test_ends_are_the_running_sum_of_the_bytes(family, language):
    tokenizer, text = cached_family(family), SENTENCES[language].strip() + " x"
    ids = tokenizer.encode(text)
    ends = token_ends(tokenizer, text, ids).tolist()
    data, before = text.encode(), 0
    for i, end in zip(ids, ends, strict=True):
        assert tokenizer.vocab.tokens[i] in (data[before:end], b" " + data[before:end])
        before = end
    assert before == len(data)


@cache
def cached_family(family):
    return loaded(FAMILIES[family]())


@pytest.mark.parametrize("language", ["en", "de", "fr", "tr", "vi", "zh"])
def test_ends_follow_the_text_where_a_normaliser_changed_it(language):
    """Up to its end, the text says what the tokens up to there say."""
    tokenizer, text = bert_tokens(), SENTENCES[language] + "  "
    ids = tokenizer.encode(text)
    ends = token_ends(tokenizer, text, ids).tolist()
    assert ends == sorted(ends)
    said = ""
    unknown = tokenizer.vocab.roles["unk"]
    for i, end in zip(ids, ends, strict=True):
        said += tokenizer.vocab.tokens[i].decode().strip()
        if unknown not in ids:
            assert "".join(tokenizer.normalised(text.encode()[:end].decode()).split()) == said
    assert ends[-1] == len(text.rstrip().encode())


def test_unknown_characters_still_count_in_the_denominator():
    tokenizer = loaded(unigram(byte_fallback=False))
    text = "human 龘 beings"
    ids = tokenizer.encode(text)
    assert tokenizer.vocab.roles["unk"] in ids
    ends = token_ends(tokenizer, text, ids)
    assert ends[-1] == len(text.encode()) == len(text) + 2
    assert ends[ids.index(tokenizer.vocab.roles["unk"])] in (len("human 龘".encode()), len("human 龘 ".encode()))


@st.composite
def two_cuts(draw):
    size = draw(st.integers(1, 10))
    sides = []
    for _ in range(2):
        inner = draw(st.sets(st.integers(1, size), max_size=size))
        ends = sorted({*inner, size})
        sides.append((ends, draw(st.lists(st.integers(0, 3), min_size=len(ends), max_size=len(ends)))))
    return size, sides


@given(two_cuts())
def test_agreement_is_counted_at_each_shared_boundary(case):
    size, sides = case
    one, other = (
        TextScores(
            TokenScores(np.zeros(len(ends), np.int64), np.zeros(len(ends), np.float32), np.array(ends), size),
            np.array(byte),
            1.0,
        )
        for ends, byte in sides
    )
    same = shared = 0
    for at in range(size):
        says = [byte[([0, *ends]).index(at)] for ends, byte in sides if at in [0, *ends][:-1]]
        if len(says) == 2:
            shared += 1
            same += says[0] == says[1]
    assert next_byte_agreement(one, other) == (same, shared)


def test_start_is_bos_then_cls_then_eos():
    text = byte_level(300, ("<s>", "[CLS]", "</s>"))
    assert start_token(loaded(text)) == 0
    data = json.loads(text)
    for roles, wanted in (({"cls": 1, "eos": 2}, 1), ({"eos": 2, "pad": 0}, 2), ({"pad": 0}, None)):
        assert start_token(LoadedTokenizer(data, roles=roles)) == wanted


def test_bits_per_byte_is_nats_over_ln2_over_bytes():
    assert bits_per_byte(8 * math.log(2), 4) == 2
    with pytest.raises(ValueError, match="no bits per byte"):
        bits_per_byte(1.0, 0)


def test_nats_are_summed_in_float64():
    values = np.full(100_001, -0.1, np.float32)
    scores = TokenScores(np.zeros(0, np.int64), values, np.zeros(0, np.int64), 1)
    assert scores.nats == pytest.approx(-math.fsum(values.tolist()), rel=1e-12)


def test_refusals():
    with pytest.raises(BadText, match="an empty text cannot be scored"):
        score_text(llama(), plain(), "", start_id=0)
    with pytest.raises(BadText, match="an empty text cannot be scored"):
        score_text(bert(), bert_tokens(), "  ", start_id=None, masked=True)
    for window, stride in ((4, 4), (4, 0), (4, 5)):
        with pytest.raises(BadOption, match=f"stride is {stride} and window is {window}; expected 0 < stride < window"):
            WindowConfig(window, stride)
    with pytest.raises(BadOption, match=r"mask_every is 1 \(at least 2\), batch is 0 \(at least 1\)"):
        WindowConfig(mask_every=1, batch=0)
    with pytest.raises(BadOption, match="has no mask token"):
        score_text(llama(), plain(), "a", start_id=None, masked=True)
    with pytest.raises(BadCheckpoint, match="BertModel has no output head"):
        score_text(transformers.BertModel(bert().config), bert_tokens(), "a", start_id=None, masked=True)


def test_a_masked_window_must_have_room_for_a_token_between_its_marks():
    with pytest.raises(BadOption, match="window"):
        score_text(bert(), bert_tokens(), "a", start_id=None, masked=True, config=WindowConfig(2, 1))
