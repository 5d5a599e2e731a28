"""How numbers and texts of a report are written for people: one spelling for terminal, page and card."""

import math
import unicodedata
from typing import Any

from tokenlayer.core.report import Metric, Report

DASH = "–"
NAMED = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
NUMERIC = {
    *("before", "after", "value", "change", "n", "share", "rows", "input rows", "output rows", "tokens", "bytes"),
    *("saved", "bytes per token before", "source tokens", "target tokens"),
    *("tokens saved", "seconds", "MB of the plan", "cosine", "bits per byte", "before, bits per byte"),
}
"""Columns that are written right-aligned."""
SHARES = {"share", "tokens saved"}
"""Columns that hold fractions of one."""
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that print nothing, move the cursor, or turn the writing direction."""


def number(value: int | float, unit: str = "", name: str = "") -> str:
    """Writes a number with the precision that its unit deserves: `49 152`, `0.9831`, `97.3 %`, `2 min 5 s`."""
    if not math.isfinite(value):
        return DASH
    if name.endswith("bits per byte"):
        return f"{value:.4f}"
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit in ("s", "seconds"):
        return _duration(value)
    text = _plain(value, whole=" per " not in name)
    return f"{text} {unit}" if unit in ("MB", "GB") or (unit == "bytes" and unit not in name) else text


def change(metric: Metric) -> str:
    """Writes the difference to the baseline and its percentage, or nothing where there is no baseline."""
    base = metric.baseline
    if base is None or not math.isfinite(base) or not math.isfinite(metric.value):
        return ""
    if metric.unit == "share":
        return _minus(f"{100 * (metric.value - base):+.1f} points")
    difference = metric.value - base
    if not difference:
        return "same"
    text = ("+" if difference >= 0 else "-") + number(abs(difference), metric.unit, metric.name)
    return _minus(f"{text} ({100 * (metric.value / base - 1):+z.1f} %)" if base else text)


def cell(value: Any, column: str = "") -> str:
    """Writes a cell of a table; a column of `SHARES` holds fractions of one."""
    if value is None or isinstance(value, bool):
        return {None: DASH, True: "yes", False: "no"}[value]
    if isinstance(value, int) and column.endswith("id"):
        return str(value)  # a name, not a quantity
    if isinstance(value, int | float):
        return number(value, "share" if column in SHARES else "", column)
    if isinstance(value, dict):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(cell(one) for one in value)
    return _edges(visible(str(value)))


def visible(text: str) -> str:
    """Shows what a screen would hide: line ends as signs, control and direction marks as `\\u202e`.

    Joiners stay, because the scripts that use them cannot be read without.
    """
    return "".join(_shown(c) for c in text)


def metric_rows(report: Report) -> list[tuple[str, str, str, str, str, str]]:
    """Returns (name, source, before, after, change, n) of each metric, those of one name together."""
    names = dict.fromkeys(m.name for m in report.metrics)
    ordered = [m for name in names for m in report.metrics if m.name == name]
    return [
        (
            _titled(m),
            visible(m.source),
            "" if m.baseline is None else number(m.baseline, m.unit, m.name),
            number(m.value, m.unit, m.name),
            change(m),
            "" if m.n is None else number(m.n),
        )
        for m in ordered
    ]


def _plain(value: int | float, whole: bool) -> str:
    """`whole` numbers have no decimals when they need none; a ratio always has them."""
    if whole and float(value).is_integer():
        return f"{value:,.0f}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:,.1f}".replace(",", " ")
    return f"{value:.3g}" if whole and abs(value) < 0.1 else f"{value:.3f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _edges(text: str) -> str:
    """Marks a space at either end, which a reader of a table would miss."""
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    before, after = text.index(inner), len(text) - text.index(inner) - len(inner)
    return "␣" * before + inner + "␣" * after


def _duration(seconds: int | float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _titled(metric: Metric) -> str:
    """The name, with a unit that the number itself does not show and the name does not say."""
    said = metric.unit in ("", "share", "s", "seconds", "MB", "GB", "bytes") or metric.unit.split("/")[0] in metric.name
    return metric.name if said else f"{metric.name} [{metric.unit}]"


def _shown(character: str) -> str:
    if character in NAMED:
        return NAMED[character]
    if character in "\u200c\u200d" or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()
