"""Models that read units."""

import pytest
import torch
import transformers
from tests.tiny_hypernets import drawn_hypernet
from tests.tiny_swaps import model_with_tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn

from tokenlayer.core.errors import BadCheckpoint, BadOption
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.loading import OpenedModel, load_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.dynamic.generate import GenerateConfig
from tokenlayer.transfer.dynamic.model import DynamicConfig, DynamicModel, embedding_scale, word_labels
from tokenlayer.transfer.dynamic.rows import UnitRows
from tokenlayer.transfer.dynamic.segment import Segmentation

TEXTS = ["the cat and the dog and the cat", "the dog", "the cats of the dogs"]
DECODERS = ["tied_llama", "untied_llama", "gpt2", "gemma3", "phi"]
ROBERTA = "roberta_mlm"
ENCODERS = ["bert_encoder", ROBERTA]


def opened(name, folder):
    source = model_with_tokenizer(name, folder / name)
    return OpenedModel(name, open_checkpoint(source), load_tokenizer(source))


def dynamic(name, folder, config=None, **changes):
    """A tiny model that reads units, with a drawn hypernetwork."""
    source = opened(name, folder)
    checkpoint = source.checkpoint
    model, _ = load_model(checkpoint.folder, checkpoint.kind)
    decoder = checkpoint.kind == "decoder"
    tied = not (decoder and checkpoint.rows.output)
    hypernet = drawn_hypernet(source.tokenizer.vocab, checkpoint.rows.dim, tied=tied)
    return DynamicModel(model, source.tokenizer, hypernet, config, decoder=decoder, **changes)


def plain_inputs(dynamic_model, texts):
    """What transformers would be given for these texts, with padding on the model's side."""
    rows = [list(dynamic_model.tokenizer.backend.encode(text).ids) for text in texts]
    longest = max(map(len, rows))
    pad = dynamic_model.tokenizer.vocab.roles.get("pad", 0)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for n, row in enumerate(rows):
        place = slice(longest - len(row), None) if dynamic_model.decoder else slice(len(row))
        ids[n, place], mask[n, place] = torch.tensor(row), 1
    return ids, mask


@pytest.mark.parametrize("name", DECODERS)
def test_no_merges_are_the_plain_decoder_bit_for_bit(name, tmp_path):
    model = dynamic(name, tmp_path)
    units = model.prepare(TEXTS, merges=0)
    ids, mask = plain_inputs(model, TEXTS)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = model.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        assert torch.equal(model(units).logits, wanted)
    last = wanted[:, -1, : len(model.tokenizer.vocab)]
    torch.testing.assert_close(model.prefill(units).logits(), last)  # one row of a product may differ in its last bit


@pytest.mark.parametrize("name", ENCODERS)
def test_no_merges_are_the_plain_encoder_bit_for_bit(name, tmp_path):
    model = dynamic(name, tmp_path)
    units = model.prepare(TEXTS, merges=0)
    ids, mask = plain_inputs(model, TEXTS)
    with torch.no_grad():
        wanted = model.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        found = model.model.base_model(**model.inputs(units)).last_hidden_state
    assert torch.equal(found[mask.bool()], wanted[mask.bool()])
    mean = (wanted * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.encode(units), nn.functional.normalize(mean, dim=1))


@pytest.mark.parametrize("name", ["tied_llama", "gemma3", ROBERTA, "bert_encoder"])
def test_new_units_are_fed_with_the_hypernetwork_s_rows_at_consecutive_positions(name, tmp_path):
    model = dynamic(name, tmp_path)
    units = model.prepare(TEXTS, reduction=1.0)
    segmentation, size = units.segmentation, len(model.tokenizer.vocab)
    assert segmentation.new
    assert sum(segmentation.lengths) < sum(segmentation.plain_lengths)
    rows = model.rows(segmentation.new).rows
    scale = 4.0 if name == "gemma3" else 1.0  # the root of a width of 16
    table = model.model.get_input_embeddings().weight.detach()
    first = model.model.config.pad_token_id + 1 if name == ROBERTA else 0
    for n, row in enumerate(segmentation.rows):
        at = slice(units.mask.shape[1] - len(row), None) if model.decoder else slice(len(row))
        wanted = torch.stack([table[i] if i < size else rows[i - size] for i in row]) * scale
        torch.testing.assert_close(units.embeds[n, at], wanted)
        assert units.positions[n, at].tolist() == list(range(first, first + len(row)))
        assert units.mask[n].sum() == len(row)
    assert len(model.cache) == len(set(segmentation.new))


