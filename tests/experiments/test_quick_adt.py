"""The experiment on traps runs its own code in seconds, on a tokenizer with merges written by hand and a tiny model."""

import importlib.util
import json
import sys
from pathlib import Path

from tests.tiny_swaps import model_of
from tests.tokenizer.adt.tiny import bpe

SCRIPT = Path(__file__).parents[2] / "experiments" / "tokenizer" / "adt.py"


def experiment(*words):
    """Runs the script in this process as from the command line."""
    spec = importlib.util.spec_from_file_location("experiment_adt", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    before, sys.argv = sys.argv, [str(SCRIPT), *map(str, words)]
    try:
        spec.loader.exec_module(module)
        module.main()
    finally:
        sys.argv = before


def test_adt(tmp_path, capsys):
    tails = [f"{a}{b}s" for a in "abcdefgh" for b in "abcdefgh"]
    (tmp_path / "text.txt").write_text(" ".join([*tails, "table", "stable", "star", "tar"]))
    for name, tokenizer in {"falls": bpe("stable", "star"), "resists": bpe("table", "tar", *tails, "stable")}.items():
        (tmp_path / "tok" / name).mkdir(parents=True)
        (tmp_path / "tok" / name / "tokenizer.json").write_text(tokenizer.text)
    given = ["--corpus", f"en={tmp_path}/text.txt", "--out", tmp_path / "runs", "--quick"]
    experiment("mining", "--tokenizers", tmp_path / "tok", *given)
    rows = [json.loads(line) for line in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()]
    falls, resists = rows
    assert falls["wrong"] == falls["tried"] > 0
    assert resists["wrong"] == 0
    assert falls["transfer"] == {"falls": 1.0, "resists": 0.0}
    assert "| en | falls |" in capsys.readouterr().out
    words = ["aas", "bbs", "ccs", "table", "tar", "stable", "star"]
    model = model_of("tied_llama", tmp_path / "model", bpe("aas", "stable", "table", "star", *words).text)
    (tmp_path / "text.txt").write_text(" ".join(words))
    experiment("model", "--model", model, "--seeds", 1, *given)
    experiment("model", "--model", model, "--seeds", 1, *given)
    said = capsys.readouterr().out
    assert "| 0 | wrong | forced |" in said
    (row,) = [json.loads(x) for x in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines() if '"model"' in x]
    assert {"glued", "control", "forced"} <= {condition for _, condition, _ in row["rates"]}
