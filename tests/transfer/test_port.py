"""A swap of a base model ported to fine-tunes of it: tables, body, control tokens, and what is refused."""

import json
import re
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.tiny_models import edit_json
from tests.tiny_swaps import CHAT, first_output, load, model_of, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, byte_level, write

from tokenlayer.app.cli import main
from tokenlayer.core.errors import BadCheckpoint, BadOption, OutputExists, VocabMismatch
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.port import mixed, port
from tokenlayer.transfer.swap import SwapConfig, swap

MARKED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILY_OF = {"bert_mlm": "wordpiece", "roberta_mlm": "unigram"}


def tensors(folder):
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def change(folder, edit):
    """Rewrites the tensors of a checkpoint in place, file by file (links to other folders are cut)."""
    for file in sorted(folder.glob("*.safetensors")):
        held = load_file(file)
        file.unlink()
        save_file({name: edit(name, value).contiguous() for name, value in held.items()}, file, {"format": "pt"})


def tuned(base, folder, **config):
    """A fine-tune: every tensor of the body moved a little, the rows of ids 0 to 2 too."""
    shutil.copytree(base, folder)
    rows = open_checkpoint(folder).rows.stored

    def edit(name, value):
        if name not in rows:
            return value + 0.1 if value.is_floating_point() else value
        return torch.cat([value[:3] + 0.5, value[3:]])

    change(folder, edit)
    if config:
        edit_json(folder / "tokenizer_config.json", **config)
    return folder


@pytest.fixture
def three(tmp_path):
    """Base, fine-tune and swapped base, all with the control tokens 0 to 2."""
    return make(tmp_path)


def make(tmp_path, name="tied_llama", text=None, specials=MARKED):
    text = text or byte_level(specials=MARKED)
    base = model_of(name, tmp_path / "base", text, eos_token="<|endoftext|>")
    tuned(base, tmp_path / "chat", chat_template=CHAT)
    target = write(tmp_path / "target", byte_level(400, specials))
    swap(base, target, tmp_path / "swapped")
    return base, tmp_path / "chat", tmp_path / "swapped", tmp_path / "out"


