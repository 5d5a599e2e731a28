"""What a swapped model is trained on, by kind of model: windows or lines in, a sum of losses and its count out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption
from tokenlayer.data.packing import packed_windows
from tokenlayer.models.losses import captured_hidden, check_head, head_of, token_logprobs
from tokenlayer.models.score import token_ends
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.loop import LossParts
from tokenlayer.transfer.distill import span_divergence, span_numbers, span_sums, vector_distance

Item = list[int] | tuple[list[int], list[int]]
"""Token ids of a window; for encoders those of a line in the target's and in the source's tokens."""
KEPT, RANDOM = 0.1, 0.1
"""Of the tokens to predict, shares that stay and that become another token (Devlin et al. 2019)."""


def item_length(item: Item) -> int:
    """Target tokens of an item."""
    return len(item[0]) if isinstance(item, tuple) else len(item)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids filled up with 0 to one length, and which of them are real; both of shape `(rows, longest)`."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
    return ids.to(device), torch.arange(ids.shape[1], device=device) < lengths[:, None]


class _ModelLoss:
    """A model with its output head."""

    def __init__(self, model: nn.Module, tokenizer: LoadedTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device = next(model.parameters()).device
        self.head = head_of(model, len(tokenizer.vocab))
        probe = torch.tensor([tokenizer.encode("a b c")[:8]], device=self.device)
        training = model.training
        with torch.inference_mode():
            check_head(model.eval(), self.head, probe)
        model.train(training)

    def hidden(self, ids: Tensor, real: Tensor) -> Tensor:
        """Inputs of the head, shape `(rows, length, dim)`."""
        with captured_hidden(self.head) as seen, _autocast(self.device):
            self.model(input_ids=ids, attention_mask=real.long(), use_cache=False)
        return seen[0]

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities in nats, shape `(tokens,)`."""
        with _autocast(self.device):
            return token_logprobs(self.head, hidden, targets)


class CausalLoss:
    """Next-token loss in nats a token, with a share of divergence from a teacher on the spans that both cut alike.

    Args:
        model: the student.
        tokenizer: its tokenizer.
        teacher: the source model and its tokenizer, or None.
        starts: the token before a text, of the teacher and of the student.
        share: of the divergence.
        temperature: see `span_divergence`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: LoadedTokenizer,
        teacher: tuple[nn.Module, LoadedTokenizer] | None,
        *,
        starts: tuple[int | None, int | None],
        share: float,
        temperature: float,
    ) -> None:
        self.student = _ModelLoss(model, tokenizer)
        self.teacher = None if teacher is None else _ModelLoss(*teacher)
        self.starts, self.share, self.temperature = starts, share, temperature

    def items(self, texts: Iterable[str], window: int) -> Iterator[Item]:
        """Windows of the texts."""
        return packed_windows(texts, self.student.tokenizer.encode, window, start_id=self.starts[1])

    def __call__(self, items: Sequence[Item]) -> LossParts:
        """The loss of some windows."""
        rows = [item for item in items if isinstance(item, list)]
        logprobs = _causal_logprobs(self.student, rows)
        total = -torch.cat(logprobs).sum()
        if self.teacher is not None and self.share:
            total = (1 - self.share) * total + self.share * self._divergence(rows, logprobs)
        return LossParts(total, sum(len(row) for row in logprobs))

    def _divergence(self, rows: list[list[int]], logprobs: list[Tensor]) -> Tensor:
        """Summed over the windows; those without a shared boundary add nothing."""
        assert self.teacher is not None
        cuts = [(self._cut(row), own) for row, own in zip(rows, logprobs, strict=True)]
        cuts = [(cut, own) for cut, own in cuts if cut.spans]
        if not cuts:
            return torch.zeros((), device=self.student.device)
        with torch.no_grad():
            theirs = _causal_logprobs(self.teacher, [cut.ids for cut, _ in cuts])
        mine = [_spans(own, cut.mine, cut.spans) for cut, own in cuts]
        wanted = [_spans(own, cut.other, cut.spans) for (cut, _), own in zip(cuts, theirs, strict=True)]
        return span_divergence(torch.cat(mine), torch.cat(wanted), self.temperature)

    def _cut(self, row: list[int]) -> "_Cut":
        """How the teacher cuts the text of a window."""
        assert self.teacher is not None
        ids = row if self.starts[1] is None else row[1:]
        pieces = self.student.tokenizer.token_bytes(ids)
        data = b"".join(pieces)
        lead = next((n for n, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        text = data[lead:].decode("utf-8", "ignore")
        ends = np.cumsum([len(piece) for piece in pieces])
        theirs = self.teacher.tokenizer.encode(text)
        their_ends = token_ends(self.teacher.tokenizer, text, theirs) + lead
        mine, other, spans = span_numbers(ends, their_ends)
        if lead or None in self.starts:  # the first span: bytes that the teacher does not see, or a first token
            mine, other = (np.where(numbers > 0, numbers - 1, -1) for numbers in (mine, other))  # without a probability
            spans = max(spans - 1, 0)
        front = [] if self.starts[0] is None else [self.starts[0]]
        return _Cut(front + theirs, mine, other, spans)


class _Cut(NamedTuple):
    """The teacher's ids of a window, the span of each token of the student and of the teacher, the number of spans."""

    ids: list[int]
    mine: np.ndarray
    other: np.ndarray
    spans: int


