"""Settings of an initialiser of its own: a preset, a TOML file, and what is refused."""

from dataclasses import asdict, replace

import pytest
import torch
from tests import tiny_swaps
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write
from tests.toy_vectors import toy_pair

from tokenlayer.app.toml import toml_text
from tokenlayer.core.errors import BadOption
from tokenlayer.transfer.cw2v import Cw2vConfig
from tokenlayer.transfer.initialisers import PRESETS, check_init, make_plan
from tokenlayer.transfer.materials import Given, Materials, own_config
from tokenlayer.transfer.swap import SwapConfig, swap


def read(given) -> Cw2vConfig:
    return own_config("cw2v", Cw2vConfig, str(given), PRESETS["cw2v"])


def test_nothing_a_preset_or_a_file(tmp_path):
    assert read("") == Cw2vConfig()
    assert read("fast") == Cw2vConfig.fast()
    file = tmp_path / "cw2v.toml"
    file.write_text("rank = 64\nsubsample = 0\n")
    assert read(file) == Cw2vConfig(rank=64, subsample=0.0)
    file.write_text('preset = "fast"\nepochs = 2\n')
    assert read(file) == replace(Cw2vConfig.fast(), epochs=2)
    file.write_text(toml_text(asdict(Cw2vConfig.fast())))
    assert read(file) == Cw2vConfig.fast()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnak = 64", "is 'rnak', expected one of: rank, window"),
        ("rank = 64.5", "rank in .* is 64.5, expected int"),
        ('learning_rate = "high"', "learning_rate in .* is 'high', expected float"),
        ("rank = true", "rank in .* is True, expected int"),
        ("rank = 0", "rank is 0, expected at least 1"),
        ('preset = "quick"', "preset is 'quick', expected one of: fast"),
        ("rank 64", "is not a TOML file"),
    ],
)
def test_bad_files_are_refused(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadOption, match=message):
        read(tmp_path / "c.toml")


def test_what_is_no_file_or_of_no_use_is_refused(tmp_path):
    with pytest.raises(BadOption, match="init config quick is neither a file nor a preset of cw2v") as error:
        read("quick")
    assert error.value.hint == "presets: fast"
    with pytest.raises(BadOption, match="init pieces has no config of its own"):
        check_init("pieces", Materials(init_config="fast"))
    for init in ("pieces", "auto"):
        with pytest.raises(BadOption, match="init pieces has no config of its own"):
            swap(tmp_path, tmp_path, tmp_path / "out", SwapConfig(init=init, materials=Materials(init_config="fast")))


def test_untrained_rows_are_left_out_by_name(tmp_path):
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    rows[10:20] = 5.0
    said: list[str] = []
    given = Given(toy_pair(), rows=lambda: rows, materials=Materials(exclude_untrained=True), warn=said.append)
    plan = make_plan("mean", given)
    assert set(range(200)) - set(plan.support.tolist()) == {0, 1, *range(10, 20)}
    assert said == ["10 of 198 rows were never trained and take no part in means and mixtures"]
    with pytest.raises(BadOption, match="all 198 rows look untrained"):
        make_plan("mean", replace(given, rows=lambda: torch.ones(200, 8)))
    with pytest.raises(BadOption, match="exclude_untrained needs the rows of a model"):
        make_plan("mean", replace(given, rows=None))


def test_a_swap_tells_the_steps_and_takes_the_file(tmp_path):
    source = tiny_swaps.model_with_tokenizer("tied_llama", tmp_path / "model")
    target = write(tmp_path / "tok", FAMILIES["split-byte-level"]())
    (tmp_path / "text.txt").write_text("\n".join([*SENTENCES.values()] * 2), encoding="utf-8")
    (tmp_path / "c.toml").write_text("rank = 4\nepochs = 3\nsubsample = 0\nbatch = 512\nlearning_rate = 0.05\n")
    rows = {}
    for name, config in {"mine": str(tmp_path / "c.toml"), "default": ""}.items():
        told: list[tuple[str, int, int]] = []
        materials = Materials(texts=(str(tmp_path / "text.txt"),), init_config=config)
        out = tmp_path / name
        swap(source, target, out, SwapConfig("cw2v", materials), progress=lambda *step, told=told: told.append(step))
        steps = [(done, of) for what, done, of in told if what == "learning rows, steps"]
        assert steps[-1][0] == steps[-1][1] == len(steps) >= 3
        rows[name] = (out / "model.safetensors").read_bytes()
    assert rows["mine"] != rows["default"]
