"""Asks a model: right word or trap, in the glued sentence, its control, and with the boundary forced."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadText
from tokenlayer.models.score import start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.adt.build import Instance
from tokenlayer.tokenizer.adt.judge import ABSTAINED, RIGHT, judge
from tokenlayer.tokenizer.adt.languages import language
from tokenlayer.tokenizer.adt.verify import cut_at, forced_ids, mean_interval, wilson

GLUED, CONTROL, FORCED = "glued", "control", "forced"


@dataclass(frozen=True)
class Answer:
    """What a model made of one instance in one condition.

    Attributes:
        id: of the instance.
        condition: `"glued"`, `"control"` or `"forced"` (glued, with a token boundary between the words).
        verdict: `"right"`, `"trapped"`, `"wrong"` or `"abstained"`.
        margin: nats per byte by which the right word is likelier than the trap, mean over both orders of the options;
            0 for free answers.
        text: a free answer; empty for two choices.
    """

    id: str
    condition: str
    verdict: str
    margin: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval; for a difference `hits` is 0."""

    value: float
    low: float
    high: float
    hits: int
    n: int


def tokenization_errors(
    instances: Sequence[Instance], tokenizers: Sequence[LoadedTokenizer]
) -> list[tuple[str, str, Rate]]:
    """How often each tokenizer cuts across the word boundary of the sentences.

    Args:
        instances: at least one.
        tokenizers: the one that they were made for, and any others (transfer).

    Returns:
        `(tokenizer, language, rate)`; languages are never mixed. Wilson intervals.

    Raises:
        BadText: there are no instances.
    """
    _some(instances)
    found = []
    for tokenizer in tokenizers:
        for lang, some in _by_language(instances):
            wrong = sum(cut_at(tokenizer, i.sentence, i.span, (i.boundary, i.boundary)).wrong for i in some)
            found.append((tokenizer.where, lang, _rate(wrong, len(some))))
    return found


def ask(instances: Sequence[Instance], answer: Callable[[str], str]) -> list[Answer]:
    """Asks anything that answers a prompt with text; the answer is judged by the words in it.

    Args:
        instances: at least one.
        answer: prompt -> text. A boundary cannot be forced through text, so there are two conditions.

    Returns:
        An answer for each instance and condition.

    Raises:
        BadText: there are no instances.
    """
    _some(instances)
    found = []
    for one in instances:
        of = language(one.lang)
        for condition, sentence in ((GLUED, one.sentence), (CONTROL, one.control)):
            said = answer(f"{sentence} {one.question}\n{of.answer}")
            verdict = judge(said, one.answer, one.trap_answer, spaced=of.spaced)
            found.append(Answer(one.id, condition, verdict, text=said))
    return found


