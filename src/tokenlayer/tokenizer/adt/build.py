"""Questions from traps: a sentence with two glued words, a question about one, a control with a gap between them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadText
from tokenlayer.core.seeds import derive_seed
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.adt.join import Pair
from tokenlayer.tokenizer.adt.judge import plain
from tokenlayer.tokenizer.adt.languages import Language, Template, language
from tokenlayer.tokenizer.adt.mine import Trap
from tokenlayer.tokenizer.adt.verify import cut_at

Writer = Callable[[str], str]
"""Prompt -> text: an API, a local model."""
RETRIES = 3
"""A writer is asked so often for an instance before it is dropped."""


@dataclass(frozen=True)
class Instance:
    """One question.

    Attributes:
        id: language and the two words.
        lang: language code.
        vocabulary: whose trap it is; empty for the hand-made set.
        sentence: holds the two words glued.
        question: about one of the two words; names neither.
        answer: the right word.
        trap_answer: the trap, which a wrong cut suggests.
        span: characters of the glued words, start and end.
        boundary: character where the second word starts.
        control: the same sentence with a gap between the words.
        gap: characters of the control where the first word ends and the second starts.
        provenance: who wrote sentence and question.
        checks: what was verified.
        cut: `"wrong"` or `"right"`, by the tokenizer of `vocabulary`; empty if none was asked.
    """

    id: str
    lang: str
    vocabulary: str
    sentence: str
    question: str
    answer: str
    trap_answer: str
    span: tuple[int, int]
    boundary: int
    control: str
    gap: tuple[int, int]
    provenance: str
    checks: tuple[str, ...] = ()
    cut: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """The two words of the span."""
        return self.sentence[self.span[0] : self.boundary], self.sentence[self.boundary : self.span[1]]


@dataclass(frozen=True)
class Built:
    """Instances, and why others were dropped: reason -> how many."""

    instances: tuple[Instance, ...]
    dropped: Counter[str]


def build_instances(
    traps: Sequence[Trap],
    tokenizer: LoadedTokenizer,
    *,
    lang: str,
    writer: Writer | None = None,
    seed: int = 0,
) -> Built:
    """Makes a question of each trap and checks it with the tokenizer.

    Args:
        traps: what mining confirmed (or found to be cut right: the matched controls).
        tokenizer: the one that they were mined from; the cut of the finished sentence must be the trap's.
        lang: their language.
        writer: writes sentence and question; None takes templates.
        seed: decides which of the two words is asked for first; from there first and second alternate.

    Returns:
        The instances, and counts of what was dropped and why. Never more than there are traps.
    """
    of, found, dropped = language(lang), list[Instance](), Counter[str]()
    asked = derive_seed(seed, "asked") % 2
    for trap in traps:
        pair = Pair(trap.w1, trap.w2, trap.trap, _seam(trap))
        one, why = _written(pair, of, asked, writer) if writer else (_templated(trap, pair, of, asked), "")
        why = why or check(one, tokenizer, wrong=trap.wrong)
        if one is None or why:
            dropped[why] += 1
            continue
        asked = 1 - asked
        passed = (
            "glued once",
            "not in the question",
            "answers differ",
            f"cut {_side(trap.wrong)}",
            "control cut right",
        )
        found.append(replace(one, vocabulary=tokenizer.where, checks=passed, cut=_side(trap.wrong)))
    return Built(tuple(found), dropped)


def instance_of(
    pair: Pair, of: Language, template: Template, *, asked: int, vocabulary: str, provenance: str
) -> Instance:
    """Fills a template: `asked` is 0 for the first word and 1 for the second."""
    start = template.sentence.index("{pair}")
    glued = pair.first + pair.second
    middle = start + len(pair.first)
    return Instance(
        id=f"{of.code}-{pair.first}-{pair.second}",
        lang=of.code,
        vocabulary=vocabulary,
        sentence=template.sentence.replace("{pair}", glued),
        question=template.question.replace("{which}", of.ordinals[asked]),
        answer=(pair.first, pair.second)[asked],
        trap_answer=pair.trap,
        span=(start, start + len(glued)),
        boundary=middle,
        control=template.sentence.replace("{pair}", pair.first + of.gap + pair.second),
        gap=(middle, middle + len(of.gap)),
        provenance=provenance,
    )


def check(instance: Instance | None, tokenizer: LoadedTokenizer, *, wrong: bool) -> str:
    """Returns why an instance is no good, or an empty string.

    Args:
        instance: the instance.
        tokenizer: cuts sentence and control.
        wrong: whether the sentence must be cut wrongly, or must be cut right.
    """
    if instance is None:
        return "not written"
    why = check_text(instance)
    if why:
        return why
    cut = cut_at(tokenizer, instance.sentence, instance.span, (instance.boundary, instance.boundary))
    if cut.wrong != wrong:
        return f"the sentence is cut {_side(cut.wrong)}"
    size = instance.gap[1] - instance.gap[0]
    span = (instance.span[0], instance.span[1] + size)
    if cut_at(tokenizer, instance.control, span, instance.gap).wrong:
        return "the control is cut wrong"
    return ""


def matched(instances: Sequence[Instance], right: Sequence[Instance]) -> list[Instance]:
    """For each instance one that is cut right, asks for the same of its two words, and is as long as can be had.

    Args:
        instances: traps that were confirmed.
        right: instances that are cut right; each is taken once.

    Returns:
        At most as many as there are instances; fewer when `right` runs out.
    """
    left, found = list(right), list[Instance]()
    for one in instances:
        side, sizes = one.words.index(one.answer), _sizes(one)
        same = [r for r in left if r.words.index(r.answer) == side] or left
        if not same:
            break
        best = min(same, key=lambda r: sum(abs(a - b) for a, b in zip(_sizes(r), sizes, strict=True)))
        left.remove(best)
        found.append(best)
    return found


def check_text(instance: Instance) -> str:
    """Returns why sentence and question are no good whatever the tokenizer, or an empty string."""
    of, glued = language(instance.lang), "".join(instance.words)
    if instance.sentence.count(glued) != 1 or instance.sentence[slice(*instance.span)] != glued:
        return "the words do not stand together once"
    asked = plain(instance.question)
    if any(_names(asked, plain(word), of.spaced) for word in (*instance.words, instance.trap_answer)):
        return "the question names a word"
    return "the answers are the same" if plain(instance.answer) == plain(instance.trap_answer) else ""


def writer_prompt(pair: Pair, of: Language, asked: int) -> str:
    """What a writer is asked for; the paper lets a large model write sentence and question."""
    glued = pair.first + pair.second
    return (
        f"Write one natural sentence in the language '{of.code}' that contains {glued!r} exactly as it stands here, "
        f"where it is read as {pair.first!r} followed by {pair.second!r}. Then write one question about the sentence, "
        f"answered by {(pair.first, pair.second)[asked]!r}. The question must not contain {pair.first!r}, "
        f"{pair.second!r} or {pair.trap!r}. Answer in two lines: the sentence, then the question."
    )


def write_jsonl(path: Path, records: Iterable[Instance | Trap]) -> None:
    """Writes one JSON object a line; `datasets.load_dataset("json", ...)` reads it."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def read_instances(path: str | Path) -> list[Instance]:
    """Reads what `write_jsonl` wrote, and verifies spans by slicing.

    Raises:
        BadText: the file is missing, empty, or has a line that is no instance; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadText(
            f"cannot read the set {path}: {error}", hint="`tokenlayer tokenizer traps` writes adt.jsonl"
        ) from error
    found = [_read_line(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadText(f"{path} holds no instance", hint="an empty set has no error rate; mine more candidates")
    return found


def _read_line(line: str, path: str | Path, number: int) -> Instance:
    hint = "each line is one JSON object with the fields of `tokenlayer.tokenizer.adt.build.Instance`"
    try:
        data = json.loads(line)
        known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        one = Instance(**known)
        language(one.lang)
        inside = 0 <= one.span[0] < one.boundary < one.span[1] <= len(one.sentence)
        same = (
            inside
            and one.control
            == one.sentence[: one.boundary] + one.control[slice(*one.gap)] + one.sentence[one.boundary :]
        )
        named = inside and one.answer in one.words
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise BadText(f"{path}, line {number} is no instance: {error}", hint=hint) from error
    if not (same and named):
        what = (
            "span, boundary and control do not fit the sentence" if not same else "the answer is none of the two words"
        )
        raise BadText(f"{path}, line {number} ({one.id}): {what}", hint=hint)
    return one


def _templated(trap: Trap, pair: Pair, of: Language, asked: int) -> Instance | None:
    for template in of.templates:
        if template.sentence.replace("{pair}", trap.w1 + trap.w2) == trap.sentence:
            return instance_of(pair, of, template, asked=asked, vocabulary="", provenance="template")
    return None


def _written(pair: Pair, of: Language, asked: int, writer: Writer) -> tuple[Instance | None, str]:
    """Asks the writer until sentence and question pass what needs no tokenizer."""
    why = "not written"
    for _ in range(RETRIES):
        lines = [line.strip() for line in writer(writer_prompt(pair, of, asked)).splitlines() if line.strip()]
        if len(lines) != 2:
            why = "the writer did not answer in two lines"
            continue
        glued = pair.first + pair.second
        if lines[0].count(glued) != 1:
            why = "the writer's sentence lacks the span"
            continue
        if "{" in lines[0]:
            why = "the writer's sentence has braces"
            continue
        template = Template(lines[0].replace(glued, "{pair}"), lines[1])
        one = instance_of(pair, of, template, asked=asked, vocabulary="", provenance="writer")
        why = check_text(one)
        if not why:
            return one, ""
    return None, why


def _names(text: str, word: str, spaced: bool) -> bool:
    return f" {word} " in f" {text} " if spaced else word in text


def _sizes(one: Instance) -> tuple[int, int, int]:
    return len(one.words[0]), len(one.words[1]), len(one.trap_answer)


def _seam(trap: Trap) -> int:
    return next(
        k for k in range(1, len(trap.trap)) if trap.w1.endswith(trap.trap[:k]) and trap.w2.startswith(trap.trap[k:])
    )


def _side(wrong: bool) -> str:
    return "wrong" if wrong else "right"
