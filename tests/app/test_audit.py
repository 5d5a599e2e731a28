import json
import re

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.app.audit import audit, load_all
from tokenlayer.app.cli import main
from tokenlayer.core.errors import BadOption


@pytest.fixture
def files(tmp_path):
    for name in ("byte-level", "unigram"):
        write(tmp_path / name, FAMILIES[name]())
    for code in ("en", "de", "hi"):
        (tmp_path / f"{code}.txt").write_text(SENTENCES[code], encoding="utf-8")
    return tmp_path


def run(*words):
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return done.value.code


def test_compare_writes_page_tables_and_a_line_for_each_entry(files, capsys):
    pytest.importorskip("matplotlib")
    parallel = [word for code in ("en", "de", "hi") for word in ("--parallel", f"{code}:{files}/{code}.txt")]
    given = [files / "byte-level", files / "unigram", *parallel, "--text", f"{files}/en.txt", "--no-languages"]
    assert run("tokenizer", "compare", *given, "--out", files / "out") == 0
    shown = capsys.readouterr().out
    assert "premium over en" in shown
    assert "overlap, Jaccard index" in shown
    names = {path.name for path in (files / "out").iterdir()}
    assert names == {
        *("report.html", "tokenlayer.json", "tokens.tsv", "basic_stats_abs.tsv", "basic_stats.tsv", "unicode_stats.tsv")
    }
    report = json.loads((files / "out" / "tokenlayer.json").read_text())
    entries = {m["source"]: m["value"] for m in report["metrics"] if m["name"] == "entries"}
    lines = (files / "out" / "tokens.tsv").read_text().splitlines()
    assert len(lines) == 1 + entries["byte-level"] + entries["unigram"]
    page = (files / "out" / "report.html").read_text()
    for title in ("What the entries are", "Scripts", "What other languages cost, en being 1", "Overlap"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 4
    assert not re.search(r"#0[0-9a-f]{5}", page[page.index("<body>") :])
    assert run("tokenizer", "compare", *given, "--out", files / "out") == 2
    assert "--force" in capsys.readouterr().err
    assert run("tokenizer", "compare", *given, "--out", files / "out", "--force", "-q") == 0


def test_audit_prints_what_one_tokenizer_does(files, capsys):
    assert run("tokenizer", "audit", files / "byte-level", "--text", f"en:{files}/en.txt", "--no-languages") == 0
    shown = capsys.readouterr().out
    for head in ("categories", "digits", "white space", "texts", "entries to look at"):
        assert head in shown
    assert run("tokenizer", "audit", files / "byte-level", "--compat", "--no-languages", "--json") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "byte-level looked into"


def test_compare_wants_two(files, capsys):
    assert run("tokenizer", "compare", files / "unigram") == 2
    assert "compare needs two tokenizers or more" in capsys.readouterr().err


def test_names_are_the_shortest_that_differ(files):
    write(files / "other" / "unigram", FAMILIES["unigram"]())
    found = load_all([files / "unigram" / "tokenizer.json", files / "other" / "unigram", files / "byte-level"])
    assert list(found) == [f"{files.name}/unigram", "other/unigram", f"{files.name}/byte-level"]
    with pytest.raises(BadOption, match="two tokenizers are called"):
        load_all([files / "unigram", files / "unigram"])
    assert list(load_all([files / "unigram"] * 2, ["a", "b"])) == ["a", "b"]


def test_without_matplotlib_there_is_no_page(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    report = audit([files / "unigram"], out=files / "out", languages=False)
    assert any("no report.html" in one for one in report.warnings)
    assert not (files / "out" / "report.html").exists()
    assert (files / "out" / "tokens.tsv").exists()
