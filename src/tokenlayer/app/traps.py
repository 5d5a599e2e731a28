"""Traps of a tokenizer as one call: what `tokenlayer tokenizer traps` does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlayer.core.errors import BadOption
from tokenlayer.core.report import Report

if TYPE_CHECKING:
    from tokenlayer.models.tokenizer_files import LoadedTokenizer
    from tokenlayer.tokenizer.adt.build import Instance
    from tokenlayer.tokenizer.adt.mine import AdtConfig, Mined

OWN = "own"
"""The name of the hand-made set that comes with the library."""
EXAMPLES = 10


def traps(
    tokenizer: str | Path,
    out: str | Path | None = None,
    *,
    lexicon: str | Path = "",
    texts: Sequence[str] = (),
    questions: str | Path = "",
    instances: int = 231,
    against: Sequence[str | Path] = (),
    model: str | Path = "",
    device: str = "cpu",
    dtype: str | None = None,
    writer: Callable[[str], str] | None = None,
    force: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> Report:
    """Mines traps of a tokenizer, or tries a set that is there, on tokenizers and on a model.

    Args:
        tokenizer: folder, tokenizer.json, SentencePiece model, tiktoken ranks, GGUF or hub id.
        out: folder for `traps.jsonl`, `adt.jsonl` and `tokenlayer.json`; None writes nothing.
        lexicon: file with a word a line, its frequency after a space.
        texts: `[GROUP:]PATH` of texts in which words are counted; with a lexicon, only its words.
        questions: a set that was written before, or `"own"` for the hand-made one; nothing is mined then.
        instances: most questions from traps, and most from pairs that are cut right.
        against: other tokenizers that the sentences are tried on.
        model: a causal checkpoint that answers the questions.
        device: where it runs.
        dtype: in which type.
        writer: prompt -> text, writes sentences and questions in place of the templates (Python only).
        force: replace an existing folder.
        quiet: no progress bars.
        settings: fields of `tokenlayer.tokenizer.adt.mine.AdtConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.core.outputs import check_free
    from tokenlayer.models.tokenizer_files import load_tokenizer
    from tokenlayer.tokenizer.adt.mine import AdtConfig

    if instances < 1:
        raise BadOption(f"instances is {instances}, expected at least 1", hint="give --instances")
    if out is not None:
        check_free(Path(out), force=force)
    config = AdtConfig(**settings)
    loaded = [load_tokenizer(one) for one in (tokenizer, *against)]
    report = Report(title=f"traps of {tokenizer}")
    report.settings = {"tokenizer": str(tokenizer), "lexicon": str(lexicon), "texts": list(texts), **settings}
    with steps(quiet) as tell:
        if questions:
            asked, mined = _given(questions, report), None
        else:
            tell("mining", 0, 0)
            words = _lexicon(loaded[0], lexicon, texts, config)
            asked, mined = _mined(loaded[0], words, config, (instances, writer), report)
        _add_cuts(report, asked, loaded)
        if model:
            tell("asking the model", 0, 0)
            _add_answers(report, asked, model, device, dtype)
    if out is not None:
        _write(Path(out), report, asked, mined, force=force)
        report.next_command = f"tokenlayer tokenizer traps {tokenizer} --questions {out}/adt.jsonl --model MODEL"
    return report


def _lexicon(
    loaded: "LoadedTokenizer", lexicon: str | Path, texts: Sequence[str], config: "AdtConfig"
) -> dict[str, float]:
    from tokenlayer.data.documents import Documents
    from tokenlayer.tokenizer.adt.languages import language
    from tokenlayer.tokenizer.adt.lexicon import count_words, read_lexicon

    of = language(config.lang)
    if not lexicon and not texts:
        raise BadOption(
            f"there are no words: no lexicon of the language {config.lang!r} comes with the library",
            hint="give --lexicon words.txt, or --texts FILE to count the vocabulary's words in",
        )
    words = read_lexicon(lexicon, of) if lexicon else None
    if not texts:
        return words or {}
    return count_words(Documents(list(texts)).texts(), of, loaded.vocab, words)


def _given(questions: str | Path, report: Report) -> "list[Instance]":
    from tokenlayer.tokenizer.adt.build import read_instances
    from tokenlayer.tokenizer.adt.own import own_set

    report.settings["questions"] = str(questions)
    report.title += f": the set {questions}" if questions != OWN else ": our own hand-made set"
    return own_set() if questions == OWN else read_instances(questions)


def _mined(
    loaded: "LoadedTokenizer", words: dict[str, float], config: "AdtConfig", asked: Any, report: Report
) -> "tuple[list[Instance], Mined]":
    """Questions from traps and, as matched controls, from pairs that are cut right."""
    from tokenlayer.tokenizer.adt.build import build_instances, matched
    from tokenlayer.tokenizer.adt.mine import mine_traps
    from tokenlayer.tokenizer.adt.verify import wilson

    most, writer = asked
    mined = mine_traps(loaded, words, config)
    wrong = build_instances(mined.confirmed[:most], loaded, lang=config.lang, writer=writer, seed=config.seed)
    right = build_instances(mined.right[: 4 * most], loaded, lang=config.lang, seed=config.seed)
    report.add("words", mined.words)
    report.add("entries that can be traps", mined.entries)
    report.add("candidates", mined.pairs)
    report.add("cut wrongly", mined.wrong / mined.tried, "share", n=mined.tried)
    report.add("cut wrongly by the trap itself", mined.hit / mined.tried, "share", n=mined.tried)
    low, high = wilson(mined.wrong, mined.tried)
    report.data["cut wrongly, 95 %"] = [low, high]
    report.add("questions", len(wrong.instances))
    for why, times in sorted((wrong.dropped + right.dropped).items()):
        report.warn(f"{times} questions were dropped: {why}")
    if not mined.confirmed:
        report.warn("the tokenizer fell for none of the candidates that were tried; try more with --tried")
    rows = [
        (f"{t.w1}|{t.w2}", t.trap, "|".join(t.tokens), "trap" if t.hit else "another")
        for t in mined.confirmed[:EXAMPLES]
    ]
    report.add_table("words that are cut wrongly", ("words", "trap", "tokens", "token across"), rows)
    pairs = matched(wrong.instances, right.instances)
    return [*wrong.instances, *pairs], mined


def _add_cuts(report: Report, asked: "Sequence[Instance]", loaded: "Sequence[LoadedTokenizer]") -> None:
    from tokenlayer.tokenizer.adt.evaluate import tokenization_errors

    traps = [one for one in asked if one.cut != "right"]
    if not traps:
        return
    found = tokenization_errors(traps, loaded)
    rows = [(where, lang, rate.value, _interval(rate), rate.n) for where, lang, rate in found]
    report.add_table(
        "sentences that are cut across the word boundary", ("tokenizer", "language", "share", "95 %", "n"), rows
    )


def _add_answers(
    report: Report, asked: "Sequence[Instance]", model: str | Path, device: str, dtype: str | None
) -> None:
    import tempfile

    from tokenlayer.models.loading import load_model, opened_model
    from tokenlayer.tokenizer.adt.evaluate import (
        CONTROL,
        TwoChoices,
        difference_in_difference,
        differences,
        error_rates,
    )

    with tempfile.TemporaryDirectory() as scratch, opened_model(model, Path(scratch)) as opened:
        found, _ = load_model(opened.checkpoint.folder, "decoder", dtype=dtype, device=device)
        answers = TwoChoices(found, opened.tokenizer).ask(asked)
    rows = [
        (lang, cut or "unknown", condition, rate.value, _interval(rate), rate.n)
        for lang, cut, condition, rate in error_rates(asked, answers)
    ]
    columns = ("language", "cut", "sentence", "share", "95 %", "n")
    note = "Share of questions answered with the trap; chance is one half. Control: with a gap between the words."
    report.add_table(f"errors of {model}", columns, rows, note)
    report.data["answers"] = [[a.id, a.condition, a.verdict, a.margin] for a in answers]
    for lang in dict.fromkeys(one.lang for one in asked):
        wrong, right = (
            differences([o.id for o in asked if o.lang == lang and o.cut == cut], answers, CONTROL)
            for cut in ("wrong", "right")
        )
        if wrong and right:
            rate = difference_in_difference(wrong, right)
            report.add("glued - control, cut wrongly - cut right", rate.value, "share", n=rate.n, source=lang)
            report.data[f"difference in difference, {lang}, 95 %"] = [rate.low, rate.high]


def _write(out: Path, report: Report, asked: "Sequence[Instance]", mined: "Mined | None", *, force: bool) -> None:
    from tokenlayer.core.outputs import fresh_folder, write_text
    from tokenlayer.tokenizer.adt.build import write_jsonl

    with fresh_folder(out, force=force) as folder:
        if mined is not None:
            write_jsonl(folder / "traps.jsonl", [*mined.confirmed, *mined.right])
        write_jsonl(folder / "adt.jsonl", asked)
        write_text(folder / "tokenlayer.json", report.to_json())


def _interval(rate: Any) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"
