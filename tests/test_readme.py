"""The code blocks of README.md and docs/ are real: commands parse, Python compiles, TOML is read, links lead somewhere.

A Python block whose first line is `# runs` is run.
"""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from tokenlayer.app.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(
        page, language, text, id=f"{page.relative_to(ROOT)}:{page.read_text()[: found.start()].count(chr(10)) + 1}"
    )
    for page in PAGES
    for found in re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for language, text in [found.groups()]
]
INLINE = [
    pytest.param(line, id=f"{page.relative_to(ROOT)}: {line}")
    for page in PAGES
    for line in re.findall(r"`(tokenlayer [^`]*)`", page.read_text())
]


def parses(line):
    """Parses a `tokenlayer` command line as far as its flags and arguments go, without running it."""
    words = re.sub(r" --config \S+", " --out DIR", line)  # stands for a file that gives the missing flags
    words = shlex.split(words)[1:]
    context = get_command(app).make_context("tokenlayer", ["list"])
    command = context.command
    while hasattr(command, "commands") and words[:1] != ["--help"]:
        _, command, words = command.resolve_command(context, words)
        context = typer.Context(command, info_name=command.name, parent=context)
    if words and words != ["--help"]:
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(("page", "language", "text"), BLOCKS)
def test_block(page, language, text):
    if language == "console":
        commands = [line[2:] for line in text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
        assert commands, "a console block without a `$ ` line"
        for line in commands:
            if line.startswith("make "):
                assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
            elif line.startswith("tokenlayer "):
                parses(line)
            else:
                assert line.startswith("pip install "), f"a command that nothing checks: {line}"
    elif language == "python":
        compile(text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if text.startswith("# runs"):
            exec(text, {})
    elif language == "toml":
        tomllib.loads(text)
    else:
        assert language in ("text", "mermaid"), f"a block in a language that nothing checks: {language}"


@pytest.mark.parametrize("line", INLINE)
def test_inline_command(line):
    if "[" not in line and "|" not in line and "<" not in line:  # a synopsis is not a command
        parses(line)


def test_a_wrong_command_would_be_found():
    for line in (
        "tokenlayer swpa M T --out D",
        "tokenlayer swap M T --otu D",
        "tokenlayer swap M",
        "tokenlayer list a b",
    ):
        with pytest.raises(typer.TyperException):
            parses(line)


def test_extras_are_those_of_pyproject():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for page in PAGES:
        assert set(re.findall(r"tokenlayer\[(\w+)\]", page.read_text())) <= extras
    table = (ROOT / "README.md").read_text().split("| extra | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == extras


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_page_is_in_the_navigation():
    config = (ROOT / "zensical.toml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f'"{page.relative_to(ROOT / "docs")}"' in config
