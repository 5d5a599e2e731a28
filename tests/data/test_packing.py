"""Windows of tokens: what they hold, their order, mixtures."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.data import packing
from tokenlayer.data.packing import mixed, packed_windows, shuffled


def encode(text):
    return list(text.encode())


@given(st.lists(st.text(max_size=12), max_size=12), st.integers(3, 9), st.booleans(), st.integers(1, 20))
def test_windows_are_the_joined_text(texts, length, starts, block):
    start = 999 if starts else None
    before = packing.BLOCK_CHARS
    packing.BLOCK_CHARS = block
    try:
        found = list(packed_windows(texts, encode, length, start_id=start))
    finally:
        packing.BLOCK_CHARS = before
    whole = "\n\n".join(texts).encode()
    room = length - starts
    assert all(window[0] == start for window in found if starts)
    spelled = b"".join(bytes(window[starts:]) for window in found)
    assert (whole + b"\n\n").startswith(spelled)
    if len(found) > 1 or len(whole) >= room:
        assert all(len(window) == length for window in found)
        assert len(whole) - len(spelled) < room
    elif found:
        assert spelled.rstrip(b"\n") == whole.rstrip(b"\n")


def test_a_window_needs_room():
    with pytest.raises(BadOption, match="a window has 1 tokens, expected at least 2"):
        list(packed_windows(["a"], encode, 1))


def test_shuffled_keeps_every_window_and_is_the_same_for_a_seed():
    windows = [[n] for n in range(100)]
    one, again, other = (list(shuffled(windows, seed, buffer=16)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one != windows
    assert sorted(one) == windows


def test_mixed_draws_by_weight_and_begins_again():
    def numbered(label, n):
        return lambda turn: ([label, turn, i] for i in range(n))

    count = 4000
    found = list(islice(mixed([numbered(0, 3), numbered(1, 1000)], [1.0, 3.0], seed=0), count))
    first = [window for window in found if window[0] == 0]
    spread = 4 * (0.25 * 0.75 / count) ** 0.5  # four standard deviations of a share
    assert abs(len(first) / count - 0.25) < spread
    assert first[:4] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]


def test_a_stream_without_windows_is_an_error():
    with pytest.raises(BadText, match="text 2 of 2 is too short to train on"):
        list(islice(mixed([lambda turn: [[1]], lambda turn: []], [1.0, 1.0], seed=0), 50))
