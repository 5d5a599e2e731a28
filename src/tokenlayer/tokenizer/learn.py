"""Learn a tokenizer from streamed documents and write it as an ordinary Hugging Face folder."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.outputs import check_free, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import show
from tokenlayer.data.counts import count_pretokens, token_total
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Document, Documents, ReadOptions, Source, parse_source
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.gigabpe_trainer import Trained, train
from tokenlayer.tokenizer.memory import corpus_bytes, estimate_training, peak_memory
from tokenlayer.tokenizer.shape import Shape, shape_of

ALWAYS_FITS = 50_000_000
"""Bytes of text below which memory is not estimated first: it takes longer than it can save."""
MEASURED_BYTES = 8_000_000
"""Size of the sample of the texts on which bytes per token is measured, for each group of sources."""


def learn(
    sources: Sequence[Source | str],
    out: Path,
    config: LearnConfig | None = None,
    *,
    like: str | Path | None = None,
    options: ReadOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Learns a tokenizer with the `tokenizers` library (or gigabpe) and writes a folder.

    Args:
        sources: where the texts are, see `tokenlayer.data.sources`.
        out: the folder to write.
        config: what to learn.
        like: a tokenizer whose stages, special tokens, roles and chat template the new one takes over.
        options: how files become documents.
        force: replace an existing tokenizer folder.
        dry_run: only estimate memory, write nothing.
        progress: called with the number of bytes read since the last call.

    Raises:
        BadOption: sizes or stages that do not fit together.
        BadText: there is no text.
        OutputExists: `out` is taken.
    """
    config, options = config or LearnConfig(), options or ReadOptions()
    began = time.perf_counter()
    if not dry_run:
        check_free(out, force=force)
    shape = shape_of(config, None if like is None else load_tokenizer(like))
    shape.check_size(config.vocab_size)
    report = Report(title=f"a {shape.kind} tokenizer learned from {len(sources)} sources")
    report.settings = {"sources": [str(s) for s in sources], "out": str(out), "like": str(like or "")}
    if dry_run or not _streams(sources):
        places = [s if isinstance(s, Source) else parse_source(s) for s in sources]
        size = corpus_bytes(places, config, options)
        if dry_run or size is None or size > ALWAYS_FITS:
            estimate_training(places, config, shape, options=options).tell(report)
    if dry_run:
        return report
    documents = Documents(sources, options=options, limit_bytes=config.limit_bytes, seed=config.seed, progress=progress)
    texts = list(documents.texts()) if _streams(sources) else None  # a stream can be read only once
    trained = train((lambda: texts) if texts is not None else documents.texts, shape, config)
    if not documents.tally.bytes:
        raise BadText("there is no text to learn from: all documents are empty", hint="check the sources")
    tokenizer = LoadedTokenizer(assemble(trained.model, shape), where=str(out))
    _describe(report, tokenizer, trained, documents, config)
    if texts is not None:
        _measure(report, tokenizer, (Document(text, "stdin", "") for text in texts))
    else:
        _measure(report, tokenizer, Documents(sources, options=options, limit_bytes=MEASURED_BYTES, seed=config.seed))
    report.add("seconds", time.perf_counter() - began, "s")
    report.add("peak memory", peak_memory() / 1e6, "MB")
    report.next_command = f"tokenlayer swap MODEL {out} --out DIR"
    with fresh_folder(out, force=force) as folder:
        for name, text in files(tokenizer, shape).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "tokenlayer.json").write_text(report.to_json(), encoding="utf-8")
    return report


def assemble(model: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Returns the data of a tokenizer.json: stages, special tokens with the ids the model gave them, model."""
    vocab = model["vocab"]
    ids = vocab if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
    added = [{"id": ids[str(token["content"])], **token} for token in shape.special]
    post = _renumbered(shape.stages["post_processor"], ids)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        **{stage: shape.stages[stage] for stage in ("normalizer", "pre_tokenizer")},
        "post_processor": post,
        "decoder": shape.stages["decoder"],
        "model": model,
    }


def files(tokenizer: LoadedTokenizer, shape: Shape) -> dict[str, str]:
    """The files of the new folder by name."""
    names = {f"{role}_token": name for role, name in shape.roles.items()}
    config = {**shape.config, "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    made = {
        "tokenizer.json": json.dumps(tokenizer.data, ensure_ascii=False, indent=1),
        "tokenizer_config.json": json.dumps({**config, **names}, ensure_ascii=False, indent=2),
    }
    return made | ({"chat_template.jinja": shape.template} if shape.template else {})


def _streams(sources: Sequence[Source | str]) -> bool:
    return any((s.path if isinstance(s, Source) else s) == "-" for s in sources)


def _renumbered(part: Any, ids: dict[str, int]) -> Any:
    """A post-processor of another tokenizer names its special tokens by id; they have new ones now."""
    if isinstance(part, dict):
        if "ids" in part and "tokens" in part:
            return {**part, "ids": [ids[name] for name in part["tokens"]]}
        return {key: _renumbered(value, ids) for key, value in part.items()}
    if isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
        return [part[0], ids[part[0]]]
    return [_renumbered(inner, ids) for inner in part] if isinstance(part, list) else part


def _describe(
    report: Report, tokenizer: LoadedTokenizer, trained: Trained, documents: Documents, config: LearnConfig
) -> None:
    vocab, tally = tokenizer.vocab, documents.tally
    report.add("vocab size", len(vocab), "tokens")
    report.add("text read", tally.bytes / 1e6, "MB", n=tally.documents)
    report.add_table("trainer", ("trainer", "why"), [(trained.trainer, trained.why)])
    longest = sorted(vocab.text_ids(), key=lambda i: (-len(vocab.tokens[i]), i))[:10]
    rows = [(i, show(vocab.tokens[i]), len(vocab.tokens[i])) for i in longest]
    report.add_table("longest tokens", ("id", "token", "bytes"), rows)
    report.warnings += tally.warnings()
    if len(vocab) < config.vocab_size:
        report.warn(
            f"the text gave {len(vocab)} tokens, {config.vocab_size} were asked for: it has too few different words"
        )
    for sentence in vocab.lossy:
        report.warn(sentence)


def _measure(report: Report, tokenizer: LoadedTokenizer, sample: Iterable[Document]) -> None:
    """Bytes per token of each group; of a cutter's counts each distinct pre-token is encoded once."""
    documents = list(sample)
    try:
        cutter = Cutter(tokenizer.backend)
        counts = count_pretokens(documents, cutter)
        tokens = token_total(counts, cutter.lengths)
    except BadOption:  # pre-tokens hardly repeat, or cannot be counted apart
        counts = count_pretokens(documents, str.split)
        tokens = dict.fromkeys(counts.documents, 0)
        for one in documents:
            tokens[one.group] += len(tokenizer.encode(one.text))
    for group, size in sorted(counts.bytes.items()):
        report.add("bytes per token", size / max(tokens[group], 1), "bytes", n=size, source=group)
