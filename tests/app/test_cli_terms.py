"""`transfer terms` as typed: every kind of file, a dry run, words explained, a run repeated from its own settings."""

import json
import shlex

import pytest
from tests.tiny_swaps import model_with_tokenizer

from tokenlayer.app.cli import main

DRUGS = "amoxicillin\nampicillin\npenicillin\ncloxacillin\natorvastatin\nsimvastatin\n"
OBO = 'format-version: 1.2\n\n[Term]\nname: bronchitis\nsynonym: "arthritis" EXACT []\n\n[Term]\nname: rhinitis\n'


@pytest.fixture
def files(tmp_path):
    model_with_tokenizer("bert_encoder", tmp_path / "model")
    (tmp_path / "drugs.txt").write_text(DRUGS)
    (tmp_path / "both.tsv").write_text("neuritis\tdisease\nrosuvastatin\tdrug\nnephritis\tdisease\n")
    (tmp_path / "hp.obo").write_text(OBO)
    (tmp_path / "train.iob").write_text("severe\tO\nhepatitis\tB-sign\nC\tI-sign\n\nHeparin\tB-sign\n")
    umls = tmp_path / "META"
    umls.mkdir()
    conso = [
        "|".join([c, "ENG", *["x"] * 12, text, "0", "N", "256"]) + "|" for c, text in (("C1", "tetanus"), ("C2", "leg"))
    ]
    (umls / "MRCONSO.RRF").write_text("\n".join([*conso, conso[0].replace("tetanus", "typhus")]))
    (umls / "MRSTY.RRF").write_text("C1|T047|A|Disease or Syndrome|AT|256|\nC2|T023|A|Body Part|AT|256|\n")
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs `transfer terms`: (stdout, stderr)."""

    def go(*words, code=0):
        with pytest.raises(SystemExit) as stop:
            main(["transfer", "terms", *map(str, words)])
        printed = capsys.readouterr()
        assert stop.value.code == code, printed.err
        return printed

    return go


def test_every_kind_of_file_ends_in_a_folder_that_its_own_settings_repeat(files, run):
    given = ["--terms", f"drug={files}/drugs.txt", "--terms", files / "both.tsv", "--terms", f"disease={files}/hp.obo"]
    given += ["--umls", files / "META", "--semantic-type", "disease=T047", "--corpus", files / "train.iob"]
    rest = ["--min-count", 0, "--size-of", "sign=3", "--no-keep-upper", "--out", files / "out"]
    report = json.loads(run(files / "model", *given, *rest, "--json").out)
    rows = next(table for table in report["tables"] if table["name"] == "pieces by type")["rows"]
    assert [(row[0], row[1]) for row in rows] == [("drug", 7), ("disease", 7), ("sign", 2)]
    assert rows[2][4] == 3
    card = (files / "out" / "README.md").read_text()
    assert "KTokenizer.from_pretrained" in card
    assert "AutoModelForCausalLM" not in card
    assert "Hasan et al." in card
    assert (files / "out" / "report.html").is_file()

    command = shlex.split(json.loads((files / "out" / "tokenlayer.json").read_text())["settings"]["command"])
    assert command[:4] == ["tokenlayer", "transfer", "terms", str(files / "model")]
    assert "--no-keep-upper" in command
    assert "--merges" not in command
    run(*command[3:], "--force")
    first = (files / "out" / "k_tokeniser.json").read_bytes()
    settings = (files / "out" / "tokenlayer.toml").read_text()
    (files / "again.toml").write_text(settings)
    run(files / "model", "--config", files / "again.toml", "--out", files / "again")
    assert (files / "again" / "k_tokeniser.json").read_bytes() == first


def test_a_dry_run_writes_nothing_and_explains(files, run):
    before = sorted(files.iterdir())
    text = "Amoxicillin, HIV"
    printed = run(
        files / "model", "--terms", f"drug={files}/drugs.txt", "--min-count", 0, "--dry-run", "--explain", text
    )
    assert sorted(files.iterdir()) == before
    assert text in printed.out
    assert "of the base pieces, so the text keeps it" in printed.out
    assert printed.err.splitlines()[-1] == "next: the same command with --out, without --dry-run"


def test_a_written_folder_explains_texts(files, run):
    flags = ["--terms", f"drug={files}/drugs.txt", "--min-count", 0, "--rollback", 0.2]
    printed = run(files / "model", *flags, "--out", files / "out")
    assert f'next: tokenlayer transfer terms {files / "out"} --explain "a sentence"' in printed.err
    report = json.loads(run(files / "out", "--explain", "Amoxicillin HIV", "--explain", "", "--json").out)
    table, empty = report["tables"]
    assert table["columns"] == ["word", "drug", "base", "chosen"]
    assert [(row[0], row[-1]) for row in table["rows"]] == [("Amoxicillin", "drug"), ("HIV", "base")]
    assert "goes back to the base (rollback 0.2)" in table["note"]
    assert "(" in table["rows"][0][1]
    assert empty["rows"] == []


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((), "there are no terms", "--terms drug=drugs.txt"),
        (("--explain", "a"), "there are no terms", "--terms drug=drugs.txt"),
        (("--terms", "hp.obo"), "hp.obo is an ontology without a type", "--terms disease=hp.obo"),
        (
            ("--terms", "drug=both.tsv"),
            "both.tsv:1 has several fields, but the file was given as terms of",
            "leave the",
        ),
        (("--terms", "drugs.txt"), "drugs.txt:1 has 1 fields, expected 2", "term<TAB>type"),
        (("--terms", "drug=none.txt"), "none.txt does not exist", ""),
        (("--umls", "model"), "MRSTY.RRF does not exist", ""),
        (("--semantic-type", "drug=T121"), "semantic types are given but no UMLS folder", "--umls"),
        (("--umls", "META", "--semantic-type", "T047"), "the semantic type is 'T047', expected TYPE=NAME", "drug="),
        (("--umls", "META", "--semantic-type", "x=Bodypart"), "semantic type is 'Bodypart', expected one", "Body Part"),
        (("--terms", "drug=drugs.txt", "--size-of", "drug=many"), "the size of type 'drug' is 'many'", "drug=10000"),
        (("--terms", "drug=drugs.txt", "--rollback", "-1"), "rollback is -1.0", "1 always"),
        (("--terms", "drug=drugs.txt", "--init", "mean"), "init is 'mean', expected one of", ""),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(files, run, monkeypatch, words, message, hint):
    monkeypatch.chdir(files)
    printed = run("model", *words, "--out", "out", code=2)
    assert message in printed.err
    assert hint in printed.err
    assert printed.out == ""
    assert not (files / "out").exists()


def test_only_a_folder_of_ours_explains(files, run):
    printed = run(files / "model", "--explain", "a", code=2)
    assert "holds no k_tokeniser.json, so it is not a K-Tokeniser" in printed.err
    assert "add --terms TYPE=FILE" in printed.err


def test_an_output_is_needed_and_not_overwritten(files, run):
    given = (files / "model", "--terms", f"drug={files}/drugs.txt")
    assert "there is no folder to write to" in run(*given, code=2).err
    (files / "out").mkdir()
    (files / "out" / "thesis.tex").write_text("")
    assert "--force" in run(*given, "--out", files / "out", code=2).err
    assert "does not look like a checkpoint" in run(*given, "--out", files / "out", "--force", code=2).err


def test_help_has_an_example(run):
    assert "--explain" in (out := run("--help").out)
    assert "tokenlayer transfer terms ./clinical-bert --terms drug=drugs.txt" in out
