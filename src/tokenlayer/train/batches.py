"""Samples by step: numbered, taken until a step has its tokens, sorted by length, cut to what fits into memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from tokenlayer.core.errors import BadOption
from tokenlayer.train.objective import Shard

T = TypeVar("T")


class Sample(NamedTuple):
    """One item of the data.

    Attributes:
        number: its place in the data, however these are cut into batches; what it draws depends on it.
        item: token ids, or whatever the data hold.
    """

    number: int
    item: Any


class SampleStream(Generic[T]):
    """The samples of each step, from items in a fixed order.

    Args:
        items: without end, the same in every run and process.
        length: tokens of an item.
        batch_tokens: a step takes items until it has so many tokens, of all processes.
        micro_tokens: bound on the padded size of a micro-batch; one item alone may exceed it.

    Raises:
        BadOption: a bound is below 1.
    """

    def __init__(self, items: Iterator[T], length: Callable[[T], int], *, batch_tokens: int, micro_tokens: int) -> None:
        if min(batch_tokens, micro_tokens) < 1:
            raise BadOption(f"batch_tokens is {batch_tokens} and micro_tokens {micro_tokens}, expected at least 1")
        self.items, self.length = items, length
        self.batch_tokens, self.micro_tokens = batch_tokens, micro_tokens
        self._numbers = self._next_step = 0
        self._last: list[Sample] = []

    def step(self, step: int, shard: Shard = Shard()) -> Iterator[list[Sample]]:
        """The micro-batches of a step for one process: neighbours by length.

        Args:
            step: counted from 0 over the whole run; those before it are passed over, the last one can be had again.
            shard: every process reads all items and takes its part.

        Raises:
            BadOption: the step is over.
        """
        if step < self._next_step - 1:
            raise BadOption(
                f"step {step} was asked for after step {self._next_step - 1}", hint="make a new stream to begin again"
            )
        while self._next_step <= step:
            self._last = self._take()
        mine = sorted(self._last, key=self._length_of)[shard.rank :: shard.ranks]
        yield from micro_batches(mine, self._length_of, self.micro_tokens)

    def _length_of(self, sample: Sample) -> int:
        return self.length(sample.item)

    def _take(self) -> list[Sample]:
        taken: list[Sample] = []
        tokens = 0
        while tokens < self.batch_tokens:
            item = next(self.items)
            taken.append(Sample(self._numbers, item))
            self._numbers += 1
            tokens += self.length(item)
        self._next_step += 1
        return taken


def micro_batches(samples: Sequence[T], length: Callable[[T], int], most_tokens: int) -> Iterator[list[T]]:
    """Samples that are sorted by length, in parts whose padded size stays within a bound (one alone may exceed it)."""
    held: list[T] = []
    for sample in samples:
        if held and (len(held) + 1) * length(sample) > most_tokens:
            yield held
            held = []
        held.append(sample)
    if held:
        yield held


def padded(rows: Sequence[Sequence[int]], device: torch.device, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Ids filled up to one length, and which of them are real; both of shape `(batch, seq)`."""
    lengths = torch.tensor([len(row) for row in rows])
    seq = int(lengths.max())
    ids = torch.tensor([[*row, *[fill] * (seq - len(row))] for row in rows], dtype=torch.int64)
    return ids.to(device), (torch.arange(seq) < lengths[:, None]).to(device)
