"""Audits of tokenizers in Python: one looked into, several compared; each command is one of these calls."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.report import Report

if TYPE_CHECKING:
    from tokenlayer.data.documents import Document
    from tokenlayer.models.tokenizer_files import LoadedTokenizer
    from tokenlayer.tokenizer.qtok.audit import Audit

TSV_TABLES = {
    "categories": "basic_stats_abs.tsv",
    "categories, percent": "basic_stats.tsv",
    "scripts, percent of alphabetic entries": "unicode_stats.tsv",
    "languages of Latin entries, percent": "latin_stats.tsv",
    "languages of Cyrillic entries, percent": "cyrillic_stats.tsv",
}
"""Tables that the reference implementation writes, with its file names; a tokenizer is a column here."""
TOKENS_NAME = "tokens.tsv"


def audit(
    tokenizers: Sequence[str | Path],
    *,
    labels: Sequence[str] = (),
    texts: Sequence[str] = (),
    parallel: Sequence[str] = (),
    reference: str = "",
    limit_bytes: int | None = 2_000_000,
    out: str | Path | None = None,
    force: bool = False,
    flags: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Report:
    """Looks into one tokenizer, or compares several.

    Args:
        tokenizers: folders, files or hub ids.
        labels: what to call them, as many; names of files and folders if not given.
        texts: `[GROUP:]PATH` of texts to measure on.
        parallel: `LANGUAGE:PATH` of texts that say the same.
        reference: the language of `parallel` that others are compared with.
        limit_bytes: at most this much of `texts`, over all of them.
        out: folder for the page, the JSON, the paper's tables and a line for each entry.
        force: replace `out`.
        flags: flags of the command, for the page.
        settings: fields of `tokenlayer.tokenizer.qtok.config.QtokConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.core.outputs import check_free
    from tokenlayer.data.documents import Documents
    from tokenlayer.tokenizer.qtok.audit import audit as find
    from tokenlayer.tokenizer.qtok.config import QtokConfig
    from tokenlayer.tokenizer.qtok.report import audit_report

    config = QtokConfig(**{name: value for name, value in settings.items() if value is not None})
    if out is not None:
        check_free(Path(out), force=force)
    loaded = load_all(tokenizers, labels)
    documents = Documents(texts, limit_bytes=limit_bytes) if texts else ()
    sides = Documents(parallel) if parallel else ()
    found = find(loaded, _not_empty(documents), _not_empty(sides), reference=reference, config=config)
    report = audit_report(found, config)
    report.settings |= {**(flags or {}), "tokenizers": [str(one) for one in tokenizers]}
    if out is not None:
        _write(report, found, Path(out), force=force)
    return report


def load_all(tokenizers: Sequence[str | Path], labels: Sequence[str] = ()) -> dict[str, "LoadedTokenizer"]:
    """Reads tokenizers under their labels.

    Raises:
        BadOption: not as many labels as tokenizers, one label twice, or an address of the web.
        BadTokenizer: a file cannot be read.
    """
    from tokenlayer.models.tokenizer_files import load_tokenizer

    if labels and len(labels) != len(tokenizers):
        raise BadOption(
            f"there are {len(labels)} labels for {len(tokenizers)} tokenizers",
            hint="give one --label for each, or none",
        )
    names = list(labels) or _names([str(one) for one in tokenizers])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadOption(f"two tokenizers are called {twice!r}", hint="tell them apart with --label")
    for one in map(str, tokenizers):
        if one.startswith(("http://", "https://")):
            raise BadOption(
                f"{one} is an address; only files, folders and hub ids are read", hint="download it, then give the file"
            )
    return {name: load_tokenizer(one) for name, one in zip(names, tokenizers, strict=True)}


def _names(paths: list[str]) -> list[str]:
    """The shortest ends of paths that tell them apart, without the file names that all tokenizers have."""
    parts = [[p for p in Path(path).parts if p not in ("/", "tokenizer.json")] or [path] for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def _not_empty(documents: Iterable["Document"]) -> Iterator["Document"]:
    """Passes texts on.

    Raises:
        BadText: there were sources, but no text in them.
    """
    said_something = False
    for document in documents:
        said_something = said_something or bool(document.text.strip())
        yield document
    if not said_something and documents != ():
        raise BadText("there is no text to measure on: all documents are empty", hint="check --text and --parallel")


def _write(report: Report, found: "Audit", out: Path, *, force: bool) -> None:
    from tokenlayer.app.report import write_comparison
    from tokenlayer.app.report.command import versions
    from tokenlayer.core.outputs import fresh_folder, write_text
    from tokenlayer.tokenizer.qtok.tables import token_lines

    report.settings.setdefault("versions", versions())
    with fresh_folder(out, force=force) as folder:
        for table in report.tables:
            if table.name in TSV_TABLES:
                write_text(folder / TSV_TABLES[table.name], _tsv([table.columns, *table.rows]))
        write_text(folder / TOKENS_NAME, _tsv(token_lines(found.entries, found.candidates or {})))
        write_comparison(report, folder)


def _tsv(rows: Iterable[Sequence[Any]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)