class TwoChoices:
    """A causal language model that chooses between the right word and the trap, by log-likelihood per byte.

    Args:
        model: a causal Hugging Face model in evaluation mode.
        tokenizer: of its rows.
        batch: prompts per forward pass; only prompts of the same length go together, so nothing is padded.
    """

    def __init__(self, model: nn.Module, tokenizer: LoadedTokenizer, batch: int = 16) -> None:
        self._model, self._tokenizer, self._batch = model, tokenizer, batch
        start, chat = start_token(tokenizer), _chat_parts(tokenizer)
        self._front, self._back = chat or ([] if start is None else [start], [])
        self._is_chat = chat is not None
        self._kept: Any = None
        takes = "logits_to_keep" in signature(model.forward).parameters
        self._last: dict[str, Any] = {"logits_to_keep": 1} if takes else {}

    def ask(self, instances: Sequence[Instance], *, forced: bool = True) -> list[Answer]:
        """Scores every instance in each condition, with the options in both orders.

        Args:
            instances: at least one.
            forced: also with the boundary forced; instances whose boundary cannot be forced have no such answer.

        Returns:
            Answers with verdict `"right"` or `"trapped"`; a margin of exactly 0 counts as trapped.

        Raises:
            BadText: there are no instances.
        """
        _some(instances)
        asked: list[tuple[str, str]] = []
        prompts: list[list[int]] = []
        options: list[tuple[list[int], list[int]]] = []
        sizes: list[tuple[int, int]] = []
        for one in instances:
            for condition in (GLUED, CONTROL, FORCED) if forced else (GLUED, CONTROL):
                for order in (0, 1):
                    ids = self._prompt(one, condition, order)
                    if ids:
                        asked.append((one.id, condition))
                        prompts.append(ids)
                        options.append(self._options(one))
                        sizes.append((len(one.answer.encode()), len(one.trap_answer.encode())))
        found = self._scores(prompts, options)
        margins = [right / a - wrong / b for (right, wrong), (a, b) in zip(found, sizes, strict=True)]
        return _averaged(asked, margins)

    def _prompt(self, one: Instance, condition: str, order: int) -> list[int]:
        """Tokens of sentence, question and options, without the common front; empty if a cut cannot be forced."""
        of = language(one.lang)
        words = (one.answer, one.trap_answer) if order == 0 else (one.trap_answer, one.answer)
        choice = of.options.replace("{one}", words[0]).replace("{other}", words[1])
        sentence = one.control if condition == CONTROL else one.sentence
        rest = f" {one.question} {choice}" if of.spaced else f"{one.question}{choice}"
        tail = self._back if self._is_chat else self._tokenizer.encode(f"\n{of.answer}")
        if condition != FORCED:
            return [*self._tokenizer.encode(sentence + rest), *tail]
        ids = forced_ids(self._tokenizer, sentence + rest, one.span, one.boundary)
        return [*ids, *tail] if ids else []

    def _options(self, one: Instance) -> tuple[list[int], list[int]]:
        gap = " " if language(one.lang).spaced and not self._is_chat else ""
        right, wrong = self._tokenizer.encode(gap + one.answer), self._tokenizer.encode(gap + one.trap_answer)
        return right, wrong

    def _scores(
        self, prompts: Sequence[list[int]], options: Sequence[tuple[list[int], list[int]]]
    ) -> list[tuple[float, float]]:
        """Nats of both options after each prompt."""
        found: dict[int, tuple[float, float]] = {}
        with torch.inference_mode():
            for group in _equal_lengths(prompts, self._batch):
                device = next(self._model.parameters()).device
                rows = torch.tensor([prompts[n] for n in group], device=device)
                seen = self._model(
                    input_ids=rows, past_key_values=self._begun(len(group)), use_cache=True, **self._last
                )
                first = seen.logits[:, -1].float().log_softmax(-1).cpu()
                both = [
                    self._option_scores(first, seen.past_key_values, [options[n][side] for n in group])
                    for side in (0, 1)
                ]
                found |= {n: (both[0][at], both[1][at]) for at, n in enumerate(group)}
        return [found[n] for n in range(len(prompts))]

    def _begun(self, n: int) -> Any:
        """The cache after what every prompt begins with, for `n` rows; it is computed once."""
        if not self._front:
            return None
        if self._kept is None:
            rows = torch.tensor([self._front], device=next(self._model.parameters()).device)
            self._kept = self._model(input_ids=rows, use_cache=True, **self._last).past_key_values
        cache = deepcopy(self._kept)
        cache.batch_repeat_interleave(n)
        return cache

    def _option_scores(self, first: Tensor, cache: object, words: Sequence[list[int]]) -> list[float]:
        """The first token from the prompt's own logits, the others behind a copy of its cache, padded at the end."""
        longest = max(map(len, words))
        total = [float(first[at, word[0]]) for at, word in enumerate(words)]
        if longest == 1:
            return total
        device = next(self._model.parameters()).device
        rows = torch.tensor([word[:-1] + [word[-1]] * (longest - len(word)) for word in words], device=device)
        logits = self._model(input_ids=rows, past_key_values=deepcopy(cache), use_cache=True).logits
        logprob = logits.float().log_softmax(-1).cpu()
        for at, word in enumerate(words):
            total[at] += sum(float(logprob[at, n, token]) for n, token in enumerate(word[1:]))
        return total


