"""Named numbers, tables and samples of one run: what every command returns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadText

FORMAT = "tokenlayer-report/1"
"""Written into every saved report, so that a later version can tell what it reads."""


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to judge it."""

    name: str
    value: float
    unit: str = ""
    baseline: float | None = None
    """The same number for the thing compared with (usually the source model)."""
    n: int | None = None
    """How many items the number is over (bytes, tokens, rows)."""
    seed: int | None = None
    source: str = ""
    """File, language or method that the number belongs to."""


@dataclass(frozen=True)
class Table:
    """Rows of equal length under column names."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name!r}: {len(row)} cells under {len(self.columns)} columns: {row}")


@dataclass
class Report:
    """What a command did: numbers, tables, warnings, free data, and the next command.

    Attributes:
        title: one line, what was done to what.
        metrics: numbers with unit and baseline.
        tables: small tables in display order.
        warnings: things that the user should know, each one sentence.
        data: JSON-able material for plots and samples, by name.
        settings: the arguments of the run, for repeating it.
        next_command: what a user would type next.
    """

    title: str
    metrics: list[Metric] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    next_command: str = ""

    def add(
        self, name: str, value: float | int, unit: str = "", *, baseline: float | int | None = None, **rest: Any
    ) -> None:
        """Adds one `Metric`; `rest` are its other fields."""
        compared = None if baseline is None else float(baseline)
        self.metrics.append(Metric(name, float(value), unit, compared, **rest))

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        """Adds one `Table`."""
        self.tables.append(Table(name, tuple(columns), tuple(tuple(row) for row in rows), note))

    def warn(self, sentence: str) -> None:
        """Adds a warning once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def metric(self, name: str, source: str | None = None) -> Metric:
        """Returns the first metric of that name (and source)."""
        for one in self.metrics:
            if one.name == name and source in (None, one.source):
                return one
        raise KeyError(f"no metric {name!r} for {source!r}; there are: {sorted({m.name for m in self.metrics})}")

    def table(self, name: str) -> Table:
        """Returns the table of that name."""
        for one in self.tables:
            if one.name == name:
                return one
        raise KeyError(f"no table {name!r}; there are: {[t.name for t in self.tables]}")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, strings and numbers."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """Returns the report as JSON text with two spaces of indent."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Report":
        """Rebuilds a report from `to_dict`.

        Raises:
            BadText: `data` is not such a dictionary.
        """
        if data.get("format") != FORMAT:
            raise BadText(
                f"not a report of this version: format is {data.get('format')!r}, expected {FORMAT!r}",
                hint="point at a folder that `tokenlayer swap` wrote",
            )
        rest = {k: data[k] for k in ("title", "warnings", "data", "settings", "next_command")}
        tables = [
            Table(t["name"], tuple(t["columns"]), tuple(map(tuple, t["rows"])), t["note"]) for t in data["tables"]
        ]
        return Report(metrics=[Metric(**m) for m in data["metrics"]], tables=tables, **rest)

    @staticmethod
    def load(path: Path) -> "Report":
        """Reads a report that was saved as JSON.

        Raises:
            BadText: the file is missing or is not a report.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadText(
                f"cannot read a report from {path}: {error}",
                hint="`tokenlayer swap` writes tokenlayer.json into its output folder",
            ) from error
        return Report.from_dict(data)
