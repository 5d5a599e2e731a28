"""`tokenlayer tokenizer audit` and `compare`: what is in a vocabulary, and which tokenizer fits which language."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenlayer.app.cli import common

EXAMPLE = """\b
Example:
  tokenlayer tokenizer audit qwen3 --text de:news.txt --out audit-qwen3
Languages of entries: pip install 'tokenlayer\\[languages]'
The page with drawings: pip install 'tokenlayer\\[report]'
"""
COMPARE_EXAMPLE = """\b
Example:
  tokenlayer tokenizer compare llama3 qwen3 --parallel en:eng.txt \\
      --parallel uk:ukr.txt --out report
Languages of entries: pip install 'tokenlayer\\[languages]'
The page with drawings: pip install 'tokenlayer\\[report]'
"""
Text = Annotated[list[str] | None, typer.Option("--text", help="[GROUP:]PATH to measure on. Repeat for more.")]
Parallel = Annotated[
    list[str] | None, typer.Option("--parallel", help="LANGUAGE:PATH; all say the same. Repeat for each language.")
]
Reference = Annotated[str, typer.Option(help="The language others are compared with; the first --parallel.")]
Limit = Annotated[int, typer.Option(min=1, help="At most this many bytes of --text.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for report.html, tokens.tsv and the tables. Refused if it exists.")
]
Compat = Annotated[bool, typer.Option("--compat", help="Classify as the reference implementation does.")]
Scripts = Annotated[str | None, typer.Option(help="property (Unicode's Script) or name (first word of the name).")]
Languages = Annotated[bool, typer.Option(help="Guess the languages of Latin and Cyrillic entries.")]


def audit(
    tokenizer: Annotated[str, typer.Argument(help="Folder, tokenizer.json, .model, tiktoken, GGUF, or hub id.")],
    *,
    text: Text = None,
    parallel: Parallel = None,
    reference: Reference = "",
    limit_bytes: Limit = 2_000_000,
    out: OutOption = None,
    compat: Compat = False,
    scripts: Scripts = None,
    languages: Languages = True,
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Look into TOKENIZER: entries by kind, script and language, what nothing can use, what texts cost."""
    given = {"text": text, "parallel": parallel, "reference": reference, "limit_bytes": limit_bytes, "compat": compat}
    _run([tokenizer], given, out=out, force=force, scripts=scripts, languages=languages, as_json=as_json, quiet=quiet)


def compare(
    tokenizers: Annotated[list[str], typer.Argument(metavar="TOKENIZER...", help="Two or more, as in `audit`.")],
    *,
    label: Annotated[list[str] | None, typer.Option(help="What to call them, in order. Repeat.")] = None,
    text: Text = None,
    parallel: Parallel = None,
    reference: Reference = "",
    limit_bytes: Limit = 2_000_000,
    out: OutOption = None,
    compat: Compat = False,
    scripts: Scripts = None,
    languages: Languages = True,
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Compare tokenizers: coverage of scripts and languages, overlap, families, cost of texts (Qtok)."""
    from tokenlayer.core.errors import BadOption

    if len(tokenizers) < 2:
        raise BadOption("compare needs two tokenizers or more", hint=f"tokenlayer tokenizer audit {tokenizers[0]}")
    given = {"text": text, "parallel": parallel, "reference": reference, "limit_bytes": limit_bytes, "compat": compat}
    given["label"] = label
    _run(tokenizers, given, out=out, force=force, scripts=scripts, languages=languages, as_json=as_json, quiet=quiet)


def _run(tokenizers: list[str], given: dict[str, Any], *, as_json: bool, quiet: bool, **rest: Any) -> None:
    from tokenlayer.app import audit as api
    from tokenlayer.app.render import render

    report = api.audit(
        tokenizers,
        labels=tuple(given.get("label") or ()),
        texts=tuple(given["text"] or ()),
        parallel=tuple(given["parallel"] or ()),
        reference=given["reference"],
        limit_bytes=given["limit_bytes"],
        compat=given["compat"],
        flags=given,
        **rest,
    )
    render(report, as_json=as_json, quiet=quiet)
