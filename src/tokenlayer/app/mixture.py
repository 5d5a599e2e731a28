"""Data mixture inference as one call: what `tokenlayer tokenizer mixture` does."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlayer.core.report import Report

if TYPE_CHECKING:
    from tokenlayer.tokenizer.mixture.infer import Mixture

WORST = 10
"""Merges and pairs with the largest slacks that are shown."""


def mixture(
    tokenizer: str | Path,
    categories: Sequence[str],
    *,
    cache: str | Path | None = None,
    workers: int = 1,
    suffixes: Sequence[str] = (),
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Finds the shares of kinds of text in a tokenizer's training data.

    Args:
        tokenizer: folder, tokenizer.json, tiktoken ranks or hub id of a BPE tokenizer.
        categories: `NAME=PATH` of each kind of text.
        cache: folder that keeps the counts, so that another run reads only what changed; None keeps nothing.
        workers: processes that count.
        suffixes: only these files of a folder.
        quiet: no progress bars.
        settings: fields of `tokenlayer.tokenizer.mixture.config.MixtureConfig`; None keeps the default.

    Raises:
        TokenLayerError: a subclass that says what is wrong.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.data.documents import ReadOptions
    from tokenlayer.models.tokenizer_files import load_tokenizer
    from tokenlayer.tokenizer.mixture.config import MixtureConfig
    from tokenlayer.tokenizer.mixture.counting import count_categories, cut_of, parse_categories
    from tokenlayer.tokenizer.mixture.infer import infer_mixture
    from tokenlayer.tokenizer.mixture.rules import read_rules

    config = MixtureConfig(**{name: value for name, value in settings.items() if value is not None})
    sources, loaded = parse_categories(categories), load_tokenizer(tokenizer)
    read_rules(loaded)  # a tokenizer without merges is refused before hours of counting
    cut, options = cut_of(loaded, config.pre_tokenizer), ReadOptions(suffixes=tuple(suffixes))
    with tempfile.TemporaryDirectory() as scratch, steps(quiet) as tell:
        counted = count_categories(
            sources, cut, Path(cache or scratch), options=options, parts=config.parts, workers=workers
        )
        found = infer_mixture(loaded, counted, config, cut=cut, tell=tell)
    report = described(found, f"what {tokenizer} was trained on, by its merges")
    report.settings = {"tokenizer": str(tokenizer), "categories": list(categories), **settings}
    return report


def described(found: "Mixture", title: str) -> Report:
    """Returns a report of the shares, and of how far they can be trusted."""
    report = Report(title=title)
    report.add("merges that were compared", found.merges)
    report.add("merges that no sample has", len(found.missing))
    if found.solution is not None:
        solution = found.solution
        report.add("slack of merges", 1e6 * solution.merge_slack.sum(), "millionths of pairs")
        report.add("slack of pairs", 1e6 * solution.pair_slack.sum(), "millionths of pairs")
        report.add("merges behind", int((solution.merge_slack > 1e-12).sum()))
        report.add("rounds", solution.rounds)
        report.add("rows", solution.rows)
        if solution.gap > 0:
            report.warn(f"stopped before the optimum: slacks may be up to {1e6 * solution.gap:.3g} millionths more")
    _add_shares(report, found)
    if found.missing:
        rows = [(label,) for label in found.missing]
        report.add_table(
            "merges that no sample has", ("merge",), rows, "Text that is not among the categories has them."
        )
    for note in found.notes:
        report.warn(note)
    _warn_of_flat(report, found)
    for name, value in found.seconds.items():
        report.add(f"seconds, {name}", value, "s")
    report.next_command = "" if len(found.draws) else "the same with --bootstrap 20 for intervals"
    return report


def _add_shares(report: Report, found: "Mixture") -> None:
    columns, note = ["category", "share"], f"Shares are of {found.unit}."
    cells = [list(found.categories), found.shares.tolist()]
    if found.ranges is not None:
        columns += ["at least", "at most"]
        cells += [_percent(found.ranges[:, side]) for side in (0, 1)]
        note += " At least, at most: over all mixtures with nearly as little slack."
    interval = found.interval()
    if interval is not None:
        columns += ["5 %", "95 %"]
        cells += [_percent(interval[:, side]) for side in (0, 1)]
        note += f" 5 %, 95 %: of {len(found.draws)} draws of the samples' parts."
    columns += ["by token", "bytes"]
    cells += [_percent(found.baseline), list(found.sample_bytes)]
    order = sorted(range(len(found.categories)), key=lambda at: -found.shares[at])
    rows = [[column[at] for column in cells] for at in order]
    report.add_table(
        "shares", columns, rows, f"{note} By token: tokens that the category makes most often, a baseline."
    )


def _percent(values: Any) -> list[str]:
    return [f"{100 * value:.1f} %" for value in values]


def _warn_of_flat(report: Report, found: "Mixture") -> None:
    if found.ranges is None:
        return
    wide = [name for name, (low, high) in zip(found.categories, found.ranges, strict=True) if high - low > 0.1]
    if wide:
        report.warn(
            f"the shares of {', '.join(wide)} can move by more than 0.1 at nearly the same slack: "
            "the categories are alike, or their samples are small"
        )
