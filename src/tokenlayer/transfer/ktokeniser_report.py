"""What making a K-Tokeniser says: pieces by type, words before and after, warnings, and why a text is cut as it is."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.report import Report
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.transfer.arbitration import BASE, CHOICES_FILE, WordChoice
from tokenlayer.transfer.terms import TermSet

if TYPE_CHECKING:
    from tokenlayer.transfer.k_tokenizer import KTokenizer
    from tokenlayer.transfer.ktokeniser import Built

KNOWN_SHARE = 0.5
"""More terms than this being single base tokens is worth a warning: there is nothing to gain."""
RARE_SHARE = 0.5
"""So is sending back more words than this because they are rare."""
SHOWN = 5
"""Words in the table of examples."""
LOADING = (
    "The model loads as any other, with `AutoModel.from_pretrained`; the tokenizer with "
    "`from tokenlayer.transfer.k_tokenizer import KTokenizer; KTokenizer.from_pretrained(...)`. Loaded with "
    "`AutoTokenizer` it has the same ids but makes no choice between cuts. Fine-tune before use: the new rows are a "
    "start. All numbers are in `tokenlayer.json`, drawn in `report.html`."
)
"""For the model card."""

Cuts = list[tuple[str, tuple[str, ...], tuple[str, ...]]]
"""Words with base pieces and chosen pieces."""


def begin(terms: TermSet, built: "Built", plan: RowPlan, settings: dict[str, Any]) -> Report:
    """Returns the report of what was built."""
    report = Report(f"typed pieces for {settings['model']}", settings={**settings, "loading": LOADING})
    report.add("new pieces", len(built.tokenizer.vocab) - built.first_id, "tokens", n=len(built.tokenizer.vocab))
    for origin, n in plan.counts().items():
        report.add("rows", n, "rows", source=origin)
    report.add_table(
        "pieces by type",
        ("type", "terms", "words", "pieces found", "selected", "new"),
        [
            (kind, len(terms.terms[kind]), len(one.words), len(one.pieces), len(built.selected[kind]), len(new))
            for (kind, one), new in zip(built.found.items(), built.choices.pieces.values(), strict=True)
        ],
    )
    tokenizer = built.load()
    cuts = {kind: _measure(report, kind, one.words, tokenizer) for kind, one in built.found.items()}
    report.add_table("words that change most", ("type", "word", "base", "chosen"), _examples(cuts))
    _warn(report, terms, built)
    report.next_command = f'tokenlayer transfer terms {shlex.quote(settings["out"])} --explain "a sentence"'
    return report


def _measure(report: Report, kind: str, words: Iterable[str], tokenizer: "KTokenizer") -> Cuts:
    """Cuts the words of a type by the base and by choice, and adds the numbers."""
    cuts: Cuts = []
    rare = 0
    for word in words:
        for one in tokenizer.explain(word).words:
            base, chosen = (one.candidates[whose] or ("",) for whose in (BASE, one.chosen))
            cuts.append((one.text, base, chosen))
            typed = [score for whose, score in one.scores.items() if whose != BASE and score is not None]
            rare += bool(typed) and tokenizer.choices.rare(typed)
    before, after = (sum(len(cut[at]) for cut in cuts) for at in (1, 2))
    changed = sum(base != chosen for _, base, chosen in cuts)
    size = max(len(cuts), 1)
    report.add("pieces per word", after / size, "", baseline=before / size, n=len(cuts), source=kind)
    report.add("words changed", changed / size, "", n=len(cuts), source=kind)
    if rare > RARE_SHARE * size:
        report.warn(
            f"min_count {tokenizer.choices.min_count} sends {rare} of {size} words of type {kind!r} back to the base; "
            "it is made for lists of the size of UMLS, lower it for short ones (0 sends none back)"
        )
    return cuts


def _examples(cuts: Mapping[str, Cuts]) -> list[tuple[Any, ...]]:
    rows = []
    for kind, some in cuts.items():
        ranked = sorted(some, key=lambda cut: (len(cut[2]) - len(cut[1]), cut[0]))
        rows += [(kind, w, " ".join(base), " ".join(new)) for w, base, new in ranked[:SHOWN] if base != new]
    return rows


def _warn(report: Report, terms: TermSet, built: "Built") -> None:
    unknown = [built.base.vocab.roles.get("unk")]
    known = sum(len(ids) == 1 and ids != unknown for ids in built.base.encode_batch(terms.all_terms))
    if known > KNOWN_SHARE * len(terms.all_terms):
        report.warn(f"{known} of {len(terms.all_terms)} terms are single tokens already: there is little to gain")
    for kind, one in built.found.items():
        if one.left_out:
            report.warn(f"{one.left_out} words of type {kind!r} were too long and left out (see longest_word)")
    if not any(built.choices.pieces.values()):
        report.warn("every selected piece is a token already: nothing was added")
    choices = built.choices
    if choices.min_count > choices.total / math.e:
        report.warn(
            f"min_count is {choices.min_count} but all n-grams of the terms count only {choices.total}: the rule that "
            "sends rare words back is made for long lists; lower min_count"
        )
    if choices.rollback == 0:
        report.warn("rollback 0 sends every sentence back to the base tokenizer")


def explain(folder: str | Path, texts: Sequence[str]) -> Report:
    """Says for each word of texts how a K-Tokeniser cuts it and why.

    Args:
        folder: what `ktokeniser` wrote.
        texts: each is one sentence to the sentence rule.

    Raises:
        BadTokenizer: the folder holds no K-Tokeniser.
    """
    from tokenlayer.transfer.k_tokenizer import KTokenizer

    if not (Path(folder) / CHOICES_FILE).is_file():
        raise BadTokenizer(
            f"{folder} holds no {CHOICES_FILE}, so it is not a K-Tokeniser",
            hint="give a folder that tokenlayer transfer terms wrote, or add --terms TYPE=FILE to make one",
        )
    report = Report(f"words of {len(texts)} texts by {folder}", settings={"model": str(folder), "texts": list(texts)})
    explain_texts(report, KTokenizer.from_pretrained(folder), texts)
    return report


def explain_texts(report: Report, tokenizer: "KTokenizer", texts: Sequence[str]) -> None:
    """Adds a table for each text: the word, each candidate with its score in bits, and whose was taken."""
    kinds = [*tokenizer.choices.pieces, BASE]
    for text in texts:
        found = tokenizer.explain(text)
        note = f"the chosen cut saves {found.shortening:.1%} of the base pieces, so the text " + (
            "keeps it" if found.kept else f"goes back to the base (rollback {tokenizer.choices.rollback:g})"
        )
        rows = [(word.text, *(_candidate(word, kind) for kind in kinds), word.chosen) for word in found.words]
        report.add_table(text, ("word", *kinds, "chosen"), rows, note)


def _candidate(word: WordChoice, kind: str) -> str:
    pieces, score = word.candidates[kind], word.scores[kind]
    return "unknown" if pieces is None else f"{' '.join(pieces)} ({score:.3g})"
