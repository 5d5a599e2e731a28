"""An encoder that learns from itself: both cuts, sentence vectors and stretches, on tiny models."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import SENTENCES

from tokenlayer.core.errors import BadCheckpoint, BadOption
from tokenlayer.models.loading import opened_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.train.batches import Sample
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.encoder import SentenceReader, Sentences, pooled, pooling_of, span_means
from tokenlayer.transfer.zett.network import Predicted
from tokenlayer.transfer.zett.reading import StepRows
from tokenlayer.transfer.zett.sampler import SamplerConfig
from tokenlayer.transfer.zett.train import HypernetRun, make_objective

CONFIG = ZettConfig(
    identity_steps=2,
    warmup_steps=1,
    steps=5,
    batch=4,
    block=14,
    identity_tokens=30,
    sampler=SamplerConfig(vocab_size=420, queue_texts=8, stride=1, noise_median=1e-4),
)


@pytest.fixture
def folder(tmp_path):
    return model_with_tokenizer("bert_encoder", tmp_path / "encoder")


@pytest.fixture
def objective(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES[lang] for lang in ("en", "fr", "tr")) * 30)
    with opened_model(folder, tmp_path) as source:
        return make_objective(source, HypernetRun((f"en:{text}",), CONFIG), lambda sentence: None)


def own_rows(tokenizer):
    """The tokenizer's own tokens as if they had been sampled."""
    vocab = tokenizer.vocab
    return StepRows(vocab.tokens, torch.tensor(vocab.text_ids()), {i: i for i in vocab.control_ids()})


def own_samples(reader, tokenizer, texts):
    rows = [tokenizer.encode(text) for text in texts]
    return [Sample(n, [*reader.front, *ids, *reader.back]) for n, ids in enumerate(rows)]


TEXTS = [" all human beings are born", " free and equal in dignity and rights , are all", " equal"]


