"""From what an audit found to tables."""

import math
from collections.abc import Callable, Iterable

from tokenlayer.core.report import Report
from tokenlayer.tokenizer.qtok import habits
from tokenlayer.tokenizer.qtok.audit import Audit, unicode_versions
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.languages import ALPHABETS, alphabet_coverage, language_shares
from tokenlayer.tokenizer.qtok.overlap import families, jaccard_matrix, only_in, text_sets
from tokenlayer.tokenizer.qtok.tables import (
    category_counts,
    completeness,
    core_entries,
    folded,
    script_percents,
)
from tokenlayer.tokenizer.qtok.texts import TextUse, premiums

PARALLEL_SHOWN = 12
"""Languages of a long list that the audit of one tokenizer calls its dearest."""


def audit_report(audit: Audit, config: QtokConfig) -> Report:
    """Returns the tables of an audit; see `tokenlayer.tokenizer.qtok.audit.qtok`."""
    labels = list(audit.entries)
    title = f"{labels[0]} looked into" if len(labels) == 1 else f"{', '.join(labels)} compared"
    report = Report(title=title, warnings=list(audit.warnings))
    report.settings = {"unicode": unicode_versions()}
    report.data["audit"] = {"labels": labels, "rows": list(audit.rows)}
    _add_categories(report, audit)
    _add_scripts(report, audit, config)
    _add_languages(report, audit, config)
    _add_completeness(report, audit)
    if len(labels) > 1:
        _add_overlap(report, audit, config)
    _add_texts(report, audit, config)
    _add_parallel(report, audit)
    if not config.compat:
        _add_habits(report, audit, config)
    return report


def _add_categories(report: Report, audit: Audit) -> None:
    counts = {label: category_counts(entries) for label, entries in audit.rows.items()}
    names = max(counts.values(), key=len)
    for label, row in counts.items():
        report.add("entries", sum(row.values()), "tokens", source=label)
    lines = [[name, *(row.get(name, 0) for row in counts.values())] for name in names]
    report.add_table("categories", ("category", *counts), lines)
    shares = [[name, *(_percent(row.get(name, 0), sum(row.values())) for row in counts.values())] for name in names]
    report.add_table("categories, percent", ("category", *counts), shares)
    report.data["audit"]["categories"] = counts


def _add_scripts(report: Report, audit: Audit, config: QtokConfig) -> None:
    rows = {label: script_percents(entries) for label, entries in audit.rows.items()}
    names, lines = folded(rows, config.fold_scripts_percent)
    _add_turned(report, "scripts, percent of alphabetic entries", "script", names, lines)
    report.data["audit"]["scripts"] = {"names": names, "rows": dict(zip(rows, lines, strict=True))}


def _add_languages(report: Report, audit: Audit, config: QtokConfig) -> None:
    candidates = audit.candidates
    for script, alphabets in ALPHABETS.items() if candidates is not None else ():
        some = {text: codes for text, codes in (candidates or {}).items() if codes[0] in alphabets}
        rows = {label: language_shares(entries, some, legacy=config.compat) for label, entries in audit.rows.items()}
        names, lines = folded(rows, config.fold_languages_percent)
        if names:
            _add_turned(report, f"languages of {script} entries, percent", "language", names, lines)
    _add_alphabets(report, audit)


def _add_alphabets(report: Report, audit: Audit) -> None:
    covered = {label: alphabet_coverage(entries) for label, entries in audit.entries.items()}
    partly = sorted(code for code in next(iter(covered.values())) if min(row[code] for row in covered.values()) < 1)
    lines: list[list[object]] = [[code, *(_percent(row[code], 1) for row in covered.values())] for code in partly]
    full = len(next(iter(covered.values()))) - len(partly)
    report.add_table(
        "alphabets, percent of the letters with an entry of their own",
        ("language", *covered),
        lines,
        note=f"Small and capital letters. {full} other languages are at 100 everywhere.",
    )


def _add_completeness(report: Report, audit: Audit) -> None:
    core = core_entries(audit.entries)
    rows = []
    for label, entries in audit.rows.items():
        found = completeness(entries, core, audit.candidates or {})
        initial = found["word-initial"]
        row: list[object] = [label, initial, _percent(initial, len(entries))]
        row += [found["core"], _percent(found["core"], len(entries))] if len(audit.entries) > 1 else []
        row += [found["singletons"], _percent(found["singletons"], initial)] if audit.candidates is not None else []
        rows.append([*row, found["characters"]])
    heads = ["tokenizer", "word-initial", "% of entries"]
    heads += ["core", "core, % of entries"] if len(audit.entries) > 1 else []
    heads += ["one language", "% of word-initial"] if audit.candidates is not None else []
    report.add_table("completeness", [*heads, "characters"], rows)


def _add_overlap(report: Report, audit: Audit, config: QtokConfig) -> None:
    sets = text_sets(audit.entries)
    matrix = jaccard_matrix(sets)
    labels = list(sets)
    lines = [[label, *(round(v, 3) for v in row)] for label, row in zip(labels, matrix, strict=True)]
    report.add_table("overlap, Jaccard index of the bytes", ("tokenizer", *labels), lines)
    groups = families(labels, matrix, config.same_from)
    report.add("different tokenizers", len(groups), n=len(labels))
    for group in groups:
        if len(group) > 1:
            report.warn(f"{', '.join(group)} share more than {100 * config.same_from:g} % of their entries")
    found = [(label, *only_in(sets, label, config.examples)) for label in labels]
    report.add_table(
        "only in one", ("tokenizer", "entries", "the longest"), [[a, n, " ".join(some)] for a, n, some in found]
    )
    report.data["audit"]["overlap"] = matrix


