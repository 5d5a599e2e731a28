"""Further tokens for an existing tokenizer, written as an ordinary tokenizer folder."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenlayer.core.outputs import check_free, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import ByteVocab, show
from tokenlayer.data.documents import Documents
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.expand import ExpandConfig, Expansion, expand

SHOWN = 12
"""Tokens of each kind that the report names."""


def expand_folder(
    tokenizer: str | Path,
    sources: Sequence[str],
    out: Path,
    n_add: int,
    config: ExpandConfig | None = None,
    *,
    limit_bytes: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Learns further tokens on documents and writes the longer tokenizer.

    Args:
        tokenizer: folder or file of a byte-level or SentencePiece BPE.
        sources: `[GROUP[=WEIGHT]:]PATH` of the texts.
        out: the folder to write.
        n_add: how many tokens to add.
        config: see `ExpandConfig`.
        limit_bytes: learn from a sample of this size.
        force: replace an existing tokenizer folder.
        dry_run: learn and report, write nothing.
        progress: called with tokens learned and tokens wanted.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    began = time.perf_counter()
    if not dry_run:
        check_free(out, force=force)
    old = load_tokenizer(tokenizer)
    report = Report(title=f"{Path(tokenizer).name} with {n_add} more tokens")
    report.settings = {"tokenizer": str(tokenizer), "sources": list(sources), "out": str(out), "add": n_add}
    documents = Documents(list(sources), limit_bytes=limit_bytes)
    found = expand(old, documents.texts(), n_add, config, progress=progress, warn=report.warn)
    _tell(report, old, found)
    report.add("text read", documents.tally.bytes / 1e6, "MB", n=documents.tally.documents)
    report.add("seconds", time.perf_counter() - began, "s")
    report.warnings += documents.tally.warnings()
    report.next_command = f"tokenlayer swap MODEL {out} --out DIR"
    if not dry_run:
        with fresh_folder(out, force=force) as folder:
            for name, text in found.tokenizer.files().items():
                (folder / name).write_text(text, encoding="utf-8")
            (folder / "tokenlayer.json").write_text(report.to_json(), encoding="utf-8")
    return report


def _tell(report: Report, old: LoadedTokenizer, found: Expansion) -> None:
    vocab = found.tokenizer.vocab
    report.add("vocab size", len(vocab), "tokens", baseline=len(old.vocab))
    report.add("tokens of the text", found.tokens_after, "tokens", baseline=found.tokens_before)
    report.add("pre-tokens that are cut otherwise", found.changed, "share")
    first = [(i, show(vocab.tokens[i])) for i in found.added[:SHOWN]]
    report.add_table("first new tokens", ("id", "token"), first)
    for what, ids in (
        ("are steps to longer ones and never occur alone in the text", found.unused),
        ("are not what their own text, alone, is cut into", found.unspelled),
        ("of the old ones cannot be reached any more", found.lost),
    ):
        if ids:
            report.warn(f"{len(ids)} tokens {what}, such as {_some(vocab, ids)}")
    if found.present:
        shown = ", ".join(show(name.encode("utf-8", "surrogatepass")) for name in found.present[:3])
        report.warn(f"{len(found.present)} pairs were passed over because they are tokens already, such as {shown}")


def _some(vocab: ByteVocab, ids: Sequence[int]) -> str:
    return ", ".join(vocab.label(i) for i in ids[:3])
