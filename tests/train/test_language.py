"""Objectives over language models: losses against the models' own, masks and spans by sample, against brute force."""

import itertools

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_models import DIM, SPECIAL_IDS, VOCAB, bert_sizes, llama_config
from torch import nn

from tokenlayer.core.errors import BadOption, OutputExists
from tokenlayer.models import losses as model_losses
from tokenlayer.train.batches import Sample, SampleStream, micro_batches, padded
from tokenlayer.train.config import TrainConfig
from tokenlayer.train.draws import uniform
from tokenlayer.train.engine import Hooks, train
from tokenlayer.train.language import CausalObjective, LanguageModel, MaskedObjective, Masking
from tokenlayer.train.objective import Phase, Schedule, Shard
from tokenlayer.train.spans import SpanConfig, SpanObjective, corrupt_spans, span_mask

PHASES = [Phase("first", 3, Schedule(0.01)), Phase("second", 2, Schedule(0.005, "cosine"))]
MASK = 4


def random_rows(seed=0, low=4, high=12):
    draw = torch.Generator().manual_seed(seed)
    while True:
        size = int(torch.randint(low, high + 1, (1,), generator=draw))
        yield torch.randint(5, VOCAB, (size,), generator=draw).tolist()


def stream(micro=40, batch=60, items=None):
    return SampleStream(items or random_rows(), len, batch_tokens=batch, micro_tokens=micro)


def model_of(kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "t5":
            sizes = {"d_model": DIM, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.1}
            config = transformers.T5Config(vocab_size=VOCAB, decoder_start_token_id=0, **sizes, **SPECIAL_IDS)
            return transformers.T5ForConditionalGeneration(config)
        if kind == "bert":
            return transformers.BertForMaskedLM(transformers.BertConfig(**bert_sizes()))
        return transformers.LlamaForCausalLM(llama_config(tie_word_embeddings=True, attention_dropout=0.1))


def objective_of(kind, micro=40, phases=PHASES, items=None):
    model, samples = model_of(kind), stream(micro, items=items)
    if kind == "bert":
        return MaskedObjective(model, samples, phases, masking=Masking(MASK, range(5, VOCAB), edges=(1, 1)))
    if kind == "t5":
        return SpanObjective(model, samples, phases, spans=SpanConfig(tuple(range(59, 50, -1)), end=2))
    return CausalObjective(model, samples, phases)


def test_streams_number_the_samples_and_deal_all_of_them():
    taken = [next(rows) for rows in [random_rows()] for _ in range(60)]
    one = stream()
    numbers = []
    for step in range(4):
        whole = [s for micro in one.step(step) for s in micro]
        again = [s for micro in one.step(step) for s in micro]
        assert again == whole
        parts = [s for rank in range(3) for micro in one.step(step, Shard(rank, 3)) for s in micro]
        assert sorted(parts) == sorted(whole)
        assert sum(len(s.item) for s in whole) >= 60 > sum(len(s.item) for s in sorted(whole)[:-1])
        numbers += sorted(s.number for s in whole)
    assert numbers == list(range(len(numbers)))
    late = stream()
    assert [s for micro in late.step(3) for s in micro] == whole
    assert all(taken[s.number] == s.item for s in whole)
    with pytest.raises(BadOption, match="step 1 was asked for after step 3"):
        next(late.step(1))
    with pytest.raises(BadOption, match="batch_tokens is 0"):
        stream(batch=0)


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 20))
@settings(deadline=None)
def test_micro_batches_keep_order_and_bound(sizes, most):
    rows = [[0] * n for n in sorted(sizes)]
    made = list(micro_batches(rows, len, most))
    assert [row for micro in made for row in micro] == rows
    assert all(len(micro) == 1 or len(micro) * len(micro[-1]) <= most for micro in made)
    for one, other in itertools.pairwise(made):
        assert (len(one) + 1) * len(other[0]) > most


