"""A ranked lexicon of subwords, words and multi-word chunks, learned online by what makes the cut of a text shorter.

Paper: Yang, "Rethinking Tokenization: Crafting Better Tokenizers for Large Language Models", 2024 (LiB, Less is
Better; the learner is that of Yang, Frank and van den Bosch, "Less is Better", 2020). Reference implementation:
ray306/The-Less-is-Better-Model; with the same draws and `longest_chunk=None` the lexicon, its order and what is on
probation are the same after every article.

Shapes: in go lines of text, out come a lexicon in rank order and token ids:
one that is never used, 256 bytes, lexicon, special tokens.

Errors: `BadText` for a text that is empty, not UTF-8, or too short for any chunk to prove itself; `BadOption` for a
number out of range; `BadTokenizer` for a folder to go on from that holds no learner; `OutputExists`.

Differences from the paper:
    - numbers and steps are those of the released code, since the paper's tables could not be had;
    - chunks have at most 64 characters (`longest_chunk=None` for no limit), and sentences at most 10,000;
    - a chunk that a punishment moves past the tail leaves probation too; the released code keeps it there without
      effect;
    - where no second chunk matches, the longest one is taken whole; the released code emits its first character
      (`compat=True`);
    - characters outside the lexicon are spelled in bytes, where the released code emits the character; the end of a
      line is a byte, and sentences are lines as they stand, with the white space at their ends;
    - by default the text is read once; the released code reads it round and round for a number of steps.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.outputs import check_free, fresh_folder
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import show
from tokenlayer.data.documents import Documents, ReadOptions, Source
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.files import compare, files, load_learner
from tokenlayer.tokenizer.lib.learner import LibLearner
from tokenlayer.tokenizer.lib.tokenizer import LibTokenizer
from tokenlayer.tokenizer.memory import peak_memory

MEASURED_LINES = 2_000
"""Lines of the text on which tokens are counted for the report."""
PAPER = "Yang, Rethinking Tokenization: Crafting Better Tokenizers for Large Language Models, 2024"


def learn_lib(
    sources: Sequence[Source | str],
    out: Path,
    config: LibConfig | None = None,
    *,
    start: str | Path = "",
    options: ReadOptions | None = None,
    compiled: bool | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Learns a lexicon from texts and writes a tokenizer folder; load it with `files.load_lib(out)`.

    Args:
        sources: where the texts are, see `tokenlayer.data.sources`; each line that is not blank is a sentence.
        out: the folder to write: the learner's state, a tokenizer.json that others read (see `files`), the report.
        config: see `LibConfig`; None takes that of `start`, else the paper's.
        start: a folder that this function wrote: learning goes on there.
        options: how files become documents.
        compiled: see `LibLearner`.
        force: replace an existing tokenizer folder.
        progress: called with the number of bytes read since the last call.

    Returns:
        The report: sizes of lexicon and probation, the paper's measures, and how the tokenizer.json cuts otherwise.

    Raises:
        BadText: there is no text, or too little for any chunk to leave probation.
        BadOption: there is no source.
        BadTokenizer: `start` holds no learner.
        OutputExists: `out` is taken.
    """
    began = time.perf_counter()
    check_free(out, force=force)
    learner = _learner(config, start, compiled)
    steps_before = learner.steps
    documents = Documents(sources, options=options or ReadOptions(), progress=progress)
    lines = _Lines(documents)
    report = Report(title=f"a LiB tokenizer learned from {len(sources)} sources")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        learner.fit(lines)
    tokenizer = LibTokenizer(_proved(learner), learner.config.special_tokens)
    report.settings = {**asdict(learner.config), "sources": [str(s) for s in sources], "out": str(out), "paper": PAPER}
    report.settings["start"] = str(start)
    _describe(report, learner, tokenizer, lines, steps_before)
    for sentence in [*documents.tally.warnings(), *(str(one.message) for one in said)]:
        report.warn(sentence)
    _measure(report, tokenizer, lines)
    report.add("seconds", time.perf_counter() - began, "s")
    report.add("peak memory", peak_memory() / 1e6, "MB")
    report.next_command = f"tokenlayer tokenizer lib-encode {out} FILE"
    with fresh_folder(out, force=force) as folder:
        for name, text in files(learner, tokenizer).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "tokenlayer.json").write_text(report.to_json(), encoding="utf-8")
    return report


