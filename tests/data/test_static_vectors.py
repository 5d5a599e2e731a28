"""Word vectors: n-grams by the letter of fastText, files that lie, training that repeats itself."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadVectors, MissingExtra
from tokenlayer.data import static_vectors
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import (
    NgramConfig,
    StaticVectors,
    VectorConfig,
    match_pairs,
    ngram_hashes,
    split_words,
    train_vectors,
)
from tokenlayer.data.vector_files import read_vectors, write_fasttext

WORDS = ("the", "nyumba", "naïve", "日本語", "a", "the")


NGRAMS = NgramConfig(2, 4, 50)


def vectors(ngrams: NgramConfig | None = NGRAMS, dim: int = 6) -> StaticVectors:
    rows = np.random.default_rng(0).normal(size=(len(WORDS) + (ngrams.buckets if ngrams else 0), dim))
    return StaticVectors(WORDS, rows.astype(np.float32), np.arange(len(WORDS), 0, -1), ngrams)


def slow_hashes(word: str, min_n: int, max_n: int) -> list[int]:
    """`Dictionary::computeSubwords` of fastText, character by character."""
    marked, found = f"<{word}>", []
    for start in range(len(marked)):
        for n in range(min_n, max_n + 1):
            gram = marked[start : start + n]
            if len(gram) == n and not (n == 1 and (start == 0 or start + n == len(marked))):
                h = 2166136261
                for byte in gram.encode("utf-8", "surrogatepass"):
                    h = ((h ^ ((byte - 256 if byte > 127 else byte) % 2**32)) * 16777619) % 2**32
                found.append(h)
    return found


@given(
    st.lists(st.text(st.characters(), max_size=6), max_size=5),
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 5))),
)
def test_hashes_are_those_of_fasttext(words, lengths):
    owners, hashes = ngram_hashes(words, *lengths)
    for i, word in enumerate(words):
        assert sorted(hashes[owners == i].tolist()) == sorted(slow_hashes(word, *lengths))
    assert owners.tolist() == sorted(owners.tolist())


def test_a_vector_is_the_mean_of_the_words_row_and_its_ngrams():
    found = vectors()
    for word in ("the", "unknown", "日本", ""):
        rows = [len(WORDS) + h % 50 for h in slow_hashes(word, 2, 4)]
        rows += [WORDS.index(word)] if word in WORDS else []
        np.testing.assert_allclose(found.vector(word), found.rows[rows].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_many_words_give_what_one_by_one_gives(monkeypatch):
    monkeypatch.setattr(static_vectors, "LOOKED_UP", 2)
    found, words = vectors(), ["the", "zebra", "", "naïve", "日本語"]
    np.testing.assert_array_equal(found.vectors(words), np.stack([found.vector(w) for w in words]))
    assert found.vectors([]).shape == (0, 6)


def test_without_ngrams_an_unknown_word_has_zeros():
    found = vectors(None)
    assert not found.vector("unknown").any()
    np.testing.assert_array_equal(found.vector("a"), found.rows[4])
    assert found.find("the") == 0


def test_a_word_too_short_for_any_ngram_has_zeros():
    assert not vectors(NgramConfig(5, 5, 50)).vector("").any()


def test_frequencies_are_relative_counts_or_zipf():
    np.testing.assert_allclose(vectors().frequencies(), np.arange(6, 0, -1) / 21, rtol=1e-6)
    blind = StaticVectors(("a", "b"), np.ones((2, 1), np.float32))
    np.testing.assert_allclose(blind.frequencies(), [2 / 3, 1 / 3], rtol=1e-6)


def test_pairs_are_tried_as_they_are_lower_and_title():
    source = StaticVectors(("house", "Kenya", "old"), np.eye(3, dtype=np.float32))
    target = StaticVectors(("nyumba", "Nyumba", "kenya"), np.eye(3, dtype=np.float32))
    found = match_pairs(Dictionary.of([("House", "nyumba"), ("KENYA", "KENYA"), ("old", "zee")]), source, target)
    # House: lower "house" once; nyumba: as is, lower -> row 0 twice, title -> row 1 once. KENYA: title x lower.
    pairs = {
        (int(s.argmax()), int(t.argmax())): int(n)
        for s, t, n in zip(found.source, found.target, found.times, strict=True)
    }
    assert pairs == {(0, 0): 2, (0, 1): 1, (1, 2): 1}
    assert found.entries == 2


def test_fasttext_files_are_read_as_gensim_reads_them(tmp_path):
    fasttext = pytest.importorskip("gensim.models.fasttext")
    ours = vectors()
    ours = StaticVectors(WORDS[:5], ours.rows[: 5 + 50], ours.counts[:5], ours.ngrams)
    write_fasttext(ours, tmp_path / "v.bin")
    theirs, again = fasttext.load_facebook_vectors(tmp_path / "v.bin"), read_vectors(tmp_path / "v.bin")
    assert again.words == tuple(theirs.index_to_key) == ours.words
    assert (again.ngrams, again.counts.tolist()) == (ours.ngrams, ours.counts.tolist())
    words = ["the", "nyumbani", "日本", "naïve", "zz"]
    np.testing.assert_allclose(again.vectors(words), np.stack([theirs[w] for w in words]), rtol=1e-5, atol=1e-6)
    assert isinstance(again.rows, np.memmap)


def test_whole_words_survive_a_fasttext_file(tmp_path):
    write_fasttext(vectors(None), tmp_path / "v.bin")
    assert read_vectors(tmp_path / "v.bin").ngrams is None


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_files_are_read(binary, tmp_path):
    ours = vectors(None)
    path = tmp_path / "v.vec"
    with path.open("wb") as file:
        file.write(b"6 6\n")
        for word, row in zip(WORDS, ours.rows, strict=True):
            numbers = row.tobytes() if binary else " ".join(map(repr, row.tolist())).encode()
            file.write(word.encode() + b" " + numbers + b"\n")
    again = read_vectors(path)
    assert (again.words, again.counts) == (WORDS, None)
    np.testing.assert_array_equal(again.rows, ours.rows)
    assert read_vectors(path, most_words=2).words == WORDS[:2]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadVectors, match="in word 5 of 6" if binary else "line 7: "):
        read_vectors(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no file of word vectors: it begins with b''"),
        (b"the 0.1 0.2\n", "expected the number of words and of dimensions"),
        (b"9000000000 300\nthe 0.1", "claims 9000000000 vectors of 300 dimensions, more than its 22 bytes can hold"),
        (b"1 0\nthe", "vectors have 0 dimensions"),
        (b"1 2\nthe 0.1 ee\n", "line 2: not all of its fields are numbers"),
        (b"1 2\nthe 0.1 nan\n", "the vector of 'the' has an entry that is not a finite number"),
    ],
)
def test_files_of_another_kind_are_refused(data, said, tmp_path):
    (tmp_path / "v.vec").write_bytes(data)
    with pytest.raises(BadVectors, match=said):
        read_vectors(tmp_path / "v.vec")


@pytest.mark.parametrize(
    ("at", "format", "value", "said"),
    [
        (4, "<i", 11, "is fastText version 11, expected 12"),
        (8, "<i", 7, "has a matrix of 56 x 6, expected 6 words . 50 buckets by 7"),
        (64, "<2i", (2**30, 2**30), "claims 1073741824 words, more than its"),
        (72, "<i", 3, "is a fastText classifier with 3 labels"),
        (84, "<q", 5, "has a pruned vocabulary"),
    ],
)
def test_fasttext_files_that_lie_about_sizes_are_refused(at, format, value, said, tmp_path):
    write_fasttext(vectors(), tmp_path / "v.bin")
    data = bytearray((tmp_path / "v.bin").read_bytes())
    struct.pack_into(format, data, at, *(value if isinstance(value, tuple) else (value,)))
    (tmp_path / "v.bin").write_bytes(data)
    with pytest.raises(BadVectors, match=said):
        read_vectors(tmp_path / "v.bin")


def test_a_fasttext_file_cut_off_anywhere_is_refused(tmp_path):
    write_fasttext(vectors(), tmp_path / "v.bin")
    data = (tmp_path / "v.bin").read_bytes()
    begin_of_output = len(data) - 4 * 6 * 6 - 17
    for end in (*range(8, 300, 7), begin_of_output - 1):
        (tmp_path / "cut.bin").write_bytes(data[:end])
        with pytest.raises(BadVectors):
            read_vectors(tmp_path / "cut.bin")


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(BadVectors, match="there are 3 rows for 2 words and n-gram buckets"):
        StaticVectors(("a", "b"), np.ones((3, 2), np.float32))
    with pytest.raises(BadVectors, match="there are 1 counts for 2 words"):
        StaticVectors(("a", "b"), np.ones((2, 2), np.float32), np.ones(1, np.int64))
    with pytest.raises(BadOption, match="min_n is 3 and max_n is 2"):
        NgramConfig(3, 2, 5)
    with pytest.raises(BadOption, match="epochs is 0, expected at least 1"):
        VectorConfig(epochs=0)


TEXTS = ["the cat sat on the mat . the dog sat on the log ."] * 40
SMALL = VectorConfig(dim=8, epochs=2, min_count=2, min_n=3, max_n=4, buckets=200)


def test_training_repeats_itself_and_follows_its_seed():
    pytest.importorskip("gensim")
    one, two = train_vectors(TEXTS, SMALL), train_vectors(lambda: iter(TEXTS), SMALL)
    np.testing.assert_array_equal(one.rows, two.rows)
    assert one.words == two.words
    assert one.words[0] == "the"
    assert one.counts[0] == 160
    assert (one.dim, one.ngrams) == (8, NgramConfig(3, 4, 200))
    other = train_vectors(TEXTS, VectorConfig(dim=8, epochs=2, min_count=2, min_n=3, max_n=4, buckets=200, seed=1))
    assert not np.array_equal(one.rows, other.rows)


def test_whole_words_can_be_trained_alone():
    pytest.importorskip("gensim")
    found = train_vectors(TEXTS, VectorConfig(dim=4, epochs=1, min_n=0, max_n=0))
    assert found.ngrams is None
    assert not found.vector("catt").any()


def test_no_word_of_a_long_line_is_lost():
    pytest.importorskip("gensim")
    found = train_vectors(["the cat " * 9000], VectorConfig(dim=4, epochs=1, min_n=0, max_n=0))
    assert found.counts.tolist() == [9000, 9000]


def test_text_without_a_frequent_word_is_refused():
    pytest.importorskip("gensim")
    with pytest.raises(BadVectors, match="no word of the text is seen 5 times"):
        train_vectors(["every word once"], VectorConfig(dim=4))


def test_words_are_runs_of_letters_or_single_signs():
    assert split_words("Il n'y a rien, 日本!") == ["Il", "n", "'", "y", "a", "rien", ",", "日本", "!"]


def test_training_without_gensim_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(MissingExtra, match="training word vectors needs gensim") as caught:
        train_vectors(TEXTS, SMALL)
    assert caught.value.hint == "pip install 'tokenlayer[vectors]'"
