"""The files that say what a run did: tokenlayer.json, report.html, README.md, tokenlayer.toml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenlayer.app.toml import toml_text
from tokenlayer.core.errors import BadText, MissingExtra
from tokenlayer.core.outputs import write_text
from tokenlayer.core.report import Report

JSON_NAME, PAGE_NAME, CARD_NAME, SETTINGS_NAME = "tokenlayer.json", "report.html", "README.md", "tokenlayer.toml"


def write_report_files(report: Report, folder: Path, *, flags: Mapping[str, Any] | None = None) -> None:
    """Writes the report as JSON, as a page, and as the model card of `folder`.

    Without matplotlib or Jinja2 the page is left out and a warning is added to the report.

    Args:
        report: its settings `command` and `versions` are filled in where they are missing.
        folder: where the files go.
        flags: every flag and argument of the run by name, merged from file and command line; they are written as
            tokenlayer.toml, which `--config` reads.
    """
    from tokenlayer.app.report.card import model_card
    from tokenlayer.app.report.command import swap_command, versions

    report.settings.setdefault("versions", versions())
    if flags and "command" not in report.settings:
        report.settings["command"] = swap_command(flags)
    try:
        write_page(report, folder)
    except MissingExtra as missing:
        report.warn(f"no {PAGE_NAME}: {missing.message}; {missing.hint}, then tokenlayer report {folder.name}")
    write_text(folder / JSON_NAME, _writable(report.to_json()))
    write_text(folder / CARD_NAME, _writable(model_card(report)))
    if flags:
        write_text(folder / SETTINGS_NAME, _writable(toml_text(flags)))


def write_comparison(report: Report, folder: Path) -> None:
    """Writes the report of a comparison as JSON and, where matplotlib and Jinja2 are installed, as a page."""
    try:
        write_page(report, folder)
    except MissingExtra as missing:
        report.warn(f"no {PAGE_NAME}: {missing.message}; {missing.hint}")
    write_text(folder / JSON_NAME, _writable(report.to_json()))


def write_page(report: Report, folder: Path) -> Path:
    """Writes report.html and returns its path.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    from tokenlayer.app.report.page import html_page

    write_text(folder / PAGE_NAME, _writable(html_page(report)))
    return folder / PAGE_NAME


def rewrite_page(folder: Path) -> tuple[Report, Path]:
    """Draws the page of a folder again from its JSON file; returns the report and the path of the page.

    Raises:
        BadText: there is no report in the folder.
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    if not folder.is_dir():
        raise BadText(f"no folder {folder}", hint="give the --out of a `tokenlayer swap`")
    report = Report.load(folder / JSON_NAME)
    return report, write_page(report, folder)


def _writable(text: str) -> str:
    """Lone surrogates as `\\ud800`: tokens may hold them, UTF-8 files may not (and JSON reads them back)."""
    return text.encode("utf-8", "backslashreplace").decode()
