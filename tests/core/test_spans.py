import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.spans import Spans, align, shared_ends

cuts = st.lists(st.binary(max_size=3), max_size=8)


@given(cuts)
def test_cut_gives_the_pieces_back(pieces):
    assert Spans.from_pieces(pieces).cut(b"".join(pieces)) == pieces


@given(st.binary(max_size=12), st.data())
def test_alignment_covers_both_cuts_once_with_equal_bytes(data, draw):
    def cut():
        inner = draw.draw(st.lists(st.integers(0, len(data)), max_size=6))
        ends = sorted([*inner, len(data)])
        return Spans(tuple(ends))

    one, other = cut(), cut()
    groups = align(one, other)
    assert [i for mine, _ in groups for i in mine] == list(range(len(one)))
    assert [j for _, theirs in groups for j in theirs] == list(range(len(other)))
    for mine, theirs in groups:
        assert b"".join(one.cut(data)[i] for i in mine) == b"".join(other.cut(data)[j] for j in theirs)
    assert len(groups) == len(shared_ends(one, other))


def test_groups_are_the_smallest():
    groups = align(Spans((2, 3, 6)), Spans((1, 3, 6)))
    assert groups == [(range(0, 2), range(0, 2)), (range(2, 3), range(2, 3))]


def test_different_lengths_and_descending_ends_are_refused():
    with pytest.raises(ValueError, match="same bytes: 3 and 4"):
        align(Spans((3,)), Spans((4,)))
    with pytest.raises(ValueError, match="must not descend: 1 after 2"):
        Spans((2, 1))
    with pytest.raises(ValueError, match="cover 2 bytes, the text has 3"):
        Spans((2,)).cut(b"abc")
