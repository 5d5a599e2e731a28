import errno
import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from tests import tiny_models
from tests.tiny_models import MAKERS, SPECIAL_IDS, VOCAB

from tokenlayer.core.errors import BadOption, NoRoom, OutputExists, VocabMismatch
from tokenlayer.models import checkpoint_write, safetensors_write
from tokenlayer.models.checkpoint import Checkpoint, open_checkpoint
from tokenlayer.models.checkpoint_write import needed_bytes, write_checkpoint


def rewrite(source, out, change=lambda table: table, **options):
    """Writes `source` to `out` with `change` applied to each table; ids keep their meaning."""
    out.mkdir()
    rows = {name: change(source.read(name)) for name in source.rows.names}
    settings = {"special_ids": SPECIAL_IDS, "token_map": {i: i for i in range(VOCAB)}, "files": {}} | options
    vocab_size = next(iter(rows.values())).shape[0]
    return write_checkpoint(source, out, rows=rows, vocab_size=vocab_size, **settings)


def load(folder):
    """The model as plain transformers loads it; nothing may be missing, left over or of another shape."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def outputs(model, ids):
    with torch.no_grad():
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return result[0]


def fitted(table, rows):
    """The first rows of a table, or the table with its first rows repeated below."""
    return table[torch.arange(rows) % table.shape[0]]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_rows_give_the_same_model(tmp_path: Path, maker: str):
    folder = MAKERS[maker](tmp_path / "source")
    before = content(folder)
    notes = rewrite(open_checkpoint(folder), tmp_path / "out")
    assert content(folder) == before
    assert notes == []
    old, new = load(folder), load(tmp_path / "out")
    assert old.state_dict().keys() == new.state_dict().keys()
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
        assert tensor.dtype == new.state_dict()[name].dtype
    assert old.config.to_dict() == new.config.to_dict() | {"_name_or_path": old.config._name_or_path}
    ids = torch.arange(3, 19).reshape(2, 8)
    assert torch.equal(outputs(old, ids), outputs(new, ids))


@pytest.mark.parametrize("rows", [VOCAB - 20, VOCAB + 33])
@pytest.mark.parametrize("maker", MAKERS)
def test_another_vocabulary_loads_in_plain_transformers(tmp_path: Path, maker: str, rows: int):
    source = open_checkpoint(MAKERS[maker](tmp_path / "source"))
    rewrite(source, tmp_path / "out", lambda table: fitted(table, rows) * 2)
    model, written = load(tmp_path / "out"), open_checkpoint(tmp_path / "out")
    table = model.get_input_embeddings().weight
    assert torch.equal(table.detach(), fitted(source.read(source.rows.input), rows) * 2)
    assert model.config.get_text_config().vocab_size == rows
    assert (written.rows.rows, written.rows.tied, written.rows.names) == (rows, source.rows.tied, source.rows.names)
    assert (written.rows.aliases, written.kind, written.dtype) == (source.rows.aliases, source.kind, source.dtype)
    head = model.get_output_embeddings()
    if head is not None:
        assert head.weight.shape[0] == rows
        assert (head.weight is table) == source.rows.tied
        bias = getattr(head, "bias", None)
        assert bias is None or torch.equal(bias.detach(), fitted(source.read(source.rows.biases[0]), rows) * 2)


def test_shards_without_tables_are_links(tmp_path: Path):
    source = open_checkpoint(tiny_models.sharded_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "out", lambda table: fitted(table, 70))
    touched = {source.tensors[name].file.name for name in source.rows.stored}
    for shard in source.shards:
        new = tmp_path / "out" / shard.file.name
        assert (shard.file.stat().st_ino == new.stat().st_ino) == (shard.file.name not in touched)
    assert 0 < len(touched) < len(source.shards)


def test_links_of_a_hub_snapshot_are_followed(tmp_path: Path):
    folder = tiny_models.sharded_llama(tmp_path / "models--x" / "snapshots" / "abc")
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    rewrite(open_checkpoint(folder), tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    inodes = {path.stat().st_ino for path in blobs.iterdir()}
    linked = [path for path in (tmp_path / "out").iterdir() if path.stat().st_ino in inodes]
    assert len(linked) > 0
    load(tmp_path / "out")


def test_no_links_on_request(tmp_path: Path):
    source = open_checkpoint(tiny_models.sharded_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "out", link=False)
    inodes = {shard.file.stat().st_ino for shard in source.shards}
    assert not inodes & {path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    for shard in source.shards:
        assert load_file(shard.file).keys() == load_file(tmp_path / "out" / shard.file.name).keys()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_link_that_cannot_be_made_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    def refuse(*_):
        raise OSError(code, "no link")

    source = open_checkpoint(tiny_models.sharded_llama(tmp_path / "source"))
    monkeypatch.setattr(os, "link", refuse)
    rewrite(source, tmp_path / "out")
    for shard in source.shards:
        assert shard.file.stat().st_ino != (tmp_path / "out" / shard.file.name).stat().st_ino
    old, new = load(source.folder).state_dict(), load(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_tables_in_a_file_of_their_own(tmp_path: Path):
    """The first swap copies the body once, every later one links it."""
    source = open_checkpoint(tiny_models.untied_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "first", lambda table: fitted(table, 70), split=True)
    first = open_checkpoint(tmp_path / "first")
    body, tables = first.shards
    assert set(tables.tensors) == first.rows.stored
    rewrite(first, tmp_path / "second", lambda table: fitted(table, 50))
    assert (tmp_path / "second" / body.file.name).stat().st_ino == body.file.stat().st_ino
    assert needed_bytes(first, 50, out=tmp_path / "second") < 1_100_000
    old, new = load(source.folder).state_dict(), load(tmp_path / "second").state_dict()
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items() if name not in first.rows.stored)


def test_splitting_a_sharded_model_again_and_again(tmp_path: Path):
    source = open_checkpoint(tiny_models.sharded_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "first", split=True)
    rewrite(open_checkpoint(tmp_path / "first"), tmp_path / "second", split=True)
    first, second = open_checkpoint(tmp_path / "first"), open_checkpoint(tmp_path / "second")
    assert [shard.file.name for shard in first.shards] == [shard.file.name for shard in second.shards]
    load(tmp_path / "second")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("maker", ["untied_llama", "sharded_llama", "twice_stored_llama", "untied_bert_mlm"])
def test_needed_bytes_counts_what_is_written(tmp_path: Path, maker: str, split: bool):
    source = open_checkpoint(MAKERS[maker](tmp_path / "source"))
    rewrite(source, tmp_path / "out", lambda table: fitted(table, 3000), split=split)
    inodes = {shard.file.stat().st_ino for shard in source.shards}
    written = sum(p.stat().st_size for p in (tmp_path / "out").iterdir() if p.stat().st_ino not in inodes)
    assert 0 <= needed_bytes(source, 3000, out=tmp_path / "new" / "out") - written < 1_010_000
    unlinked = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert 0 <= needed_bytes(source, 3000, out=tmp_path, link=False) - unlinked < 1_010_000


def test_the_index_describes_the_new_files(tmp_path: Path):
    source = open_checkpoint(tiny_models.sharded_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "out", lambda table: fitted(table, 70))
    old = json.loads((source.folder / "model.safetensors.index.json").read_text())
    new = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert new["weight_map"] == old["weight_map"]
    grown = 2 * 10 * tiny_models.DIM
    assert new["metadata"]["total_parameters"] == old["metadata"]["total_parameters"] + grown
    assert new["metadata"]["total_size"] == old["metadata"]["total_size"] + 4 * grown


def test_metadata_and_dtype_are_kept(tmp_path: Path):
    source = open_checkpoint(tiny_models.bf16_llama(tmp_path / "source"))
    rewrite(source, tmp_path / "out", lambda table: fitted(table, 70).float())
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_a_head_that_differs_is_written_as_untied(tmp_path: Path):
    """The config of the source says tied, transformers loads it untied; the result says so."""
    folder = tiny_models.tied_llama(tmp_path / "source")
    tiny_models.store(folder, lambda tensors: tensors | {"lm_head.weight": torch.ones(VOCAB, tiny_models.DIM)})
    rewrite(open_checkpoint(folder), tmp_path / "out", lambda table: fitted(table, 70))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = load(tmp_path / "out")
    assert torch.equal(model.lm_head.weight.detach(), torch.ones(70, tiny_models.DIM))
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_size_that_the_config_left_to_the_default_is_written(tmp_path: Path):
    """Gemma 3 on the hub has no vocab_size in text_config: the class knows it."""
    source = open_checkpoint(tiny_models.gemma3(tmp_path / "source"))
    del source.text_config["vocab_size"]
    rewrite(source, tmp_path / "out", lambda table: fitted(table, 70))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]["vocab_size"] == 70
    assert load(tmp_path / "out").get_input_embeddings().weight.shape[0] == 70


def test_special_ids_reach_every_config(tmp_path: Path):
    folder = tiny_models.tied_llama(tmp_path / "source")
    tiny_models.edit_json(
        folder / "generation_config.json",
        suppress_tokens=[4, 5, 50],
        begin_suppress_tokens=[50],
        bad_words_ids=[[4, 5], [4, 50], [2]],
        sequence_bias=[[[4], -1.5], [[50], 2.0]],
        forced_eos_token_id=50,
    )
    tiny_models.edit_json(folder / "config.json", sep_token_id=2, tokenizer_class="LlamaTokenizer")
    notes = rewrite(
        open_checkpoint(folder),
        tmp_path / "out",
        special_ids={"bos_token_id": None, "eos_token_id": [7, 9], "pad_token_id": 11},
        token_map={4: 40, 5: 41, 2: 7},
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [config[f"{role}_token_id"] for role in ("bos", "eos", "pad", "sep")] == [None, [7, 9], 11, 7]
    assert "tokenizer_class" not in config
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert [generation[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [None, [7, 9], 11]
    assert generation["suppress_tokens"] == [40, 41]
    assert generation["begin_suppress_tokens"] is None
    assert generation["bad_words_ids"] == [[40, 41], [7]]
    assert generation["sequence_bias"] == [[[40], -1.5]]
    assert generation["forced_eos_token_id"] is None
    assert sorted(notes) == sorted(
        [
            "generation_config.json: forced_eos_token_id was 50 in the source; "
            "the target has no token for it, it is now null",
            "generation_config.json: 1 of 3 token ids in suppress_tokens are lost",
            "generation_config.json: 1 of 1 token ids in begin_suppress_tokens are lost",
            "generation_config.json: 1 of 3 entries of bad_words_ids are lost",
            "generation_config.json: 1 of 2 entries of sequence_bias are lost",
        ]
    )
    assert load(tmp_path / "out").generation_config.eos_token_id == [7, 9]


def test_a_config_that_its_class_would_refuse_is_noticed_first(tmp_path: Path):
    """Whisper wants a number, and its token was lost."""
    config = transformers.WhisperConfig(
        vocab_size=VOCAB, d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=24, **SPECIAL_IDS
    )
    tiny_models.make(transformers.WhisperForCausalLM, config, tmp_path / "source")
    source = open_checkpoint(tmp_path / "source")
    with pytest.raises(VocabMismatch, match=r"would not load: WhisperForCausalLM .*'decoder_start_token_id'"):
        rewrite(source, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())
    rewrite(source, tmp_path / "again", special_ids=SPECIAL_IDS | {"decoder_start_token_id": 0})


def test_special_ids_that_the_source_left_to_its_class_are_written(tmp_path: Path):
    """LlamaConfig would fill in bos 1 and eos 2."""
    folder = tiny_models.tied_llama(tmp_path / "source")
    tiny_models.edit_json(folder / "config.json", bos_token_id=..., eos_token_id=...)
    ids = {"bos_token_id": 30, "eos_token_id": 31, "pad_token_id": None}
    rewrite(open_checkpoint(folder), tmp_path / "out", special_ids=ids)
    config = load(tmp_path / "out").config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (30, 31, None)


def test_an_image_token_without_a_new_id_is_reported(tmp_path: Path):
    source = open_checkpoint(tiny_models.gemma3(tmp_path / "source"))
    notes = rewrite(source, tmp_path / "out", token_map={5: 33})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["image_token_index"], config["boi_token_index"]) == (33, 6)
    assert notes == [
        f"config.json: {role}_token_index is unknown: it keeps the source's id {i}, which now is another token, or none"
        for role, i in (("boi", 6), ("eoi", 7))
    ]


def test_small_files_come_along_and_stale_ones_do_not(tmp_path: Path):
    folder = tiny_models.bert_encoder(tmp_path / "source")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Dense"}]
    kept = {"LICENSE": "x", "preprocessor_config.json": "{}", "modules.json": json.dumps(modules), "code.py": "1"}
    stale = (
        "README.md",
        "tokenizer.json",
        "vocab.txt",
        "spiece.model",
        "pytorch_model.bin",
        "m.onnx",
        "tokenlayer.json",
    )
    for name, text in {**kept, **dict.fromkeys(stale, "old")}.items():
        (folder / name).write_text(text)
    for module in ("1_Pooling", "2_Dense", "onnx"):
        (folder / module).mkdir()
        (folder / module / "config.json").write_text("{}")
    (folder / "2_Dense" / "model.safetensors").write_text("weights")
    (folder / "2_Dense" / "pytorch_model.bin").write_text("pickle")
    (tmp_path / "secret").write_text("x")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    notes = rewrite(open_checkpoint(folder), tmp_path / "out", files={"tokenizer.json": "new", "a/b.txt": b"bytes"})
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    modules_found = {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}
    assert found == {"config.json", "model.safetensors", "tokenizer.json", "a/b.txt", *kept, *modules_found}
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "new"
    assert notes == [
        "notes.txt was left behind: it is a link out of the folder",
        "2_Dense/pytorch_model.bin was left behind: only safetensors weights are taken along",
    ]


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"rows": {}}, VocabMismatch, r"new rows were given for \[\], .* has the token tables \['model.embed_tokens"),
        ({"vocab_size": 59}, VocabMismatch, r"embed_tokens.weight have shape \(60, 16\), expected \(59, 16\)"),
        (
            {"special_ids": {"eos_token_id": [2, 60]}},
            VocabMismatch,
            "eos_token_id is 60, the new tables have ids 0 to 59",
        ),
        ({"special_ids": {"eos": 2}}, BadOption, "special_ids has the key 'eos', expected the name of a config field"),
        ({"files": {"../x": ""}}, BadOption, "files has the name '../x', expected a name inside the folder"),
        (
            {"files": {"config.json": ""}},
            BadOption,
            "files has the name 'config.json', which is written from the source",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_writing(
    tmp_path: Path, change: dict[str, object], error: type[Exception], text: str
):
    source = open_checkpoint(tiny_models.tied_llama(tmp_path / "source"))
    (tmp_path / "out").mkdir()
    arguments = {"vocab_size": VOCAB, "special_ids": SPECIAL_IDS, "files": {}, "rows": read_all(source)} | change
    with pytest.raises(error, match=text):
        write_checkpoint(source, tmp_path / "out", **arguments)
    assert not any((tmp_path / "out").iterdir())


def read_all(source: Checkpoint):
    return {name: source.read(name) for name in source.rows.names}


def test_a_folder_with_files_is_not_written_to(tmp_path: Path):
    source = open_checkpoint(tiny_models.tied_llama(tmp_path / "source"))
    with pytest.raises(OutputExists, match="is not an empty folder"):
        write_checkpoint(source, source.folder, rows=read_all(source), vocab_size=VOCAB, special_ids={}, files={})


def test_a_full_disk_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    source = open_checkpoint(tiny_models.tied_llama(tmp_path / "source"))
    monkeypatch.setattr(checkpoint_write, "write_safetensors", full)
    with pytest.raises(NoRoom, match="filled up while writing"):
        rewrite(source, tmp_path / "out")


def test_without_a_copying_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.setattr(safetensors_write, "BLOCK_BYTES", 100)
    source = open_checkpoint(tiny_models.gpt2(tmp_path / "source"))
    rewrite(source, tmp_path / "out")
    old, new = load_file(source.folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_the_order_of_stale_tables_would_decide(tmp_path: Path):
    """Why a shard with tables is not linked: transformers reads every tensor of every file, the last name wins."""
    folder = tiny_models.untied_llama(tmp_path / "source")
    old = load_file(folder / "model.safetensors")
    for body, tables, wins in [("a", "b", "new"), ("b", "a", "old")]:
        stale = tmp_path / body
        stale.mkdir()
        (stale / "config.json").write_bytes((folder / "config.json").read_bytes())
        (stale / f"{body}.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        tiny_models.save_file({"lm_head.weight": torch.ones(VOCAB, tiny_models.DIM)}, stale / f"{tables}.safetensors")
        places = {name: f"{tables if name == 'lm_head.weight' else body}.safetensors" for name in old}
        (stale / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        head = load(stale).lm_head.weight.detach()
        assert torch.equal(head, torch.ones_like(head) if wins == "new" else old["lm_head.weight"])
