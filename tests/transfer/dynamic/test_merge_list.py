"""Lists of merges as files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadText
from tokenlayer.transfer.dynamic.merge_list import read_merges, write_merges

SIDE = st.binary(min_size=1, max_size=5)


@given(st.lists(st.tuples(SIDE, SIDE), max_size=5))
def test_any_bytes_come_back(tmp_path_factory, merges):
    file = tmp_path_factory.mktemp("merges") / "merges.txt"
    write_merges(file, merges)
    assert read_merges(file) == tuple(merges)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(BadText, match="cannot read the merges"):
        read_merges(tmp_path / "none.txt")
    for text in ("a b c\n", "one\n", "a  b\n", "日 b\n"):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(BadText, match="line 1 of"):
            read_merges(tmp_path / "bad.txt")
