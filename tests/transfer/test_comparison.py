"""Several tokenizers and initialisers on one model: the numbers of real swaps, each run once."""

import json
import os

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.app import api
from tokenlayer.core.errors import BadOption
from tokenlayer.models.compare import EvalText
from tokenlayer.models.score import WindowConfig
from tokenlayer.transfer import comparison
from tokenlayer.transfer.comparison import RUNS, Candidate, CompareConfig, compare
from tokenlayer.transfer.materials import Materials, materials_for
from tokenlayer.transfer.swap import SwapConfig, swap

TEXTS = (EvalText("en", SENTENCES["en"]), EvalText("ru", SENTENCES["ru"]))
WINDOW = WindowConfig(window=24, stride=12, batch=2)
INITS = ("pieces", "copy-gaussian", "mean")


def candidates(folder, *families):
    return [Candidate(name, str(write(folder / name, FAMILIES[name]()))) for name in families]


def config(**changes):
    return CompareConfig(inits=INITS, seeds=(0, 1), texts=TEXTS, window=WINDOW, **changes)


def runs(folder):
    return [json.loads(line) for line in (folder / RUNS).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "model", ["tied_llama", "untied_llama", "phi", "bf16_llama", "bert_mlm", "roberta_mlm", "gemma3"]
)
def test_the_numbers_are_those_of_real_swaps(model, tmp_path):
    source = model_with_tokenizer(model, tmp_path / "source")
    names = ("split-byte-level", "unigram")
    found = compare(source, candidates(tmp_path, *names), tmp_path / "runs", config())
    measured = found.data["comparison"]["measured"]
    held = {(row["run"], row.get("init"), row.get("seed")): row["score"] for row in runs(tmp_path / "runs")}
    assert len(held) == 1 + 2 * (1 + 2 + 1)
    for name in names:
        for init, seed in (("pieces", 0), ("copy-gaussian", 1)):
            out = tmp_path / f"{name}-{init}"
            report = swap(source, tmp_path / name, out, SwapConfig(init=init, seed=seed, texts=TEXTS, window=WINDOW))
            for text in TEXTS:
                metric = report.metric(measured, text.name)
                assert held[name, init, seed][text.name] == pytest.approx(metric.value, rel=2e-4)
                assert held["source", None, None][text.name] == pytest.approx(metric.baseline, rel=2e-4)


def test_encoders_are_compared_by_their_vectors(tmp_path):
    source = model_with_tokenizer("bert_encoder", tmp_path / "source")
    own = Candidate("own", str(source / "tokenizer.json"))
    found = compare(source, [own, *candidates(tmp_path, "byte-level")], tmp_path / "runs", config())
    assert found.data["comparison"]["measured"] == "cosine"
    points = {(p["tokenizer"], p["init"], p["text"]): p["values"] for p in found.data["comparison"]["points"]}
    assert points["own", "pieces", "en"] == pytest.approx([1.0], abs=1e-6)
    assert points["byte-level", "pieces", "en"] != points["byte-level", "mean", "en"]
    assert points["byte-level", "pieces", "en"][0] < 1 + 1e-6


def test_running_again_repeats_nothing_and_goes_on_after_a_cut_line(tmp_path, monkeypatch):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    targets = candidates(tmp_path, "split-byte-level")
    first = compare(source, targets, tmp_path / "runs", config())
    before = (tmp_path / "runs" / RUNS).read_text()
    made = []
    real = comparison.make_plan
    monkeypatch.setattr(comparison, "make_plan", lambda *given: made.append(given[0]) or real(*given))
    again = compare(source, targets, tmp_path / "runs", config())
    assert made == []
    assert again.tables == first.tables
    (tmp_path / "runs" / RUNS).write_text(before[: before.rindex("{") + 20])
    assert compare(source, targets, tmp_path / "runs", config()).table("best") == first.table("best")
    assert made == ["mean"]
    compare(source, targets, tmp_path / "runs", config())
    assert made == ["mean"]
    compare(source, targets, tmp_path / "runs", config(specials="keep"))
    assert len(made) == 5
    weights = source / "model.safetensors"
    os.utime(weights, ns=(0, 0))
    compare(source, targets, tmp_path / "runs", config())
    assert len(made) == 9


