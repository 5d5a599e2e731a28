"""`transfer compare` and `transfer expand` as typed."""

import json

import pytest
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.app.cli import main


def run(*words, code=0):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == code


@pytest.fixture
def texts(tmp_path):
    for name in ("en", "ru"):
        (tmp_path / f"{name}.txt").write_text("\n".join([SENTENCES[name]] * 30), encoding="utf-8")
    return tmp_path


def test_compare_prints_one_row_for_each_tokenizer_init_and_text(texts, capsys):
    model = model_with_tokenizer("tied_llama", texts / "model")
    one, other = (write(texts / name, FAMILIES[name]()) for name in ("split-byte-level", "unigram"))
    flags = ["--eval", f"{texts}/en.txt:en", "--eval-bytes", 200, "--init", "pieces", "--init", "random", "--seed", 4]
    run(
        "transfer",
        "compare",
        model,
        "--to",
        f"a:{one}",
        "--to",
        f"b:{other}",
        "--out",
        texts / "runs",
        *flags,
        "--json",
    )
    report = json.loads(capsys.readouterr().out)
    rows = next(table for table in report["tables"] if table["name"] == "comparison")["rows"]
    assert [row[:3] for row in rows] == [[name, init, "en.txt"] for name in "ab" for init in ("pieces", "random")]
    assert (texts / "runs" / "report.html").exists()
    run("transfer", "compare", model, "--to", f"a:{one}", "--out", texts / "runs", *flags, "--init", "focus")
    printed = capsys.readouterr()
    assert "init focus needs texts for a; left out" in printed.err
    (texts / "own.toml").write_text("rank = 4\nepochs = 1\nbatch = 64\n")
    mixed = ["--init", "cw2v", "--init-config", texts / "own.toml", "--texts", texts / "ru.txt", "--json"]
    run("transfer", "compare", model, "--to", f"a:{one}", "--out", texts / "runs", *flags, *mixed)
    report = json.loads(capsys.readouterr().out)
    rows = next(table for table in report["tables"] if table["name"] == "comparison")["rows"]
    assert [row[1] for row in rows] == ["pieces", "random", "cw2v"]
    run("transfer", "compare", model, "--to", one, "--out", texts / "runs", "--eval", texts / "no.txt", code=2)
    assert "no.txt does not exist" in capsys.readouterr().err


def test_expand_writes_a_folder_and_swap_takes_it(texts, capsys):
    model = model_with_tokenizer("tied_llama", texts / "model")
    run("transfer", "expand", model, f"ru:{texts}/ru.txt", "--add", 10, "--out", texts / "longer")
    assert "tokens of the text" in capsys.readouterr().out
    run("swap", model, texts / "longer", "--out", texts / "out", "--check-hull", "--json")
    report = json.loads(capsys.readouterr().out)
    assert next(m["value"] for m in report["metrics"] if m["name"] == "rows outside the convex hull") == 0
    run("transfer", "expand", model, f"ru:{texts}/ru.txt", "--add", 10, "--out", texts / "longer", code=2)
    assert "--force" in capsys.readouterr().err
    run("transfer", "expand", model, f"{texts}/ru.txt", "--add", -1, "--out", texts / "other", code=2)
    wordpiece = write(texts / "bert", FAMILIES["wordpiece"]())
    run("transfer", "expand", wordpiece, f"{texts}/ru.txt", "--add", 5, "--out", texts / "other", code=2)
    assert "only byte-level and SentencePiece BPE can be expanded" in capsys.readouterr().err
    assert not (texts / "other").exists()


def test_word_vectors_that_are_missing_are_asked_for(texts, capsys):
    model = model_with_tokenizer("tied_llama", texts / "model")
    target = write(texts / "target", FAMILIES["unigram"]())
    run("swap", model, target, "--out", texts / "out", "--init", "wechsel", code=2)
    said = capsys.readouterr().err
    assert "init wechsel needs aligned vectors" in said
    assert "--dictionary" in said


