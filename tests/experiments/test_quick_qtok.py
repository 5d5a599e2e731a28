"""The experiment on Qtok runs its own code in seconds."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

PATH = Path(__file__).parents[2] / "experiments" / "tokenizer" / "qtok.py"


def test_qtok(tmp_path, monkeypatch, capsys):
    pytest.importorskip("py3langid")
    paths = [write(tmp_path / name, FAMILIES[name]()) for name in ("byte-level", "unigram", "wordpiece")]
    for code in ("de", "el"):
        (tmp_path / f"{code}.txt").write_text(SENTENCES[code], encoding="utf-8")
    texts = [f"{code}={tmp_path}/{code}.txt" for code in ("de", "el")]
    words = ["--tokenizers", *paths, "--texts", *texts, "--out", tmp_path / "runs", "--quick"]
    spec = importlib.util.spec_from_file_location("experiment_qtok", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "argv", [str(PATH), *map(str, words)])
    spec.loader.exec_module(module)
    module.main()
    rows = [json.loads(line) for line in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3
    assert all(row["bytes_per_token"] > 0 for row in rows)
    assert "| el |" in capsys.readouterr().out


def test_spearman():
    spec = importlib.util.spec_from_file_location("experiment_qtok", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stats = pytest.importorskip("scipy.stats")
    for one, other in (([1.0, 2, 3, 3], [1.0, 2, 2, 5]), ([3.0, 1, 2], [1.0, 3, 2])):
        assert module.spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