def _spans(logprobs: Tensor, numbers: np.ndarray, spans: int) -> Tensor:
    """Log-probability of each span; tokens without one at the front count as certain."""
    whole = nn.functional.pad(logprobs, (len(numbers) - len(logprobs), 0))
    return span_sums(whole, torch.from_numpy(numbers).to(logprobs.device), spans)


def _causal_logprobs(side: _ModelLoss, rows: Sequence[list[int]]) -> list[Tensor]:
    """For each row the log-probabilities of its tokens but the first."""
    ids, real = padded(rows, side.device)
    keep = real[:, 1:]
    found = side.logprobs(side.hidden(ids[:, :-1], real[:, :-1])[keep], ids[:, 1:][keep])
    return list(found.split([len(row) - 1 for row in rows]))


class MaskedLoss:
    """Loss of masked tokens in nats each (Devlin et al. 2019): of those to predict 80 % masked, 10 % random, 10 % kept.

    Args:
        model: a masked language model.
        tokenizer: its tokenizer.
        rate: share of tokens to predict.

    Raises:
        BadOption: the tokenizer has no mask token.
    """

    def __init__(self, model: nn.Module, tokenizer: LoadedTokenizer, rate: float) -> None:
        roles = tokenizer.vocab.roles
        if "mask" not in roles:
            raise BadOption(
                f"{tokenizer.where} has no mask token, so a masked model cannot be trained with it",
                hint="add one to the tokenizer's special tokens, or swap without --heal",
            )
        self.side, self.rate, self.mask = _ModelLoss(model, tokenizer), rate, roles["mask"]
        self.front = [roles[role] for role in ("cls", "bos") if role in roles][:1]
        self.back = [roles[role] for role in ("sep", "eos") if role in roles][:1]
        self.text_ids = torch.tensor(tokenizer.vocab.text_ids())

    def items(self, texts: Iterable[str], window: int) -> Iterator[Item]:
        """Windows between the marks that the model knows."""
        room = window - len(self.front) - len(self.back)
        for ids in packed_windows(texts, self.side.tokenizer.encode, room):
            yield [*self.front, *ids, *self.back]

    def __call__(self, items: Sequence[Item]) -> LossParts:
        """The loss of some windows; what is masked is drawn from torch's generator."""
        ids, real = padded([item for item in items if isinstance(item, list)], self.side.device)
        inner = real.clone()
        inner[:, : len(self.front)] = False
        if self.back:
            inner[torch.arange(len(ids)), real.sum(dim=1) - 1] = False
        chosen = self.choose(inner)
        hidden = self.side.hidden(self.corrupt(ids, chosen), real)
        return LossParts(-self.side.logprobs(hidden[chosen], ids[chosen]).sum(), int(chosen.sum()))

    def choose(self, inner: Tensor) -> Tensor:
        """Which positions to predict; at least one."""
        chosen = (torch.rand(inner.shape) < self.rate).to(inner.device) & inner
        if not chosen.any():
            chosen.view(-1)[inner.view(-1).nonzero()[0]] = True
        return chosen

    def corrupt(self, ids: Tensor, chosen: Tensor) -> Tensor:
        """Ids with the chosen positions masked, random, or as they were."""
        draw = torch.rand(ids.shape).to(ids.device)
        other = self.text_ids[torch.randint(len(self.text_ids), ids.shape)].to(ids.device)
        found = torch.where(chosen & (draw >= KEPT + RANDOM), self.mask, ids)
        return torch.where(chosen & (draw >= KEPT) & (draw < KEPT + RANDOM), other, found)


class LineLoss:
    """Distance of the line vectors (mean last hidden states) from those of the source model.

    Args:
        model: the swapped encoder.
        tokenizer: its tokenizer.
        teacher: the source encoder.
        teacher_tokenizer: its tokenizer.
    """

    def __init__(
        self, model: nn.Module, tokenizer: LoadedTokenizer, teacher: nn.Module, teacher_tokenizer: LoadedTokenizer
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.teacher, self.teacher_tokenizer = teacher, teacher_tokenizer
        self.device = next(model.parameters()).device

    def items(self, texts: Iterable[str], window: int) -> Iterator[Item]:
        """Lines with their marks, in both tokenizers' tokens, cut to the window."""
        for text in texts:
            for line in text.splitlines():
                if line.strip():
                    sides = (self.tokenizer, self.teacher_tokenizer)
                    mine, theirs = (list(one.backend.encode(line).ids)[:window] for one in sides)
                    if mine and theirs:
                        yield mine, theirs

    def __call__(self, items: Sequence[Item]) -> LossParts:
        """The loss of some lines."""
        pairs = [item for item in items if isinstance(item, tuple)]
        with torch.no_grad():
            wanted = self._vectors(self.teacher, [theirs for _, theirs in pairs])
        found = self._vectors(self.model, [mine for mine, _ in pairs])
        return LossParts(vector_distance(found, wanted), len(pairs))

    def _vectors(self, model: Any, rows: Sequence[list[int]]) -> Tensor:
        ids, real = padded(rows, self.device)
        with _autocast(self.device):
            hidden: Tensor = model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return (hidden.float() * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)


def _autocast(device: torch.device) -> Any:
    """Bfloat16 activations on a GPU; nothing on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
