"""What a swapped model is trained on, by kind of model: windows or lines in, a sum of losses and its count out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tokenlayer.core.errors import BadOption
from tokenlayer.data.packing import packed_windows
from tokenlayer.models.losses import check_head, token_logprobs
from tokenlayer.models.score import token_ends
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.train.batches import Sample, padded
from tokenlayer.train.language import LanguageModel, Masked, Masking
from tokenlayer.train.objective import LossParts
from tokenlayer.transfer.distill import span_divergence, span_numbers, span_sums, vector_distance

Pair = tuple[list[int], list[int]]
Item = list[int] | Pair
"""Token ids of a window; for encoders those of a line in the target's and in the source's tokens."""


def item_length(item: Item) -> int:
    """Target tokens of an item."""
    return len(item[0]) if isinstance(item, tuple) else len(item)


class _ModelLoss:
    """A model with its output head, checked against the model's own logits."""

    def __init__(self, model: nn.Module, tokenizer: LoadedTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.net = LanguageModel(model, len(tokenizer.vocab))
        self.device = self.net.device
        probe = torch.tensor([tokenizer.encode("a b c")[:8]], device=self.device)
        training = model.training
        with torch.inference_mode():
            check_head(model.eval(), self.net.head, probe)
        model.train(training)

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities in nats, shape `(tokens,)`."""
        return token_logprobs(self.net.head, hidden, targets)


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

    def prepare(self, samples: Sequence[Sample], seed: int) -> list[list[int]]:
        """Windows as they are."""
        return [sample.item for sample in samples]

    def terms(self, rows: Sequence[list[int]]) -> int:
        """Tokens that are predicted."""
        return sum(len(row) - 1 for row in rows)

    def __call__(self, rows: Sequence[list[int]]) -> LossParts:
        """The loss of some windows."""
        logprobs = _causal_logprobs(self.student, rows)
        total = -torch.cat(logprobs).sum()
        if self.teacher is not None and self.share:
            total = (1 - self.share) * total + self.share * self._divergence(rows, logprobs)
        return LossParts(total, sum(len(row) for row in logprobs))

    def _divergence(self, rows: Sequence[list[int]], logprobs: list[Tensor]) -> Tensor:
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
    found = side.logprobs(side.net.hidden(ids[:, :-1], real[:, :-1])[keep], ids[:, 1:][keep])
    return list(found.split([len(row) - 1 for row in rows]))


class MaskedLoss:
    """Loss of masked tokens in nats each, see `Masking`.

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
        self.side = _ModelLoss(model, tokenizer)
        self.front = [roles[role] for role in ("cls", "bos") if role in roles][:1]
        self.back = [roles[role] for role in ("sep", "eos") if role in roles][:1]
        edges = (len(self.front), len(self.back))
        self.masking = Masking(roles["mask"], tokenizer.vocab.text_ids(), edges=edges, rate=rate)

    def items(self, texts: Iterable[str], window: int) -> Iterator[Item]:
        """Windows between the marks that the model knows."""
        room = window - len(self.front) - len(self.back)
        for ids in packed_windows(texts, self.side.tokenizer.encode, room):
            yield [*self.front, *ids, *self.back]

    def prepare(self, samples: Sequence[Sample], seed: int) -> Masked:
        """Windows, masked."""
        return self.masking(samples, seed, self.side.device)

    def terms(self, batch: Masked) -> int:
        """Tokens that are predicted."""
        return int(batch.chosen.sum())

    def __call__(self, batch: Masked) -> LossParts:
        """The loss of some windows."""
        hidden = self.side.net.hidden(batch.ids, batch.real)
        logprobs = self.side.logprobs(hidden[batch.chosen], batch.targets[batch.chosen])
        return LossParts(-logprobs.sum(), len(logprobs))


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

    def prepare(self, samples: Sequence[Sample], seed: int) -> list[Pair]:
        """Lines as they are."""
        return [sample.item for sample in samples]

    def terms(self, pairs: Sequence[Pair]) -> int:
        """Lines."""
        return len(pairs)

    def __call__(self, pairs: Sequence[Pair]) -> LossParts:
        """The loss of some lines."""
        with torch.no_grad():
            wanted = self._vectors(self.teacher, [theirs for _, theirs in pairs])
        found = self._vectors(self.model, [mine for mine, _ in pairs])
        return LossParts(vector_distance(found, wanted), len(pairs))

    def _vectors(self, model: Any, rows: Sequence[list[int]]) -> Tensor:
        ids, real = padded(rows, self.device)
        hidden: Tensor = model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        return (hidden.float() * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
