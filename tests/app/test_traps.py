"""The command `tokenlayer tokenizer traps`."""

import json

import pytest
from tests.tiny_swaps import model_with_tokenizer
from tests.tokenizer.adt.tiny import bpe

from tokenlayer.app import traps as app
from tokenlayer.app.cli import main

WORDS = "moves 5\ntable 4\nstable 3\ncats 2\ntall 2\nstall 1\n"


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(bpe("stable", "stall", "moves", "table", "cats", "tall").text)
    (tmp_path / "words.txt").write_text(WORDS)
    return path


def run(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main(["tokenizer", "traps", *map(str, args)])
    return stopped.value.code, capsys.readouterr()


def test_a_set_is_mined_written_and_tried_on_another_tokenizer_and_a_model(tokenizer, tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(bpe("moves", "table", "cats", "tall").text)
    model = model_with_tokenizer("tied_llama", tmp_path / "model", max_position_embeddings=512)
    out = tmp_path / "out"
    code, said = run(
        capsys,
        tokenizer,
        "--lexicon",
        tmp_path / "words.txt",
        "--out",
        out,
        "--against",
        other,
        "--model",
        model,
        "--json",
    )
    assert code == 0, said.err
    report = json.loads(said.out)
    cut = next(t for t in report["tables"] if t["name"].startswith("sentences"))
    assert [(row[0], row[1], row[2]) for row in cut["rows"]] == [(str(tokenizer), "en", 1.0), (str(other), "en", 0.0)]
    answers = next(t for t in report["tables"] if t["name"].startswith("errors of"))
    assert {"glued", "control", "forced", "glued - control", "glued - forced"} <= {row[2] for row in answers["rows"]}
    lines = [json.loads(line) for line in (out / "adt.jsonl").read_text().splitlines()]
    assert any(line["sentence"][slice(*line["span"])] == "movestable" for line in lines)
    assert (out / "traps.jsonl").is_file()
    assert (out / "tokenlayer.json").is_file()
    code, said = run(capsys, other, "--questions", out / "adt.jsonl", "--json")
    assert code == 0
    assert json.loads(said.out)["tables"][0]["rows"][0][2] == 0.0


def test_our_own_set_needs_no_words_and_keeps_languages_apart(tokenizer, capsys):
    code, said = run(capsys, tokenizer, "--questions", "own")
    assert code == 0
    assert "our own hand-made set" in said.err
    assert [lang for lang in ("en", "zh", "ja", "th") if f" {lang} " in said.out] == ["en", "zh", "ja", "th"]


def test_words_are_counted_in_a_text(tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The stable moves a table; cats stall.")
    report = app.traps(tokenizer, texts=[str(text)])
    assert report.metric("questions").value >= 1
    assert {row[0] for row in report.table("words that are cut wrongly").rows} >= {"moves|table"}


def test_what_is_missing_is_said_with_what_to_type(tokenizer, tmp_path, capsys):
    code, said = run(capsys, tokenizer)
    assert code == 2
    assert "there are no words" in said.err
    assert "hint: give --lexicon" in said.err
    code, said = run(capsys, tokenizer, "--lexicon", tmp_path / "words.txt", "--instances", "0")
    assert (code, "instances is 0" in said.err) == (2, True)


def test_a_writer_can_take_the_place_of_the_templates(tokenizer, tmp_path):
    def writer(prompt):
        glued = prompt.split("contains '")[1].split("'")[0]
        return f"Have you seen #{glued} yet?\nWhat is it about?"

    report = app.traps(tokenizer, tmp_path / "out", lexicon=tmp_path / "words.txt", writer=writer)
    assert report.metric("questions").value >= 1
    assert "Have you seen #movestable yet?" in (tmp_path / "out" / "adt.jsonl").read_text()