def test_what_an_initialiser_lacks_is_told_and_the_rest_is_run(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    some = CompareConfig(inits=("pieces", "focus"), seeds=(0,), texts=TEXTS[:1], window=WINDOW)
    report = compare(source, candidates(tmp_path, "split-byte-level"), tmp_path / "runs", some)
    assert report.warnings == ["init focus needs texts for split-byte-level; left out"]
    assert [row[1] for row in report.table("comparison").rows] == ["pieces"]


def test_random_rows_have_a_range_over_seeds(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    report = compare(source, candidates(tmp_path, "split-byte-level"), tmp_path / "runs", config())
    ranges = {row[1]: row[5] for row in report.table("comparison").rows if row[2] == "en"}
    assert ranges["copy-gaussian"].endswith("2 seeds")
    assert ranges["pieces"] == ""
    best = {row[1]: row[2] for row in report.table("best").rows}
    for text in TEXTS:
        rows = [row for row in report.table("comparison").rows if row[2] == text.name]
        assert best[text.name] == min(rows, key=lambda row: row[4])[1]


def test_the_page_and_the_json_are_written(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    tokenizer = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    text = tmp_path / "en.txt"
    text.write_text(SENTENCES["en"])
    report = api.compare(source, [f"tr:{tokenizer}"], tmp_path / "runs", eval=[f"{text}:en"], inits=["pieces", "mean"])
    page = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert "Bits per byte on en.txt" in page
    assert "tr, pieces" in page
    assert api.load_report(tmp_path / "runs").table("best") == report.table("best")


def test_materials_go_to_the_tokenizer_that_they_name():
    given = {"texts": ("tr:tr.txt", "sw:sw.txt", "de:other.txt"), "dictionary": ("tr:tr.tsv",), "donor": ()}
    assert materials_for("tr", given, ["tr", "sw"]) == Materials(texts=("tr.txt", "de:other.txt"), dictionary="tr.tsv")
    assert materials_for("sw", given, ["tr", "sw"]) == Materials(texts=("sw.txt", "de:other.txt"))


def test_refusals(tmp_path):
    one = Candidate("a", "x")
    with pytest.raises(BadOption, match="names of their own"):
        compare("model", [one, one], tmp_path / "runs", config())
    with pytest.raises(BadOption, match="no text to score"):
        CompareConfig()
    with pytest.raises(BadOption, match="expected one of"):
        CompareConfig(inits=("piecs",), texts=TEXTS)
    with pytest.raises(BadOption, match="nothing to run"):
        CompareConfig(seeds=(), texts=TEXTS)
    assert not (tmp_path / "runs").exists()


def test_a_hypernetwork_that_was_trained_further_is_run_again(tmp_path):
    from tests.transfer.zett.test_predict import hypernet

    model = model_with_tokenizer("tied_llama", tmp_path / "model")
    target = write(tmp_path / "target", FAMILIES["split-byte-level"]())
    (tmp_path / "text.txt").write_text(SENTENCES["en"] * 2)
    hypernet(tmp_path / "hn", model)
    given = {"eval": [f"{tmp_path}/text.txt:en"], "inits": ["zett"], "materials": {"hypernet": str(tmp_path / "hn")}}
    scores = []
    for changed in (False, False, True):
        if changed:
            weights = tmp_path / "hn" / "model.safetensors"
            tensors = load_file(weights)
            save_file({name: value * 1.5 for name, value in tensors.items()}, weights, {"format": "pt"})
        report = api.compare(model, [f"t:{target}"], tmp_path / "runs", **given)
        scores.append(report.table("comparison").rows[0][4])
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]
    assert len((tmp_path / "runs" / "runs.jsonl").read_text().splitlines()) == 3  # source, and zett twice
