"""What is asked of every published system; `cases.py` holds what is particular to one."""

import dataclasses
import re
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from tests.contract.cases import CASES

from tokenlayer.app.cli import main
from tokenlayer.app.toml import toml_text
from tokenlayer.catalog import ROOMS, SYSTEMS, find
from tokenlayer.core.errors import BadOption, TokenLayerError

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.slug)


def module_of(system):
    return import_module(system.entry.split(":")[0])


def test_slugs_are_unique_and_every_system_has_a_case():
    slugs = [s.slug for s in SYSTEMS]
    assert len(set(slugs)) == len(slugs)
    assert set(CASES) == set(slugs)


def test_unknown_system_names_the_nearest():
    with pytest.raises(BadOption, match="the system is 'peices', expected one of:") as caught:
        find("peices")
    assert caught.value.hint == "did you mean 'pieces'?"
    assert find("pieces").slug == "pieces"


@EACH
def test_entry_lives_in_its_room(system):
    assert system.room in ROOMS
    assert callable(system.load_entry())
    assert system.entry.startswith(f"tokenlayer.{system.room}.")
    assert system.title
    assert str(system.year) in system.paper


@EACH
def test_config_has_documented_defaults_and_round_trips_through_toml(system):
    config_class = system.load_config()
    if config_class is None:
        return
    config = config_class()
    fields = dataclasses.fields(config_class)
    assert len(fields) <= 15
    assert config_class.__dataclass_params__.frozen
    source = Path(sys.modules[config_class.__module__].__file__).read_text()
    for field in fields:
        assert re.search(rf'^    {field.name}: .*\n    """', source, flags=re.MULTILINE), (
            f"{field.name} has no docstring"
        )
    assert rebuilt(config_class, tomllib.loads(toml_text(dataclasses.asdict(config)))) == config


def rebuilt(config_class, values):
    """A config, and the configs in it, from plain values."""
    inner = {
        f.name: f.default_factory
        for f in dataclasses.fields(config_class)
        if dataclasses.is_dataclass(f.default_factory)
    }
    return config_class(**values | {name: rebuilt(one, values[name]) for name, one in inner.items()})


@EACH
def test_docstring_names_paper_shapes_errors_and_differences(system):
    text = module_of(system).__doc__ or ""
    for word in ("Paper:", "Shapes:", "Errors:", "Differences from the paper:", str(system.year)):
        assert word in text, f"{system.entry}: the module docstring says nothing of {word!r}"
    entry = system.load_entry()
    assert "Returns:" in ((entry.__call__ if isinstance(entry, type) else entry).__doc__ or "")


@EACH
def test_help_works_and_imports_nothing_heavy(system):
    words = [word for word in system.command.split() if not word.startswith("-")][:2]
    words = words[:1] if words[0] not in ROOMS else words
    code = f"""
import sys
from tokenlayer.app.cli import main
try:
    main({[*words, "--help"]!r})
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "src")}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: tokenlayer" in done.stdout
    if system.extra:
        assert f"tokenlayer[{system.extra}]" in done.stdout


@EACH
@pytest.mark.parametrize("place", ["docs/systems/{slug}.md", "experiments/{room}/{name}.py", "docs/results/{slug}.md"])
def test_page_experiment_and_results_exist(system, place):
    path = ROOT / place.format(slug=system.slug, room=system.room, name=system.slug.replace("-", "_"))
    assert path.is_file(), f"{path.relative_to(ROOT)} is missing"
    if path.suffix == ".md":
        assert system.slug in (ROOT / "zensical.toml").read_text()


@EACH
def test_runs_on_a_cpu_in_five_seconds_with_the_same_bytes_for_a_seed(system, tmp_path):
    case = CASES[system.slug]
    found = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        begun = time.process_time()
        found.append(case.run(tmp_path / name, seed))
        assert time.process_time() - begun < 5
    assert found[0]
    assert found[0] == found[1]
    assert (found[0] != found[2]) == case.seeded


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(call, message, id=f"{slug}: {what}")
        for slug, case in CASES.items()
        for what, call, message in case.bad_inputs
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(call, message, tmp_path):
    with pytest.raises(TokenLayerError) as caught:
        call(tmp_path)
    assert message in caught.value.message
    assert caught.value.hint
    assert not list(tmp_path.glob(".*.partial-*"))
    assert not (tmp_path / "out" / "model.safetensors").exists()


@EACH
def test_five_kinds_of_bad_input_are_tried(system):
    assert len(CASES[system.slug].bad_inputs) >= 5


@EACH
def test_is_listed(system, capsys):
    with pytest.raises(SystemExit):
        main(["list", system.room])
    assert system.slug in capsys.readouterr().out
