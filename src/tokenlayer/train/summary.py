"""What a run did, in a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenlayer.core.report import Report
from tokenlayer.train.engine import Trained


def add_training(report: Report, trained: Trained, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Puts losses, speed and the rows of numbers into a report; the page draws the curves from them.

    Args:
        report: gets metrics, a table of losses, and `data["training"]`.
        trained: see `Trained`.
        rows: of the whole run, from the metrics file (`read_rows`), where it was resumed; None takes those of this run.
    """
    told = trained.rows if rows is None else rows
    report.add("steps", len(trained.losses), "steps")
    report.add("trained tokens", trained.tokens, "tokens")
    report.add("training time", trained.seconds, "s")
    if trained.seconds:
        report.add("tokens per second", trained.tokens / trained.seconds, "tokens/s")
    if told:
        report.add("waiting for data", 100 * sum(row["data_wait"] for row in told) / len(told), "%")
        shares = [row["mfu"] for row in told if row["mfu"] is not None]
        if shares:
            report.add("share of the device's peak", 100 * sum(shares) / len(shares), "%")
        report.add_table("losses", ("phase", "part", "first", "last"), _first_and_last(told))
    report.data["training"] = {"losses_nats": trained.losses, "rows": [dict(row) for row in told]}


def _first_and_last(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float, float]]:
    """Each part of each phase, the mean of the first and of the last tenth of its rows."""
    found = []
    for phase in dict.fromkeys(row["phase"] for row in rows):
        held = [row for row in rows if row["phase"] == phase]
        few = max(1, len(held) // 10)
        for part in held[0]["parts"]:
            first, last = (sum(row["parts"][part] for row in some) / few for some in (held[:few], held[-few:]))
            found.append((phase, part, round(first, 4), round(last, 4)))
    return found
