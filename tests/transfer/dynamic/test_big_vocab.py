"""A vocabulary far larger than the model's own."""

import json
from dataclasses import replace

import pytest
import torch
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tests.transfer.zett.test_predict import hypernet
from tokenizers import Tokenizer

from tokenlayer.core.errors import BadCheckpoint, BadOption, BadText, OutputExists, VocabMismatch
from tokenlayer.core.vocab import Kind
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.losses import head_of
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.dynamic import big_vocab
from tokenlayer.transfer.dynamic.big_vocab import BigVocab, end_ids, grow_vocabulary
from tokenlayer.transfer.dynamic.index import ExactSearch, IndexConfig, IndexSearch
from tokenlayer.transfer.dynamic.longest_prefix import LongestPrefix
from tokenlayer.transfer.dynamic.rows import UnitRows
from tokenlayer.transfer.zett.files import load_hypernet
from tokenlayer.transfer.zett.predict import source_table

NEW = [b" human beings", b"Alle Menschen", "größer".encode(), b"\xe0\xe0"]


def unit_rows(folder, **options):
    checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
    names = checkpoint.rows
    table = source_table(checkpoint.read(names.input), checkpoint.read(names.output) if names.output else None)
    return UnitRows(tokenizer.vocab, table, tied=not names.output, **({"method": "fvt"} | options))


@pytest.fixture
def tied(tmp_path):
    return unit_rows(model_with_tokenizer("tied_llama", tmp_path / "m"))


def with_hypernet(name, folder):
    source = model_with_tokenizer(name, folder / "m")
    hypernet(folder / "hn", source)
    return unit_rows(source, method="hypernet", hypernet=load_hypernet(folder / "hn"))


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama", "phi"])
def test_own_rows_are_copied_and_new_ones_predicted(name, tmp_path):
    rows = with_hypernet(name, tmp_path)
    size, dim = len(rows.vocab), rows.dim
    bias = torch.randn(size) if name == "phi" else None
    big = BigVocab.build(rows, NEW, bias=bias)
    wanted = rows(NEW)
    assert len(big) == size + len(NEW)
    assert (big.own, big.source) == (size, rows.digest)
    assert torch.equal(big.rows[:size], rows.table[:, :dim])
    torch.testing.assert_close(big.rows[size:], wanted.rows)
    if rows.tied:
        assert big.output_rows is None
        assert torch.equal(big.head_rows, big.rows)
    else:
        assert torch.equal(big.head_rows[:size], rows.table[:, dim:])
        torch.testing.assert_close(big.head_rows[size:], wanted.output_rows)
    if name == "phi":
        assert torch.equal(big.bias[:size], bias)
        torch.testing.assert_close(big.bias[size:], wanted.bias)
    assert big.vocab.tokens[size:] == tuple(NEW)
    assert big.vocab.find(NEW[1]) == size + 1


def test_a_head_with_a_bias_whose_network_predicts_none_takes_the_mean(tied):
    bias = torch.randn(len(tied.vocab))
    big = BigVocab.build(tied, NEW, bias=bias)
    torch.testing.assert_close(big.bias[big.own :], bias.mean().repeat(len(NEW)))


def test_rows_are_predicted_some_at_a_time_in_order(tied, monkeypatch):
    whole = BigVocab.build(tied, NEW).rows
    monkeypatch.setattr(big_vocab, "AT_A_TIME", 3)
    told = []
    assert torch.equal(BigVocab.build(tied, NEW, progress=lambda *at: told.append(at)).rows, whole)
    assert told == [(3, 4), (4, 4)]


def test_known_and_repeated_tokens_are_passed_over_and_empty_ones_refused(tied):
    known = tied.vocab.tokens[-1]
    big = BigVocab.build(tied, [NEW[0], known, NEW[0], NEW[1]])
    assert big.vocab.tokens[big.own :] == (NEW[0], NEW[1])
    with pytest.raises(BadOption, match="token 1 of the new ones is empty"):
        BigVocab.build(tied, [NEW[0], b""])


