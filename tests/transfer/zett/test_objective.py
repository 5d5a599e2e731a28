"""What a hypernetwork is trained for, on tiny models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import SENTENCES

from tokenlayer.core.errors import BadOption
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.train.objective import Shard
from tokenlayer.transfer.zett.config import ZettConfig
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig, Predicted
from tokenlayer.transfer.zett.objective import SourceRows, ZettObjective, phases, place
from tokenlayer.transfer.zett.predict import source_table
from tokenlayer.transfer.zett.sampler import SampledVocab, SamplerConfig
from tokenlayer.transfer.zett.texts import TrainingTexts

SAMPLER = SamplerConfig(vocab_size=420, queue_texts=8, stride=1, noise_median=1e-4)
CONFIG = ZettConfig(
    identity_steps=2, warmup_steps=1, steps=5, batch=4, block=12, identity_tokens=30, sampler=SAMPLER, mask_rate=0.3
)


def objective(tmp_path, name="tied_llama", config=CONFIG, seed=0, languages=(), **network):
    folder = tmp_path / name
    if not folder.exists():
        model_with_tokenizer(name, folder)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES[lang] for lang in ("en", "de", "ru")) * 30)
    checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
    rows = checkpoint.rows
    table = source_table(checkpoint.read(rows.input), checkpoint.read(rows.output) if rows.output else None)
    table = table[: len(tokenizer.vocab)]
    bias = checkpoint.read(rows.biases[0]).float() if rows.biases else None
    shape = HypernetConfig(rows.dim, tied=not rows.output, vocab_size=len(table), hidden=8, inner=12, layers=1, heads=2)
    extra = Decomposer(tokenizer.vocab, 7).extra
    made = Hypernet(replace(shape, bias=bias is not None, extra=extra, languages=languages, **network), seed=1)
    texts = TrainingTexts(
        [f"en:{text}"], batch_texts=config.batch, text_chars=160, sampler=config.sampler, seed=seed, warn=lambda s: None
    )
    source = SourceRows(table, bias, not rows.output)
    masked = name.endswith("mlm")
    return ZettObjective(made, load(folder), tokenizer, source, texts, config=config, masked=masked, seed=seed)


def test_the_rate_of_each_stage_begins_anew():
    config = ZettConfig()
    identity, main = phases(config)
    rates = [identity.schedule.rate(step, identity.steps) for step in (0, 4_999, 9_999)]
    assert rates == pytest.approx([3e-8, 1.5e-4, 3e-4])
    steps = (0, 4_999, 9_999, 10_000, 100_000, main.steps - 1)
    wanted = (6e-9, 3e-5, 6e-5, 6e-5, 0.55 * 6e-5, 6e-6)
    assert [main.schedule.rate(step, main.steps) for step in steps] == pytest.approx(wanted, rel=1e-3)
    assert (identity.steps, main.steps) == (10_000, 190_000)
    assert [one.name for one in phases(replace(config, identity_steps=0))] == ["main"]


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama", "gpt2"])
def test_the_main_loss_is_that_of_the_model_with_those_rows(name, tmp_path):
    made = objective(tmp_path, name)
    batch = made.main_batch(0)
    losses = made.main_loss(batch)
    with torch.no_grad():
        table = made.whole(made.network(batch.pieces, made.source.table, None), batch)
        model = load(tmp_path / name)
        model.get_input_embeddings().weight.data = table.rows
        model.get_output_embeddings().weight.data = table.head_rows
        logits = model(input_ids=batch.texts.targets, attention_mask=batch.texts.real.long()).logits.float()
    nats, count = 0.0, 0
    for row in range(len(batch.texts.targets)):
        for at in range(1, int(batch.texts.real[row].sum())):
            nats -= float(torch.log_softmax(logits[row, at - 1], -1)[batch.texts.targets[row, at]])
            count += 1
    assert float(losses["main"].total.detach()) == pytest.approx(nats, rel=1e-4)
    assert losses["main"].terms == count == made.counts(made.phases[1], batch)["main"]
    assert losses["aux"].weight == 0.5


@pytest.mark.parametrize("name", ["bert_mlm", "roberta_mlm"])
def test_masked_models_guess_masked_tokens(name, tmp_path):
    made = objective(tmp_path, name, replace(CONFIG, batch=16, sampler=replace(SAMPLER, queue_texts=16)))
    batch = made.main_batch(0)
    vocab = made.vocab
    special_of = dict(zip(made.specials, batch.special_rows.tolist(), strict=True))
    marks = [special_of[i] for i in (*made.front, *made.back)]
    assert not batch.texts.chosen[torch.isin(batch.texts.targets, torch.tensor(marks))].any()
    assert not batch.texts.chosen[~batch.texts.real].any()
    assert torch.equal(batch.texts.ids[~batch.texts.chosen], batch.texts.targets[~batch.texts.chosen])
    masked = batch.texts.ids == special_of[vocab.roles["mask"]]
    inner = int(batch.texts.real.sum()) - len(batch.texts.targets) * len(marks)
    asked = int(batch.texts.chosen.sum())
    assert abs(asked - 0.3 * inner) < 4 * np.sqrt(inner * 0.3 * 0.7)
    assert abs(int(masked.sum()) - 0.8 * asked) < 4 * np.sqrt(asked * 0.8 * 0.2)
    other = batch.texts.chosen & ~masked & (batch.texts.ids != batch.texts.targets)
    assert torch.isin(batch.texts.ids[other], batch.text_rows).all()
    losses = made.main_loss(batch)
    assert losses["main"].terms == asked
    with torch.no_grad():
        table = made.whole(made.network(batch.pieces, made.source.table, None), batch)
        model = load(tmp_path / name)
        model.get_input_embeddings().weight.data = table.rows
        head = model.get_output_embeddings()
        head.weight.data, head.bias.data = table.rows, table.bias
        if name == "bert_mlm":
            logits = model(input_ids=batch.texts.ids, attention_mask=batch.texts.real.long()).logits.float()
            wanted = torch.log_softmax(logits, -1).gather(2, batch.texts.targets[..., None])[..., 0][batch.texts.chosen]
            assert float(losses["main"].total.detach()) == pytest.approx(-float(wanted.sum()), rel=1e-4)


def test_a_model_that_knows_control_tokens_by_number_finds_them_there():
    text, special = place(6, [0, 1, 9, 900])
    assert special.tolist() == [0, 1, 9, 8]  # 10 rows: 900 has no place of its own
    assert sorted([*text.tolist(), *special.tolist()]) == list(range(10))
    assert text.tolist() == [2, 3, 4, 5, 6, 7]


def test_control_rows_are_the_source_s_and_all_others_predicted(tmp_path):
    made = objective(tmp_path, "untied_llama")
    batch = made.main_batch(0)
    found = made.network(batch.pieces, made.source.table, None)
    table = made.whole(found, batch)
    own = made.source.of(torch.tensor(made.specials))
    assert torch.equal(table.rows[batch.special_rows], own.rows)
    assert torch.equal(table.output_rows[batch.special_rows], own.output_rows)
    assert torch.equal(table.rows[batch.text_rows], found.rows)
    assert torch.equal(table.output_rows[batch.text_rows], found.output_rows)
    shared = [at for at in range(len(batch.pieces)) if at in batch.single[0].tolist()]
    assert shared  # tokens of one piece are there, and they are predicted too
    assert not torch.allclose(
        table.rows[batch.text_rows[shared[0]]], made.source.table[batch.single[1][0], : made.source.dim]
    )


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama"])
def test_the_auxiliary_loss_by_hand(name, tmp_path):
    made = objective(tmp_path, name)
    batch = made.main_batch(0)
    draw = torch.Generator().manual_seed(0)
    size, dim = (len(batch.pieces), made.source.dim)
    rows = torch.randn(size, dim, generator=draw)
    output = None if made.source.tied else torch.randn(size, dim, generator=draw)
    found = made.aux_loss(Predicted(rows, output, None), batch)
    which, ids = (x.tolist() for x in batch.single)
    values, starts = batch.pieces.values.tolist(), batch.pieces.starts.tolist()
    alone = [n for n in range(size) if starts[n + 1] - starts[n] == 1]
    assert which == alone
    assert ids == [values[starts[n]] for n in alone]
    table = made.source.table

    def side(predicted, real):
        error = sum(float(((predicted[n] - real[i]) ** 2).sum()) for n, i in zip(which, ids, strict=True))
        return error / np.mean([float(real[i].norm()) for i in ids])

    wanted = side(rows, table[:, :dim])
    if output is not None:
        wanted = (wanted + side(output, table[:, dim:])) / 2
    assert float(found.total) == pytest.approx(wanted, rel=1e-4)
    assert found.terms == len(which)


def test_the_identity_loss_by_hand(tmp_path):
    made = objective(tmp_path, "untied_llama")
    batch = made.identity_batch(0)
    assert batch.pieces.lengths.tolist() == [1] * 30
    assert torch.equal(batch.pieces.values, batch.tokens)
    assert len(set(batch.tokens.tolist())) == 30
    assert not set(batch.tokens.tolist()) & set(made.specials)
    found = made.network(batch.pieces, made.source.table, None)
    wanted = made.source.of(batch.tokens)
    both = (found.rows - wanted.rows).square().sum() + (found.output_rows - wanted.output_rows).square().sum()
    loss = made.identity_loss(batch)["identity"]
    assert float(loss.total.detach()) == pytest.approx(float(both.detach()) / 2, rel=1e-5)
    assert loss.terms == 30


def test_split_tokens_are_two_spelled_halves(tmp_path):
    made = objective(tmp_path, config=replace(CONFIG, identity="split", identity_tokens=200))
    batch = made.identity_batch(0)
    vocab = made.vocab
    starts, values = batch.pieces.starts.tolist(), batch.pieces.values.tolist()
    alone = 0
    for n, token in enumerate(batch.tokens.tolist()):
        ids = values[starts[n] : starts[n + 1]]
        assert b"".join(vocab.tokens[i] for i in ids) == vocab.tokens[token]
        alone += ids == [token]
    long = sum(len(vocab.tokens[i]) > 1 for i in batch.tokens.tolist())
    count = len(batch.tokens)
    wanted = count - 0.75 * long
    assert abs(alone - wanted) < 4 * np.sqrt(long * 0.75 * 0.25) + 1


def test_some_rows_stand_for_the_rest(tmp_path):
    few = replace(CONFIG, rows_per_step=150)
    whole, part = objective(tmp_path).main_batch(0), objective(tmp_path, config=few).main_batch(0)
    assert len(part.pieces) == 150
    assert len(whole.pieces) == 420
    assert part.source_bytes == whole.source_bytes
    seen = len(set(part.texts.targets[part.texts.real].tolist()) - set(part.special_rows.tolist()))
    raised = part.correction[part.text_rows]
    assert int((raised == 0).sum()) == seen
    assert raised[raised != 0].numpy() == pytest.approx(np.log((420 - seen) / (150 - seen)))
    assert not part.correction[part.special_rows].any()
    # the sum over the vocabulary is right on average
    made = objective(tmp_path, config=few)
    sums = []
    for seed in range(40):
        made.seed = seed
        chosen, correction = made._choose(_sampled(), [[1, 2], [2, 5]], np.random.default_rng(seed))
        sums.append(float((torch.from_numpy(LOGITS[chosen]) + correction).exp().sum()))
    spread = np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(np.exp(LOGITS).sum(), abs=4 * spread)


LOGITS = np.random.default_rng(0).normal(size=1000)


def _sampled():
    return SampledVocab(tuple(bytes([n % 256, n // 256]) for n in range(1000)), np.zeros(1000), 0.0, 1000)


def test_processes_share_the_texts_of_a_step(tmp_path):
    alone = objective(tmp_path).main_batch(0)
    parts = [objective(tmp_path).main_batch(0, Shard(rank, 2)) for rank in (0, 1)]
    assert sorted(len(part.texts.ids) for part in parts) == [2, 2]
    assert sum(int(part.texts.chosen.sum()) for part in parts) == int(alone.texts.chosen.sum())
    assert all(torch.equal(part.pieces.values, alone.pieces.values) for part in parts)
    first = objective(tmp_path).identity_batch(0).tokens.tolist()
    halves = [objective(tmp_path).identity_batch(0, Shard(rank, 2)).tokens.tolist() for rank in (0, 1)]
    assert sorted(first) == sorted(halves[0] + halves[1])


def test_a_new_tokenizer_in_every_step(tmp_path):
    made = objective(tmp_path)
    sizes = {tuple(made.main_batch(step).pieces.values.tolist()) for step in range(3)}
    assert len(sizes) == 3
    assert made.flops(made.main_batch(3)) > made.flops(made.identity_batch(0)) > 0


def test_too_few_substrings_are_told_once(tmp_path):
    large = replace(CONFIG, sampler=replace(SAMPLER, vocab_size=30_000))
    made, said = objective(tmp_path, config=large), []
    made.warn = said.append
    sizes = [len(made.main_batch(step).pieces) for step in range(3)]
    assert said == [f"en: the texts gave {sizes[0]} tokens at step 0, where a sampled vocabulary has 30000"]


def test_languages_reach_the_network(tmp_path):
    made = objective(tmp_path, languages=("de", "en"))
    batch = made.main_batch(0)
    assert batch.language == 1
    made.main_loss(batch)["main"].total.backward()
    assert made.network.language.weight.grad[1].abs().sum() > 0
    assert made.network.language.weight.grad[0].abs().sum() == 0


def test_the_model_is_only_read(tmp_path):
    made = objective(tmp_path)
    losses = made.main_loss(made.main_batch(0))
    (losses["main"].total / losses["main"].terms).backward()
    assert all(p.grad is None for p in made.reader.model.parameters())
    moved = {name for name, p in made.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"head.weight", "project.weight", "position.weight", "layers.0.query.weight"} <= moved


def test_a_masked_model_without_a_mask_token_is_refused(tmp_path):
    made = objective(tmp_path, "tied_llama")
    with pytest.raises(BadOption, match="has no mask token"):
        ZettObjective(
            made.network,
            load(tmp_path / "tied_llama"),
            made.tokenizer,
            made.source,
            made.texts,
            config=CONFIG,
            masked=True,
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": "none"}, "identity is 'none'"),
        ({"steps": 2}, "together more than steps, which is 2"),
        ({"batch": 0}, "batch is 0"),
        ({"block": 4}, "block is 4"),
        ({"mask_rate": 1.0}, "mask_rate is 1"),
        ({"aux_weight": -1.0}, "aux_weight and clip"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(BadOption, match=said):
        replace(CONFIG, **changes)
