"""The drawings of an audit of tokenizers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenlayer.app.report import audit_plots as draw
from tokenlayer.app.report.page import Plot
from tokenlayer.core.report import Report

KINDS: dict[str, tuple[str, ...]] = {
    "beginning of a word": ("spaced_alpha",),
    "inside of a word": ("inner_alpha",),
    "one letter": ("char_alpha",),
    "signs and digits after a space": ("spaced_other",),
    "signs, digits, several scripts": ("inner_other", "char_other"),
    "bytes and parts of characters": ("pure_unicode", "unicode_flanks"),
    "control tokens": ("control_tokens",),
    "without a name, holes": ("char_errors", "spaced_errors", "inner_errors", "holes"),
}
"""The paper's categories in eight colours."""
LANGUAGES_SHOWN = 30
"""Of more parallel languages the cheapest and the dearest half of this many are drawn."""


def audit_drawings(report: Report) -> list[Plot]:
    """Returns the plots of a report that `tokenlayer.app.audit.audit` made; none for any other."""
    found = report.data.get("audit")
    if not found:
        return []
    plots = [_kinds(found["categories"]), _scripts(found["scripts"])]
    if "premium" in found:
        plots.append(_premium(found["premium"]))
    if "overlap" in found:
        plots.append(_overlap(found["labels"], found["overlap"]))
    return plots


def _kinds(categories: Mapping[str, Mapping[str, int]]) -> Plot:
    rows = []
    for label, counts in categories.items():
        total = sum(counts.values()) or 1
        shares = [100 * sum(counts.get(name, 0) for name in names) / total for names in KINDS.values()]
        rows.append((label, shares))
    return Plot(
        "What the entries are",
        "Share of the vocabulary; letters are of one script.",
        draw.bars_in_parts(rows),
        ["", *(label for label, _ in rows)],
        [[kind, *(f"{shares[n]:.1f} %" for _, shares in rows)] for n, kind in enumerate(KINDS)],
        [(f"c{n + 1}", kind) for n, kind in enumerate(KINDS)],
    )


def _scripts(scripts: Mapping[str, Any]) -> Plot:
    labels, names = list(scripts["rows"]), scripts["names"]
    values = [[scripts["rows"][label][n] for label in labels] for n in range(len(names))]
    return Plot(
        "Scripts",
        "Percent of the entries that are letters of one script, by place in the word; darker is more.",
        draw.heat(names, labels, values, digits=1),
        ["script", *labels],
        [[name, *(f"{v:.2f}" for v in row)] for name, row in zip(names, values, strict=True)],
    )


def _premium(premium: Mapping[str, Any]) -> Plot:
    rows, reference = premium["rows"], premium["reference"]
    mean = {group: sum(row[group] for row in rows.values()) for group in next(iter(rows.values()))}
    groups = sorted(mean, key=lambda group: mean[group])
    half = LANGUAGES_SHOWN // 2
    shown = groups if len(groups) <= LANGUAGES_SHOWN else [*groups[:half], *groups[-half:]]
    left = len(groups) - len(shown)
    return Plot(
        f"What other languages cost, {reference} being 1",
        "Tokens for the same text." + (f" {left} languages between these are left out." if left else ""),
        draw.dots_in_colours([(group, [row[group] for row in rows.values()]) for group in shown], f"× {reference}"),
        ["language", *rows],
        [[group, *(f"{row[group]:.2f}" for row in rows.values())] for group in groups],
        [(f"c{n % 8 + 1}", label) for n, label in enumerate(rows)],
    )


def _overlap(labels: Sequence[str], matrix: Sequence[Sequence[float]]) -> Plot:
    percent = [[100 * v for v in row] for row in matrix]
    return Plot(
        "Overlap",
        "Entries that both have, of all that either has, by bytes, in percent.",
        draw.heat(labels, labels, percent, digits=0),
        ["", *labels],
        [[label, *(f"{v:.1f}" for v in row)] for label, row in zip(labels, percent, strict=True)],
    )