def test_the_end_token_of_the_vocabulary_ends_texts(tied):
    end = tied.vocab.find_name("<|endoftext|>")
    rows = UnitRows(replace(tied.vocab, roles={"eos": end}), tied.table, tied=True, method="fvt")
    assert BigVocab.build(rows, NEW).ends == (end,)
    assert BigVocab.build(rows, NEW, ends=[3, 4]).ends == (3, 4)
    with pytest.raises(BadOption, match="end id 9999 is outside"):
        BigVocab.build(rows, NEW, ends=[9999])


@pytest.mark.parametrize("name", ["tied_llama", "untied_llama"])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_a_saved_vocabulary_is_the_same(name, kind, tmp_path, monkeypatch):
    source = model_with_tokenizer(name, tmp_path / "m")
    rows = unit_rows(source)
    bias = torch.randn(len(rows.vocab)) if kind == "exact" else None
    big = BigVocab.build(rows, NEW, ends=[1], bias=bias, dtype="bfloat16" if kind == "exact" else "float32").index(kind)
    monkeypatch.setattr(big_vocab, "SHARD_BYTES", 10_000)
    big.save(tmp_path / "out", load_tokenizer(source))
    assert len(list((tmp_path / "out").glob("rows-*.safetensors"))) > 2
    again = BigVocab.load(tmp_path / "out")
    assert torch.equal(again.rows, big.rows)
    assert torch.equal(again.head_rows, big.head_rows)
    assert bias is None or torch.equal(again.bias, big.bias)
    assert (again.own, again.ends, again.source) == (big.own, big.ends, big.source)
    for part in ("tokens", "kinds", "names", "roles", "family", "model"):
        assert getattr(again.vocab, part) == getattr(big.vocab, part)
    assert isinstance(again.search, IndexSearch if kind == "hnsw" else ExactSearch)
    assert again.digest() == big.digest()


def test_the_tokenizer_json_beside_cuts_as_ours(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "m")
    own = load_tokenizer(source)
    big = BigVocab.build(unit_rows(source), NEW)
    big.save(tmp_path / "out", own)
    theirs = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    ours = LongestPrefix(BigVocab.load(tmp_path / "out").vocab, own)
    for text in SENTENCES.values():
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode_text(text)
    assert big.vocab.find(NEW[0]) not in ours.encode_text("human beings")  # of two words
    BigVocab.build(unit_rows(source), NEW).save(tmp_path / "none")
    assert not (tmp_path / "none" / "tokenizer.json").exists()
    assert isinstance(BigVocab.load(tmp_path / "none"), BigVocab)


def test_an_existing_folder_is_kept_unless_forced(tied, tmp_path):
    big = BigVocab.build(tied, NEW)
    big.save(tmp_path / "out")
    with pytest.raises(OutputExists):
        big.save(tmp_path / "out")
    BigVocab.build(tied, NEW[:1]).save(tmp_path / "out", force=True)
    assert len(BigVocab.load(tmp_path / "out")) == big.own + 1


def test_rows_that_are_not_finite_are_refused(tied, tmp_path):
    big = BigVocab.build(tied, NEW)
    broken = replace(big, rows=big.rows.clone())
    broken.rows[big.own + 1, 2] = torch.nan
    with pytest.raises(BadCheckpoint, match=r"rows of token \d+ 'Alle Menschen' is not finite"):
        broken.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    big.save(tmp_path / "out")
    big_vocab.write_safetensors(tmp_path / "new", {"rows": broken.rows}, {})
    (tmp_path / "new").replace(tmp_path / "out" / "rows-00001-of-00001.safetensors")
    with pytest.raises(BadCheckpoint, match="is not finite"):
        BigVocab.load(tmp_path / "out")


