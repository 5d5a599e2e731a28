"""LiB in Python: learn a tokenizer, cut text with one; each command is one of these calls."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenlayer.core.report import Report


def lib(
    sources: Sequence[str],
    out: str | Path,
    *,
    start: str | Path = "",
    suffixes: tuple[str, ...] = (),
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Learns a LiB tokenizer from texts and writes a folder.

    Args:
        sources: `[GROUP[=WEIGHT]:]PATH` of each text; a line is a sentence.
        out: the folder to write.
        start: a folder of an earlier run: learning goes on from there.
        suffixes: read only these files of a folder.
        force: replace an existing tokenizer folder.
        quiet: no progress bar.
        settings: the fields of `tokenlayer.tokenizer.lib.config.LibConfig`; those that are None keep their default, or
            the value of `start`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from dataclasses import replace

    from tokenlayer.app.progress import progress_bar
    from tokenlayer.data.documents import ReadOptions
    from tokenlayer.tokenizer.lib.config import LibConfig
    from tokenlayer.tokenizer.lib.files import load_learner
    from tokenlayer.tokenizer.lib.learn import learn_lib

    given = {name: value for name, value in settings.items() if value is not None}
    config = replace(load_learner(start, compiled=False).config if start else LibConfig(), **given)
    with progress_bar(None, "bytes read", quiet) as advance:
        return learn_lib(
            sources,
            Path(out),
            config,
            start=start,
            options=ReadOptions(suffixes=suffixes) if suffixes else None,
            force=force,
            progress=advance,
        )


def lib_encode(
    tokenizer: str | Path,
    sources: Sequence[str],
    out: str | Path | None = None,
    *,
    deeper: bool = False,
    compat: bool = False,
    show: int = 5,
) -> Report:
    """Cuts texts with a LiB tokenizer by its own two-path rule.

    Args:
        tokenizer: the folder that `lib` wrote.
        sources: `[GROUP[=WEIGHT]:]PATH` of each text.
        out: file for one JSON line `{"id", "ids"}` for each document; None only counts.
        deeper: split each chunk once more, and its parts again, into chunks of better rank.
        compat: cut as the reference implementation does.
        show: how many lines the report shows with their tokens.

    Raises:
        TokenLayerError: a subclass that says what is wrong.
    """
    from tokenlayer.core.errors import BadText, OutputExists
    from tokenlayer.core.outputs import write_text
    from tokenlayer.data.documents import Documents
    from tokenlayer.tokenizer.lib.files import load_lib

    if out is not None and Path(out).exists():
        raise OutputExists(f"{out} exists", hint="choose another --out")
    cutter, documents = load_lib(tokenizer, compat=compat), Documents(sources)
    rows: list[tuple[str, str]] = []
    written: list[str] = []
    tokens = chars = 0
    for document in documents:
        ids = cutter.encode(document.text, deeper=deeper)
        tokens, chars = tokens + len(ids), chars + len(document.text)
        if out is not None:
            written.append(json.dumps({"id": document.id, "ids": ids}) + "\n")
        for line in document.text.split("\n"):
            if line.strip() and len(rows) < show:
                rows.append((line, "|".join(cutter.tokenize(line, deeper=deeper))))
    if not tokens:
        raise BadText("there is no text to cut: all documents are empty", hint="check the sources")
    if out is not None:
        write_text(Path(out), "".join(written))
    report = Report(title=f"{documents.tally.documents} documents cut by {tokenizer}")
    report.settings = {"tokenizer": str(tokenizer), "sources": list(sources), "deeper": deeper, "compat": compat}
    report.add("tokens", tokens, "tokens", n=documents.tally.bytes)
    report.add("bytes per token", documents.tally.bytes / tokens, "bytes")
    report.add("token length", chars / tokens, "characters")
    report.add_table("lines", ("text", "tokens"), rows)
    report.warnings += documents.tally.warnings()
    return report