@pytest.mark.parametrize("name", DECODERS)
def test_padding_changes_nothing(name, tmp_path):
    model = dynamic(name, tmp_path, DynamicConfig(per="sample"))
    together = model.prefill(model.prepare(TEXTS, reduction=1.0)).logits()
    for n, text in enumerate(TEXTS):
        alone = model.prefill(model.prepare([text], reduction=1.0)).logits()
        torch.testing.assert_close(together[n], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tied_llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("reduction", [0.0, 1.0])
def test_continuations_are_scored_as_by_one_pass_over_everything(name, reduction, tmp_path):
    model = dynamic(name, tmp_path)
    units = model.prepare(TEXTS, reduction=reduction)
    rows = [model.tokenizer.encode(text) for text in (" and the cat", " dog", " of the dog")]
    found = model.score_after(model.prefill(units), rows)
    embed = model.model.get_input_embeddings()
    for n, row in enumerate(rows):
        prompt = units.embeds[n][units.mask[n].bool()]
        with torch.no_grad():
            whole = torch.cat([prompt, embed(torch.tensor(row))])[None]
            logits = model.model(inputs_embeds=whole).logits[0, len(prompt) - 1 : -1].float()
        wanted = torch.log_softmax(logits[:, : len(model.tokenizer.vocab)], dim=-1)
        torch.testing.assert_close(found[n], wanted.gather(1, torch.tensor(row)[:, None])[:, 0], rtol=1e-4, atol=1e-4)


def test_one_token_is_scored_from_the_prompt_alone(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    units = model.prepare(TEXTS[:2], reduction=1.0)
    logprobs = torch.log_softmax(model.prefill(units).logits(), dim=-1)
    found = model.score_after(model.prefill(units), [[5], [7]])
    torch.testing.assert_close(torch.cat(found), torch.stack([logprobs[0, 5], logprobs[1, 7]]))


def test_a_task_head_sees_the_units(tmp_path):
    source = opened("bert_encoder", tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = transformers.AutoModelForSequenceClassification.from_pretrained(source.checkpoint.folder, num_labels=3)
    hypernet = drawn_hypernet(source.tokenizer.vocab, source.checkpoint.rows.dim, tied=True)
    model = DynamicModel(task.eval(), source.tokenizer, hypernet)
    ids, mask = plain_inputs(model, TEXTS)
    with torch.no_grad():
        wanted = task(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(model(model.prepare(TEXTS, merges=0)).logits, wanted)
        merged = model(model.prepare(TEXTS, reduction=1.0)).logits
    assert merged.shape == wanted.shape
    assert not torch.allclose(merged, wanted)


def paired(folder):
    """An encoder whose tokenizer joins pairs as BERT's does."""
    model = dynamic("bert_encoder", folder)
    roles = model.tokenizer.vocab.roles
    marks = [(model.tokenizer.vocab.names[roles[role]], roles[role]) for role in ("cls", "sep")]
    (cls, _), (sep, _) = marks
    model.tokenizer.backend.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=marks
    )
    return model


def test_pairs_are_joined_by_the_template_and_never_merged_across(tmp_path):
    model = paired(tmp_path)
    second = ["the dogs", "the cat of the dog", ""]
    backend = model.tokenizer.backend
    plain = model.prepare(TEXTS, pairs=second, merges=0)
    ids = [list(one.ids) for one in backend.encode_batch(list(zip(TEXTS, second, strict=True)))]
    assert plain.segmentation.rows == ids
    rows = torch.zeros(plain.mask.shape, dtype=torch.int64)
    types = torch.zeros_like(rows)
    for n, one in enumerate(backend.encode_batch(list(zip(TEXTS, second, strict=True)))):
        rows[n, : len(one.ids)], types[n, : len(one.ids)] = torch.tensor(one.ids), torch.tensor(one.type_ids)
    assert types.any()
    with torch.no_grad():
        wanted = model.model(input_ids=rows, attention_mask=plain.mask, token_type_ids=types).last_hidden_state
        found = model.model(**model.inputs(plain)).last_hidden_state
    assert torch.equal(found[plain.mask.bool()], wanted[plain.mask.bool()])
    merged = model.prepare(TEXTS, pairs=second, reduction=1.0)
    for row, of, words, pieces in zip(
        ids, merged.segmentation.types, merged.segmentation.words, merged.segmentation.pieces, strict=True
    ):
        assert sum(pieces) == len(row)
        known = [word for word in words if word is not None]
        assert known == sorted(known)
        at = next(n for n, kind in enumerate(of) if kind == 1)
        assert words[at - 1] is None  # the mark between them
    with pytest.raises(BadOption, match="3 texts and 1 second"):
        model.prepare(TEXTS, pairs=second[:1], merges=0)


def test_of_a_pair_that_is_too_long_the_longer_text_is_cut(tmp_path):
    model = paired(tmp_path)
    short, long = "the dog", "the cat and the dog and the cat " * 3
    most = 12
    marks = model.tokenizer.backend.num_special_tokens_to_add(True)
    whole = len(model.tokenizer.encode(short))
    for one, other in ((short, long), (long, short)):
        cut = model.prepare([one], pairs=[other], merges=0, max_length=most).segmentation
        assert cut.lengths == [most]
        inside = [kind for kind, word in zip(cut.types[0], cut.words[0], strict=True) if word is not None]
        counts = (inside.count(0), inside.count(1))
        assert sorted(counts) == sorted((whole, most - marks - whole))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_take_part(tmp_path):
    peft = pytest.importorskip("peft")
    model = dynamic("bert_encoder", tmp_path)
    plain = model.encode(model.prepare(TEXTS, reduction=1.0))
    adapted = peft.get_peft_model(model.model, peft.LoraConfig(target_modules=["query", "value"], r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    other = DynamicModel(adapted, model.tokenizer, model.hypernet)
    units = other.prepare(TEXTS, reduction=1.0)
    assert "position_ids" in other.inputs(units)
    assert not torch.allclose(other.encode(units), plain)


def test_rows_of_changed_weights_are_made_anew(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    first = model.prepare(TEXTS, reduction=1.0)
    assert torch.equal(first.embeds, model.prepare(TEXTS, reduction=1.0).embeds)
    assert model.cache.hits == len(first.segmentation.new)
    size = len(model.tokenizer.vocab)
    new = torch.tensor([i >= size for i in first.segmentation.rows[0]])
    with torch.no_grad():
        model.hypernet.network.head.bias.add_(1.0)
    changed = model.prepare(TEXTS, reduction=1.0)
    same = (changed.embeds == first.embeds).all(dim=2)[0, -len(new) :]
    assert torch.equal(same, ~new)  # own tokens do not depend on the hypernetwork
    table = model.model.get_input_embeddings().weight
    with torch.no_grad():
        table.add_(0.5)
    again = model.prepare(TEXTS, reduction=1.0)
    assert not (again.embeds == changed.embeds).all(dim=2)[0, -len(new) :].any()
    assert torch.equal(model.rows.table, table.detach()[:size])


def test_vectors_weigh_units_by_their_tokens_or_alike(tmp_path):
    model = dynamic("bert_encoder", tmp_path)
    units = model.prepare(TEXTS, reduction=1.0)
    pieces = units.weights()
    assert pieces.sum(dim=1).tolist() == [float(n) for n in units.segmentation.plain_lengths]
    assert units.weights("units").sum(dim=1).tolist() == [float(n) for n in units.segmentation.lengths]
    with pytest.raises(BadOption, match="pool"):
        units.weights("words")


def test_labels_of_words_become_labels_of_units():
    cut = Segmentation([], (), [], [[None, 0, 0, 1, 2, 2, None]], [], (), [], [], [])
    assert word_labels(cut, [[4, 5, 6]]) == [[-100, 4, -100, 5, 6, -100, -100]]
    with pytest.raises(BadOption, match="3 words and 2 labels"):
        word_labels(cut, [[4, 5]])


def test_settings_can_be_changed_and_methods_compared(tmp_path):
    model = dynamic("untied_llama", tmp_path)
    other = model.with_config(method="fvt")
    assert other.rows.method == "fvt"
    one, two = (each.prepare(TEXTS, reduction=1.0) for each in (model, other))
    assert one.segmentation.rows == two.segmentation.rows
    assert not torch.allclose(one.embeds, two.embeds)


def test_generation_goes_on_from_a_prompt_in_units(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    config = GenerateConfig(max_new_tokens=6)
    for reduction in (0.0, 1.0):
        units = model.prepare(TEXTS, reduction=reduction)
        found = model.generate(units, config)
        for n, one in enumerate(found):
            embeds = units.embeds[n][units.mask[n].bool()][None]
            for token in one.ids:  # the whole prefix again for each token
                with torch.no_grad():
                    logits = model.model(inputs_embeds=embeds).logits[0, -1, : len(model.tokenizer.vocab)]
                    assert int(logits.argmax()) == token
                    more = model.model.get_input_embeddings()(torch.tensor([[token]]))
                embeds = torch.cat([embeds, more], dim=1)


class Odd(nn.Embedding):
    """A token table that does more than look rows up."""

    def forward(self, ids):
        return super().forward(ids) + 1.0


def test_bad_input(tmp_path):
    model = dynamic("tied_llama", tmp_path)
    with pytest.raises(BadOption, match="at least one text"):
        model.prepare([], merges=0)
    with pytest.raises(BadOption, match="reads at most 64"):
        model.prepare(TEXTS, merges=0, max_length=65)
    with pytest.raises(BadOption, match="exactly one"):
        model.prepare(TEXTS)
    with pytest.raises(BadOption, match="one of the three"):
        model.prepare(TEXTS, shorter=0.1, merges=3)
    with pytest.raises(BadOption, match="per is sample"):
        model.with_config(per="sample").prepare(TEXTS, shorter=0.1)
    with pytest.raises(BadOption, match="none was given") as error:
        DynamicModel(model.model, model.tokenizer, decoder=True)
    assert "fvt" in str(error.value.hint)
    with pytest.raises(BadCheckpoint, match="width"):
        DynamicModel(model.model, model.tokenizer, drawn_hypernet(model.tokenizer.vocab, 8, tied=True), decoder=True)
    with pytest.raises(BadCheckpoint, match="does more than look rows up"):
        embedding_scale(Odd(4, 2))
    encoder = dynamic("bert_encoder", tmp_path)
    with pytest.raises(BadOption, match="only a decoder"):
        encoder.prefill(encoder.prepare(TEXTS, merges=0))


def test_a_fixed_list_of_merges_gives_the_same_units_in_every_batch(tmp_path):
    model = dynamic("bert_encoder", tmp_path)
    learned = model.prepare(TEXTS, reduction=1.0).segmentation
    fixed = DynamicModel(model.model, model.tokenizer, model.hypernet, merges=learned.merges)
    together = fixed.encode(fixed.prepare(TEXTS))
    for n, text in enumerate(TEXTS):
        units = fixed.prepare([text])
        assert units.segmentation.lengths == learned.lengths[n : n + 1]
        torch.testing.assert_close(fixed.encode(units)[0], together[n], rtol=1e-4, atol=1e-5)
    assert fixed.with_config(method="fvt").segmenter.merges == learned.merges


def test_empty_texts_are_read(tmp_path):
    model = dynamic("bert_encoder", tmp_path)
    units = model.prepare(["", "the cat"], reduction=1.0)
    assert units.segmentation.lengths[0] == 2  # the tokens around it
    assert torch.isfinite(model.encode(units)).all()


def test_random_rows_are_an_approximation_by_name(tmp_path):
    model = dynamic("tied_llama", tmp_path, DynamicConfig(method="random", seed=3))
    assert isinstance(model.rows, UnitRows)
    assert model.rows.network is None
