"""Swaps whose rows a hypernetwork predicts."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.core.errors import BadCheckpoint, BadOption, VocabMismatch
from tokenlayer.core.rowplan import GivenRows, RowPlan
from tokenlayer.core.vocab import Kind
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.hull import check_hull
from tokenlayer.transfer.materials import Materials
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.swap import SwapConfig, swap
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import save_hypernet
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig
from tokenlayer.transfer.zett.predict import PredictConfig, source_table, zett


def hypernet(folder, source, **changes):
    """A drawn hypernetwork for a tiny model."""
    checkpoint, tokenizer = open_checkpoint(source), load_tokenizer(source)
    rows = checkpoint.rows
    size = len(tokenizer.vocab)
    shape = HypernetConfig(rows.dim, tied=not rows.output, vocab_size=size, hidden=8, inner=12, layers=1, heads=2)
    extra = Decomposer(tokenizer.vocab, 7).extra
    network = Hypernet(replace(shape, bias=bool(rows.biases), extra=extra, **changes), seed=4)
    folder.mkdir()
    save_hypernet(folder, network, tokenizer, {}, dtype="float32")
    return network.eval()


@pytest.mark.parametrize(
    "name", ["tied_llama", "untied_llama", "padded_llama", "bert_mlm", "gemma3", "phi", "bert_encoder"]
)
def test_rows_of_a_swap_are_the_predicted_ones(name, tmp_path):
    source = model_with_tokenizer(name, tmp_path / "source")
    family = "wordpiece" if name.startswith("bert") else "split-byte-level"
    target = write(tmp_path / "target", FAMILIES[family]())
    network = hypernet(tmp_path / "hn", source)
    settings = SwapConfig(init="zett", materials=Materials(hypernet=str(tmp_path / "hn")))
    report = swap(source, target, tmp_path / "out", settings)
    old, new = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    vocab, written = load_tokenizer(source).vocab, load_tokenizer(tmp_path / "out").vocab
    names = old.rows
    table = source_table(old.read(names.input), old.read(names.output) if names.output else None)
    decomposer = Decomposer(vocab, network.config.longest)
    text = [i for i, kind in enumerate(written.kinds) if kind not in (Kind.CONTROL, Kind.UNUSED)]
    pieces, _ = decomposer.pieces([written.tokens[i] for i in text])
    with torch.inference_mode():
        wanted = network(pieces, table[: len(vocab)])
    torch.testing.assert_close(new.read(names.input)[text].float(), wanted.rows, rtol=1e-2, atol=1e-4)
    if names.output:
        torch.testing.assert_close(new.read(names.output)[text].float(), wanted.output_rows, rtol=1e-2, atol=1e-4)
    for bias in names.biases:
        torch.testing.assert_close(new.read(bias)[text].float(), wanted.bias, rtol=1e-2, atol=1e-4)
    counts = {row[0]: row[1] for row in report.table("origin of rows").rows}
    assert counts["predicted"] == len(text)
    worst = report.table("worst cases").rows
    assert worst[0][4].startswith(f"{int(pieces.lengths.max())} source pieces")
    load(tmp_path / "out")


def test_the_preset_copies_what_both_vocabularies_hold(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    hypernet(tmp_path / "hn", source)
    settings = SwapConfig(init="zett", materials=Materials(hypernet=str(tmp_path / "hn"), init_config="copy"))
    report = swap(source, target, tmp_path / "out", settings)
    counts = {row[0]: row[1] for row in report.table("origin of rows").rows}
    assert counts["copy"] >= report.metric("tokens in both, by bytes").value


def test_control_tokens_keep_their_rows_and_shared_tokens_do_not(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    hypernet(tmp_path / "hn", source)
    settings = SwapConfig(init="zett", materials=Materials(hypernet=str(tmp_path / "hn")))
    swap(source, source, tmp_path / "out", settings)
    before, after = (
        load_file(f / "model.safetensors")["model.embed_tokens.weight"] for f in (source, tmp_path / "out")
    )
    vocab = load_tokenizer(source).vocab
    same = {i for i in range(len(vocab)) if torch.equal(before[i], after[i])}
    assert same == set(vocab.control_ids())


def test_copy_shared_and_a_language_are_settings(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    vocab = load_tokenizer(source).vocab
    rows = open_checkpoint(source).read("model.embed_tokens.weight").float()
    network = hypernet(tmp_path / "hn", source, languages=("en", "de"))
    pair = Pair(vocab, vocab)
    assert PredictConfig.copying() == PredictConfig(copy_shared=True)
    kept = zett(pair, network, rows, PredictConfig(copy_shared=True, language="en"))
    assert set(kept.origin) == {"copy"}
    one, other = (zett(pair, network, rows, PredictConfig(language=name)).apply(rows) for name in ("en", "de"))
    assert not torch.equal(one, other)
    with pytest.raises(BadOption, match="trained with languages and needs to know which"):
        zett(pair, network, rows)
    with pytest.raises(BadOption, match="language is 'dee', expected one of: en, de"):
        zett(pair, network, rows, PredictConfig(language="dee"))
    plain = hypernet(tmp_path / "plain", source)
    with pytest.raises(BadOption, match="this hypernetwork has no languages"):
        zett(pair, plain, rows, PredictConfig(language="en"))


def test_long_tokens_are_reported(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    vocab = load_tokenizer(source).vocab
    rows = open_checkpoint(source).read("model.embed_tokens.weight").float()
    network = hypernet(tmp_path / "hn", source, longest=2)
    target = load_tokenizer(write(tmp_path / "target", FAMILIES["split-byte-level"]())).vocab
    said = []
    pair = Pair(vocab, target)
    zett(pair, network, rows, warn=said.append)
    ids = target.text_ids()
    long = [i for i, spelled in zip(ids, pair.spell(ids), strict=True) if len(spelled) > 2]
    assert said
    assert said[0].startswith(f"{len(long)} tokens have more than 2 pieces and were cut: {target.label(long[0])}")


def test_zett_needs_a_hypernetwork_of_this_model(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    with pytest.raises(BadOption, match="init zett needs hypernet"):
        swap(source, source, tmp_path / "out", SwapConfig(init="zett"))
    other = model_with_tokenizer("gpt2", tmp_path / "other", "split-byte-level")
    hypernet(tmp_path / "hn", other)
    with pytest.raises(BadCheckpoint, match="was trained for"):
        swap(
            source,
            source,
            tmp_path / "out",
            SwapConfig(init="zett", materials=Materials(hypernet=str(tmp_path / "hn"))),
        )
    assert not (tmp_path / "out").exists()


def test_predicted_rows_may_leave_the_hull():
    plan = RowPlan.from_rows([{0: 1.0}, {1: 1.0}], ["copy", "predicted"], 2)
    plan = replace(plan, given=GivenRows(torch.tensor([1]), torch.tensor([[5.0, 5.0]])))
    found = check_hull(plan)
    assert found.unsafe == (1,)
    assert "1 have predicted numbers" in found.sentence()
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert plan.padded(3).apply(old).tolist() == [[1.0, 2.0], [5.0, 5.0], [2.0, 3.0]]
    with pytest.raises(VocabMismatch, match="the plan holds rows of 2 numbers, the table 3"):
        plan.apply(torch.zeros(2, 3))
