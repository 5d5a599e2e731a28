"""The mixture experiment runs its own code in seconds, on invented languages."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tests.tokenizer.mixture.bpe_toys import LETTERS, text_of, trained

ROOT = Path(__file__).parents[2] / "experiments" / "tokenizer"


def experiment(*words):
    path = ROOT / "mixture.py"
    spec = importlib.util.spec_from_file_location("experiment_mixture", path)
    module = importlib.util.module_from_spec(spec)
    before, sys.argv = sys.argv, [str(path), *map(str, words)]
    try:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        module.main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name in LETTERS:
        parts = [text_of(name, 1500, seed=n) for n in range(24)]
        (folder / f"{name}.txt").write_text("\n\n".join(parts))
    return folder


def test_trials(texts, tmp_path, capsys):
    experiment("--texts", texts, "--out", tmp_path, "--quick")
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert sum(row["ours"] < row["even"] for row in rows) >= 7
    assert sum(row["ours"] < row["TC"] for row in rows) >= 6
    assert "| 3 | 80 | 2 | -" in capsys.readouterr().out


def test_real_tokenizers(texts, tmp_path, capsys):
    folder = tmp_path / "tokenizers" / "own"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(trained([text_of("one", 4000), text_of("two", 1000)]).text)
    given = ["--more", f"again={texts}/one.txt", "--tokenizers", folder.parent, "--out", tmp_path / "runs"]
    experiment("--texts", texts, *given, "--quick")
    assert "| two |" in capsys.readouterr().out
