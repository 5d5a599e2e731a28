"""Two models with different vocabularies on the same texts: before and after a swap."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from tokenlayer.models.loading import most_positions
from tokenlayer.models.score import TextScores, WindowConfig, next_byte_agreement, score_text
from tokenlayer.models.tokenizer_files import LoadedTokenizer

LONGEST_LINE = 512
"""Tokens of a line that are read by a model that does not say how many it can read."""
NEW_TOKENS = 40
"""Length of a greedy continuation."""


@dataclass(frozen=True)
class EvalText:
    """A text to compare models on."""

    name: str
    text: str
    language: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """What one model says of every text.

    Attributes:
        scores: scores by text name; empty for models without an output head.
        vectors: mean last hidden state of each line by text name, shape `(lines, dim)`; encoders only.
        continuations: greedy continuation of each prompt; decoders only.
        seconds: total wall time.
    """

    scores: dict[str, TextScores] = field(default_factory=dict)
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)
    continuations: list[str] = field(default_factory=list)
    seconds: float = 0.0


def measure(
    model: nn.Module,
    tokenizer: LoadedTokenizer,
    kind: str,
    texts: Sequence[EvalText],
    prompts: Sequence[str],
    *,
    start_id: int | None,
    config: WindowConfig | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Side:
    """Runs one model over all texts and prompts.

    Args:
        model: in evaluation mode.
        tokenizer: the tokenizer of its rows.
        kind: `"decoder"` and `"masked"` are scored, of an `"encoder"` the line vectors are taken.
        texts: what to score.
        prompts: what to continue greedily (decoders only).
        start_id: see `score_text`; choose the same token for both models.
        config: windows.
        progress: called with the text's name and the tokens done so far.
    """
    began = time.perf_counter()
    side = Side()
    for one in texts:
        if kind == "encoder":
            side.vectors[one.name] = line_vectors(model, tokenizer, one.text.splitlines())
            continue
        tell = None if progress is None else _named(progress, one.name)
        side.scores[one.name] = score_text(
            model, tokenizer, one.text, start_id=start_id, masked=kind == "masked", config=config, progress=tell
        )
    if kind == "decoder":
        side.continuations.extend(greedy(model, tokenizer, prompt, start_id) for prompt in prompts)
    return Side(side.scores, side.vectors, side.continuations, time.perf_counter() - began)


def _named(progress: Callable[[str, int], None], name: str) -> Callable[[int], None]:
    return lambda done: progress(name, done)


def greedy(model: nn.Module, tokenizer: LoadedTokenizer, prompt: str, start_id: int | None) -> str:
    """The likeliest next tokens after a prompt, one at a time; bytes that are no UTF-8 show as U+FFFD."""
    ids = tokenizer.encode(prompt)
    context = ids if start_id is None or tokenizer.vocab.roles.get("bos") != start_id else [start_id, *ids]
    rows = torch.tensor([context or [0]], device=next(model.parameters()).device)
    with torch.inference_mode():
        made = model.generate(  # type: ignore[operator]
            input_ids=rows, attention_mask=torch.ones_like(rows), max_new_tokens=NEW_TOKENS, do_sample=False
        )
    new = [i for i in made[0, rows.shape[1] :].tolist() if i < len(tokenizer.vocab)]
    return tokenizer.decode_bytes(new).decode("utf-8", "replace")


def line_vectors(model: nn.Module, tokenizer: LoadedTokenizer, lines: Sequence[str], most: int = 256) -> torch.Tensor:
    """Mean last hidden state of each non-empty line (as sentence encoders pool), shape `(lines, dim)`."""
    vectors = []
    for line in _some(lines, most):
        ids = list(tokenizer.backend.encode(line).ids)[: most_positions(model) or LONGEST_LINE]
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([ids], device=next(model.parameters()).device)).last_hidden_state
        vectors.append(hidden[0].float().mean(dim=0).cpu())
    return torch.stack(vectors) if vectors else torch.zeros(0, 1)


def _some(lines: Sequence[str], most: int) -> Iterator[str]:
    full = [line for line in lines if line.strip()]
    yield from full[:most]


def agreement(before: Side, after: Side, name: str) -> tuple[float, int]:
    """Share of shared token boundaries where both models expect the same next byte, and their number."""
    same, shared = next_byte_agreement(before.scores[name], after.scores[name])
    return same / max(shared, 1), shared


def line_similarity(before: Side, after: Side, name: str) -> tuple[float, int]:
    """Mean cosine of the vectors of the same line in both models, and the number of lines."""
    one, other = before.vectors[name], after.vectors[name]
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=1)
    return float(cosine.mean()) if len(cosine) else 0.0, len(cosine)
