"""Training after a swap with the hypernetwork that made its rows."""

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write
from tests.transfer.zett.test_predict import hypernet

from tokenlayer.core.errors import BadOption
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.heal import HealConfig
from tokenlayer.transfer.materials import Materials
from tokenlayer.transfer.swap import SwapConfig, swap
from tokenlayer.transfer.zett import nshot

TEXT = "\n\n".join(SENTENCES[name] for name in ("en", "de", "fr")) * 6


def swapped(tmp_path, name="tied_llama", out="out", init="zett", **changes):
    """A swap to another family, trained with the hypernetwork for a few steps if there are settings."""
    source, target = tmp_path / "source", tmp_path / "target"
    if not source.exists():
        model_with_tokenizer(name, source)
        write(target, FAMILIES["split-byte-level"]())
        hypernet(tmp_path / "hn", source)
        (tmp_path / "heal.txt").write_text(TEXT)
    heal = None
    if changes:
        given = {"budget_tokens": 480, "batch_tokens": 60, "micro_tokens": 120, "window": 20} | changes
        heal = HealConfig((str(tmp_path / "heal.txt"),), train="hypernet", **given)
    settings = SwapConfig(init=init, materials=Materials(hypernet=str(tmp_path / "hn")), heal=heal)
    return swap(source, target, tmp_path / out, settings), tmp_path / out


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama", "phi"])
def test_model_and_rows_learn_and_control_rows_stay(name, tmp_path):
    _, plain = swapped(tmp_path, name, "plain")
    report, out = swapped(tmp_path, name, learning_rate=3e-3, budget_tokens=1800)
    losses = report.data["healing"]["losses_nats"]
    assert sum(losses[-5:]) < sum(losses[:5])
    before, after = tensors(plain), tensors(out)
    assert before.keys() == after.keys()
    checkpoint = open_checkpoint(out)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert not [key for key in same if key.endswith("weight") and "rotary" not in key]
    control = load_tokenizer(out).vocab.control_ids()
    for table in checkpoint.rows.names:
        assert torch.equal(before[table][control], after[table][control])
        assert not torch.equal(before[table], after[table])


def test_the_rate_is_the_paper_s_and_constant():
    config = HealConfig(("text",), train="hypernet", budget_tokens=10_000, batch_tokens=100)
    phase = config.phase()
    assert {phase.schedule.rate(step, phase.steps) for step in (0, 1, 50, 99)} == {3e-6}


def test_the_first_step_is_the_swapped_model_and_nothing_pulls_yet(tmp_path, monkeypatch):
    seen = []
    real = nshot.NShotObjective.losses

    def spy(self, phase, batch):
        found = real(self, phase, batch)
        if not seen:
            made = self.whole(self.network(self.pieces, self.source.table, self.language))
            with torch.no_grad():
                seen.append((made.rows - self._own.rows).abs().max().item())
            logits = self.model.model(input_ids=batch[0], attention_mask=batch[1].long()).logits.float()
            nats = -torch.log_softmax(logits[:, :-1], -1).gather(2, batch[0][:, 1:, None])[..., 0]
            seen.append(float((nats * batch[1][:, 1:]).sum().detach()))
            seen.append(float(found["nats"].total.detach()))
        seen.append(float(found["aux"].total.detach()))
        return found

    monkeypatch.setattr(nshot.NShotObjective, "losses", spy)
    swapped(tmp_path, learning_rate=1e-2)
    gap, whole, ours, first, *rest = seen
    assert gap < 1e-6
    assert ours == pytest.approx(whole, rel=1e-4)
    assert first == pytest.approx(0, abs=1e-6)
    assert rest[-1] > 1e-3


def test_other_rows_and_other_models_are_refused(tmp_path):
    with pytest.raises(BadOption, match="goes on with the hypernetwork of the swap, but init is pieces"):
        swapped(tmp_path, init="pieces", learning_rate=1e-3)
    model_with_tokenizer("bert_mlm", tmp_path / "bert")
    hypernet(tmp_path / "hn-bert", tmp_path / "bert")
    heal = HealConfig((str(tmp_path / "heal.txt"),), train="hypernet")
    settings = SwapConfig(init="zett", materials=Materials(hypernet=str(tmp_path / "hn-bert")), heal=heal)
    with pytest.raises(BadOption, match="train=hypernet is for decoders without distill, this is a masked"):
        swap(tmp_path / "bert", tmp_path / "bert", tmp_path / "out", settings)
