"""The tables of the experiment `zett.py`: means over seeds, ranges in brackets."""

import statistics
from collections.abc import Sequence

HELD, SECOND = "held out", "ud-en"


def tables(rows: Sequence[dict]) -> str:
    """All tables as Markdown."""
    parts = [zero_shot(rows, HELD), zero_shot(rows, SECOND), against_paper(rows), validation(rows), n_shot(rows)]
    return "\n\n".join(part for part in parts if part)


def kinds(rows: Sequence[dict], kind: str) -> list[dict]:
    return [row for row in rows if row["kind"] == kind]


def by_start(rows: Sequence[dict], text: str) -> dict[str, dict[str, list[float]]]:
    """Bits per byte of each seed by start and target."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in kinds(rows, "heuristic"):
        found.setdefault(row["init"], {}).setdefault(row["target"], []).append(row["bits"][text])
    for row in kinds(rows, "hypernet"):
        for target, bits in row["bits"].items():
            found.setdefault(f"hypernet, {row['arm']}", {}).setdefault(target, []).append(bits[text])
    return found


def zero_shot(rows: Sequence[dict], text: str) -> str:
    """Bits per byte without training, and which share of the gap to the original each hypernetwork closes."""
    found = by_start(rows, text)
    targets = list(dict.fromkeys(target for starts in found.values() for target in starts))
    original = kinds(rows, "original")[0]["bits"][text]
    plain = [start for start in found if not start.startswith("hypernet")]
    best = {name: min(statistics.mean(found[start][name]) for start in plain) for name in targets}
    lines = [f"{text}: the original has {original:.3f}", ""]
    lines += [
        f"| start | {' | '.join(targets)} | gap closed | without wordpiece |",
        "|---|" + "---|" * (len(targets) + 2),
    ]
    for start, bits in found.items():
        shares = ["", ""]
        if start not in plain:
            shares = [
                closed(bits, some, best, original) for some in (targets, [t for t in targets if t != "wordpiece"])
            ]
        cells = [spread(bits[name]) for name in targets]
        lines.append(f"| {start} | {' | '.join([*cells, *shares])} |")
    return "\n".join(lines)


def closed(bits: dict[str, list[float]], targets: Sequence[str], best: dict[str, float], original: float) -> str:
    """Mean over targets of the share of the gap from the best heuristic to the original that is closed, by seed."""
    by_seed = zip(*(bits[name] for name in targets), strict=True)
    gaps = [best[name] - original for name in targets]
    shares = [
        statistics.mean((best[name] - one) / gap for name, one, gap in zip(targets, some, gaps, strict=True))
        for some in by_seed
    ]
    return spread([100 * share for share in shares], 0) + " %"


def against_paper(rows: Sequence[dict]) -> str:
    """Mean over targets of each arm's bits per byte less those of `paper` with the same seed."""
    means = {
        (row["arm"], row["seed"], text): statistics.mean(bits[text] for bits in row["bits"].values())
        for row in kinds(rows, "hypernet")
        for text in (HELD, SECOND)
    }
    lines = ["| arm | held out, by seed | ud-en, by seed |", "|---|---|---|"]
    for arm in dict.fromkeys(arm for arm, _, _ in means if arm != "paper"):
        seeds = [seed for one, seed, text in means if (one, text) == (arm, HELD) and ("paper", seed, text) in means]
        cells = [
            ", ".join(f"{means[arm, seed, text] - means['paper', seed, text]:+.3f}" for seed in seeds)
            for text in (HELD, SECOND)
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def validation(rows: Sequence[dict]) -> str:
    """Bits per byte of sampled tokenizers at half of the steps and at the end."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in kinds(rows, "hypernet"):
        for step, bits in row["validation"].items():
            found.setdefault(row["arm"], {}).setdefault(step, []).append(bits)
    marks = list(dict.fromkeys(step for one in found.values() for step in one))
    lines = [f"| arm | {' | '.join(f'step {step}' for step in marks)} |", "|---|" + "---|" * len(marks)]
    lines += [f"| {arm} | {' | '.join(spread(bits[step]) for step in marks)} |" for arm, bits in found.items()]
    return "\n".join(lines)


def n_shot(rows: Sequence[dict]) -> str:
    """Bits per byte before and after training with a target."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in kinds(rows, "n-shot"):
        found.setdefault((row["target"], row["start"]), []).append(row)
    lines = ["| target | start | before | held out | ud-en |", "|---|---|---|---|---|"]
    for (target, start), some in found.items():
        cells = [spread([row["before"][HELD] for row in some])]
        cells += [spread([row["bits"][text] for row in some]) for text in (HELD, SECOND)]
        lines.append(f"| {target} | {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean, with the range if there is one."""
    low, high = (f"{one:.{digits}f}" for one in (min(values), max(values)))
    return f"{statistics.mean(values):.{digits}f}" + (f" ({low} to {high})" if low != high else "")
