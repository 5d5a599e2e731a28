"""The page report.html: one file, no script, nothing fetched; light and dark by the reader's own setting.

Sections come from the names of metrics, tables and data in the `Report`; what is not there is left out.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from tokenlayer.app.format import NUMERIC, cell, change, metric_rows, number, visible
from tokenlayer.app.report import plots
from tokenlayer.core.errors import MissingExtra
from tokenlayer.core.report import Metric, Report, Table

PLACED = {"origin of rows", "special roles", "worst cases"}
"""Tables with a section of their own; the others follow in the order of the report."""
FACTS = ("vocab size", "rows", "next-byte agreement", "tokens per second", "table memory", "peak memory", "seconds")
"""Numbers about the whole run, not about one text; shown at the top."""
SAMPLE_TOKENS = 600
HALF = "\ufffd"
"""Stands for bytes that are no whole character."""
TABLE_ROWS = 200


@dataclass(frozen=True)
class Plot:
    """A drawing, what it shows, and its numbers for those who cannot see it or want to copy them."""

    title: str
    text: str
    svg: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: Sequence[tuple[str, str]] = field(default=())
    """(style sheet variable, what it stands for)."""


def html_page(report: Report) -> str:
    """Returns the page.

    Raises:
        MissingExtra: Jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("Jinja2", "report", "the page report.html") from error
    environment = Environment(
        loader=PackageLoader("tokenlayer.app.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    from tokenlayer.app.report.audit import audit_drawings

    environment.filters |= {"cell": cell, "visible": visible, "lines": _lines}
    found: str = environment.get_template("page.html.j2").render(
        report=report,
        facts=_facts(report),
        plots=[
            *_comparisons(report),
            *_units(report),
            *audit_drawings(report),
            *(plot for draw in DRAWN if (plot := draw(report))),
        ],
        tables=[t for t in report.tables if t.name not in PLACED and t.rows],
        worst=_find_table(report, "worst cases"),
        roles=_find_table(report, "special roles"),
        samples=_samples(report),
        checks=report.data.get("checks") or [],
        continuations=report.data.get("continuations") or [],
        numbers=metric_rows(report),
        settings=_settings(report.settings),
        command=report.settings.get("command", ""),
        versions=report.settings.get("versions") or {},
        most_rows=TABLE_ROWS,
        numeric=NUMERIC,
    )
    return found


def _facts(report: Report) -> list[tuple[str, str, str]]:
    """(name, value, what it was) of the numbers that are about the whole run."""
    facts = []
    for name in FACTS:
        for m in report.metrics:
            if m.name == name and not m.source:
                was = "" if m.baseline is None else _was(m)
                facts.append((name, number(m.value, m.unit, m.name), was))
    return facts


def _was(metric: Metric) -> str:
    same = metric.baseline == metric.value
    return "as before" if same else f"was {number(metric.baseline or 0.0, metric.unit, metric.name)}"


def _saved(report: Report) -> Plot | None:
    """Tokens per byte before and after, as a share: 1 - before / after of bytes per token."""
    found = _compared(report, "bytes per token")
    saved = [(m.source, 1 - before / m.value) for m, before in found if m.value > 0]
    if not saved:
        return None
    rows = [
        (m.source, number(before, "", m.name), number(m.value, "", m.name), f"{100 * s:+.1f} %")
        for (m, before), (_, s) in zip(found, saved, strict=False)
    ]
    return Plot(
        "Tokens saved",
        "How many fewer tokens the same text needs. Fewer tokens: a longer reach and a cheaper answer.",
        plots.saved_tokens(saved),
        ["text", "bytes per token before", "after", "saved"],
        rows,
    )


def _bits(report: Report) -> Plot | None:
    found = _compared(report, "bits per byte") or _compared(report, "pseudo bits per byte")
    if not found:
        return None
    rows = [(m.source, *(number(v, "", m.name) for v in (before, m.value)), change(m)) for m, before in found]
    name = found[0][0].name
    return Plot(
        f"{name.capitalize()}, before and after",
        "What the model pays to predict each byte of the text. Lower is better; it compares across vocabularies.",
        plots.before_after([(m.source, before, m.value) for m, before in found], name),
        ["text", "before", "after", "change"],
        rows,
        [("before", "before"), ("after", "after")],
    )


def _origin(report: Report) -> Plot | None:
    table = _find_table(report, "origin of rows")
    if table is None:
        return None
    rules = [(cell(row[0]), float(row[1])) for row in table.rows]
    return Plot(
        "Where the new rows come from",
        table.note or "The rule that filled each row of the new embedding table.",
        plots.stacked(rules),
        table.columns,
        [[cell(v, c) for v, c in zip(row, table.columns, strict=True)] for row in table.rows],
        [(f"c{i % 8 + 1}", f"{name} {number(count)}") for i, (name, count) in enumerate(rules)],
    )


def _lengths(report: Report) -> Plot | None:
    found = report.data.get("token_lengths") or {}
    source, target = found.get("source"), found.get("target")
    if not source or not target:
        return None
    lengths = sorted({int(n) for n in [*source, *target]})
    return Plot(
        "Length of tokens",
        "Share of the vocabulary by the number of bytes that a token stands for.",
        plots.token_lengths(source, target),
        ["bytes", "source tokens", "target tokens"],
        [[str(n), number(source.get(str(n), 0)), number(target.get(str(n), 0))] for n in lengths],
        [("before", "source tokenizer"), ("after", "target tokenizer")],
    )


def _healing(report: Report) -> Plot | None:
    losses = (report.data.get("healing") or {}).get("losses_nats")
    if not losses:
        return None
    shown = sorted(
        {round(i * (len(losses) - 1) / min(10, max(len(losses) - 1, 1))) for i in range(11)} & set(range(len(losses)))
    )
    return Plot(
        "Loss while healing",
        "What training after the swap had to pay, step by step.",
        plots.losses(losses),
        ["step", "loss"],
        [[str(i + 1), number(losses[i])] for i in shown],
        [("before", "each step"), ("after", "mean of the steps around it")],
    )


def _training(report: Report) -> Plot | None:
    rows = (report.data.get("training") or {}).get("rows")
    if not rows:
        return None
    parts = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    panels = [
        (f"{name} loss", [(row["step"], row["parts"][name]) for row in rows if name in row["parts"]]) for name in parts
    ]
    panels.append(("learning rate", [(row["step"], row["rate"]) for row in rows]))
    borders = [one["step"] for one, after in pairwise(rows) if one["phase"] != after["phase"]]
    return Plot(
        "Losses while training",
        "Each part of the loss, and the learning rate; a dotted line stands where another phase begins.",
        plots.curves(panels, borders),
        ["step", "phase", *parts, "learning rate"],
        [
            [
                number(row["step"]),
                row["phase"],
                *(number(row["parts"][name]) if name in row["parts"] else "" for name in parts),
                f"{row['rate']:.2e}",
            ]
            for row in rows[:: max(1, len(rows) // 10)]
        ],
    )


def _comparisons(report: Report) -> list[Plot]:
    """One drawing for each text that several tokenizers and initialisers were compared on, best first."""
    found = report.data.get("comparison") or {}
    points, measured = found.get("points") or [], found.get("measured", "")
    drawn = []
    for text in dict.fromkeys(point["text"] for point in points):
        rows = [(f"{p['tokenizer']}, {p['init']}", p["values"]) for p in points if p["text"] == text]
        rows.sort(key=lambda row: sum(row[1]) / len(row[1]), reverse=measured == "cosine")
        before = next(p["before"] for p in points if p["text"] == text)
        numbers = [(name, number(before, "", measured), *_mean_and_range(values, measured)) for name, values in rows]
        drawn.append(
            Plot(
                f"{measured.capitalize()} on {visible(text)}",
                "Each dot is a run; the line is the source model with its own tokenizer.",
                plots.dots(rows, before, measured),
                ["tokenizer, init", "before", "after", "range"],
                numbers,
                [("before", "before"), ("after", "after, one dot a seed")],
            )
        )
    return drawn


def _units(report: Report) -> list[Plot]:
    """One drawing for each text that was read in dynamic units: what is saved, and what it costs."""
    table, measured = _find_table(report, "units"), report.data.get("measured", "")
    if table is None or not measured:
        return []
    at = {name: n for n, name in enumerate(table.columns)}
    drawn = []
    for text in dict.fromkeys(row[at["text"]] for row in table.rows):
        some = [row for row in table.rows if row[at["text"]] == text]
        lines = [
            (kind, [(100 * row[at["shorter"]], row[at["score"]]) for row in some if row[at["rows"]] == kind])
            for kind in dict.fromkeys(row[at["rows"]] for row in some)
        ]
        numbers = [
            [row[at["rows"]], number(row[at["units"]]), f"{100 * row[at['shorter']]:.1f} %", number(row[at["score"]])]
            for row in some
        ]
        drawn.append(
            Plot(
                f"{measured.capitalize()}: {visible(text)}",
                "Each line is one kind of rows for new units; its first point is the model's own tokens.",
                plots.trade(lines, measured),
                ["rows", "units", "saved", measured],
                numbers,
                [],
            )
        )
    return drawn


def _mean_and_range(values: Sequence[float], name: str) -> tuple[str, str]:
    low, high = (number(one, "", name) for one in (min(values), max(values)))
    return number(sum(values) / len(values), "", name), f"{low} to {high}" if len(values) > 1 else ""


DRAWN = (_saved, _bits, _healing, _training, _origin, _lengths)


def _compared(report: Report, name: str) -> list[tuple[Metric, float]]:
    """The metrics of that name that have a baseline, with it; a text is called with its language."""
    languages = report.data.get("languages") or {}
    found = [(m, m.baseline) for m in report.metrics if m.name == name and m.baseline]
    return [(replace(m, source=_text_name(m.source, languages.get(m.source))), before) for m, before in found]


def _text_name(source: str, language: str | None) -> str:
    return f"{source} ({language})" if language and language != source else visible(source)


def _find_table(report: Report, name: str) -> Table | None:
    return next((t for t in report.tables if t.name == name and t.rows), None)


def _samples(report: Report) -> list[dict[str, Any]]:
    """The same text cut by both tokenizers: spans of (shown text, hover text)."""
    found = report.data.get("sample") or []
    return [
        {
            "name": one.get("text name", ""),
            "cuts": [(side, len(one[side]), _spans(one[side][:SAMPLE_TOKENS])) for side in ("source", "target")],
        }
        for one in ([found] if isinstance(found, dict) else found)
    ]


def _spans(tokens: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    """Spans of (shown text, hover text) for tokens given as (text, id) or (text, id, bytes in hex).

    With bytes, a character that several tokens share is shown in the last of them, and the others as a dot.
    """
    decoder = getincrementaldecoder("utf-8")("replace")
    spans = []
    for text, token_id, *rest in tokens:
        raw = bytes.fromhex(rest[0]) if rest else b"" if HALF in text else text.encode("utf-8", "surrogatepass")
        shown = (decoder.decode(raw) or "·") if rest and raw else text
        spans.append((_lines(shown), f"id {token_id}" + (f" · bytes {raw.hex(' ')}" if raw else "")))
    return spans


def _lines(text: str) -> str:
    """Visible text in which lines still end."""
    return visible(text).replace("⏎", "⏎\n")


def _settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value in reading order; the command and the versions have places of their own."""
    return [(k, cell(v)) for k, v in settings.items() if k not in ("command", "versions") and v not in (None, "", [])]