def test_changed_rows_and_the_index_of_others_are_refused(tied, tmp_path):
    one, other = BigVocab.build(tied, NEW).index("hnsw"), BigVocab.build(tied, NEW[::-1]).index("hnsw")
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    for name in ("index.faiss", "index.json"):
        (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    with pytest.raises(BadCheckpoint, match="was built for other rows"):
        BigVocab.load(tmp_path / "one")
    shard = "rows-00001-of-00001.safetensors"
    (tmp_path / "other" / shard).replace(tmp_path / "one" / shard)
    with pytest.raises(BadCheckpoint, match=r"the rows in .* have the digest"):
        BigVocab.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "x"}, "has the format 'x'"),
        ({"tokens": 10**12}, "announces 1000000000000 tokens"),
        ({"tokens": 7}, "config.json says float32"),
        ({"shapes": {"rows": ["float32", 10**9, 16]}}, "has .* numbers, config.json says"),
        ({"shapes": {"rows": ["bfloat16", 604, 16]}}, "config.json says bfloat16"),
        ({"shapes": {"bias": ["float32", 5]}}, "announces"),
        ({"shards": ["../m/model.safetensors"]}, "expected a file name"),
        ({"shards": []}, "has .* numbers"),
        ({"shards": ["gone.safetensors"]}, "cannot read"),
        ({"shapes": 3}, "lacks a setting or has one of another form"),
    ],
)
def test_a_damaged_folder_is_refused_before_memory_is_taken(changes, says, tied, tmp_path):
    BigVocab.build(tied, NEW).save(tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(BadCheckpoint, match=says):
        BigVocab.load(tmp_path / "out")


def test_other_tokens_than_rows_are_refused(tied, tmp_path):
    BigVocab.build(tied, NEW).save(tmp_path / "out")
    file = tmp_path / "out" / "tokens.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"tokens": found["tokens"][:-1]}))
    with pytest.raises(BadCheckpoint, match=r"has 603 tokens and 604 names, config.json says 604"):
        BigVocab.load(tmp_path / "out")
    file.write_text("[]")
    with pytest.raises(BadCheckpoint, match="holds list, expected an object"):
        BigVocab.load(tmp_path / "out")
    with pytest.raises(BadCheckpoint, match="holds no vocabulary"):
        BigVocab.load(tmp_path)


def test_a_vocabulary_is_refused_by_other_models(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "m")
    big = BigVocab.build(unit_rows(source), NEW)
    model = load(source)
    outside = OutsideRows(model, big.own)
    big.check_model(outside)
    with torch.no_grad():
        model.get_input_embeddings().weight[-1] += 1
    with pytest.raises(VocabMismatch, match="are not those of the model's own tokens"):
        big.check_model(outside)
    untied = load(model_with_tokenizer("untied_llama", tmp_path / "u"))
    with pytest.raises(VocabMismatch, match="tied: True; the model has width 16, tied: False"):
        big.check_model(OutsideRows(untied, big.own))


def test_a_models_own_vocabulary_takes_no_memory(tmp_path):
    source = model_with_tokenizer("phi", tmp_path / "m")
    model, vocab = load(source), load_tokenizer(source).vocab
    outside = OutsideRows(model, len(vocab))
    own = BigVocab.of_model(outside, vocab)
    assert own.rows is outside.table
    own.check_model(outside)
    assert own.ends == end_ids(model, vocab) == (vocab.find_name("<|endoftext|>"),)
    hidden = torch.randn(3, outside.table.shape[1])
    torch.testing.assert_close(own.head(outside).logits(hidden), head_of(model, len(vocab)).logits(hidden))


def test_growing_goes_on_from_the_merges_of_the_tokenizer():
    own = LoadedTokenizer(json.loads(FAMILIES["byte-level"]()), where="own")
    texts = ["the unbelievable humanitarian"] * 9 + list(SENTENCES.values())
    new = grow_vocabulary(own, texts, len(own.vocab) + 15, warn=lambda sentence: None)
    assert len(new) == len(set(new)) == 15
    assert all(own.vocab.find(token) is None for token in new)
    known = {own.vocab.tokens[i] for i in own.vocab.text_ids()}
    for token in new:  # each joins two that were there before
        assert any(token[:cut] in known and token[cut:] in known for cut in range(1, len(token)))
        known.add(token)
    assert any(token.isascii() for token in new)
    assert max(token.count(b" ") for token in new) == 1  # never over words
    with pytest.raises(BadOption, match="expected more than the 600 tokens"):
        grow_vocabulary(own, texts, 600)
    with pytest.raises(BadText, match="tokens can be learned"):
        grow_vocabulary(own, texts, 9999, warn=lambda sentence: None)


def test_new_tokens_are_normal_and_index_settings_are_taken(tied):
    big = BigVocab.build(tied, NEW).index(IndexConfig("ivf", lists=2, probes=1.0))
    assert set(big.vocab.kinds[big.own :]) == {Kind.NORMAL}
    assert big.search.config.lists == 2
    assert isinstance(big.index("auto").search, ExactSearch)
