"""A model with rows from outside is the model whose tables hold those rows."""

import pytest
import torch
from tests.tiny_swaps import load, model_with_tokenizer

from tokenlayer.core.errors import BadCheckpoint
from tokenlayer.models.losses import token_logprobs
from tokenlayer.models.outside_rows import OutsideRows

NAMES = ["tied_llama", "untied_llama", "gpt2", "phi", "gemma3", "bert_mlm", "roberta_mlm"]


@pytest.mark.parametrize("name", NAMES)
def test_given_rows_take_the_place_of_the_tables(name, tmp_path):
    model = load(model_with_tokenizer(name, tmp_path / "m")).double()  # norms of tiny states magnify rounding
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    draw = torch.Generator().manual_seed(0)
    rows = 0.1 * torch.randn(table.shape, generator=draw).double()
    out_rows = rows if head.weight is table else 0.1 * torch.randn(head.weight.shape, generator=draw).double()
    bias = None if getattr(head, "bias", None) is None else torch.randn(len(rows), generator=draw).double()
    ids = torch.randint(5, len(rows), (2, 6), generator=draw)
    real = torch.ones_like(ids, dtype=torch.bool)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outside = OutsideRows(model.requires_grad_(False), len(rows))
    rows.requires_grad_(True)
    hidden = outside.hidden(ids, real, rows)
    found = token_logprobs(outside.head_with(out_rows, bias), hidden.flatten(0, 1), ids.flatten())
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert gradient[ids.flatten()].abs().sum() > 0
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        table.copy_(rows)
        head.weight.copy_(out_rows)
        if bias is not None:
            head.bias.copy_(bias)
        logits = model(input_ids=ids, attention_mask=real.long()).logits
    wanted = torch.log_softmax(logits.float(), -1).gather(2, ids[..., None])
    torch.testing.assert_close(found, wanted.flatten(), rtol=1e-4, atol=1e-4)


def test_other_numbers_of_rows_are_taken(tmp_path):
    model = load(model_with_tokenizer("tied_llama", tmp_path / "m"))
    outside = OutsideRows(model, model.config.vocab_size)
    dim = model.get_input_embeddings().weight.shape[1]
    for size in (7, 5000):
        rows = torch.randn(size, dim)
        ids = torch.tensor([[size - 1, 0, 3]])
        with torch.no_grad():
            hidden = outside.hidden(ids, torch.ones_like(ids, dtype=torch.bool), rows)
            assert outside.head_with(rows, None).logits(hidden[0]).shape == (3, size)


def test_a_model_without_a_head_is_refused(tmp_path):
    model = load(model_with_tokenizer("bert_encoder", tmp_path / "m"))
    with pytest.raises(BadCheckpoint, match="has no output head"):
        OutsideRows(model, 10)


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama", "gpt2", "gemma3"])
def test_kept_keys_and_values_give_the_same_as_reading_all(name, tmp_path):
    model = load(model_with_tokenizer(name, tmp_path / "m")).double()
    table = model.get_input_embeddings().weight
    rows = torch.cat([table, torch.randn(3, table.shape[1]).double()]).detach()  # three that the model does not have
    ids = torch.tensor([[4, 9, len(rows) - 1, 7, len(rows) - 2]])
    real = torch.ones_like(ids, dtype=torch.bool)
    outside = OutsideRows(model, len(table))
    with torch.no_grad():
        whole = outside.hidden(ids, real, rows)
        first, past = outside.cached(ids[:, :3], real[:, :3], rows)
        second, past = outside.cached(ids[:, 3:4], real[:, :4], rows, past)
        third, _ = outside.cached(ids[:, 4:], real, rows, past)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), whole, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_cache_is_refused(tmp_path):
    model = load(model_with_tokenizer("bert_mlm", tmp_path / "m"))
    rows = model.get_input_embeddings().weight.detach()
    ids = torch.tensor([[4, 5]])
    with pytest.raises(BadCheckpoint, match="keeps no keys and values"):
        OutsideRows(model, len(rows)).cached(ids, torch.ones_like(ids, dtype=torch.bool), rows)