def error_rates(instances: Sequence[Instance], answers: Sequence[Answer]) -> list[tuple[str, str, str, Rate]]:
    """Error rates by language, cut and condition; abstentions count neither way.

    Args:
        instances: what was asked.
        answers: what came back.

    Returns:
        `(language, cut of the tokenizer, condition, rate)` with Wilson intervals, and after them the differences
        `"glued - control"` and `"glued - forced"`: means over instances that have both, with normal intervals.

    Raises:
        BadText: there are no instances.
    """
    _some(instances)
    known = {(a.id, a.condition): a.verdict for a in answers if a.verdict != ABSTAINED}
    found = []
    for lang, cut in dict.fromkeys((i.lang, i.cut) for i in instances):
        ids = [i.id for i in instances if (i.lang, i.cut) == (lang, cut)]
        for condition in (GLUED, CONTROL, FORCED):
            said = [known[i, condition] != RIGHT for i in ids if (i, condition) in known]
            if said:
                found.append((lang, cut, condition, _rate(sum(said), len(said))))
        for other in (CONTROL, FORCED):
            values = differences(ids, answers, other)
            if values:
                mean, low, high = mean_interval(values)
                found.append((lang, cut, f"{GLUED} - {other}", Rate(mean, low, high, 0, len(values))))
    return found


def differences(ids: Sequence[str], answers: Sequence[Answer], other: str) -> list[float]:
    """For each instance 1, 0 or -1: an error when glued, minus an error in the other condition."""
    known = {(a.id, a.condition): a.verdict for a in answers if a.verdict != ABSTAINED}
    return [
        float((known[i, GLUED] != RIGHT) - (known[i, other] != RIGHT))
        for i in ids
        if (i, GLUED) in known and (i, other) in known
    ]


def difference_in_difference(one: Sequence[float], other: Sequence[float]) -> Rate:
    """Mean of `one` minus mean of `other` with a normal 95 % interval; the two are independent instances.

    Raises:
        BadText: one of them is empty.
    """
    if not one or not other:
        raise BadText("there is nothing to compare", hint="both groups need instances with an answer")
    (a, low_a, _), (b, low_b, _) = mean_interval(one), mean_interval(other)
    half = ((a - low_a) ** 2 + (b - low_b) ** 2) ** 0.5
    return Rate(a - b, a - b - half, a - b + half, 0, len(one) + len(other))


def _averaged(asked: Sequence[tuple[str, str]], margins: Sequence[float]) -> list[Answer]:
    both: dict[tuple[str, str], list[float]] = {}
    for key, margin in zip(asked, margins, strict=True):
        both.setdefault(key, []).append(margin)
    means = {key: sum(values) / len(values) for key, values in both.items()}
    return [Answer(i, condition, RIGHT if m > 0 else "trapped", m) for (i, condition), m in means.items()]


def _equal_lengths(prompts: Sequence[list[int]], batch: int) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = {}
    for n, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(n)
    for group in groups.values():
        for start in range(0, len(group), batch):
            yield group[start : start + batch]


def _chat_parts(tokenizer: LoadedTokenizer) -> tuple[list[int], list[int]] | None:
    """Tokens that the chat template puts before and after what a user says; None without a template."""
    template = tokenizer.chat_template
    if template is None:
        return None
    from transformers import PreTrainedTokenizerFast

    inner = "tokenlayerquestion"
    roles = {f"{role}_token": tokenizer.vocab.names[i] for role, i in tokenizer.vocab.roles.items()}
    plain = PreTrainedTokenizerFast(tokenizer_object=deepcopy(tokenizer.backend), **roles)
    said = [{"role": "user", "content": inner}]
    text = plain.apply_chat_template(said, chat_template=template, tokenize=False, add_generation_prompt=True)
    before, after = str(text).split(inner)
    backend = deepcopy(tokenizer.backend)
    backend.encode_special_tokens = False
    front, back = (list(backend.encode(part, add_special_tokens=False).ids) for part in (before, after))
    return front, back


def _rate(hits: int, n: int) -> Rate:
    return Rate(hits / n, *wilson(hits, n), hits, n)


def _some(instances: Sequence[Instance]) -> None:
    if not instances:
        raise BadText(
            "there are no instances, so there is no error rate", hint="mine more candidates, or a larger lexicon"
        )


def _by_language(instances: Sequence[Instance]) -> Iterator[tuple[str, list[Instance]]]:
    for lang in dict.fromkeys(i.lang for i in instances):
        yield lang, [i for i in instances if i.lang == lang]
