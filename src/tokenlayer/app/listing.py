"""What `tokenlayer list` shows: the catalogue, and the choices of a room's flags."""

from collections.abc import Callable
from dataclasses import asdict

from tokenlayer.catalog import ROOMS, SYSTEMS
from tokenlayer.core.errors import choose
from tokenlayer.core.report import Report


def list_report(room: str | None = None) -> Report:
    """Returns the published systems that work, of one room or of all; for one room, the choices of its flags too.

    Raises:
        BadOption: no such room; names the rooms.
    """
    if room is not None:
        choose("the room", room, ROOMS)
    found = [s for s in SYSTEMS if room in (None, s.room)]
    report = Report(f"{len(found)} published {'system' if len(found) == 1 else 'systems'}")
    rows = [(s.slug, s.room, f"tokenlayer {s.command}", s.paper) for s in found]
    report.add_table("systems", ["slug", "room", "command", "paper"], rows)
    report.data["systems"] = [asdict(s) for s in found]
    if room in CHOICES:
        CHOICES[room](report)
    return report


def _initialisers(report: Report) -> None:
    from tokenlayer.transfer.initialisers import INITIALISERS
    from tokenlayer.transfer.materials import OPTIONS

    rows = [
        (name, one.about, one.random, "; ".join(OPTIONS[need] for need in one.needs))
        for name, one in INITIALISERS.items()
    ]
    report.add_table("choices of --init", ["name", "how a row is made", "uses --seed", "needs"], rows)
    report.next_command = "tokenlayer swap MODEL TOKENIZER --out DIR --dry-run"


CHOICES: dict[str, Callable[[Report], None]] = {"transfer": _initialisers}