def _add_texts(report: Report, audit: Audit, config: QtokConfig) -> None:
    rows = []
    for label, groups in audit.texts.items():
        for group, use in groups.items():
            size = len(audit.tokenizers[label].vocab)
            report.add("bytes per token", use.bytes_per_token, "bytes", n=use.bytes, source=f"{label}, {group}")
            rows.append([label, group, use.tokens, *_text_cells(use, size, config)])
    heads = ("tokenizer", "text", "tokens", "bytes per token", "fertility", "words cut, %", "parts of characters, %")
    report.add_table(
        "texts",
        (*heads, "unknown, %", "Rényi efficiency", "texts lost"),
        rows,
        note="Words are runs without white space. Texts lost: decoding gave another text.",
    )
    losses = [
        [label, group, use.first_loss]
        for label, groups in audit.texts.items()
        for group, use in groups.items()
        if use.lossy
    ]
    report.add_table("texts that did not come back", ("tokenizer", "text", "first difference"), losses)


def _text_cells(use: TextUse, size: int, config: QtokConfig) -> list[object]:
    return [
        round(use.bytes_per_token, 3),
        round(use.fertility, 3),
        _percent(use.split, use.words),
        _percent(use.partial, use.tokens),
        _percent(use.unknown, use.tokens),
        round(use.renyi_efficiency(size, config.renyi_order), 3),
        use.lossy,
    ]


def _add_parallel(report: Report, audit: Audit) -> None:
    if not audit.parallel:
        return
    found = {label: premiums(uses, audit.reference) for label, uses in audit.parallel.items()}
    first = next(iter(found.values()))
    groups = sorted(first, key=lambda group: sum(row[group] for row in found.values()))
    lines = [[group, *(round(row[group], 2) for row in found.values())] for group in groups]
    report.add_table(
        f"premium over {audit.reference}",
        ("language", *found),
        lines,
        note=f"Tokens for the same text, as a multiple of what {audit.reference} needs: what a reader pays.",
    )
    for label, row in found.items():
        values = [v for group, v in row.items() if group != audit.reference and math.isfinite(v)]
        report.add("mean premium", sum(values) / len(values), "", n=len(values), source=label)
        report.add("largest premium", max(values), "", n=len(values), source=label)
    report.data["audit"]["premium"] = {"reference": audit.reference, "rows": found}


def _add_habits(report: Report, audit: Audit, config: QtokConfig) -> None:
    _add_unused(report, audit, config)
    tokenizers = audit.tokenizers
    lines: list[list[object]] = [["how", *map(habits.digit_rule, tokenizers.values())]]
    lines += [[number, *(habits.pieces_of(one, number) for one in tokenizers.values())] for number in habits.NUMBERS]
    report.add_table("digits", ("number", *tokenizers), lines)
    spaces = [habits.space_tokens(one) for one in tokenizers.values()]
    lines = [[name, *(row[name] for row in spaces)] for name in habits.SPACES]
    report.add_table("white space, tokens between two letters", ("white space", *tokenizers), lines)
    lines = [
        [label, name, text, back]
        for label, one in tokenizers.items()
        for name, (text, back) in habits.losses(one).items()
    ]
    report.add_table("round trips that lose something", ("tokenizer", "what", "text", "came back"), lines)


def _add_unused(report: Report, audit: Audit, config: QtokConfig) -> None:
    rows: list[list[object]] = []
    for label, entries in audit.entries.items():
        tokenizer = audit.tokenizers[label]
        dead = habits.unreachable(tokenizer, entries)
        report.add("entries that no text gives", len(dead), "tokens", n=len(entries), source=label)
        for reason in dict.fromkeys(dead.values()):
            some = [i for i, why in dead.items() if why == reason]
            rows.append([label, f"no text gives it: {reason}", len(some), _labels(tokenizer.vocab.label, some, config)])
        used = _used(audit, label)
        for kind, found in habits.suspects(entries, used).items():
            if found:
                ids = [e.id for e in found]
                rows.append([label, kind, len(ids), _labels(tokenizer.vocab.label, ids, config)])
    report.add_table("entries to look at", ("tokenizer", "what", "entries", "such as"), rows)


def _used(audit: Audit, label: str) -> set[int] | None:
    groups = [*audit.texts.get(label, {}).values(), *audit.parallel.get(label, {}).values()]
    return {i for use in groups for i in use.counts} if groups else None


def _labels(label: Callable[[int], str], ids: Iterable[int], config: QtokConfig) -> str:
    return ", ".join(label(i) for i in list(ids)[: config.examples])


def _add_turned(report: Report, name: str, head: str, names: list[str], lines: list[list[float]]) -> None:
    """A table with the tokenizers as columns."""
    rows = [[one, *(round(line[n], 2) for line in lines)] for n, one in enumerate(names)]
    report.add_table(name, (head, *report.data["audit"]["rows"]), rows)


def _percent(part: int | float, whole: int | float) -> float:
    return round(100 * part / whole, 2) if whole else math.nan
