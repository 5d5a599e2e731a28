"""Texts as windows of tokens for training: joined, cut to one length, mixed from several sources, without padding."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator

PARTED = "\n\n"
"""Between the documents of a stream."""
BLOCK_CHARS = 65_536
"""Documents are joined up to about this size before they are encoded."""

Encode = Callable[[str], Sequence[int]]
T = TypeVar("T")


def packed_windows(
    texts: Iterable[str], encode: Encode, length: int, *, start_id: int | None = None
) -> Iterator[list[int]]:
    """Joins texts by empty lines and cuts their tokens into windows.

    Args:
        texts: documents, in the order in which they are read.
        encode: text -> token ids.
        length: tokens of a window, the start token included.
        start_id: goes in front of every window, as in scoring; None puts nothing there.

    Returns:
        Windows of exactly `length` tokens. The last tokens, which do not fill one, are left out, unless there is no
        other window: then one shorter window comes, of at least two tokens.

    Raises:
        BadOption: `length` has no room for a token to predict.
    """
    front = [] if start_id is None else [start_id]
    room = length - len(front)
    if length < 2:
        raise BadOption(f"a window has {length} tokens, expected at least 2")
    held: list[int] = []
    made = False
    for block in _blocks(texts):
        held.extend(encode(block))
        full = len(held) - len(held) % room
        for at in range(0, full, room):
            made = True
            yield front + held[at : at + room]
        del held[:full]
    if not made and len(front) + len(held) >= 2:
        yield front + held


def shuffled(windows: Iterable[T], seed: int, buffer: int = 512) -> Iterator[T]:
    """Gives windows in a random order that needs only `buffer` of them in memory."""
    draw = numpy_generator(seed, "window-order")
    held: list[T] = []
    for window in windows:
        if len(held) < buffer:
            held.append(window)
            continue
        at = int(draw.integers(buffer))
        yield held[at]
        held[at] = window
    for at in draw.permutation(len(held)):
        yield held[at]


def mixed(streams: Sequence[Callable[[int], Iterable[T]]], weights: Sequence[float], seed: int) -> Iterator[T]:
    """An endless mixture: each window comes from a stream drawn by weight; a stream that ends is begun again.

    Args:
        streams: each is called with the number of the pass and starts over.
        weights: how often each is drawn, relative to the others.
        seed: for the drawing.

    Raises:
        BadText: a stream has no windows.
    """
    draw = numpy_generator(seed, "window-mixture")
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    running = [iter(stream(0)) for stream in streams]
    passes = [0] * len(streams)
    while True:
        at = int(draw.choice(len(streams), p=shares))
        found = next(running[at], None)
        if found is None:
            passes[at] += 1
            running[at] = iter(streams[at](passes[at]))
            found = next(running[at], None)
        if found is None:
            raise BadText(f"text {at + 1} of {len(streams)} is too short to train on", hint="give a longer text")
        yield found


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BLOCK_CHARS:
            yield PARTED.join([*held, ""])
            held, size = [], 0
    if held:
        yield PARTED.join(held)