@pytest.mark.parametrize(
    "name", ["tied_llama", "untied_llama", "bf16_llama", "sharded_llama", "padded_llama", "gpt2", "phi", *FAMILY_OF]
)
def test_the_body_is_the_fine_tunes_bit_for_bit_and_the_tables_are_the_swaps(name, tmp_path):
    base = model_with_tokenizer(name, tmp_path / "base")
    chat = tuned(base, tmp_path / "chat")
    family = FAMILY_OF.get(name, "split-byte-level")
    target = write(tmp_path / "target", FAMILIES[family](500))
    swap(base, target, tmp_path / "swapped")
    report = port(chat, base, tmp_path / "swapped", tmp_path / "out")
    was, swapped, now = tensors(chat), tensors(tmp_path / "swapped"), tensors(tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    own = {row[1] for row in report.table("rows of the fine-tune").rows}
    assert now.keys() == was.keys()
    for key in now:
        if key not in checkpoint.rows.stored:
            assert torch.equal(now[key], was[key])
            continue
        others = [i for i in range(len(swapped[key])) if i not in own]
        assert torch.equal(now[key][others], swapped[key][others].to(now[key].dtype))
    assert report.metric("tensors of the body that the swap changed").value == 0
    ids = load_tokenizer(target).encode(SENTENCES["tr"])
    assert load_tokenizer(tmp_path / "out").encode(SENTENCES["tr"]) == ids
    assert torch.isfinite(first_output(load(tmp_path / "out"), ids[:20])).all()
    assert sum(n for _, n, _ in report.table("origin of rows").rows) == checkpoint.rows.rows


def test_shards_without_a_table_are_linked(tmp_path):
    base = model_with_tokenizer("sharded_llama", tmp_path / "base")
    chat = tuned(base, tmp_path / "chat")
    swap(base, write(tmp_path / "target", byte_level(400)), tmp_path / "swapped")
    port(chat, base, tmp_path / "swapped", tmp_path / "out")
    inodes = {file.stat().st_ino for file in chat.glob("*.safetensors")}
    assert sum(file.stat().st_ino in inodes for file in (tmp_path / "out").glob("*.safetensors")) > 3


@pytest.mark.parametrize(
    ("name", "lam"), [("tied_llama", 0.0), ("tied_llama", 0.5), ("bf16_llama", 0.3), ("sharded_llama", 1.0)]
)
def test_lambda_adds_its_share_of_what_healing_did(name, lam, tmp_path):
    base, chat, swapped, out = make(tmp_path, name)
    healed = ("layers.0.mlp.up_proj.weight", "layers.1.input_layernorm.weight")
    draw = torch.Generator().manual_seed(0)
    change(swapped, lambda k, v: v + torch.randn(v.shape, generator=draw).to(v.dtype) if k.endswith(healed) else v)
    report = port(chat, base, swapped, out, lam=lam)
    old, tuned_body, new, found = map(tensors, (base, chat, swapped, out))
    moved = 0
    for key in found:
        if key in open_checkpoint(out).rows.stored:
            continue
        wanted = tuned_body[key]
        if key.endswith(healed) and lam:
            wanted = (wanted.float() + lam * (new[key].float() - old[key].float())).to(wanted.dtype)
        assert torch.equal(found[key], wanted), key
        moved += not torch.equal(found[key], tuned_body[key])
    assert moved == (2 if lam else 0)
    assert report.metric("tensors of the body that the swap changed").value == 2
    assert report.metric("tensors of the body that change").value == moved
    assert (lam == 0) == any("lambda is 0" in sentence for sentence in report.warnings)
    assert not list(tmp_path.glob(".out*"))


def test_bodies_are_mixed_in_float32():
    tuned_body, base, swapped = (torch.tensor([x], dtype=torch.bfloat16) for x in (-255.0, -256.0, 1.0))
    assert mixed(tuned_body, base, swapped, 1.0).item() == 2.0  # bfloat16 would round the difference 257 to 256
    assert mixed(tuned_body, base, base, 0.5).item() == -255.0


def test_the_rows_of_trained_control_tokens_are_the_fine_tunes(three):
    base, chat, swapped, out = three
    report = port(chat, base, swapped, out)
    now = load(out).get_input_embeddings().weight
    ours, theirs = (load(one).get_input_embeddings().weight for one in (chat, swapped))
    source, vocab = load_tokenizer(chat).vocab, load_tokenizer(out).vocab
    for name in MARKED:
        i = vocab.find_name(name)
        assert torch.equal(now[i], ours[source.find_name(name)])
        assert not torch.equal(now[i], theirs[i])
    rest = [i for i in vocab.text_ids() if i < len(theirs)]
    assert torch.equal(now[rest], theirs[rest])
    assert ("the fine-tune: control tokens that it trained", 3) in [
        row[:2] for row in report.table("origin of rows").rows
    ]


def test_an_untrained_control_token_keeps_the_row_of_the_swap(three):
    base, chat, swapped, out = three
    own = tensors(base)["model.embed_tokens.weight"]
    change(chat, lambda name, value: torch.cat([value[:1], own[1:2], value[2:]]) if "embed_tokens" in name else value)
    report = port(chat, base, swapped, out)
    kept = {row[0] for row in report.table("rows of the fine-tune").rows}
    assert kept == {"<|endoftext|>", "<|im_end|>"}
    i = load_tokenizer(out).vocab.find_name("<|im_start|>")
    assert torch.equal(*(load(one).get_input_embeddings().weight[i] for one in (out, swapped)))


def test_chat_markers_that_the_swap_lacks_are_appended_with_the_fine_tunes_rows(tmp_path):
    base = model_of("untied_llama", tmp_path / "base", byte_level(specials=MARKED), eos_token="<|endoftext|>")
    target = write(tmp_path / "target", byte_level(400))
    swap(base, target, tmp_path / "swapped")  # the base has no chat template: nothing is appended
    chat = tuned(base, tmp_path / "chat", chat_template=CHAT, eos_token="<|im_end|>")
    edit_json(chat / "generation_config.json", eos_token_id=[2, 0])
    size = len(load_tokenizer(tmp_path / "swapped").vocab)
    report = port(chat, base, tmp_path / "swapped", tmp_path / "out")
    vocab = load_tokenizer(tmp_path / "out").vocab
    start, end = (vocab.find_name(name) for name in MARKED[1:])
    assert sorted((start, end)) == [size, size + 1]
    now, ours = load(tmp_path / "out"), load(chat)
    for made, own in zip((now.model.embed_tokens, now.lm_head), (ours.model.embed_tokens, ours.lm_head), strict=True):
        assert torch.equal(made.weight[[start, end]], own.weight[[1, 2]])
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [
        end,
        vocab.find_name("<|endoftext|>"),
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    written = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[-1]) == (start, end)
    assert any("appended 2 control tokens" in sentence for sentence in report.warnings)


def test_a_fine_tune_may_have_more_control_tokens_than_its_base(tmp_path):
    base = model_of("tied_llama", tmp_path / "base", byte_level())
    longer = load_tokenizer(base).with_control_tokens(MARKED[1:])
    chat = model_of("tied_llama", tmp_path / "chat", longer.text, chat_template=CHAT)
    swap(base, write(tmp_path / "target", byte_level(400)), tmp_path / "swapped")
    port(chat, base, tmp_path / "swapped", tmp_path / "out")
    vocab, source = load_tokenizer(tmp_path / "out").vocab, load_tokenizer(chat).vocab
    now, own = (load(one).get_input_embeddings().weight for one in (tmp_path / "out", chat))
    for name in MARKED[1:]:
        assert torch.equal(now[vocab.find_name(name)], own[source.find_name(name)])


def test_appended_tokens_take_padded_rows_first(tmp_path):
    base = model_of("tied_llama", tmp_path / "base", byte_level(specials=MARKED))
    chat = tuned(base, tmp_path / "chat", chat_template=CHAT)
    target = write(tmp_path / "target", byte_level(400))
    swap(base, target, tmp_path / "swapped", SwapConfig(pad_multiple=64))
    report = port(chat, base, tmp_path / "swapped", tmp_path / "out")
    rows = open_checkpoint(tmp_path / "swapped").rows.rows
    assert open_checkpoint(tmp_path / "out").rows.rows == rows > len(load_tokenizer(tmp_path / "out").vocab)
    assert report.table("origin of rows").rows[-1][1] == rows - len(load_tokenizer(tmp_path / "out").vocab)


def test_other_text_tokens_are_refused_by_the_first_that_differs(three, tmp_path):
    base, chat, swapped, out = three
    vocab = load_tokenizer(base).vocab
    other = model_of("tied_llama", tmp_path / "other", byte_level(500, MARKED))
    wanted = rf"token 500 is absent in .*other and {re.escape(vocab.label(500)[4:])} in .*base, expected the same"
    with pytest.raises(VocabMismatch, match=wanted):
        port(other, base, swapped, out)
    data = json.loads((chat / "tokenizer.json").read_text())
    last = "".join(data["model"]["merges"].pop())
    at = data["model"]["vocab"].pop(last)
    data["model"]["vocab"]["qqq"] = at
    (chat / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(VocabMismatch, match=rf"token {at} is 'qqq' in .*chat and .* in .*base, expected the same"):
        port(chat, base, swapped, out)
    assert not out.exists()


def test_other_merges_are_refused(three):
    base, chat, swapped, out = three
    data = json.loads((chat / "tokenizer.json").read_text())
    data["model"]["merges"].pop()
    (chat / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(VocabMismatch, match=rf"the merges of .* differ, first at rank {len(data['model']['merges'])}"):
        port(chat, base, swapped, out)


def test_other_shapes_are_refused_by_the_first_tensor_that_differs(three, tmp_path):
    base, chat, swapped, out = three
    change(chat, lambda name, value: value[:, :8] if name.endswith("layers.1.self_attn.q_proj.weight") else value)
    with pytest.raises(VocabMismatch, match=r"layers\.1\.self_attn\.q_proj\.weight is of shape \(16, 16\) in .*base"):
        port(chat, base, swapped, out)
    untied = model_of("untied_llama", tmp_path / "untied", byte_level(specials=MARKED))
    with pytest.raises(VocabMismatch, match=r"base has the token tables .*\(tied\), .*untied has .*lm_head"):
        port(untied, base, swapped, out)
    other = model_of("gpt2", tmp_path / "gpt2", byte_level(specials=MARKED))
    with pytest.raises(VocabMismatch, match=r"is of shape .* in .*base and absent in .*gpt2"):
        port(other, base, swapped, out)


def test_other_models_as_the_swap_are_refused(three, tmp_path):
    base, chat, _, out = three
    other = model_of("gpt2", tmp_path / "gpt2", byte_level(400))
    with pytest.raises(VocabMismatch, match=r"is of shape .* in .*base and absent in .*gpt2"):
        port(chat, base, other, out)


def test_integers_that_a_swap_changed_are_refused(three):
    base, chat, swapped, out = three
    for folder, value in ((base, 1), (chat, 1), (swapped, 2)):
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        save_file({**held, "model.step": torch.tensor([value])}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadCheckpoint, match=r"model\.step of .*swapped is I64 and differs from that of .*base"):
        port(chat, base, swapped, out)


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_lambda_is_a_share(three, lam):
    base, chat, swapped, out = three
    with pytest.raises(BadOption, match=rf"lambda is {lam}, expected 0 to 1"):
        port(chat, base, swapped, out, lam=lam)


def test_a_position_counting_model_keeps_its_pad_id(tmp_path):
    base = model_with_tokenizer("roberta_mlm", tmp_path / "base")
    swap(base, write(tmp_path / "target", FAMILIES["unigram"](450)), tmp_path / "swapped")
    edit_json(tmp_path / "swapped" / "config.json", pad_token_id=0)
    with pytest.raises(VocabMismatch, match=r"positions of .*base are counted from its pad id 3, the pad id of"):
        port(base, base, tmp_path / "swapped", tmp_path / "out")


def test_a_dry_run_writes_nothing_and_an_existing_folder_is_kept(three, tmp_path):
    base, chat, swapped, out = three
    before = sorted(tmp_path.iterdir())
    report = port(chat, base, swapped, out, dry_run=True)
    assert sorted(tmp_path.iterdir()) == before
    assert report.metric("rows").value == open_checkpoint(swapped).rows.rows
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(OutputExists, match="exists and holds 1 files"):
        port(chat, base, swapped, out)
    port(chat, base, swapped, out, force=True)
    assert (out / "tokenizer.json").is_file()


def test_the_command_writes_a_folder_that_its_settings_repeat(three, capsys):
    base, chat, swapped, out = three
    words = [str(chat), "--base", str(base), "--swapped", str(swapped), "--lambda", "0.3", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        main(["transfer", "port", *words, "--json"])
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["lambda"] == 0.3
    assert "--lambda 0.3" in report["settings"]["command"]
    assert "Zero-Shot Tokenizer Transfer" in (out / "README.md").read_text()
    first = tensors(out)
    with pytest.raises(SystemExit) as stop:
        main(["transfer", "port", str(chat), "--config", str(out / "tokenlayer.toml"), "--out", str(out), "--force"])
    assert stop.value.code == 0, capsys.readouterr().err
    assert all(torch.equal(first[key], value) for key, value in tensors(out).items())
    with pytest.raises(SystemExit) as stop:
        main(["transfer", "port", *words[:-2], "--out", str(out)])
    assert stop.value.code == 2
    assert "--force" in capsys.readouterr().err
