"""The plots of the page: small SVG drawings that take their colours and fonts from the page's style sheet."""

import re
import warnings
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from tokenlayer.core.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for variables of the style sheet: the page turns dark, and the drawing with it.
STYLE_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--before)",
    "#050505": "var(--after)",
    "#060606": "var(--good)",
    "#070707": "var(--bad)",
    "#080808": "var(--paper)",
    **{f"#0{i}0a0a": f"var(--c{i})" for i in range(1, 9)},
}
INK, MUTED, LINE, BEFORE, AFTER, GOOD, BAD, PAPER = list(STYLE_COLOURS)[:8]
SERIES = list(STYLE_COLOURS)[8:]
WIDTH = 7.2
"""Inches at 72 points: the drawings are 518 units wide and scale with the page."""
ROW = 0.34
LONGEST = 20
"""Tokens of this many bytes or more share the last bar."""


def saved_tokens(saved: Sequence[tuple[str, float]]) -> str:
    """Draws one bar for each text: the share of tokens that the new tokenizer saves (negative: it needs more)."""
    figure, axes = _canvas(len(saved) * ROW + 0.5)
    shares = [100 * share for _, share in saved]
    axes.barh(range(len(saved)), shares, height=0.62, color=[GOOD if s >= 0 else BAD for s in shares])
    low, high = min(0.0, *shares), max(0.0, *shares)
    margin = 0.16 * ((high - low) or 1)
    axes.set_xlim(low - (margin if low < 0 else 0), high + margin)
    for y, share in enumerate(shares):
        _write(axes, share, y, f"{share:+.1f} %".replace("-", "−"), align="left" if share >= 0 else "right", gap=5)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    _name_rows(axes, [name for name, _ in saved])
    axes.set_xlabel("tokens saved, %")
    return _svg(figure, "saved")


def before_after(pairs: Sequence[tuple[str, float, float]], label: str) -> str:
    """Draws two dots a text, joined by a line: (name, before, after)."""
    figure, axes = _canvas(len(pairs) * ROW + 0.5)
    for y, (_, before, after) in enumerate(pairs):
        axes.plot([before, after], [y, y], color=LINE, linewidth=3, solid_capstyle="round", zorder=1)
        axes.scatter([before], [y], s=46, color=BEFORE, zorder=2)
        axes.scatter([after], [y], s=46, color=AFTER, zorder=3)
        right, left = max((before, BEFORE), (after, AFTER)), min((before, BEFORE), (after, AFTER))
        _write(axes, right[0], y, f"{right[0]:.4f}", align="left", gap=8, colour=_text_colour(right[1]))
        if right[0] > left[0]:
            _write(axes, left[0], y, f"{left[0]:.4f}", align="right", gap=8, colour=_text_colour(left[1]))
    values = [v for _, *two in pairs for v in two]
    margin = 0.18 * ((max(values) - min(values)) or 1)
    axes.set_xlim(min(values) - margin, max(values) + margin)
    _name_rows(axes, [name for name, *_ in pairs])
    axes.set_xlabel(label)
    return _svg(figure, label)


def dots(rows: Sequence[tuple[str, Sequence[float]]], before: float, label: str) -> str:
    """Draws one row of dots for each (name, a value for each seed), and a line at `before`."""
    figure, axes = _canvas(len(rows) * ROW * 0.85 + 0.6)
    axes.axvline(before, color=BEFORE, linewidth=1.5)
    for y, (_, values) in enumerate(rows):
        axes.scatter(values, [y] * len(values), s=34, color=AFTER, alpha=0.85, zorder=2)
        _write(axes, max(values), y, f"{sum(values) / len(values):.3f}", align="left", gap=8)
    everything = [before, *(v for _, values in rows for v in values)]
    margin = 0.14 * ((max(everything) - min(everything)) or 1)
    axes.set_xlim(min(everything) - margin / 2, max(everything) + margin)
    _name_rows(axes, [name for name, _ in rows])
    axes.set_xlabel(label)
    return _svg(figure, label)


def _text_colour(colour: str) -> str:
    """The grey of a dot is too light for figures."""
    return MUTED if colour == BEFORE else colour


