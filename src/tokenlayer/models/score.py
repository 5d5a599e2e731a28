"""What a language model says of a text, token by token, with every byte scored exactly once."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.scores import TokenScores
from tokenlayer.models.loading import most_positions
from tokenlayer.models.losses import Head, TileScores, captured_hidden, check_head, head_of, linear_scores
from tokenlayer.models.tokenizer_files import LoadedTokenizer

Progress = Callable[[int], None]


@dataclass(frozen=True)
class WindowConfig:
    """How a long text is cut for the model."""

    window: int = 512
    """Tokens that the model sees at a time, start token included."""
    stride: int = 256
    """New tokens per window after the first; the others are context and are not scored again."""
    batch: int = 4
    """Windows per forward pass."""
    mask_every: int = 8
    """Masked models only: one token in so many is masked at a time, so each is scored once in that many passes."""

    def __post_init__(self) -> None:
        if not 0 < self.stride < self.window:
            raise BadOption(f"stride is {self.stride} and window is {self.window}; expected 0 < stride < window")
        if self.mask_every < 2 or self.batch < 1:
            raise BadOption(f"mask_every is {self.mask_every} (at least 2), batch is {self.batch} (at least 1)")


@dataclass(frozen=True, eq=False)
class TextScores:
    """Scores of one text, the next-byte predictions beside them, and what they cost.

    Attributes:
        scores: log-probabilities with byte offsets.
        next_byte: int64, shape `(tokens,)`: the likeliest next byte *before* each token (256: none).
        seconds: wall time of the forward passes and the head.
    """

    scores: TokenScores
    next_byte: np.ndarray
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens per second; context that is read again does not count."""
        return len(self.scores.token_ids) / max(self.seconds, 1e-9)


def start_token(tokenizer: LoadedTokenizer) -> int | None:
    """The token that a text starts after: bos, else cls, else eos, else None."""
    roles = tokenizer.vocab.roles
    return next((roles[role] for role in ("bos", "cls", "eos") if role in roles), None)


def score_text(
    model: nn.Module,
    tokenizer: LoadedTokenizer,
    text: str,
    *,
    start_id: int | None,
    masked: bool = False,
    config: WindowConfig | None = None,
    progress: Progress | None = None,
) -> TextScores:
    """Scores a text in sliding windows; each token once, special tokens never.

    Args:
        model: a causal (or, with `masked`, a masked) Hugging Face language model in evaluation mode.
        tokenizer: the tokenizer of its rows.
        text: the text; its UTF-8 length is the denominator of bits per byte.
        start_id: the token before the text. None gives the first token probability 1 / vocab.
        masked: pseudo-log-probabilities: each token given all others of its window, `mask_every` at a time.
        config: window, stride and batch.
        progress: called with the number of tokens scored so far in this call.

    Raises:
        BadText: an empty text.
        BadCheckpoint: no output head, or one that we do not understand.
        BadOption: a masked model without a mask token.
    """
    config = config or WindowConfig()
    ids = tokenizer.encode(text)
    if not ids:
        raise BadText("an empty text cannot be scored", hint="give an --eval file with some text in it")
    head = head_of(model, len(tokenizer.vocab))
    run = _Run(model, head, _first_bytes(tokenizer).to(_device(model)), _fit(config, model), progress)
    began = time.perf_counter()
    with torch.inference_mode():
        check_head(model, head, torch.tensor([ids[:8]], device=_device(model)))
        found = run.masked(ids, tokenizer) if masked else run.causal(ids, start_id)
    seconds = time.perf_counter() - began
    scores = TokenScores(
        token_ids=np.asarray(ids, dtype=np.int64),
        logprob_nats=found.logprob_nats.numpy(),
        ends=token_ends(tokenizer, text, ids),
        total_bytes=len(text.encode("utf-8")),
    )
    return TextScores(scores, found.next_byte.numpy(), seconds)


def token_ends(tokenizer: LoadedTokenizer, text: str, ids: list[int]) -> np.ndarray:
    """For each token the byte offset of the original text where it ends; int64.

    Exact where the tokens' bytes are the text (with or without one space that the tokenizer puts in front). Where a
    normaliser changed the text, offsets follow the library's character offsets.
    """
    data = text.encode("utf-8")
    pieces = tokenizer.token_bytes(ids)
    ends = np.cumsum([len(p) for p in pieces], dtype=np.int64)
    spelled = b"".join(pieces)
    if spelled == data:
        return ends
    if spelled == b" " + data:
        return np.maximum(ends - 1, 0)
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    at = np.zeros(len(text) + 1, dtype=np.int64)
    np.cumsum([len(c.encode("utf-8")) for c in text], out=at[1:])
    return at[np.asarray([end for _, end in encoding.offsets], dtype=np.int64)]


def next_byte_agreement(one: TextScores, other: TextScores) -> tuple[int, int]:
    """How often two models expect the same next byte where both have a token boundary.

    Returns:
        (agreeing boundaries, shared boundaries). The start of the text counts as a boundary.
    """
    mine = dict(zip(_starts(one.scores.ends), one.next_byte.tolist(), strict=True))
    theirs = dict(zip(_starts(other.scores.ends), other.next_byte.tolist(), strict=True))
    shared = mine.keys() & theirs.keys()
    return sum(mine[at] == theirs[at] for at in shared), len(shared)