def test_padding_says_what_is_real():
    ids, real = padded([[5, 6, 7], [8]], torch.device("cpu"), fill=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert real.tolist() == [[True] * 3, [True, False, False]]


def test_draws_are_uniform_and_belong_to_places():
    found = uniform(1, "a", torch.arange(400), 50, turns=2)
    assert found.shape == (400, 2, 50)
    n = found.numel()
    shares = torch.histc(found, 20, 0, 1) / n
    assert float((shares - 0.05).abs().max()) < 5 * (0.05 * 0.95 / n) ** 0.5
    flat = found.permute(2, 1, 0).reshape(100, 400) - found.mean()
    correlated = torch.corrcoef(torch.cat([flat, found[:, :, :2].permute(1, 2, 0).reshape(4, 400) - 0.5]))[:100, :100]
    assert float((correlated - torch.eye(100)).abs().max()) < 5.5 / 400**0.5
    few = uniform(1, "a", torch.tensor([7, 3]), 9, turns=2)
    assert torch.equal(few, found[[7, 3], :, :9])
    assert not torch.equal(uniform(1, "b", torch.arange(400), 50, turns=2), found)
    assert not torch.equal(uniform(2, "a", torch.arange(400), 50, turns=2), found)
    assert 0 <= float(found.min()) <= float(found.max()) < 1


@pytest.mark.parametrize("tile_bytes", [1 << 20, 1000])
def test_causal_loss_is_the_models_own(tile_bytes, monkeypatch):
    monkeypatch.setattr("tokenlayer.train.language.TILE_BYTES", tile_bytes)
    monkeypatch.setattr(model_losses.token_logprobs, "__defaults__", (tile_bytes,))
    one = objective_of("llama")
    one.net.model.eval()
    phase = PHASES[0]
    (drawn,) = list(stream(micro=1000).step(0))
    batch = one.corrupt(phase, drawn, 0)
    found = one.losses(phase, batch)["nats"]
    plain = 0.0
    for sample in drawn:
        ids = torch.tensor([sample.item])
        plain += float(one.net.model(input_ids=ids, labels=ids).loss.detach()) * (len(sample.item) - 1)
    assert float(found.total.detach()) == pytest.approx(plain, rel=1e-5)
    assert found.terms == one.counts(phase, batch)["nats"] == sum(len(s.item) - 1 for s in drawn)
    assert one.tokens(batch) == sum(len(s.item) for s in drawn)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_the_size_of_micro_batches_changes_nothing(kind):
    found = []
    for micro in (1, 40, 1000):
        one = objective_of(kind, micro)
        one.net.model.eval()
        losses = train(one, TrainConfig()).losses
        found.append((losses, [p.detach().clone() for p in one.net.model.parameters()]))
    for losses, weights in found[1:]:
        assert losses == pytest.approx(found[0][0], rel=1e-4)
        for one, other in zip(weights, found[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_a_run_that_stops_twice_ends_with_the_same_bits(kind, tmp_path):
    """With dropout, random masks, and a second phase."""
    whole = objective_of(kind)
    whole.net.model.train()
    expected = train(whole, TrainConfig())
    config = TrainConfig(save_seconds=0.0)
    for stop in (2, 4, None):
        part = objective_of(kind)
        part.net.model.train()

        def stopping(done, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        if stop is None:
            found = train(part, config, state=tmp_path)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(part, config, state=tmp_path, hooks=Hooks(after_step=stopping))
    assert found.losses == expected.losses
    mine, theirs = part.net.model.state_dict(), whole.net.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_sample_is_corrupted_alike_in_any_batch(kind):
    samples = [Sample(n, row) for n, row in zip(range(100, 120), random_rows(0, 20, 40), strict=False)]
    one = objective_of(kind)
    together = one.corrupt(PHASES[0], samples, 3)
    for n, sample in enumerate(samples):
        alone = one.corrupt(PHASES[0], [sample], 3)
        for name in ("ids", "targets"):
            row, other = getattr(alone, name)[0], getattr(together, name)[n]
            assert torch.equal(row, other[: len(row)])
    moved = one.corrupt(PHASES[0], [Sample(s.number + 1, s.item) for s in samples], 3)
    assert not torch.equal(moved.ids, together.ids)
    assert not torch.equal(one.corrupt(PHASES[0], samples, 4).ids, together.ids)


def share_is(found, expected, n):
    assert abs(found - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_masks_are_berts():
    masking = Masking(MASK, range(5, VOCAB), edges=(1, 2), rate=0.15)
    rows = [Sample(n, [1, *[30] * 97, 2, 2]) for n in range(400)]
    made = masking(rows, 0, torch.device("cpu"))
    inner = torch.zeros(100, dtype=torch.bool)
    inner[1:-2] = True
    assert not made.chosen[:, ~inner].any()
    assert torch.equal(made.ids[~made.chosen], made.targets[~made.chosen])
    n = int(made.chosen.sum())
    share_is(n / (400 * 97), 0.15, 400 * 97)
    at = made.ids[made.chosen]
    share_is(float((at == MASK).float().mean()), 0.8, n)
    share_is(float((at == 30).float().mean()), 0.1 + 0.1 / 55, n)
    others = at[(at != 30) & (at != MASK)]
    assert set(others.tolist()) == set(range(5, VOCAB)) - {30}


def test_each_sample_has_a_token_to_predict():
    masking = Masking(MASK, range(5, VOCAB), edges=(1, 1), rate=1e-9)
    made = masking([Sample(n, [1, *[30] * n, 2]) for n in range(1, 9)], 0, torch.device("cpu"))
    assert made.chosen.sum(dim=1).tolist() == [1] * 8
    nothing = masking([Sample(0, [1, 2]), Sample(1, [1, 9, 9, 2])], 0, torch.device("cpu"))
    assert nothing.chosen.sum(dim=1).tolist() == [0, 1]


def plain_spans(row, gone, sentinels, end):
    """Inputs and targets by walking over the sample."""
    inputs, targets, marks = [], [], [0, 0]
    for place, token in enumerate(row):
        for side, out in ((gone[place], inputs), (not gone[place], targets)):
            if not side:
                out.append(token)
            elif place == 0 or gone[place] != gone[place - 1]:
                out.append(sentinels[marks[out is targets]])
                marks[out is targets] += 1
    return [*inputs, end], [*targets, end]


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=9), min_size=1, max_size=5))
@settings(deadline=None)
def test_spans_equal_a_walk_over_the_sample(masks):
    rows = [[10 + place for place in range(len(mask))] for mask in masks]
    config = SpanConfig(tuple(range(59, 50, -1)), end=2)
    ids, real = padded(rows, torch.device("cpu"))
    gone, _ = padded([[int(x) for x in mask] for mask in masks], torch.device("cpu"))
    found = corrupt_spans(ids, real.sum(dim=1), gone.bool(), config)
    for n, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        inputs, targets = plain_spans(row, mask, config.sentinels, config.end)
        assert found.ids[n][found.real[n]].tolist() == inputs
        assert found.targets[n][found.wanted[n]].tolist() == targets


def test_a_sample_ends_up_as_one_of_all_cuts_equally_often():
    """Nine tokens of which four go in two spans: every way to cut both sides, each as often as the others."""
    config = SpanConfig((59, 58), end=2, rate=0.45, mean_span=2.0)
    count = 24_000
    draws = uniform(5, "spans", torch.arange(count), 12, turns=2)
    found = span_mask(torch.full((count,), 9), draws, config)
    assert not found[:, 9:].any()
    seen: dict[tuple[bool, ...], int] = {}
    for row in found[:, :9].tolist():
        seen[tuple(row)] = seen.get(tuple(row), 0) + 1
    ways = set()
    for stay, gone in itertools.product(range(1, 5), range(1, 4)):
        sizes = [stay, gone, 5 - stay, 4 - gone]
        ways.add(tuple(bool(i % 2) for i, size in enumerate(sizes) for _ in range(size)))
    assert set(seen) == ways
    for times in seen.values():
        share_is(times / count, 1 / len(ways), count)


def test_spans_have_the_rate_and_the_mean_length():
    config = SpanConfig(tuple(range(59, 9, -1)), end=2)
    lengths = torch.full((200,), 400)
    gone = span_mask(lengths, uniform(0, "spans", torch.arange(200), 400, turns=2), config)
    assert gone.sum(dim=1).tolist() == [60] * 200
    starts = (gone & ~nn.functional.pad(gone[:, :-1], (1, 0))).sum(dim=1)
    assert starts.tolist() == [20] * 200
    share_is(float(gone[:, 1:].float().mean()), 60 / 399, 200 * 400 / 3)


def test_short_samples_keep_and_lose_a_token():
    config = SpanConfig((59,), end=2)
    lengths = torch.tensor([2, 3, 4])
    gone = span_mask(lengths, uniform(0, "s", torch.arange(3), 4, turns=2), config)
    assert gone.sum(dim=1).tolist() == [1, 1, 1]
    assert not gone[:, 0].any()


def test_span_loss_is_the_models_own():
    one = objective_of("t5")
    one.net.model.eval()
    batch = one.corrupt(PHASES[0], [Sample(n, row) for n, row in zip(range(4), random_rows(), strict=False)], 0)
    found = one.losses(PHASES[0], batch)["nats"]
    labels = batch.targets.masked_fill(~batch.wanted, -100)
    plain = one.net.model(input_ids=batch.ids, attention_mask=batch.real.long(), labels=labels).loss
    assert float(found.total.detach()) == pytest.approx(float(plain.detach()) * int(batch.wanted.sum()), rel=1e-5)
    assert found.terms == one.counts(PHASES[0], batch)["nats"]


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_export_is_a_plain_folder(kind, tmp_path):
    one = objective_of(kind, phases=[Phase("a", 1)])
    train(one)
    one.export(tmp_path / "out")
    loaded = type(one.net.model).from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in one.net.model.state_dict().items())
    with pytest.raises(OutputExists):
        one.export(tmp_path / "out")


def test_operations_are_counted():
    one = LanguageModel(model_of("llama"), VOCAB)
    weights = sum(p.numel() for p in one.model.parameters())
    assert one.flops(10, 6) == 10 * (6 * weights + 12 * 2 * DIM * 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masking(4, [5], rate=1.0), "mask rate is 1, expected a share between 0 and 1"),
        (lambda: Masking(4, []), "there are no tokens to replace others by"),
        (lambda: SpanConfig((9,), 2, rate=0.0), "span rate is 0"),
        (lambda: SpanConfig((9,), 2, mean_span=0.5), "mean_span is 0.5, expected at least 1 token"),
        (
            lambda: SpanObjective(model_of("llama"), stream(), PHASES, spans=SpanConfig((9,), 2)),
            "LlamaForCausalLM has no encoder",
        ),
        (
            lambda: objective_of("t5").corrupt(PHASES[0], [Sample(8, [5])], 0),
            "sample 8 has 1 tokens, spans need at least 2",
        ),
        (
            lambda: objective_of("t5").corrupt(PHASES[0], [Sample(0, [7] * 400)], 0),
            "a sample has 20 spans, there are 9 sentinels",
        ),
        (lambda: objective_of("llama").micro_batches(Phase("x", 1), 0, Shard()), "'x' is no phase of this objective"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(BadOption, match=message):
        make()
