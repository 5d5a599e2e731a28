"""The main job end to end on tiny models: what loads in plain transformers afterwards, and what is refused."""

import gzip
import json
import os

import pytest
import torch
import transformers
from tests.tiny_swaps import CHAT, MODELS, first_output, load, model_of, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, byte_level, sentencepiece_bpe, write

from tokenlayer.core.errors import BadCheckpoint, BadOption, BadText, NoRoom, OutputExists, VerifyFailed, VocabMismatch
from tokenlayer.data.sources import parse_eval_spec
from tokenlayer.models.compare import EvalText
from tokenlayer.models.score import WindowConfig
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.initialisers import INITIALISERS, best_for
from tokenlayer.transfer.materials import Materials
from tokenlayer.transfer.swap import SwapConfig, read_texts, swap

TEXTS = (EvalText("en", SENTENCES["en"] * 2, "en"), EvalText("ru", SENTENCES["ru"], "ru"))
WINDOW = WindowConfig(window=24, stride=12, batch=2)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_own_tokenizer_changes_nothing(name, tmp_path):
    source = model_with_tokenizer(name, tmp_path / "source")
    ids = load_tokenizer(source).encode(SENTENCES["en"])[:20]
    before = first_output(load(source), ids)
    for init in ("pieces", "copy", "copy-gaussian"):
        swap(source, source / "tokenizer.json", tmp_path / init, SwapConfig(init=init))
        after = first_output(load(tmp_path / init), ids)
        vocab = len(load_tokenizer(source).vocab) if before.shape[-1] != 16 else 16
        assert torch.equal(before[..., :vocab], after[..., :vocab])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_takes_every_tokenizer(name, family, tmp_path):
    source = model_with_tokenizer(name, tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES[family]())
    report = swap(source, target, tmp_path / "out", SwapConfig(pad_multiple=8))
    model = load(tmp_path / "out")
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows % 8 == 0
    assert rows == report.metric("rows").value >= len(load_tokenizer(target).vocab)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = load_tokenizer(tmp_path / "out").encode(SENTENCES["tr"])[:20]
    assert tokenizer(SENTENCES["tr"], add_special_tokens=False)["input_ids"][:20] == ids
    assert torch.isfinite(first_output(model, ids)).all()
    assert sum(n for _, n, _ in report.table("origin of rows").rows) == rows
    own = load_tokenizer(source)
    whole = tokenizer(SENTENCES["en"])["input_ids"]
    around = [n for n in ("cls", "sep") if n in own.vocab.roles]
    if own.vocab.family == "wordpiece":
        assert (whole[0], whole[-1]) == tuple(load_tokenizer(tmp_path / "out").vocab.roles[n] for n in around)