def test_wechsel_from_texts_and_a_word_list(texts, capsys):
    pytest.importorskip("gensim")
    model = model_with_tokenizer("tied_llama", texts / "model")
    target = write(texts / "target", FAMILIES["unigram"]())
    (texts / "en-ru.tsv").write_text("human\tлюди\nfree\tсвободными\nrights\tправах\nbeings\tлюди\n", encoding="utf-8")
    given = ["--texts", f"{texts}/ru.txt", "--source-texts", f"{texts}/en.txt", "--dictionary", f"{texts}/en-ru.tsv"]
    run("swap", model, target, "--out", texts / "out", "--init", "wechsel", *given, "--json")
    report = json.loads(capsys.readouterr().out)
    origin = next(table for table in report["tables"] if table["name"] == "origin of rows")["rows"]
    assert dict(row[:2] for row in origin)["neighbours"] > 10
    assert any("word pairs" in warning for warning in report["warnings"])


def test_heal_trains_and_the_written_settings_repeat_it(texts, capsys):
    model = model_with_tokenizer("tied_llama", texts / "model")
    target = write(texts / "target", FAMILIES["split-byte-level"]())
    flags = ["--heal", f"a=2:{texts}/en.txt", "--heal", f"{texts}/ru.txt", "--budget", 9000, "--heal-rate", 0.01]
    flags += ["--eval", f"{texts}/en.txt:en", "--eval-bytes", 300]
    run("swap", model, target, "--out", texts / "out", *flags, "--distill", 0.2, "--dry-run", "--json")
    planned = json.loads(capsys.readouterr().out)
    assert next(m["value"] for m in planned["metrics"] if m["name"] == "healing") == 3
    run("swap", model, target, "--out", texts / "out", *flags, "--json")
    report = json.loads(capsys.readouterr().out)
    scores = {m["name"]: m["value"] for m in report["metrics"] if m["source"] == "en.txt"}
    assert scores["bits per byte"] < scores["bits per byte before healing"]
    assert dict(next(t for t in report["tables"] if t["name"] == "healing")["rows"])["learning rate"] == 0.01
    assert "Loss while healing" in (texts / "out" / "report.html").read_text()
    again = ["--config", texts / "out" / "tokenlayer.toml", "--out", texts / "again"]
    run("swap", model, target, *again, "--quiet")
    one, other = ((texts / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert one == other
    capsys.readouterr()
    for wrong, message in (
        (["--heal", texts / "no.txt"], "no.txt does not exist"),
        (["--heal", f"{texts}/en.txt", "--heal-train", "row"], "train is 'row', expected one of: rows, new-rows"),
        (["--distill", 0.5], "distill needs texts to train on"),
    ):
        run("swap", model, target, "--out", texts / "other", *wrong, code=2)
        assert message in capsys.readouterr().err
        assert not (texts / "other").exists()


def test_explain_shows_where_a_row_comes_from(texts, capsys):
    pytest.importorskip("gensim")
    model = model_with_tokenizer("tied_llama", texts / "model")
    target = write(texts / "target", FAMILIES["unigram"]())
    (texts / "en-ru.tsv").write_text("the\tи\nof\tв\n", encoding="utf-8")
    flags = ["--init", "wechsel", "--texts", f"{texts}/ru.txt", "--source-texts", f"{texts}/en.txt"]
    flags += ["--dictionary", texts / "en-ru.tsv", "--token", "в", "--top", 2]
    run("transfer", "explain", model, target, *flags, "--json")
    row = json.loads(capsys.readouterr().out)["data"]["rows"][0]
    assert row["rule"] == "neighbours"
    assert sum(one["share"] for one in row["sources"]) == pytest.approx(1)
    run("transfer", "explain", model, target, "--token", "в")
    shown = capsys.readouterr()
    assert "source token" in shown.out
    assert "next: tokenlayer swap" in shown.err
    run("transfer", "explain", model, target, "--token", "", code=2)
    assert "a token to explain is empty" in capsys.readouterr().err