@pytest.mark.parametrize("name", ["bert_encoder", "roberta_mlm"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_with_its_own_tokens_and_rows_it_says_the_same(name, pooling, tmp_path):
    folder = model_with_tokenizer(name, tmp_path / name)
    model, tokenizer = load(folder), load_tokenizer(folder)
    reader = SentenceReader(model.base_model, tokenizer, pooling=pooling)
    found = reader.read(own_samples(reader, tokenizer, TEXTS), own_rows(tokenizer))
    assert found.count == sum(len(tokenizer.encode(text)) for text in TEXTS)  # each token is a stretch
    rows = reader.table.detach()[torch.randperm(len(reader.table), generator=torch.Generator().manual_seed(0))]
    for given, same in ((reader.table, True), (rows, False)):
        states = reader.states(found.ids, found.real, given)
        wanted = reader.states(found.their_ids, found.their_real)
        assert torch.allclose(states[found.real], wanted[found.real], atol=1e-5) == same
    vectors = pooled(reader.states(found.ids, found.real), found.real, pooling)
    for n, text in enumerate(TEXTS):  # padding takes no part
        ids = torch.tensor([[*reader.front, *tokenizer.encode(text), *reader.back]])
        alone = model.base_model(input_ids=ids).last_hidden_state
        wanted = {"mean": alone.mean(1), "cls": alone[:, 0], "max": alone.amax(1)}[pooling]
        assert torch.allclose(vectors[n], wanted[0], atol=1e-5)


def with_rows(objective, step=0):
    """A batch, and what its rows stand for."""
    seen, own = [], objective.reader.read
    objective.reader.read = lambda samples, rows: (seen.append(rows), own(samples, rows))[1]
    return objective.main_batch(step), seen[0]


def text_of(rows, ids):
    return b"".join(rows.tokens[row] for row in ids).decode("utf-8", "ignore")


def test_the_loss_is_one_minus_the_cosine_with_the_model_s_own_vectors(objective, folder):
    batch, rows = with_rows(objective)
    losses = objective.main_loss(batch)
    table = objective.whole(objective.network(batch.pieces, objective.source.table, None), batch).rows.detach()
    model, tokenizer = load(folder), objective.tokenizer
    total = 0.0
    for n, real in enumerate(batch.texts.real):
        ids = batch.texts.ids[n][real]
        mine = model(inputs_embeds=table[ids][None]).last_hidden_state[0].mean(0)
        text = text_of(rows, ids[1:-1].tolist())  # both read the same bytes, also where the block cut them
        own = [tokenizer.vocab.roles["cls"], *tokenizer.encode(text), tokenizer.vocab.roles["sep"]]
        theirs = model(input_ids=torch.tensor([own])).last_hidden_state[0].mean(0)
        total += 1 - float(torch.cosine_similarity(mine, theirs, dim=0).detach())
    assert float(losses["main"].total.detach()) == pytest.approx(total, abs=1e-4)
    assert losses["main"].terms == len(batch.texts.ids) == 4
    assert batch.texts.ids.shape[1] == CONFIG.block
    assert {name: part.terms for name, part in losses.items()} == objective.counts(objective.phases[1], batch)
    assert losses["spans"].weight == 1.0


def test_stretches_are_the_same_text_in_both_cuts(objective):
    batch, rows = with_rows(objective)
    texts, vocab = batch.texts, objective.vocab
    normalised = objective.tokenizer.normalised
    compared = 0
    for n in range(len(texts.ids)):
        for number in sorted(set(texts.spans[n].tolist()) - {-1}):
            mine = text_of(rows, texts.ids[n][texts.spans[n] == number].tolist())
            theirs = b"".join(vocab.tokens[i] for i in texts.their_ids[n][texts.their_spans[n] == number].tolist())
            assert normalised(mine).split() == theirs.decode().split()
            compared += 1
    assert compared == texts.count > 20
    for ids, real, spans in (
        (texts.ids, texts.real, texts.spans),
        (texts.their_ids, texts.their_real, texts.their_spans),
    ):
        assert (spans[~real] == -1).all()
        assert (spans[:, 0] == -1).all()  # [CLS]
        ends = real.sum(1) - 1
        assert (spans[torch.arange(len(ids)), ends] == -1).all()  # [SEP]


def test_the_loss_of_stretches_by_hand(objective):
    batch = objective.main_batch(0)
    texts, reader = batch.texts, objective.reader
    table = objective.whole(objective.network(batch.pieces, objective.source.table, None), batch)
    mine = reader.states(texts.ids, texts.real, table.rows).detach()
    theirs = reader.states(texts.their_ids, texts.their_real)
    total = 0.0
    for number in range(texts.count):
        one, other = mine[texts.spans == number].mean(0), theirs[texts.their_spans == number].mean(0)
        total += 1 - float(torch.cosine_similarity(one, other, dim=0))
    losses = reader.losses(table, texts, batch.correction)
    assert float(losses["spans"].total.detach()) == pytest.approx(total, abs=1e-3)
    reader.span_weight = 0.0
    assert set(reader.losses(table, texts, batch.correction)) == set(reader.terms(texts)) == {"main"}


def test_capitals_and_accents_are_spelled_as_the_model_reads_them(objective):
    spelled = objective.decomposer.spell([b" All", " \u00c9GAUX".encode(), b" all", b" egaux"])
    assert spelled[:2] == spelled[2:]
    size = len(objective.vocab)
    batch, rows = with_rows(objective)
    letters = [n for n, row in enumerate(batch.text_rows.tolist()) if rows.tokens[row].strip().isalpha()]
    values, starts = batch.pieces.values.tolist(), batch.pieces.starts.tolist()
    assert len(letters) > 10
    assert all(i < size for n in letters for i in values[starts[n] : starts[n + 1]])  # no byte without a token


def test_marks_keep_their_rows_and_only_rows_of_the_texts_are_predicted(objective):
    batch, rows = with_rows(objective)
    found = objective.network(batch.pieces, objective.source.table, None)
    table = objective.whole(found, batch).rows
    cls, sep = (objective.vocab.roles[role] for role in ("cls", "sep"))
    assert (objective.front, objective.back) == ([cls], [sep])
    assert torch.equal(table[batch.texts.ids[:, 0]], objective.source.table[cls].expand(4, -1))
    assert set(batch.text_rows.tolist()) == set(objective.reader.asked(batch.texts).tolist())
    assert batch.asked == int(batch.texts.real.sum()) - 2 * 4
    assert batch.source_bytes == sum(len(rows.tokens[row]) for row in objective.reader.asked(batch.texts).tolist())


def test_only_the_network_learns(objective):
    losses = objective.main_loss(objective.main_batch(0))
    (losses["main"].total + losses["spans"].total).backward()
    assert all(p.grad is None for p in objective.reader.model.parameters())
    moved = {name for name, p in objective.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"head.weight", "project.weight", "layers.0.query.weight"} <= moved
    assert objective.flops(objective.main_batch(1)) > objective.flops(objective.identity_batch(0)) > 0


def test_a_stretch_is_the_mean_of_its_positions():
    states = torch.arange(12.0).view(2, 3, 2)
    found = span_means(states, torch.tensor([[-1, 0, 0], [1, 1, 2]]), 3)
    assert found.tolist() == [[3.0, 4.0], [7.0, 8.0], [10.0, 11.0]]


def test_texts_without_a_shared_boundary_have_no_stretch(folder):
    tokenizer = load_tokenizer(folder)
    reader = SentenceReader(load(folder), tokenizer)
    rows = replace(own_rows(tokenizer), tokens=[*tokenizer.vocab.tokens, b" \n", b" \xe2\x82"])
    size = len(tokenizer.vocab)
    found = reader.read([Sample(0, [*reader.front, size, size + 1, *reader.back])], rows)
    assert isinstance(found, Sentences)
    assert found.count == 0
    assert found.their_ids.tolist() == [[*reader.front, *reader.back]]  # white space, and a part of a character
    table = Predicted(torch.cat([reader.table[:size], reader.table[:2]]), None, None)
    losses = reader.losses(table, found, torch.zeros(0))
    assert losses["spans"].terms == 0
    assert np.isfinite(float(losses["main"].total))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (None, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}, "max"),
        ({"word_embedding_dimension": 8, "pooling_mode": "mean"}, "mean"),
    ],
)
def test_the_folder_says_how_it_pools(config, wanted, tmp_path):
    if config is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert pooling_of(tmp_path) == wanted


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "asks for pooling_mode_mean_sqrt_len_tokens, expected one of"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token and pooling_mode_mean_tokens"),
        ({"pooling_mode_cls_token": False}, "asks for no pooling"),
    ],
)
def test_other_poolings_are_refused(config, said, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match=said):
        pooling_of(tmp_path)


def test_a_pooling_by_another_name_is_refused(folder):
    with pytest.raises(BadOption, match="pooling is 'men', expected one of: mean, cls, max"):
        SentenceReader(load(folder), load_tokenizer(folder), pooling="men")
