"""A report on the terminal: results to stdout, prose to stderr."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenlayer.app.format import NUMERIC, cell, metric_rows, visible
from tokenlayer.core.report import Report, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

ROWS_SHOWN = 20
"""Longer tables end with how many rows are left; JSON and the page hold all of them."""
FILE_WIDTH = 160
"""Columns when the output is not a terminal: wide enough that few cells are folded."""


def render(report: Report, *, as_json: bool = False, quiet: bool = False) -> None:
    """Prints a report.

    Args:
        report: what the command did.
        as_json: the whole report as JSON on stdout, no tables.
        quiet: no title and no next command; results and warnings stay.
    """
    if not quiet and not as_json:
        print(visible(report.title), file=sys.stderr)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=not _writes_unicode()))
    else:
        _tables(report, _console())
    for sentence in report.warnings:
        print(f"warning: {visible(sentence)}", file=sys.stderr)
    if report.next_command and not quiet:
        print(f"next: {report.next_command}", file=sys.stderr)


def _tables(report: Report, console: "Console") -> None:
    tables = [t for t in report.tables if t.rows]
    if report.metrics:
        _print_metrics(report, console)
    for i, table in enumerate(tables):
        if i or report.metrics:
            console.print()
        _print_table(table, console)


def _print_metrics(report: Report, console: "Console") -> None:
    rows = metric_rows(report)
    compared = any(m.baseline is not None for m in report.metrics)
    columns = ("", "text", "before", "after" if compared else "value", "change", "n")
    keep = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    cells = [[row[i] for i in keep] for row in _without_repeats(rows)]
    console.print(_rich_table("", [columns[i] for i in keep], cells))


def _print_table(table: Table, console: "Console") -> None:
    shown = [[cell(v, c) for v, c in zip(row, table.columns, strict=True)] for row in table.rows[:ROWS_SHOWN]]
    console.print(_rich_table(table.name, list(table.columns), shown))
    if len(table.rows) > ROWS_SHOWN:
        console.print(f"... and {len(table.rows) - ROWS_SHOWN} more rows, all in --json", markup=False)
    if table.note:
        console.print(visible(table.note), markup=False, highlight=False)


def _rich_table(name: str, heads: list[str], rows: list[list[str]]) -> "RichTable":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        box=SIMPLE_HEAD, title=name or None, title_justify="left", title_style="bold", pad_edge=False, show_edge=False
    )
    for head in heads:
        drawn.add_column(
            Text(head), justify="right" if head in NUMERIC or head.endswith("id") else "left", overflow="fold"
        )
    for row in rows:
        drawn.add_row(*[Text(text) for text in row])
    return drawn


def _without_repeats(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Blanks a name that stands in the line above."""
    names = ["", *[row[0] for row in rows]]
    return [("" if row[0] == above else row[0], *row[1:]) for above, row in zip(names, rows, strict=False)]


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else FILE_WIDTH)


def _writes_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