class _Lines(Iterable[str]):
    """The lines of documents that are not blank; every loop reads the files again, and counts."""

    def __init__(self, documents: Documents) -> None:
        self.documents, self.total = documents, 0
        streams = any(source.path == "-" for source in documents.sources)
        self.kept = list(documents.texts()) if streams else None  # a stream can be read only once

    def __iter__(self) -> Iterator[str]:
        self.total = 0
        for text in self.documents.texts() if self.kept is None else self.kept:
            for line in text.split("\n"):
                if line.strip():
                    self.total += 1
                    yield line

    def first(self, most: int) -> list[str]:
        """The first lines."""
        found = []
        for line in self:
            found.append(line)
            if len(found) == most:
                break
        return found


def _learner(config: LibConfig | None, start: str | Path, compiled: bool | None) -> LibLearner:
    if not start:
        return LibLearner(config, compiled=compiled)
    learner = load_learner(start, compiled=compiled)
    if config is not None and config.special_tokens != learner.config.special_tokens:
        raise BadOption(
            f"special_tokens are {config.special_tokens}, those of {start} are {learner.config.special_tokens}",
            hint="leave them out to go on",
        )
    if config is not None:
        learner.change(config)
    return learner


def _proved(learner: LibLearner) -> list[str]:
    lexicon = learner.lexicon
    if not lexicon:
        raise BadText(
            f"none of the {len(learner.chunks)} chunks left probation within {learner.steps} articles",
            hint="give more text, or smaller articles",
        )
    return lexicon


def _describe(report: Report, learner: LibLearner, tokenizer: LibTokenizer, lines: _Lines, steps_before: int) -> None:
    config, read = learner.config, learner.steps - steps_before
    report.add("vocab size", len(tokenizer), "tokens")
    report.add("lexicon", len(tokenizer.lexicon), "chunks")
    report.add("on probation, left out", len(learner.chunks) - len(tokenizer.lexicon), "chunks")
    report.add("articles read", read, "articles")
    report.add("text read", lines.documents.tally.bytes / 1e6, "MB", n=lines.documents.tally.documents)
    some = [c for c in tokenizer.lexicon if len(c) > 1]
    many = sorted(some, key=lambda chunk: (-len(chunk.split()), tokenizer.rank[chunk]))
    report.add_table("best chunks", ("rank", "chunk"), [(tokenizer.rank[c], show(c.encode())) for c in some[:10]])
    report.add_table("most words", ("rank", "chunk"), [(tokenizer.rank[c], show(c.encode())) for c in many[:5]])
    again = config.steps is not None and read * config.article > lines.total
    if again and config.life * config.article >= lines.total:
        report.warn(
            f"{config.life} articles of {config.article} lines are as long as the whole text ({lines.total} lines), "
            "which was read again: every accidental chunk met itself; give a smaller life or article"
        )


def _measure(report: Report, tokenizer: LibTokenizer, lines: _Lines) -> None:
    sample = lines.first(MEASURED_LINES)
    found, cut = tokenizer.evaluate(sample), compare(tokenizer, sample)
    size = sum(len(line.encode()) for line in sample)
    report.add("bytes per token", size / found.tokens, "bytes", n=size)
    report.add("type length", found.type_length, "characters")
    report.add("token length", found.token_length, "characters")
    report.add("EvalIndex", found.eval_index)
    report.add("tokens by tokenizer.json", cut.json_tokens, "tokens", baseline=cut.tokens)
    report.warn(
        f"tokenizer.json cuts {100 * cut.other / cut.lines:.0f} % of lines otherwise than the two-path rule "
        f"({100 * (cut.json_tokens / cut.tokens - 1):+.1f} % tokens), which no tokenizer.json can express"
    )
