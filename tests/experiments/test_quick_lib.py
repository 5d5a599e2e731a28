"""The experiment on LiB runs its own code in seconds, on an invented language."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "experiments" / "tokenizer" / "lib.py"


@pytest.fixture
def text(tmp_path):
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 7))) for _ in range(200)]
    weights = [1 / (n + 1) for n in range(200)]
    lines = [" ".join(draw.choices(words, weights, k=10)) for _ in range(300)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path / "text.txt"


def run(monkeypatch, *words):
    spec = importlib.util.spec_from_file_location("experiment_lib", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "argv", [str(PATH), *map(str, words)])
    spec.loader.exec_module(module)
    module.main()


def test_lib(text, tmp_path, monkeypatch, capsys):
    given = ["--texts", f"own={text}", "--out", tmp_path / "runs", "--quick"]
    run(monkeypatch, *given)
    log = tmp_path / "runs" / "runs.jsonl"
    rows = {row["arm"]: row for row in map(json.loads, log.read_text().splitlines())}
    assert len(rows) == 10
    assert rows["LiB, tokenizer.json"]["tokens"] <= rows["LiB"]["tokens"] <= rows["LiB, longest match"]["tokens"]
    assert rows["no forgetting"]["vocab"] > 2 * rows["LiB"]["vocab"]
    assert rows["BPE across spaces"]["vocab"] <= rows["LiB"]["vocab"]
    looks = [index for *_, index in rows["LiB"]["looks"]]
    assert looks[-1] > looks[0]
    assert "| own | LiB |" in capsys.readouterr().out
    kept = log.read_text()
    run(monkeypatch, *given)
    assert log.read_text() == kept
