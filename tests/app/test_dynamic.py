"""The commands of `tokenlayer transfer dynamic`."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny_hypernets import hypernet_folder
from tests.tiny_swaps import model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.app import dynamic as jobs
from tokenlayer.app.cli import main
from tokenlayer.core.errors import BadOption, BadText, OutputExists

LINES = ["the cat and the dog and the cat", "the dog", "the cats of the dogs"]


def given(name, folder):
    """A tiny model and a folder with a hypernetwork for it."""
    source = model_with_tokenizer(name, folder / name)
    return str(source), str(hypernet_folder(folder / "hn", source))


@pytest.fixture
def encoder(tmp_path):
    return given("bert_encoder", tmp_path)


@pytest.fixture
def decoder(tmp_path):
    return given("tied_llama", tmp_path)


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
    return str(tmp_path / "lines.txt")


def run(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main(["transfer", "dynamic", *args])
    return stopped.value.code, capsys.readouterr()


def test_texts_become_vectors_and_the_same_again_with_the_merges_that_were_made(encoder, lines, tmp_path, capsys):
    model, hypernet = encoder
    code, said = run(
        capsys,
        "encode",
        model,
        lines,
        "--hypernet",
        hypernet,
        "--reduction",
        "1",
        "--out",
        str(tmp_path / "v"),
        "--json",
    )
    assert code == 0
    metrics = {one["name"]: one["value"] for one in json.loads(said.out)["metrics"]}
    assert metrics["texts"] == 3
    assert metrics["shorter"] > 0
    vectors = load_file(tmp_path / "v" / "vectors.safetensors")["vectors"]
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    units = [json.loads(line) for line in (tmp_path / "v" / "units.jsonl").read_text().splitlines()]
    assert sum(len(one["spans"]) for one in units) == metrics["units"]
    assert (tmp_path / "v" / "tokenlayer.json").is_file()
    again = jobs.encode(
        model, lines, tmp_path / "w", hypernet=hypernet, frozen=str(tmp_path / "v" / "merges.txt"), batch=1
    )
    assert again.metric("units").value == metrics["units"]
    torch.testing.assert_close(load_file(tmp_path / "w" / "vectors.safetensors")["vectors"], vectors)


def test_plain_tokens_and_units_differ(encoder, lines, tmp_path):
    model, hypernet = encoder
    for name, asked in (("plain", {"merges": 0}), ("half", {}), ("shorter", {"shorter": 0.9})):
        jobs.encode(model, lines, tmp_path / name, hypernet=hypernet, **asked)
    found = [load_file(tmp_path / name / "vectors.safetensors")["vectors"] for name in ("plain", "half", "shorter")]
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


def test_an_evaluation_has_a_line_for_each_text_method_and_share(decoder, tmp_path, capsys):
    model, hypernet = decoder
    text = tmp_path / "text.txt"
    text.write_text("the cat and the dog of the cats. " * 12)
    code, said = run(
        capsys, "evaluate", model, "--hypernet", hypernet, "--eval", f"{text}:en", "--method", "hypernet", "--method",
        "fvt", "--reduction", "1", "--context", "12", "--continuation", "5", "--out", str(tmp_path / "r"), "--json",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(said.out)["tables"][0]["rows"]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("en", method, share) for method in ("hypernet", "fvt") for share in (0.0, 1.0)
    ]
    assert rows[0][6] == rows[2][6]  # plain tokens, whatever the method
    assert (tmp_path / "r" / "tokenlayer.json").is_file()
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Bits per byte of what follows: en" in page
    assert "tokens saved, %" in page


def test_a_vocabulary_is_built_and_generated_from(decoder, lines, tmp_path, capsys):
    pytest.importorskip("faiss")
    model, hypernet = decoder
    other = write(tmp_path / "other", FAMILIES["unigram"]())
    code, _ = run(
        capsys, "build-index", model, "--hypernet", hypernet, "--tokens-of", str(other), "--out", str(tmp_path / "big")
    )
    assert code == 0
    code, _ = run(
        capsys, "build-index", model, "--hypernet", hypernet, "--tokens-of", str(other), "--index", "screen",
        "--states", lines, "--out", str(tmp_path / "screen"),
    )  # fmt: skip
    assert code == 0
    for vocab in ([], ["--vocab", str(tmp_path / "big")], ["--vocab", str(tmp_path / "screen")]):
        code, said = run(
            capsys, "generate", model, "the cat and", "the dog", "--hypernet", hypernet, "--max-new-tokens", "4",
            "--json", *vocab,
        )  # fmt: skip
        assert code == 0
        report = json.loads(said.out)
        assert len(report["data"]["texts"]) == 2
        assert all(row[4] <= 4 for row in report["tables"][0]["rows"])


def test_bad_input_has_code_2_and_leaves_nothing(encoder, lines, tmp_path, capsys):
    model, hypernet = encoder
    bad = [
        (["encode", model, lines, "--out", str(tmp_path / "o")], "none was given"),
        (
            ["encode", model, lines, "--hypernet", hypernet, "--reduction", "2", "--out", str(tmp_path / "o")],
            "reduction",
        ),
        (["encode", model, lines, "--hypernet", model, "--out", str(tmp_path / "o")], "hypernetwork"),
        (["encode", model, "none.txt", "--hypernet", hypernet, "--out", str(tmp_path / "o")], "none.txt"),
        (
            ["encode", model, lines, "--hypernet", hypernet, "--boundary", "line", "--out", str(tmp_path / "o")],
            "boundary",
        ),
        (["generate", model, "a", "--hypernet", hypernet], "decoder"),
    ]
    for args, part in bad:
        code, said = run(capsys, *args)
        assert code == 2, args
        assert part in said.err
        assert not (tmp_path / "o").exists()


def test_folders_are_kept_and_sources_of_tokens_are_needed(decoder, lines, tmp_path):
    model, hypernet = decoder
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(OutputExists):
        jobs.encode(model, lines, tmp_path / "there", hypernet=hypernet)
    with pytest.raises(OutputExists):
        jobs.build_index(model, tmp_path / "there", hypernet=hypernet, tokens_of=model)
    with pytest.raises(BadOption, match="either from texts and a size, or from another tokenizer"):
        jobs.build_index(model, tmp_path / "big", hypernet=hypernet)
    with pytest.raises(BadOption, match="none of the tokens is new"):
        jobs.build_index(model, tmp_path / "big", hypernet=hypernet, tokens_of=model)
    with pytest.raises(BadText, match="a prompt is empty"):
        jobs.generate(model, [""], hypernet=hypernet)