def test_shared_rows_are_copied_and_pieces_are_means(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    swap(source, target, tmp_path / "out")
    old, new = (load(p).get_input_embeddings().weight for p in (source, tmp_path / "out"))
    before, after = load_tokenizer(source).vocab, load_tokenizer(tmp_path / "out").vocab
    seen = {"copied": 0, "mixed": 0}
    for i in after.text_ids():
        shared = before.find(after.tokens[i])
        if shared is not None:
            assert torch.equal(new[i], old[shared])
            seen["copied"] += 1
        else:
            torch.testing.assert_close(new[i], old[before.spell(after.tokens[i])].mean(dim=0))
            seen["mixed"] += 1
    assert min(seen.values()) > 20


def test_tokens_in_numbers_before_and_after(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source", bos_token="<|endoftext|>")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    config = SwapConfig(texts=TEXTS, prompts=("All human",), window=WINDOW)
    report = swap(source, target, tmp_path / "out", config)
    for text in TEXTS:
        size = len(text.text.encode())
        found = report.metric("bits per byte", text.name)
        assert found.n == size
        assert 0 < found.value < 40
        assert found.baseline > 0
        tokens = report.metric("tokens", text.name)
        assert tokens.value == len(load_tokenizer(target).encode(text.text))
        assert tokens.baseline == len(load_tokenizer(source).encode(text.text))
        assert 0 <= report.metric("next-byte agreement", text.name).value <= 1
    assert report.data["continuations"][0]["prompt"] == "All human"
    assert "".join(t for t, _ in report.data["sample"]["target"]) == SENTENCES["en"] * 2
    json.dumps(report.to_dict())


def test_identity_scores_alike_and_agrees_everywhere(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source", bos_token="<|endoftext|>")
    report = swap(source, source, tmp_path / "out", SwapConfig(texts=TEXTS, window=WINDOW))
    for text in TEXTS:
        found = report.metric("bits per byte", text.name)
        assert found.value == found.baseline
        assert report.metric("next-byte agreement", text.name).value == 1


def test_masked_models_and_encoders_are_measured_too(tmp_path):
    for name, metric in (("bert_mlm", "pseudo bits per byte"), ("bert_encoder", "cosine to the source's line vectors")):
        source = model_with_tokenizer(name, tmp_path / name)
        report = swap(source, source, tmp_path / f"{name}-out", SwapConfig(texts=TEXTS[:1], window=WINDOW))
        found = report.metric(metric)
        assert found.value == pytest.approx(found.baseline if name == "bert_mlm" else 1.0, abs=1e-5)


def test_chat_markers_that_the_target_lacks_are_appended_with_their_rows(tmp_path):
    text = byte_level(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    source = model_of("tied_llama", tmp_path / "source", text, chat_template=CHAT, eos_token="<|im_end|>")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    size = len(load_tokenizer(target).vocab)
    report = swap(source, target, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_dict=True)["input_ids"]
    assert (ids[0], ids[-1]) == (size, size + 1)
    assert tokenizer.eos_token == "<|im_end|>"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == size + 1
    old, new = (load(p).get_input_embeddings().weight for p in (source, tmp_path / "out"))
    assert torch.equal(new[size + 1], old[2])
    assert any("appended 2 control tokens" in w for w in report.warnings)
    kept = swap(source, target, tmp_path / "kept", SwapConfig(specials="keep"))
    assert any("cannot write as one token: <|im_start|>, <|im_end|>" in w for w in kept.warnings)
    assert len(load_tokenizer(tmp_path / "kept").vocab) == size


def test_every_stop_token_of_the_model_stops_it_afterwards(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source", family="split-byte-level")
    file = source / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [1, 2]}))
    (tmp_path / "target").mkdir()
    text = json.loads(FAMILIES["split-byte-level"](500))
    write(tmp_path / "target", json.dumps(text))
    swap(source, tmp_path / "target", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [1, 2]


def test_positions_of_roberta_stay_where_they_were(tmp_path):
    """Its positions count from the pad id, so the pad token keeps its id and another token moves."""
    source = model_with_tokenizer("roberta_mlm", tmp_path / "source")
    pad = load_tokenizer(source).vocab.roles["pad"]
    for family in ("byte-level", "unigram"):
        target = write(tmp_path / family, FAMILIES[family]())
        swap(source, target, tmp_path / f"{family}-out")
        written, asked = load_tokenizer(tmp_path / f"{family}-out"), load_tokenizer(target)
        assert written.vocab.roles["pad"] == load(tmp_path / f"{family}-out").config.pad_token_id == pad
        for text in SENTENCES.values():
            pieces = [asked.vocab.names[i] for i in asked.encode(text)]
            assert [written.vocab.names[i] for i in written.encode(text)] == pieces


def test_padded_source_rows_never_become_token_rows(tmp_path):
    source = model_with_tokenizer("padded_llama", tmp_path / "source", family="byte-level")
    size = len(load_tokenizer(source).vocab)
    model = load(source)
    model.get_input_embeddings().weight.data[size:] = 1e6
    model.save_pretrained(source)
    target = write(tmp_path / "target", sentencepiece_bpe())
    for init in (name for name, one in INITIALISERS.items() if not one.needs):
        swap(source, target, tmp_path / init, SwapConfig(init=init))
        assert load(tmp_path / init).get_input_embeddings().weight.abs().max() < 100


def test_same_seed_same_bytes(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", sentencepiece_bpe())
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        swap(source, target, tmp_path / name, SwapConfig(init="gaussian-full", seed=seed))
        made[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_a_dry_run_writes_nothing_and_knows_the_rows(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", sentencepiece_bpe())
    report = swap(source, target, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert report.metric("rows").value >= 700
    assert report.table("origin of rows").rows


def test_source_files_are_untouched(tmp_path):
    source = model_with_tokenizer("sharded_llama", tmp_path / "source")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    swap(source, write(tmp_path / "target", sentencepiece_bpe()), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_refusals_leave_nothing_behind(tmp_path, monkeypatch):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", sentencepiece_bpe())
    there = sorted(os.listdir(tmp_path))

    def refused(error, text, **options):
        with pytest.raises(error, match=text):
            swap(options.pop("model", source), options.pop("tokenizer", target), tmp_path / "out", **options)
        assert sorted(os.listdir(tmp_path)) == there

    refused(BadCheckpoint, "nowhere does not exist", model=tmp_path / "nowhere")
    refused(BadOption, "device is 'cuda:99'|device is 'abacus'", config=SwapConfig(device="abacus"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10})())
    refused(NoRoom, "the new checkpoint needs .* MB under .*, 0 MB are free")
    monkeypatch.undo()
    monkeypatch.setattr("tokenlayer.models.verify._same", lambda *_: False)
    refused(VerifyFailed, "does not hold the planned rows")
    monkeypatch.undo()

    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenlayer.transfer.swap.verify_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        swap(source, target, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == there


def test_an_existing_folder_is_refused_then_replaced_by_force(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    out = tmp_path / "out"
    swap(source, source, out)
    before = (out / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(OutputExists, match="exists and holds") as caught:
        swap(source, source, out)
    assert "--force" in caught.value.hint
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    swap(source, source, out, force=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("x")
    with pytest.raises(OutputExists, match="does not look like a checkpoint"):
        swap(source, source, foreign, force=True)
    assert (foreign / "thesis.txt").read_text() == "x"


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source", family="byte-level")
    write(source, FAMILIES["sentencepiece-bpe"](900))
    with pytest.raises(
        VocabMismatch, match=r"has \d+ tokens, the model has \d+ rows; the first token without a row is"
    ):
        swap(source, source, tmp_path / "out")


def test_options_are_checked_before_any_work():
    with pytest.raises(BadOption, match=r"init is 'peices', expected one of: pieces") as caught:
        SwapConfig(init="peices")
    assert "did you mean 'pieces'" in caught.value.hint
    with pytest.raises(BadOption, match="pad_multiple is 0"):
        SwapConfig(pad_multiple=0)
    with pytest.raises(BadText, match="the text x is empty"):
        SwapConfig(texts=(EvalText("x", "  "),))
    with pytest.raises(BadOption, match="two texts have one name"):
        SwapConfig(texts=(EvalText("x", "a"), EvalText("x", "b")))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.txt.zst"])
def test_texts_to_score_come_from_any_document_file_cut_at_a_whole_character(name, tmp_path):
    documents = ["erste Zeile\nzweite", "dritte Zeile – ÄÖÜ" * 20]
    text = "\n\n".join(documents) + "\n"
    if name.endswith("jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({"text": one}) + "\n" for one in documents), encoding="utf-8")
    elif name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    elif name.endswith("zst"):
        pyarrow = pytest.importorskip("pyarrow")
        with pyarrow.output_stream(str(tmp_path / name), compression="zstd") as file:
            file.write(text.encode())
    else:
        (tmp_path / name).write_text(text, encoding="utf-8")
    for most in (10, 40, 41, 42, 43, 10_000):
        (found,) = read_texts([parse_eval_spec(f"{tmp_path / name}:de")], most)
        assert (found.name, found.language) == (name, "de")
        assert "\n\n".join(documents).startswith(found.text)
        assert most - 4 < len(found.text.encode()) <= most or most == 10_000


def test_an_empty_text_to_score_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(BadText, match=r"empty\.txt is empty"):
        read_texts([parse_eval_spec(str(tmp_path / "empty.txt"))], 100)


def test_split_puts_tables_apart_and_the_next_swap_links_the_body(tmp_path):
    source = model_with_tokenizer("untied_llama", tmp_path / "source")
    swap(source, source / "tokenizer.json", tmp_path / "split", SwapConfig(split=True))
    swap(tmp_path / "split", source / "tokenizer.json", tmp_path / "next")
    files = {f.name: os.stat(f).st_ino for f in (tmp_path / "split").glob("*.safetensors")}
    assert len(files) == 2
    linked = [n for n, inode in files.items() if os.stat(tmp_path / "next" / n).st_ino == inode]
    assert len(linked) == 1
    ids = load_tokenizer(source).encode(SENTENCES["en"])[:20]
    assert torch.equal(first_output(load(source), ids), first_output(load(tmp_path / "next"), ids))


@pytest.mark.parametrize(("init", "safe"), [("pieces", True), ("copy", True), ("gaussian", False), ("random", False)])
@pytest.mark.parametrize("model", ["tied_llama", "untied_llama"])
def test_mixtures_of_old_rows_never_win_and_drawn_rows_do(model, init, safe, tmp_path):
    source = model_with_tokenizer(model, tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    report = swap(source, target, tmp_path / "out", SwapConfig(init=init, check_hull=True), dry_run=True)
    outside = report.metric("rows outside the convex hull").value
    wins = report.metric("hidden states where a new row wins").value
    assert (outside == 0) == safe
    assert (wins == 0) == safe
    assert any("may leave the convex hull" in warning for warning in report.warnings) != safe


@pytest.mark.parametrize(("model", "family"), [("tied_llama", "split-byte-level"), ("untied_llama", "byte-level")])
def test_cw2v_learns_from_the_texts_and_stays_in_the_hull(model, family, tmp_path):
    source = model_with_tokenizer(model, tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES[family]())
    text = tmp_path / "text.txt"
    text.write_text("\n".join([*SENTENCES.values()] * 2), encoding="utf-8")
    config = SwapConfig(init="cw2v", materials=Materials(texts=(str(text),)), check_hull=True)
    report = swap(source, target, tmp_path / "out", config)
    assert report.metric("rows outside the convex hull").value == 0
    assert report.metric("hidden states where a new row wins").value == 0
    assert dict(row[:2] for row in report.table("origin of rows").rows)["cw2v"] > 20


def test_a_donor_gives_its_own_rows_back(tmp_path):
    """With the model as its own donor, what is made of shared tokens there is made of them here."""
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    swap(source, target, tmp_path / "donor")
    config = SwapConfig(init="omp", materials=Materials(donor=str(tmp_path / "donor")))
    report = swap(source, target, tmp_path / "out", config)
    assert dict(row[:2] for row in report.table("origin of rows").rows)["omp"] > 20
    one, other = (load(tmp_path / name).get_input_embeddings().weight for name in ("donor", "out"))
    torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    other_family = Materials(donor=str(model_with_tokenizer("bert_mlm", tmp_path / "bert")))
    with pytest.raises(VocabMismatch, match="of the .* target tokens"):
        swap(source, target, tmp_path / "no", SwapConfig(init="omp", materials=other_family))


def test_auto_picks_and_says_why(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    report = swap(source, target, tmp_path / "out", SwapConfig(init="auto", materials=Materials(texts=("x",))))
    ((chosen, why),) = report.table("init auto").rows
    assert chosen == "pieces"
    assert "initialisers from texts are starts for training" in why
    assert best_for(Materials(donor="x"))[0] == "omp"
    assert ";" not in best_for(Materials())[1]
    assert dict(row[:2] for row in report.table("origin of rows").rows)["pieces"] > 20
    swap(source, target, tmp_path / "named", SwapConfig(init=chosen))
    assert (tmp_path / "named/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
