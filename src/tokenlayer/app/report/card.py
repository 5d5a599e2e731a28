"""The model card (README.md) of a written checkpoint."""

import json
import re
from pathlib import Path
from typing import Any

from tokenlayer.app.format import cell, metric_rows, visible
from tokenlayer.core.report import Report, Table

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
IN_CARD = ("origin of rows", "special roles")
"""Tables that belong into the card; the page has all of them."""

LOADING = (
    "It loads as any other checkpoint, with `AutoModelForCausalLM.from_pretrained` and "
    "`AutoTokenizer.from_pretrained`. All numbers are in `tokenlayer.json`, drawn in `report.html`."
)


def model_card(report: Report) -> str:
    """Returns Markdown with the hub's front matter: command, numbers, checks, warnings, versions, paper."""
    sections = [
        _front_matter(report.settings),
        f"# {_plain(report.title)}",
        _how(report),
        _list("Warnings", report.warnings),
        _numbers(report),
        _list("Checks", report.data.get("checks") or []),
        *[_table(t) for name in IN_CARD for t in report.tables if t.name == name and t.rows],
        _versions(report.settings.get("versions") or {}),
        _citation(report.settings),
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _front_matter(settings: dict[str, Any]) -> str:
    lines = ["---", "library_name: transformers"]
    model = str(settings.get("model", ""))
    if HUB_ID.fullmatch(model) and not Path(model).exists():
        lines.append(f"base_model: {json.dumps(model)}")  # a JSON string is a YAML string
    lines += ["tags:", "- tokenlayer", "- vocabulary-transfer"]
    if settings.get("init"):
        lines.append(f"- {json.dumps(str(settings['init']))}")
    return "\n".join([*lines, "---"])


def _how(report: Report) -> str:
    command = report.settings.get("command")
    made = f"Made by\n\n```console\n$ {command}\n```\n\n" if command else ""
    return made + str(report.settings.get("loading", LOADING))


def _list(title: str, sentences: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {_plain(s)}" for s in sentences) if sentences else ""


def _numbers(report: Report) -> str:
    rows = metric_rows(report)
    return "## Numbers\n\n" + _grid(["", "text", "before", "after", "change", "n"], rows) if rows else ""


def _table(table: Table) -> str:
    rows = [[cell(v, c) for v, c in zip(row, table.columns, strict=True)] for row in table.rows]
    note = f"\n\n{_plain(table.note)}" if table.note else ""
    return f"## {table.name.capitalize()}\n\n{_grid(table.columns, rows)}{note}"


def _versions(versions: dict[str, Any]) -> str:
    return "## Versions\n\n" + ", ".join(f"{k} {v}" for k, v in versions.items()) if versions else ""


def _citation(settings: dict[str, Any]) -> str:
    paper = settings.get("paper")
    return f"## Citation\n\nRows were made after: {_plain(str(paper))}" if paper else ""


def _grid(columns: Any, rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_plain(one) for one in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", visible(text))
