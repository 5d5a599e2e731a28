"""What the README says to type is what the command understands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tokenlayer.app.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page):
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"```console\n(.*?)```", text, re.S)]
    lines = [line[2:] for block in blocks for line in block.splitlines()]
    return [line for line in [*lines, *re.findall(r"`(tokenlayer [^`]+)`", text)] if line.startswith("tokenlayer ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_flags_of_the_commands_exist(page):
    for line in commands(page):
        words = shlex.split(line)[1:]
        command = get_command(app)
        context = command.make_context("tokenlayer", [], resilient_parsing=True)
        while words and hasattr(command, "resolve_command") and not words[0].startswith("-"):
            _, command, words = command.resolve_command(context, words)
            assert command is not None, line
        known = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
        for word in words:
            if word.startswith("--"):
                assert word in known | {"--help", "--version"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_compile(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        compile(block, str(page), "exec")


def test_make_targets_of_the_readme_exist():
    made = re.findall(r"^\$ make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(made)
    assert all(re.search(rf"^{name}:", rules, re.M) for name in made)