def _starts(ends: np.ndarray) -> list[int]:
    return [0, *ends[:-1].tolist()]


@dataclass(frozen=True, eq=False)
class _Run:
    """One pass over one text."""

    model: nn.Module
    head: Head
    first_byte: Tensor
    config: WindowConfig
    progress: Progress | None

    def causal(self, ids: list[int], start_id: int | None) -> TileScores:
        """Left to right; window `w` scores the tokens that earlier windows have not."""
        context = ids if start_id is None else [start_id, *ids]
        pieces = [] if start_id is not None else [self._uniform()]
        cuts = _windows(len(context), self.config.window, self.config.stride)
        done = 0
        for group in _equal_lengths(context, cuts, self.config.batch):
            rows = torch.tensor([context[begin:end] for begin, _, end in group])
            hidden = self._hidden(rows[:, :-1])
            for row, (begin, new, _), inner in zip(rows, group, hidden, strict=True):
                pieces.append(self._score(inner[new - begin - 1 :], row[new - begin :]))
                done += len(row) - (new - begin)
            self._tell(done)
        return _joined(pieces)

    def masked(self, ids: list[int], tokenizer: LoadedTokenizer) -> TileScores:
        """Every token given the rest of its window; windows do not overlap."""
        roles = tokenizer.vocab.roles
        if "mask" not in roles:
            raise BadOption(
                f"{tokenizer.where} has no mask token, so a masked model cannot be scored with it",
                hint="add one to the tokenizer's special tokens, or swap without --eval",
            )
        front = [roles[r] for r in ("cls", "bos") if r in roles][:1]
        back = [roles[r] for r in ("sep", "eos") if r in roles][:1]
        room = self.config.window - len(front) - len(back)
        if room < 1:
            raise BadOption(
                f"window is {self.config.window}, expected more than the {len(front + back)} marks around it"
            )
        pieces, done = [], 0
        for begin in range(0, len(ids), room):
            part = ids[begin : begin + room]
            pieces.append(self._masked_window(front, part, back, roles["mask"]))
            done += len(part)
            self._tell(done)
        return _joined(pieces)

    def _masked_window(self, front: list[int], part: list[int], back: list[int], mask: int) -> TileScores:
        every = min(self.config.mask_every, len(part))
        truth = torch.tensor([front + part + back]).repeat(every, 1)
        rows = truth.clone()
        for phase in range(every):
            rows[phase, len(front) + phase : len(front) + len(part) : every] = mask
        hidden = self._hidden(rows)
        at = torch.arange(len(part))
        inner = hidden[at % every, len(front) + at]
        return self._score(inner, torch.tensor(part))

    def _hidden(self, rows: Tensor) -> Tensor:
        with captured_hidden(self.head) as seen:
            for some in rows.split(self.config.batch):
                self.model(input_ids=some.to(_device(self.model)), use_cache=False)
        return torch.cat(seen)

    def _score(self, hidden: Tensor, targets: Tensor) -> TileScores:
        found = linear_scores(self.head, hidden, targets.to(hidden.device), self.first_byte)
        return TileScores(found.logprob_nats.cpu(), found.next_byte.cpu())

    def _uniform(self) -> TileScores:
        return TileScores(-torch.tensor([float(self.head.vocab)]).log(), torch.tensor([256]))

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done)


def _windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """`(begin, first new token, end)` of each window; token 0 is never new (it has no context)."""
    cuts = [(0, 1, min(window, length))]
    while cuts[-1][2] < length:
        end = min(cuts[-1][2] + stride, length)
        cuts.append((max(0, end - window), cuts[-1][2], end))
    return cuts if length > 1 else []


def _equal_lengths(
    context: list[int], cuts: list[tuple[int, int, int]], batch: int
) -> list[list[tuple[int, int, int]]]:
    """Neighbouring windows of the same length, at most `batch` together: no padding is ever needed."""
    groups: list[list[tuple[int, int, int]]] = []
    for cut in cuts:
        last = groups[-1] if groups else []
        if last and len(last) < batch and last[-1][2] - last[-1][0] == cut[2] - cut[0]:
            last.append(cut)
        else:
            groups.append([cut])
    return groups


def _joined(pieces: list[TileScores]) -> TileScores:
    return TileScores(torch.cat([p.logprob_nats for p in pieces]), torch.cat([p.next_byte for p in pieces]))


def _first_bytes(tokenizer: LoadedTokenizer) -> Tensor:
    return torch.tensor([token[0] if token else 256 for token in tokenizer.vocab.tokens])


def _fit(config: WindowConfig, model: nn.Module) -> WindowConfig:
    """The window cut down to the positions that the model has."""
    most = most_positions(model) or config.window
    if config.window <= most:
        return config
    return WindowConfig(most, min(config.stride, max(1, most // 2)), config.batch, config.mask_every)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
