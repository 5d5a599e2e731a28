"""Training after a swap on tiny models of every kind."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_swaps import MODELS, load, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.core.errors import BadOption, BadText, VerifyFailed
from tokenlayer.models.compare import EvalText
from tokenlayer.models.loading import load_model
from tokenlayer.models.score import WindowConfig, token_ends
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.train.batches import Sample
from tokenlayer.transfer import swap as swap_module
from tokenlayer.transfer.heal import TRAINED, HealConfig
from tokenlayer.transfer.heal_losses import CausalLoss, LineLoss, MaskedLoss
from tokenlayer.transfer.swap import SwapConfig, healing_state, swap

TEXT = "\n\n".join(text for name, text in SENTENCES.items() if name in ("en", "de", "fr", "sw", "ru")) * 4
EVAL = (EvalText("en", SENTENCES["en"] * 2, "en"),)
WINDOW = WindowConfig(window=24, stride=12, batch=2)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "heal.txt"
    file.write_text(TEXT)
    return str(file)


def config(text, **changes):
    settings = {"budget_tokens": 600, "batch_tokens": 60, "micro_tokens": 30, "window": 20, "learning_rate": 0.02}
    return HealConfig((text,), **settings | changes)


def healed(tmp_path, text, name="tied_llama", out="out", family="split-byte-level", texts=EVAL, **changes):
    source = tmp_path / "source"
    if not source.exists():
        model_with_tokenizer(name, source)
    target = tmp_path / "target"
    if not target.exists():
        write(target, FAMILIES[family]())
    settings = SwapConfig(heal=config(text, **changes), texts=texts, window=WINDOW)
    return swap(source, target, tmp_path / out, settings), source, tmp_path / out


def tensors(folder):
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def unhealed(tmp_path, source):
    swap(source, tmp_path / "target", tmp_path / "plain")
    return tensors(tmp_path / "plain")


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bert_encoder"])
@pytest.mark.parametrize("train", ["rows", "all"])
def test_every_kind_of_model_gets_better(name, train, tmp_path, text):
    family = {"bert_mlm": "wordpiece", "roberta_mlm": "unigram"}.get(name, "split-byte-level")
    masked = {"budget_tokens": 3000, "mask_rate": 0.5} if "mlm" in name else {"budget_tokens": 900}
    report, source, out = healed(tmp_path, text, name, family=family, train=train, **masked)
    losses = report.data["healing"]["losses_nats"]
    assert len(losses) == masked["budget_tokens"] // 60
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third])
    load(out)
    measured = "pseudo bits per byte" if "mlm" in name else "bits per byte"
    was, now = report.metric(f"{measured} before healing", "en"), report.metric(measured, "en")
    assert was.n == now.n
    assert now.value < was.value
    before, after = tensors(source), tensors(out)
    same = [key for key in before if torch.equal(before[key], after[key]) and not key.startswith(("vision", "multi"))]
    assert bool(same) == (train == "rows")


def test_an_encoder_learns_the_line_vectors_of_its_source(tmp_path, text):
    source = model_with_tokenizer("bert_encoder", tmp_path / "source")
    stored = load_file(source / "model.safetensors")
    for name, value in stored.items():  # lines of a tiny random model are hardly different otherwise
        if value.ndim == 1:
            value.fill_(float(name.endswith("weight")))
    stored["embeddings.word_embeddings.weight"] *= 10
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    seen = (EvalText("en", TEXT, "en"),)  # on other lines a source of random rows may gain nothing
    report, _, _ = healed(tmp_path, text, "bert_encoder", texts=seen, train="rows", budget_tokens=3000)
    name = "cosine to the source's line vectors"
    assert report.metric(name, "en").value > report.metric(f"{name} before healing", "en").value
    losses = report.data["healing"]["losses_nats"]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_rows_are_trained_and_nothing_else(tmp_path, text):
    _, source, out = healed(tmp_path, text)
    before, after = unhealed(tmp_path, source), tensors(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.embed_tokens.weight"}


def test_new_rows_alone_move_and_copied_ones_keep_their_bits(tmp_path, text):
    _, source, out = healed(tmp_path, text, train="new-rows")
    before, after = unhealed(tmp_path, source), tensors(out)
    old, new = (some["model.embed_tokens.weight"] for some in (before, after))
    vocab, own = load_tokenizer(out).vocab, load_tokenizer(source).vocab
    shared = torch.tensor([own.find(vocab.tokens[i]) is not None for i in vocab.text_ids()])
    moved = (old != new).any(dim=1)[vocab.text_ids()]
    assert not moved[shared].any()
    assert moved[~shared].float().mean() > 0.9
    assert 20 < int(shared.sum()) < len(shared)


def test_lora_changes_the_linear_layers_by_a_low_rank(tmp_path, text):
    pytest.importorskip("peft")
    _, source, out = healed(tmp_path, text, train="lora", lora_rank=2)
    before, after = unhealed(tmp_path, source), tensors(out)
    assert before.keys() == after.keys()
    for name in before:
        gap = after[name] - before[name]
        if name.endswith("_proj.weight"):
            values = torch.linalg.svdvals(gap)
            assert values[1] > 1e-5
            assert values[2:].max() < 1e-5 * values[0] + 1e-6
        elif "embed" in name:
            assert gap.abs().max() > 0
        else:
            assert torch.equal(after[name], before[name])


def test_everything_is_trained_also_in_shards_and_bfloat16(tmp_path, text):
    for name in ("sharded_llama", "bf16_llama"):
        folder = tmp_path / name
        folder.mkdir()
        _, source, out = healed(folder, text, name, train="all")
        before, after = tensors(source), tensors(out)
        assert before.keys() == after.keys()
        assert all(before[key].dtype == after[key].dtype for key in before)
        same = [key for key in before if before[key].shape == after[key].shape and torch.equal(before[key], after[key])]
        assert not same
        assert all(torch.equal(before[key], value) for key, value in tensors(source).items())


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, text, monkeypatch):
    _, _, whole = healed(tmp_path, text, out="whole")
    real, stop_at = swap_module.heal, [3]

    def stopping(*args, **options):
        def tell(done, total):
            if done in stop_at:
                raise KeyboardInterrupt

        return real(*args, **options | {"progress": tell})

    monkeypatch.setattr(swap_module, "heal", stopping)
    monkeypatch.setattr("tokenlayer.transfer.heal.SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        healed(tmp_path, text, out="part")
    assert healing_state(tmp_path / "part").is_dir()
    assert not (tmp_path / "part").exists()
    stop_at.clear()
    with pytest.raises(BadOption, match="was left by a run with other settings"):
        healed(tmp_path, text, out="part", learning_rate=0.03)
    healed(tmp_path, text, out="part")
    assert not healing_state(tmp_path / "part").exists()
    one, other = tensors(whole), tensors(tmp_path / "part")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights(tmp_path, text):
    one, other = (tensors(healed(tmp_path, text, out=out)[2]) for out in ("one", "two"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def causal(folder, share=0.0, temperature=100.0, teacher=True, starts=(None, None)):
    tokenizer, model = load_tokenizer(folder), load_model(folder, "decoder")[0]
    return CausalLoss(
        model, tokenizer, (model, tokenizer) if teacher else None, starts=starts, share=share, temperature=temperature
    )


@pytest.mark.parametrize("start", [None, 1])
def test_causal_loss_is_the_models_own_over_rows_of_any_length(start, tmp_path):
    loss = causal(model_with_tokenizer("tied_llama", tmp_path / "m"), teacher=False, starts=(start, start))
    rows = [[5, 9, 40, 41], [7, 8], [30, 31, 32, 33, 34, 35]]
    found = loss(rows)
    plain = 0.0
    for row in rows:
        ids = torch.tensor([row])
        plain += float(loss.student.model(input_ids=ids, labels=ids).loss.detach()) * (len(row) - 1)
    assert float(found.total.detach()) == pytest.approx(plain, rel=1e-5)
    assert found.terms == 3 + 1 + 5


def test_a_model_that_is_its_own_teacher_has_no_divergence(tmp_path):
    loss = causal(model_with_tokenizer("tied_llama", tmp_path / "m"), share=1.0, starts=(1, 1))
    row = [1, *loss.student.tokenizer.encode(SENTENCES["en"] + SENTENCES["ru"])[:24]]
    found = loss([row])
    assert float(found.total.detach()) == pytest.approx(0, abs=1e-4)
    assert found.terms == 24


@pytest.mark.parametrize("starts", [(1, 1), (None, None), (1, None)])
def test_divergence_equals_a_loop_over_the_spans(starts, tmp_path):
    """Two tokenizers on text whose first bytes are the end of a character."""
    teacher = model_with_tokenizer("gpt2", tmp_path / "teacher")
    student = model_with_tokenizer("tied_llama", tmp_path / "student", "split-byte-level")
    sides = [(load_model(f, "decoder")[0], load_tokenizer(f)) for f in (student, teacher)]
    loss = CausalLoss(*sides[0], sides[1], starts=starts, share=1.0, temperature=10.0)
    cut = sides[0][1].encode(SENTENCES["ru"])
    broken = next(i for i in range(len(cut)) if sides[0][1].token_bytes(cut[i : i + 1])[0][0] & 0xC0 == 0x80)
    for ids in (cut[broken : broken + 15], sides[0][1].encode(SENTENCES["en"])[:15]):
        front = [] if starts[1] is None else [starts[1]]
        data = b"".join(sides[0][1].token_bytes(ids))
        lead = next(n for n in range(4) if data[n] & 0xC0 != 0x80)
        text = data[lead:].decode("utf-8", "ignore")
        theirs = sides[1][1].encode(text)
        ends = [np.cumsum([len(p) for p in sides[0][1].token_bytes(ids)]), token_ends(sides[1][1], text, theirs) + lead]
        shared = sorted(set(ends[0].tolist()) & set(ends[1].tolist()))
        total = 0.0
        for begin, end in zip([0, *shared], shared, strict=False):
            if begin == 0 and (lead or None in starts):
                continue
            values = []
            for (model, _), own, at, start in zip(sides, (ids, theirs), ends, starts[::-1], strict=True):
                row = own if start is None else [start, *own]
                with torch.inference_mode():
                    logprob = model(input_ids=torch.tensor([row])).logits[0].log_softmax(dim=-1)
                shift = len(row) - len(own)
                values.append(
                    sum(float(logprob[i + shift - 1, own[i]]) for i in range(len(own)) if begin < at[i] <= end)
                )
            p, q = np.exp(values[1] / 10), np.exp(values[0] / 10)
            total += 10 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        assert float(loss([front + ids]).total.detach()) == pytest.approx(total, rel=1e-3)


def test_distillation_brings_a_student_closer_to_its_source(tmp_path, text):
    _, source, out = healed(tmp_path, text, train="all", distill=1.0, temperature=5.0, budget_tokens=1800)
    unhealed(tmp_path, source)
    gaps = []
    for folder in (tmp_path / "plain", out):
        sides = [(load_model(f, "decoder")[0], load_tokenizer(f)) for f in (folder, source)]
        loss = CausalLoss(*sides[0], sides[1], starts=(1, 1), share=1.0, temperature=5.0)
        gaps.append(float(loss(list(loss.items([TEXT], 20))[:40]).total.detach()))
    assert gaps[1] < 0.8 * gaps[0]


def test_masked_loss_is_the_models_own_on_inner_positions(tmp_path):
    folder = model_with_tokenizer("bert_mlm", tmp_path / "m")
    tokenizer = load_tokenizer(folder)
    loss = MaskedLoss(load_model(folder, "masked")[0], tokenizer, 0.3)
    rows = list(loss.items([SENTENCES["en"]], 12))
    assert all(row[:1] == loss.front and row[-1:] == loss.back for row in rows)
    batch = loss.prepare([Sample(n, row) for n, row in enumerate([*rows[:3], rows[3][:7]])], 0)
    assert not batch.chosen[:, 0].any()
    assert not batch.chosen[:, 11].any()
    assert set(batch.ids[batch.chosen].tolist()) <= {tokenizer.vocab.roles["mask"], *tokenizer.vocab.text_ids()}
    found = loss(batch)
    labels = batch.targets.masked_fill(~batch.chosen, -100)
    plain = loss.side.model(input_ids=batch.ids, attention_mask=batch.real.long(), labels=labels).loss
    assert float(found.total.detach()) == pytest.approx(float(plain.detach()) * found.terms, rel=1e-4)
    assert found.terms == loss.terms(batch) == int(batch.chosen.sum())


def test_line_loss_is_zero_for_the_source_itself_whatever_the_padding(tmp_path):
    folder = model_with_tokenizer("bert_encoder", tmp_path / "m")
    model, tokenizer = load_model(folder, "encoder")[0], load_tokenizer(folder)
    loss = LineLoss(model, tokenizer, load_model(folder, "encoder")[0], tokenizer)
    items = list(loss.items([SENTENCES["en"] + "\n\nhello\n" + SENTENCES["de"]], 30))
    assert all(mine == theirs for mine, theirs in items)
    assert [len(mine) for mine, _ in items] == [30, 7, 30]
    assert float(loss(items).total.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "row"}, "train is 'row', expected one of: rows, new-rows, lora, all"),
        ({"texts": ()}, "healing needs a text"),
        ({"budget_tokens": 0}, "budget_tokens is 0, expected at least 1"),
        ({"window": 4}, "window is 4, expected at least 8"),
        ({"distill": 1.5}, "distill is 1.5, expected a share from 0 to 1"),
        ({"mask_rate": 0.0}, "mask_rate is 0, expected a share between 0 and 1"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(BadOption, match=message):
        HealConfig(**{"texts": ("a.txt",)} | values)


def test_a_missing_or_empty_text_stops_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(swap_module, "opened_model", None)  # would be called first otherwise
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for path, message in ((tmp_path / "no.txt", "does not exist"), (empty, "is empty")):
        with pytest.raises(BadText, match=message):
            swap(tmp_path, tmp_path, tmp_path / "out", SwapConfig(heal=config(str(path))))
    assert not (tmp_path / "out").exists()


def test_a_masked_model_is_not_distilled(tmp_path, text):
    with pytest.raises(BadOption, match="distill is for decoders and encoders, this is a masked model"):
        healed(tmp_path, text, "bert_mlm", family="wordpiece", distill=0.5)


def test_a_rate_that_explodes_leaves_nothing(tmp_path, text):
    with pytest.raises(VerifyFailed, match="the loss of step") as caught:
        healed(tmp_path, text, train="all", learning_rate=1e30)
    assert "lower learning rate" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_every_rate_has_a_default():
    for train, rate in TRAINED.items():
        assert HealConfig(("a",), train=train).phase().schedule.peak == rate
    assert HealConfig(("a",), budget_tokens=10_000, batch_tokens=4096).phase().steps == 3