def losses(values: Sequence[float]) -> str:
    """Draws the loss of each step, and the mean over the neighbouring twentieth."""
    figure, axes = _canvas(1.9)
    width = max(1, len(values) // 20)
    around = [values[max(0, i - width) : i + width + 1] for i in range(len(values))]
    axes.plot(range(1, len(values) + 1), values, color=BEFORE, linewidth=0.8)
    axes.plot(range(1, len(values) + 1), [sum(some) / len(some) for some in around], color=AFTER, linewidth=1.8)
    axes.set_xlabel("steps")
    axes.set_ylabel("loss")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return _svg(figure, "healing")


def curves(panels: Sequence[tuple[str, Sequence[tuple[int, float]]]], borders: Sequence[int] = ()) -> str:
    """Draws one panel below the other for each (name, points of step and value), and lines where a phase begins."""
    figure, _ = _canvas(0.3 + 1.25 * len(panels))
    figure.clear()
    for axes, (name, points) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        _bare(axes)
        axes.plot([x for x, _ in points], [y for _, y in points], color=AFTER, linewidth=1.6)
        for border in borders:
            axes.axvline(border, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_ylabel(name)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_xlabel("steps")
    return _svg(figure, "curves")


def trade(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], label: str) -> str:
    """Draws for each (name, points of per cent saved and score) one line, with its name at its end."""
    figure, axes = _canvas(2.4)
    for i, (name, points) in enumerate(lines):
        colour = SERIES[i % len(SERIES)]
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.6, marker="o", markersize=4)
        axes.annotate(name, points[-1], (6, 0), textcoords="offset points", va="center", color=colour, fontsize=9)
    axes.margins(x=0.15)
    axes.set_xlabel("tokens saved, %")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return _svg(figure, f"trade {label} {lines}")


def stacked(parts: Sequence[tuple[str, float]]) -> str:
    """Draws one bar from left to right, a part for each (name, count)."""
    figure, axes = _canvas(0.5)
    total = sum(count for _, count in parts) or 1
    begin = 0.0
    for i, (_, count) in enumerate(parts):
        share = 100 * count / total
        axes.barh([0], [share], left=begin, color=SERIES[i % len(SERIES)], edgecolor=PAPER, linewidth=1.5 * (share > 2))
        if share >= 7:
            axes.text(
                begin + share / 2, 0, f"{share:.1f} %", ha="center", va="center", color=PAPER, weight="bold", fontsize=9
            )
        begin += share
    axes.set_xlim(0, 100)
    axes.axis("off")
    return _svg(figure, "stacked")


def token_lengths(source: dict[str, int], target: dict[str, int]) -> str:
    """Draws the share of tokens of each length in bytes, for both vocabularies side by side."""
    figure, axes = _canvas(2.2)
    lengths = range(1, LONGEST + 1)
    for counts, colour, shift in ((source, BEFORE, -0.2), (target, AFTER, 0.2)):
        axes.bar([n + shift for n in lengths], _shares(counts), width=0.4, color=colour)
    axes.set_xticks(list(lengths), [str(n) for n in range(1, LONGEST)] + [f"{LONGEST}+"])
    axes.set_xlim(0.3, LONGEST + 0.7)
    axes.set_xlabel("bytes in a token")
    axes.set_ylabel("tokens, %")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return _svg(figure, "lengths")


def _shares(counts: dict[str, int]) -> list[float]:
    """Percent of tokens of 1, 2, ... bytes; the last place holds all longer ones, tokens without bytes are left out."""
    total = sum(n for length, n in counts.items() if int(length) > 0) or 1
    short = [100 * counts.get(str(length), 0) / total for length in range(1, LONGEST)]
    return [*short, 100 * sum(n for length, n in counts.items() if int(length) >= LONGEST) / total]


def _canvas(height: float) -> tuple["Figure", "Axes"]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", "the page with plots") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: "Axes") -> None:
    """No frame, quiet labels."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=9)
    axes.xaxis.label.set(color=MUTED, size=9)
    axes.yaxis.label.set(color=MUTED, size=9)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [name if len(name) < 28 else f"{name[:26]}…" for name in names])
    axes.tick_params(axis="y", colors=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=LINE, linewidth=0.6)


def _write(axes: "Axes", x: float, y: int, text: str, *, align: str, gap: int, colour: str = INK) -> None:
    shift = gap if align == "left" else -gap
    axes.annotate(text, (x, y), (shift, 0), textcoords="offset points", ha=align, va="center", color=colour, fontsize=9)


def _svg(figure: "Figure", salt: str) -> str:
    """Returns the drawing without its XML head, in the page's colours and fonts; hidden from screen readers,
    because the page says the same numbers in a table beside it.
    """
    import matplotlib as mpl

    out = StringIO()
    # `svg.hashsalt` keeps the names of clip paths apart between drawings, and the same between runs.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has the glyphs that matplotlib's font lacks
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for noise in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r' id="[a-z]\w*[_.]\w+"', r"font-family: [^;]*; "):
        text = re.sub(noise, "", text, flags=re.DOTALL)
    text = re.sub(r"#0[0-9a-f]{5}", lambda found: STYLE_COLOURS.get(found[0], found[0]), text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    return re.sub(r"\s*\n\s*|<g/>|<defs>\s*</defs>", "\n", text)
