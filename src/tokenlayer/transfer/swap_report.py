"""What a swap reports: rows by origin, roles, and numbers before and after."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlayer.core.matching import overlap
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import ByteVocab, Kind, show
from tokenlayer.models.compare import EvalText, Side, agreement, line_similarity
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.initialisers import INITIALISERS
from tokenlayer.transfer.target import role_table

if TYPE_CHECKING:
    from tokenlayer.transfer.heal import Healed
    from tokenlayer.transfer.swap import Job, SwapConfig

SAMPLE_CHARS = 600
WORST = 12
REASONS = {
    "neighbours": "mixed from tokens near it, not derived from its text",
    "omp": "made of tokens that make it up in the donor",
    "cw2v": "learned from the texts, not derived from its text",
    "unseen": "not in the texts, left at the mean row",
    "mean": "the mean row",
}
"""What a row comes from, by rule; rows of other rules were drawn."""
FROM_PIECES = ("pieces", "predicted")
"""Rules whose rows come from the source pieces: the more of them, the less to trust."""


def begin(job: "Job", config: "SwapConfig", out: Path) -> Report:
    """The part that is known before anything is written."""
    from tokenlayer.transfer.swap import settings_of

    checkpoint, vocab = job.source.checkpoint, job.target.tokenizer.vocab
    report = Report(title=f"{Path(job.source.name).name} with the tokenizer {Path(job.asked).name}")
    report.settings = {"model": job.source.name, "tokenizer": job.asked, "out": str(out), **settings_of(config)}
    report.settings["paper"] = INITIALISERS[config.init].paper
    report.settings["date"] = time.strftime("%Y-%m-%d")
    rows = checkpoint.rows
    report.add("vocab size", len(vocab), "tokens", baseline=len(job.source.tokenizer.vocab))
    report.add("rows", job.rows, "rows", baseline=rows.rows)
    both = overlap(job.source.tokenizer.vocab, vocab)
    report.add("tokens in both, by bytes", both.by_bytes, "tokens", n=both.target_tokens)
    report.add("tokens in both, by name", both.by_name, "tokens", n=both.target_tokens)
    tables = 2 if rows.output else 1
    report.add("table memory", tables * (rows.rows + job.rows) * rows.dim * checkpoint.dtype.itemsize / 1e6, "MB")
    counts = job.plan.counts()
    report.add_table("origin of rows", ("rule", "rows", "share"), [(k, n, n / job.rows) for k, n in counts.items()])
    roles = role_table(job.target)
    columns = ("role", "source token", "source id", "target token", "target id", "how")
    report.add_table("special roles", columns, roles)
    report.add_table("worst cases", ("token", "id", "rule", "spelled as", "why"), _worst(job, config.texts))
    report.data["token_lengths"] = {"source": _lengths(job.source.tokenizer.vocab), "target": _lengths(vocab)}
    report.data["tied"] = rows.tied
    _warn(report, job)
    for text in config.texts:
        _add_counts(report, text, job.source.tokenizer, job.target.tokenizer)
    if config.texts:
        report.data["sample"] = _sample(config.texts[0], job.source.tokenizer, job.target.tokenizer)
    if config.heal is not None:
        phase = config.heal.phase()
        report.add("healing", phase.steps, "steps", n=config.heal.budget_tokens)
    report.next_command = f"tokenlayer swap {job.source.name} {job.asked} --out {out}"
    return report


def complete(
    report: Report, job: "Job", config: "SwapConfig", *, before: Side, after: Side, unhealed: Side | None
) -> None:
    """The part that is known once the new folder is written and measured (and, if it was trained, before that)."""
    sides = [(after, "")] + ([] if unhealed is None else [(unhealed, " before healing")])
    for text in config.texts:
        if text.name in before.scores:
            _add_scores(report, text, job, before, after)
        for side, when in sides:
            if text.name in before.vectors:
                value, lines = line_similarity(before, side, text.name)
                report.add(f"cosine to the source's line vectors{when}", value, "", n=lines, source=text.name)
            elif when:
                scores = side.scores[text.name].scores
                report.add(f"{_bits(job)}{when}", scores.bits_per_byte, "bits", n=scores.total_bytes, source=text.name)
    report.data["continuations"] = [
        {"prompt": prompt, "source": one, "target": other}
        for prompt, one, other in zip(config.prompts, before.continuations, after.continuations, strict=False)
    ]
    report.next_command = f"tokenlayer report {report.settings['out']}"


def add_healing(report: Report, config: "SwapConfig", healed: "Healed") -> None:
    """What was trained, on how much, and the loss."""
    heal, losses = config.heal, healed.losses_nats
    assert heal is not None
    few = max(1, len(losses) // 10)
    first, last = (sum(some) / few for some in (losses[:few], losses[-few:]))
    rows = [
        ("trained", f"{heal.train}, {healed.parameters:,} numbers"),
        ("tokens", f"{healed.tokens:,} in {len(losses)} steps, {healed.passes} passes over the texts"),
        ("learning rate", heal.phase().schedule.peak),
        ("loss, first and last tenth", f"{first:.4f} to {last:.4f}"),
        ("seconds", round(healed.seconds, 1)),
    ]
    report.add_table("healing", ("what", "value"), rows)
    report.data["healing"] = {"losses_nats": losses, "tokens": healed.tokens}


def _add_scores(report: Report, text: EvalText, job: "Job", before: Side, after: Side) -> None:
    one, other = before.scores[text.name], after.scores[text.name]
    size = other.scores.total_bytes
    report.add(
        _bits(job), other.scores.bits_per_byte, "bits", baseline=one.scores.bits_per_byte, n=size, source=text.name
    )
    if job.source.checkpoint.kind != "masked":
        share, shared = agreement(before, after, text.name)
        report.add("next-byte agreement", share, "share", n=shared, source=text.name)
    report.add(
        "tokens per second",
        other.tokens_per_second,
        "tokens/s",
        baseline=one.tokens_per_second,
        n=len(other.scores.token_ids),
        source=text.name,
    )


def _bits(job: "Job") -> str:
    return "pseudo bits per byte" if job.source.checkpoint.kind == "masked" else "bits per byte"


def _add_counts(report: Report, text: EvalText, source: LoadedTokenizer, target: LoadedTokenizer) -> None:
    size, words = len(text.text.encode("utf-8")), max(len(text.text.split()), 1)
    old, new = len(source.encode(text.text)), len(target.encode(text.text))
    where = text.name
    report.add("tokens", new, "tokens", baseline=old, n=size, source=where)
    report.add("bytes per token", size / max(new, 1), "bytes", baseline=size / max(old, 1), n=size, source=where)
    report.add("tokens per word", new / words, "tokens", baseline=old / words, n=words, source=where)
    report.data.setdefault("languages", {})[where] = text.language


def _warn(report: Report, job: "Job") -> None:
    target, vocab = job.target, job.target.tokenizer.vocab
    if target.added:
        report.warn(
            f"appended {len(target.added)} control tokens that the model uses and the tokenizer lacked: "
            + ", ".join(target.added[:6])
        )
    if target.lacking:
        report.warn(
            "the model uses control tokens that the tokenizer cannot write as one token: "
            + ", ".join(target.lacking[:6])
            + "; chat or stopping may break (use --specials add)"
        )
    if vocab.lossy:
        report.warn("not every text survives the new tokenizer: " + "; ".join(vocab.lossy))
    missing = vocab.missing_bytes() if vocab.family == "byte-level" else []
    if missing:
        report.warn(f"the new tokenizer has no token for {len(missing)} of the 256 bytes (first 0x{missing[0]:02x})")
    duplicates = vocab.duplicates()
    if duplicates:
        report.warn(f"{len(duplicates)} byte strings have several tokens in the new tokenizer; each has the same row")
    report.warnings += [*job.source.checkpoint.notes, *job.target.tokenizer.warnings, *job.warnings]


def _worst(job: "Job", texts: tuple[EvalText, ...]) -> list[tuple[str, int, str, str, str]]:
    """Tokens whose row is least trustworthy, those that the texts use first."""
    used: Counter[int] = Counter()
    for text in texts:
        used.update(job.target.tokenizer.encode(text.text))
    pair, vocab = job.target.pair, job.target.tokenizer.vocab
    settled = ("copy", "role", "unused", "padding")
    made = [(i, r) for i, r in enumerate(job.plan.origin) if r not in settled and vocab.kinds[i] is not Kind.CONTROL]
    ranked = []
    for (i, rule), spelled in zip(made, pair.spell([i for i, _ in made]), strict=True):
        badness = len(spelled) if rule in FROM_PIECES else 100
        ranked.append(((used[i] > 0, badness, used[i], -len(vocab.tokens[i])), i, rule))
    ranked.sort(key=lambda entry: (entry[0], -entry[1]), reverse=True)
    return [_worst_row(job, i, rule, used[i]) for _, i, rule in ranked[:WORST]]


def _worst_row(job: "Job", i: int, rule: str, times: int) -> tuple[str, int, str, str, str]:
    pair, vocab = job.target.pair, job.target.tokenizer.vocab
    spelled = [show(pair.source.tokens[j]) for j in pair.spell([i])[0]]
    why = (
        f"{len(spelled)} source pieces"
        if rule in FROM_PIECES
        else REASONS.get(rule, "drawn, not derived from its text")
    )
    if rule == "mean":
        why = "the source cannot spell it" if not spelled else "mean row"
    seen = f", {times} times in the texts" if times else ""
    return show(vocab.tokens[i]), i, rule, " ".join(spelled[:8]) + (" ..." if len(spelled) > 8 else ""), why + seen


def _lengths(vocab: ByteVocab) -> dict[str, int]:
    counts = Counter(len(vocab.tokens[i]) for i in vocab.text_ids())
    return {str(length): counts[length] for length in sorted(counts)}


def _sample(text: EvalText, source: LoadedTokenizer, target: LoadedTokenizer) -> dict[str, Any]:
    part = text.text[:SAMPLE_CHARS]
    return {"text name": text.name, "source": _coloured(source, part), "target": _coloured(target, part)}


def _coloured(tokenizer: LoadedTokenizer, text: str) -> list[list[Any]]:
    ids = tokenizer.encode(text)
    return [[data.decode("utf-8", "replace"), i] for i, data in zip(ids, tokenizer.token_bytes(ids), strict=True)]
