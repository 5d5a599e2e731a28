"""Vocabularies classified and compared: what entries are, for which scripts and languages, what is shared.

Paper: Chelombitko, Safronov and Komissarov, "Qtok: A Comprehensive Framework for Evaluating Multilingual Tokenizer
Quality in Large Language Models", 2024. Reference implementation: nup-csai/Qtok (PyPI qtok 0.11.0); with
`QtokConfig(compat=True)` the table of categories is equal to its.

Shapes: in goes a tokenizer for each label and, if wanted, documents; out comes a `Report` whose tables have one row for
each tokenizer, and one for the union of all (the paper's "Qtok").

Errors: `BadOption` for no tokenizer, a reference language without text, texts that are given as parallel but are one;
`BadTokenizer` for an empty vocabulary. Without py3langid the tables of languages are left out, with a warning.

Differences from the paper:
    - entries are bytes, read from the stages of the tokenizer; the reference searches the file for two letters to tell
      byte-level files from others, and loses entries that come out as the same string;
    - a byte entry is one of the 256 base bytes; the reference calls every character of the byte alphabet so;
    - control tokens go by the flag of added tokens; the shape `<...>` counts only for entries that the model never
      spells text with;
    - scripts are Unicode's Script property; marks, joiners and shared letters take the script beside them;
    - the union is that of the tokenizers given, not of 13 shipped ones; core entries are those that all given have;
    - shares of languages sum to 100 (`language_shares` says what the reference divides by);
    - languages are ranked by py3langid, a maintained descendant of langid.py with another model, over 29 Latin and 9
      Cyrillic languages; a text that it knows nothing of has none;
    - ours: all measures on texts, entries that cannot be used, digits, white space, round trips.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tokenlayer.core.errors import BadOption, BadTokenizer, MissingExtra
from tokenlayer.core.report import Report
from tokenlayer.data.documents import Document
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.qtok.classify import Entry, classify
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.languages import Ranker, candidates_of
from tokenlayer.tokenizer.qtok.tables import UNION, union
from tokenlayer.tokenizer.qtok.texts import TextUse, use_of_texts


@dataclass
class Audit:
    """What was found, before it is made into tables.

    Attributes:
        tokenizers: label -> tokenizer.
        entries: label -> classified vocabulary.
        everything: the union of all, see `tables.union`.
        candidates: text -> languages; None when they were not asked for or cannot be had.
        texts: label -> group -> what the tokenizer made of the texts.
        parallel: the same for texts that say the same in several languages.
        reference: the language that the others are compared with.
        warnings: what a reader should know.
    """

    tokenizers: Mapping[str, LoadedTokenizer]
    entries: dict[str, list[Entry]]
    everything: list[Entry]
    candidates: dict[str, tuple[str, ...]] | None = None
    texts: dict[str, dict[str, TextUse]] = field(default_factory=dict)
    parallel: dict[str, dict[str, TextUse]] = field(default_factory=dict)
    reference: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, list[Entry]]:
        """Each vocabulary, after the union if there are several."""
        return ({UNION: self.everything} if len(self.entries) > 1 else {}) | self.entries


def qtok(
    tokenizers: Mapping[str, LoadedTokenizer],
    texts: Iterable[Document] = (),
    parallel: Iterable[Document] = (),
    *,
    reference: str = "",
    config: QtokConfig | None = None,
) -> Report:
    """Audits one tokenizer, or compares several.

    Args:
        tokenizers: label -> tokenizer.
        texts: to measure on, by group.
        parallel: the same text in several languages, a group each.
        reference: the group of `parallel` to compare with; the first one if not given.
        config: see `QtokConfig`.

    Returns:
        A report with the paper's tables and ours; `report.data["audit"]` holds what plots need.

    Raises:
        BadOption: see the module.
        BadTokenizer: a vocabulary without a single entry.
    """
    from tokenlayer.tokenizer.qtok.report import audit_report

    config = config or QtokConfig()
    return audit_report(audit(tokenizers, texts, parallel, reference=reference, config=config), config)


def audit(
    tokenizers: Mapping[str, LoadedTokenizer],
    texts: Iterable[Document] = (),
    parallel: Iterable[Document] = (),
    *,
    reference: str = "",
    config: QtokConfig | None = None,
) -> Audit:
    """As `qtok`, before anything is made into tables; `tables.token_lines` takes its parts."""
    config = config or QtokConfig()
    if not tokenizers:
        raise BadOption("no tokenizer was given", hint="give a folder, a tokenizer.json, a .model or a GGUF file")
    entries = {label: classify(one, config) for label, one in tokenizers.items()}
    for label, some in entries.items():
        if not any(e.is_text for e in some):
            raise BadTokenizer(f"{label}: no entry of the vocabulary stands for text", hint="is the file whole?")
    found = Audit(tokenizers, entries, union(entries))
    found.candidates = _candidates(found, config)
    kept = list(texts)
    found.texts = {label: use_of_texts(one, kept) for label, one in tokenizers.items()} if kept else {}
    _add_parallel(found, list(parallel), reference)
    return found


def _candidates(found: Audit, config: QtokConfig) -> dict[str, tuple[str, ...]] | None:
    if not config.languages:
        return None
    try:
        return candidates_of(found.everything, Ranker())
    except MissingExtra as missing:
        found.warnings.append(f"no natural languages: {missing.message}; {missing.hint}")
        return None


def _add_parallel(found: Audit, parallel: list[Document], reference: str) -> None:
    groups = list(dict.fromkeys(d.group for d in parallel))
    if not groups:
        if reference:
            raise BadOption(f"the reference is {reference!r}, but there are no parallel texts", hint="--parallel en:F")
        return
    if len(groups) < 2:
        raise BadOption(
            f"the parallel texts are all {groups[0]!r}, expected two languages or more",
            hint="name them: --parallel en:FILE --parallel de:FILE",
        )
    found.reference = reference or groups[0]
    if found.reference not in groups:
        raise BadOption(
            f"the reference is {reference!r}, the parallel texts are: {', '.join(groups)}", hint="--reference one"
        )
    found.parallel = {label: use_of_texts(one, parallel) for label, one in found.tokenizers.items()}


def unicode_versions() -> dict[str, str]:
    """The versions of the character tables that the classification depends on."""
    import regex  # type: ignore[import-untyped]

    return {"unicodedata": unicodedata.unidata_version, "regex": str(regex.__version__)}
