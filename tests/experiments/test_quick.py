"""Every experiment that needs no shipped weights runs its own code in seconds, on invented languages."""

import importlib.util
import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from tests.tiny_hypernets import hypernet_folder
from tests.tiny_swaps import model_with_tokenizer

ROOT = Path(__file__).parents[2] / "experiments"
LETTERS = {"en": "aeioulnrst", "de": "äeöürsnmgt", "ru": "аеиолнрств", "swa": "aiuwkmnyzh"}
WORDS = 300


def words(language):
    draw = random.Random(language)
    return ["".join(draw.choices(LETTERS[language], k=draw.randint(2, 7))) for _ in range(WORDS)]


def text(language, size, seed=0):
    """Lines of words drawn by a Zipf law; word `n` of a language means word `n` of any other."""
    draw, own = random.Random(seed), words(language)
    weights = [1 / (n + 1) for n in range(WORDS)]
    lines, length = [], 0
    while length < size:
        line = " ".join(draw.choices(own, weights, k=12)).capitalize() + "."
        lines.append(line if len(lines) % 8 else f"\n{line}")
        length += len(line.encode())
    return "\n".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Texts, word lists and a small model, named as the experiments ask for them."""
    folder = tmp_path_factory.mktemp("data")
    for code, name in (("en", "en-us"), ("de", "de"), ("ru", "ru")):
        (folder / f"help-{name}.txt").write_text(text(code, 40_000))
        (folder / f"ud-{code}.txt").write_text(text(code, 3000, seed=1))
    for part, size in (("train", 60_000), ("test", 6000)):
        for code in ("en", "swa"):
            (folder / f"par-{part}.{code}.txt").write_text(text(code, size, seed=part).replace("\n\n", "\n").strip())
    for code, name in (("ru", "rus"), ("swa", "swh")):
        pairs = "".join(f"{one}\t{other}\n" for one, other in zip(words("en"), words(code), strict=True))
        with pa.output_stream(str(folder / f"eng-{name}.tsv.zst"), compression="zstd") as stream:
            stream.write(pairs.encode())
    experiment("small_lm", "--texts", folder / "help-en-us.txt", "--out", folder / "lm", "--quick")
    return folder


def experiment(name, *words):
    """Runs an experiment in this process as from the command line."""
    path = ROOT / "transfer" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    module = importlib.util.module_from_spec(spec)
    before, sys.argv = sys.argv, [str(path), *map(str, words)]
    sys.path.insert(0, str(path.parent))
    try:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        module.main()
    finally:
        sys.argv = before
        sys.path.remove(str(path.parent))


def kept(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_cw2v(data, tmp_path, capsys):
    given = ["--model", data / "lm", "--texts", data, "--dictionary", data / "eng-rus.tsv.zst", "--out", tmp_path]
    experiment("cw2v", *given, "--quick")
    rows = kept(tmp_path)
    assert len(rows) == 9
    assert {row["start"]: row["changed"] for row in rows if row["start"] in ("cw2v", "pieces", "mean")} == {
        "cw2v": 0,
        "pieces": 0,
        "mean": 0,
    }
    assert capsys.readouterr().out.count("| cw2v") >= 2
    experiment("cw2v", *given, "--quick")
    assert kept(tmp_path) == rows


def test_wechsel(data, tmp_path, capsys):
    pytest.importorskip("gensim")
    given = ["--model", data / "lm", "--texts", data, "--dictionaries", data, "--out", tmp_path, "--quick"]
    experiment("wechsel", *given)
    starts = [row["start"] for row in kept(tmp_path) if row["kind"] == "training"]
    assert sorted(starts) == ["gaussian", "pieces", "scratch", "shuffled", "wechsel"]
    assert "| swh | wechsel |" in capsys.readouterr().out


def test_heal(data, tmp_path, capsys):
    pytest.importorskip("peft")
    given = ["--model", data / "lm", "--tokenizer", data / "lm", "--train", data / "par-train.swa.txt"]
    given += ["--eval", f"swa={data}/par-test.swa.txt", "--out", tmp_path, "--quick"]
    experiment("heal", *given)
    rows = kept(tmp_path)
    assert len(rows) == 7
    bits = {row["arm"]: row["texts"]["swa"]["bits per byte"] for row in rows}
    assert bits["rows"] < bits["none"]
    assert "| source model |" in capsys.readouterr().out


def test_pieces(data, tmp_path, capsys):
    tokenizers = tmp_path / "tokenizers" / "own"
    tokenizers.mkdir(parents=True)
    (tokenizers / "tokenizer.json").write_text((data / "lm" / "tokenizer.json").read_text())
    given = ["--model", data / "lm", "--tokenizers", tokenizers.parent, "--texts", f"en={data}/ud-en.txt"]
    experiment("pieces", *given, "--out", tmp_path / "runs", "--quick")
    assert len(kept(tmp_path / "runs")) >= 2
    assert "pieces" in capsys.readouterr().out


def labelled(path, seed):
    """Sentences in which every word of the last 40 is a disease, the 40 before them drugs."""
    draw, own = random.Random(seed), words("en")
    lines = []
    for _ in range(60):
        for n in draw.choices(range(WORDS), k=8):
            tag = "B-Disease" if n >= WORDS - 40 else "B-Chemical" if n >= WORDS - 80 and "BC5CDR" in str(path) else "O"
            lines.append(f"{own[n]}\t{tag}\n")
        lines.append("\n")
    path.parent.mkdir(exist_ok=True)
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write("".join(lines).encode())


def test_ktokeniser(tmp_path, capsys):
    marks = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    model = model_with_tokenizer("bert_encoder", tmp_path / "model", **marks)
    for corpus in ("NCBI-disease-IOB", "BC5CDR-IOB"):
        for part in ("train", "devel", "test"):
            labelled(tmp_path / corpus / f"{part}.tsv.zst", f"{corpus} {part}")
    experiment("ktokeniser", "--model", model, "--data", tmp_path, "--out", tmp_path / "runs", "--quick")
    arms = {row["arm"] for row in kept(tmp_path / "runs")}
    assert {"base", "k f=1"} <= arms
    assert "| entities |" in capsys.readouterr().out


def test_unigramify(data, tmp_path, capsys):
    pytest.importorskip("scipy")
    given = ["--tokenizer", f"own={data}/lm/tokenizer.json", "--texts", data / "help-en-us.txt"]
    given += ["--other", data / "ud-en.txt", "--out", tmp_path, "--quick"]
    experiment("unigramify", *given)
    (row,) = kept(tmp_path)
    assert row["fitted"] > 0.95
    assert 0 < row["other text"] <= 1
    assert "| own | 300 |" in capsys.readouterr().out
    experiment("unigramify", *given)
    assert kept(tmp_path) == [row]


def test_zett(data, tmp_path, capsys):
    pytest.importorskip("gensim")
    given = ["--texts", data / "help-en-us.txt", "--other", data / "par-train.en.txt", "--german", data / "help-de.txt"]
    given += ["--second", data / "ud-en.txt", "--out", tmp_path, "--quick"]
    experiment("zett", *given)
    rows = kept(tmp_path)
    arms = {row["arm"]: row["bits"] for row in rows if row["kind"] == "hypernet"}
    assert len({json.dumps(bits) for bits in arms.values()}) == len(arms) == 6
    assert sum(row["kind"] == "heuristic" for row in rows) == 20
    assert sum(row["kind"] == "n-shot" for row in rows) == 4
    held = set((tmp_path / "texts" / "held.txt").read_text().splitlines()) - {""}
    assert held.isdisjoint((tmp_path / "texts" / "train-0.txt").read_text().splitlines())
    assert (tmp_path / "texts" / "sampled.txt").stat().st_size > 3_000  # a quarter of 6 steps of 4 texts and 8
    assert "| hypernet, paper |" in capsys.readouterr().out
    experiment("zett", *given)
    assert kept(tmp_path) == rows


def test_dynamic(data, tmp_path, capsys):
    hypernet_folder(tmp_path / "hn", data / "lm")
    given = ["--model", data / "lm", "--hypernet", tmp_path / "hn", "--out", tmp_path / "runs", "--quick"]
    experiment("dynamic", *given, "--text", f"de={data}/ud-de.txt")
    found = kept(tmp_path / "runs")
    assert len(found) == 3 * 19
    assert {row["units"] < row["tokens"] for row in found if row["share"] == 1} == {True}
    assert "| de |" in capsys.readouterr().out


def test_dynamic_encoder(tmp_path, capsys):
    pytest.importorskip("peft")
    pytest.importorskip("scipy")
    model = model_with_tokenizer("bert_encoder", tmp_path / "model")
    hypernet_folder(tmp_path / "hn", model)
    draw, some = random.Random(0), ["the cat", "unknown dogs", "the cats of the dogs", "cat and dog", "low lower"]
    (tmp_path / "sst2").mkdir()
    (tmp_path / "stsb").mkdir()
    for part in ("train", "test"):
        lines = [f"{draw.choice(some)} {draw.choice(some)}\t{n % 2}\n" for n in range(40)]
        (tmp_path / "sst2" / f"{part}.tsv").write_text("".join(lines))
    with pa.output_stream(str(tmp_path / "stsb" / "de-test.csv.zst"), compression="zstd") as stream:
        stream.write("".join(f"{one},{other},{n}\n" for n, (one, other) in enumerate(pairwise(some))).encode())
    given = ["--minilm", model, "--hypernet", tmp_path / "hn", "--tasks", tmp_path, "--out", tmp_path / "runs"]
    experiment("dynamic_encoder", *given, "--languages", "de", "--quick")
    found = kept(tmp_path / "runs")
    features = [row for row in found if row["part"] == "features"]
    assert len(found) == 3 + (1 + 9) + (1 + 9 + 5) + 3 + 3
    assert all(row["cosine"] > 0.999 and row["made"] == 0 for row in features if row["method"] == "plain")
    assert all(row["units"] < row["tokens"] and row["made"] for row in features if row["share"] == 1)
    assert len({row["units"] for row in features if (row["text"], row["seed"], row["share"]) == ("sst2", 0, 1)}) == 1
    assert "| sampled |" in capsys.readouterr().out
    experiment("dynamic_encoder", *given, "--languages", "de", "--quick")
    assert kept(tmp_path / "runs") == found
