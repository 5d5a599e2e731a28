"""Drawings over several tokenizers: bars in parts, heat maps, dots in the colours of the tokenizers."""

from collections.abc import Sequence

from tokenlayer.app.report.plots import (
    AFTER,
    INK,
    LINE,
    PAPER,
    ROW,
    SERIES,
    _canvas,
    _name_rows,
    _svg,
)

LONG_NAME = 14
"""Column heads of heat maps are cut to this many characters."""


def bars_in_parts(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draws one bar for each (name, percents that sum to 100), its parts in the colours of the series."""
    figure, axes = _canvas(len(rows) * ROW + 0.5)
    for y, (_, shares) in enumerate(rows):
        begin = 0.0
        for n, share in enumerate(shares):
            axes.barh(y, share, left=begin, height=0.68, color=SERIES[n % len(SERIES)], edgecolor=PAPER, linewidth=0.8)
            if share >= 7:
                axes.text(begin + share / 2, y, f"{share:.0f}", ha="center", va="center", color=PAPER, fontsize=9)
            begin += share
    axes.set_xlim(0, 100)
    _name_rows(axes, [name for name, _ in rows])
    axes.set_xlabel("entries, %")
    return _svg(figure, f"parts {rows}")


def heat(names: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, digits: int) -> str:
    """Draws a cell for each name (down) and column (across), darker for larger values, with its number."""
    figure, axes = _canvas(len(names) * ROW * 0.85 + 0.7)
    most = max((v for row in values for v in row), default=1.0) or 1.0
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            depth = (value / most) ** 0.6
            axes.barh(y, 0.96, left=x - 0.48, height=0.92, color=AFTER, alpha=0.06 + 0.94 * depth, linewidth=0)
            text = f"{value:.{digits}f}" if value else "·"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=PAPER if depth > 0.55 else INK)
    axes.set_xticks(range(len(columns)), [c if len(c) <= LONG_NAME else f"{c[: LONG_NAME - 1]}…" for c in columns])
    if len(columns) > 5:
        axes.tick_params(axis="x", labelrotation=35)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    _name_rows(axes, list(names))
    axes.grid(visible=False)
    return _svg(figure, f"heat {names} {columns}")


def dots_in_colours(rows: Sequence[tuple[str, Sequence[float]]], label: str) -> str:
    """Draws one line of dots for each (name, a value for each tokenizer), and a line at 1."""
    figure, axes = _canvas(len(rows) * ROW * 0.75 + 0.6)
    axes.axvline(1, color=INK, linewidth=0.8)
    for y, (_, values) in enumerate(rows):
        axes.plot([min(values), max(values)], [y, y], color=LINE, linewidth=2.5, solid_capstyle="round", zorder=1)
        for n, value in enumerate(values):
            axes.scatter([value], [y], s=30, color=SERIES[n % len(SERIES)], alpha=0.9, zorder=2)
    _name_rows(axes, [name for name, _ in rows])
    axes.margins(x=0.05)
    axes.set_xlabel(label)
    return _svg(figure, f"premium {label} {len(rows)}")
