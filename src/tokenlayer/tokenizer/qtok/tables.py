"""The paper's tables over several vocabularies, and what makes one complete."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tokenlayer.core.vocab import show
from tokenlayer.tokenizer.qtok.classify import CATEGORIES, HOLES, Entry
from tokenlayer.tokenizer.qtok.languages import Candidates

Vocabularies = Mapping[str, Sequence[Entry]]
"""Label -> classified entries."""
UNION = "union"
"""The row of all vocabularies together; the paper calls it Qtok."""


def union(vocabularies: Vocabularies) -> list[Entry]:
    """Entries that stand for different bytes (control tokens: with different names), the first of each."""
    found: dict[tuple[str, object], Entry] = {}
    for entries in vocabularies.values():
        for entry in entries:
            found.setdefault(entry.key, entry)
    return list(found.values())


def category_counts(entries: Iterable[Entry]) -> dict[str, int]:
    """Entries of each category, in the paper's order; holes last and only if there are some."""
    counts = Counter(entry.category for entry in entries)
    return {name: counts[name] for name in CATEGORIES} | ({HOLES: counts[HOLES]} if counts[HOLES] else {})


def script_percents(entries: Iterable[Entry]) -> dict[str, float]:
    """Percent of the alphabetic entries for each `script (place)`."""
    counts = Counter(f"{entry.script} ({entry.category.removesuffix('_alpha')})" for entry in entries if entry.script)
    return {name: 100 * n / counts.total() for name, n in counts.items()}


def folded(rows: Mapping[str, Mapping[str, float]], most: float) -> tuple[list[str], list[list[float]]]:
    """Names in order of their largest value, and a line of values for each row; small ones summed as `Other`.

    Args:
        rows: label -> name -> percent.
        most: a name with at most this everywhere is folded.
    """
    largest: dict[str, float] = {}
    for row in rows.values():
        for name, value in row.items():
            largest[name] = max(largest.get(name, 0.0), value)
    kept = [name for name, value in sorted(largest.items(), key=lambda one: (-one[1], one[0])) if value > most]
    small = [name for name in largest if name not in set(kept)]
    lines = [[row.get(name, 0.0) for name in kept] for row in rows.values()]
    if small:
        rest = [sum(row.get(name, 0.0) for name in small) for row in rows.values()]
        lines = [[*line, other] for line, other in zip(lines, rest, strict=True)]
    return [*kept, *(["Other"] if small else [])], lines


def core_entries(vocabularies: Vocabularies) -> set[bytes]:
    """Bytes that every vocabulary has an entry for."""
    sets = [{entry.data for entry in entries if entry.is_text} for entries in vocabularies.values()]
    return set.intersection(*sets) if sets else set()


def completeness(entries: Sequence[Entry], core: set[bytes], candidates: Candidates) -> dict[str, int]:
    """The paper's measures of how complete a vocabulary is.

    Returns:
        `word-initial`: entries that begin with a space and go on; `core`: core entries it has; `singletons`:
        word-initial entries with exactly one candidate language; `characters`: single characters with an entry.
    """
    initial = [e for e in entries if e.category.startswith("spaced_")]
    return {
        "word-initial": len(initial),
        "core": len(core & {e.data for e in entries if e.is_text}),
        "singletons": sum(len(candidates.get(e.text or "", ())) == 1 for e in initial),
        "characters": len({e.text for e in entries if e.text is not None and e.is_text and len(e.text) == 1}),
    }


def token_lines(vocabularies: Vocabularies, candidates: Candidates) -> Iterable[tuple[str, ...]]:
    """A line for each entry: label, id, bytes in hex, text, category, script, languages, in how many vocabularies."""
    yield ("tokenizer", "id", "bytes", "text", "category", "script", "languages", "vocabularies")
    times = Counter(key for entries in vocabularies.values() for key in {entry.key for entry in entries})
    for label, entries in vocabularies.items():
        for e in entries:
            shown = show(e.data) if e.is_text else repr(e.text or "")
            languages = " ".join(candidates.get(e.text or "", ()))
            yield (label, str(e.id), e.data.hex(), shown, e.category, e.script, languages, str(times[e.key]))
