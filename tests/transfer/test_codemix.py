"""Code-mixing: what is replaced, how much at most, and corpora that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.transfer.codemix import CodemixConfig, align_words, codemix, codemix_parallel, mix

PAIRS = [("house", "Haus"), ("home", "Haus"), ("the", "das"), ("big", "gross"), ("is", "ist"), ("here", "hier")]


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_words_are_replaced_in_place_with_their_signs_and_capitals():
    config = CodemixConfig(longest_span=1.0, most_replaced=1.0)
    assert list(codemix(['"Das Haus", sagt er, ist gross!', ""], PAIRS, config)) == [
        '"The house", sagt er, is big!',
        "",
    ]


@given(st.integers(1, 40), st.integers(0, 100))
def test_no_more_than_half_is_replaced_and_the_length_stays(length, seed):
    text = " ".join("das" if n % 3 else "kein" for n in range(length))
    (mixed,) = codemix([text], PAIRS, seed=seed)
    words = mixed.split()
    assert len(words) == length
    assert words.count("the") <= length // 2
    assert {w for w, old in zip(words, text.split(), strict=True) if w != old} <= {"the"}


def test_about_half_is_replaced_where_the_dictionary_allows():
    (mixed,) = codemix(["das ist hier gross " * 10], PAIRS)
    assert sum(word in ("the", "is", "here", "big") for word in mixed.split()) == 20


def test_the_same_seed_gives_the_same_text_whatever_came_before():
    texts = ["das ist hier gross", "gross ist das Haus hier und das ist das Haus"]
    assert list(codemix(texts, PAIRS, seed=3)) == list(codemix(texts, PAIRS, seed=3))
    assert list(codemix(["x y z", texts[1]], PAIRS, seed=3))[1] == list(codemix(texts, PAIRS, seed=3))[1]
    assert len({next(codemix(texts[1:], PAIRS, seed=s)) for s in range(20)}) > 3


def test_words_are_linked_to_the_nearest_translation():
    to_target = {"the": ["das", "der"], "house": ["Haus"]}
    links = align_words(["the", "house", "and", "The", "tree"], ["das", "Haus", "und", "der", "Baum"], to_target)
    assert links == {0: [0], 1: [1], 3: [3]}


def test_images_of_spans_are_replaced_by_the_spans():
    """All that the sentence allows: two of four words."""
    source, target = ["a", "b", "c", "d"], ["A", "B", "C", "D"]
    links = {i: [i] for i in range(4)}
    config = CodemixConfig(farthest=1.0)
    seen = {" ".join(mix(source, target, links, config, drawn(s))) for s in range(60)}
    assert seen == {"a b C D", "a B c D", "a B C d", "A b c D", "A b C d", "A B c d"}


def test_an_image_is_replaced_from_its_first_to_its_last_word():
    source, target = ["one", "two", "three", "four", "five"], ["eins", "zwei", "drei", "vier", "fuenf"]
    config = CodemixConfig(farthest=1.0, longest_span=0.2, most_replaced=0.2)
    made = {" ".join(mix(source, target, {1: [1, 3]}, config, drawn(s))) for s in range(20)}
    assert made == {"eins two fuenf"}


@given(st.integers(0, 200), st.integers(1, 25), st.integers(1, 25))
def test_spans_keep_the_limits_and_never_overlap(seed, n_source, n_target):
    draw = drawn(seed)
    source, target = [f"s{i}" for i in range(n_source)], [f"t{j}" for j in range(n_target)]
    links = {
        i: draw.integers(n_target, size=draw.integers(1, 3)).tolist() for i in range(n_source) if draw.random() < 0.8
    }
    words = mix(source, target, links, CodemixConfig(farthest=1.0), draw)
    placed = [word for word in words if word[0] == "s"]
    assert len(placed) == len(set(placed)) <= n_source // 2
    kept = [int(word[1:]) for word in words if word[0] == "t"]
    assert kept == sorted(set(kept))
    if n_source >= 2 and not placed:
        assert kept == list(range(n_target))


def test_images_that_meet_are_not_both_taken():
    source, target = ["a", "b", "c", "d"], ["A", "B", "C", "D"]
    links, config = {0: [0, 3], 2: [1, 2]}, CodemixConfig(longest_span=0.0, farthest=1.0)
    assert {" ".join(mix(source, target, links, config, drawn(s))) for s in range(30)} == {"a", "A c D"}


def test_one_span_is_no_longer_than_its_share():
    source, target = [f"s{i}" for i in range(20)], ["t"] * 20
    runs = []
    for seed in range(50):
        words = mix(
            source, target, {i: [i] for i in range(20)}, CodemixConfig(farthest=1.0, most_replaced=0.4), drawn(seed)
        )
        at = [int(w[1:]) for w in words if w[0] == "s"]
        runs.append(len(at))
    assert max(runs) <= 8


def test_a_span_whose_image_is_too_far_away_is_passed_over():
    source, target = ["a", "b", "c", "d", "e", "f"], ["A", "B", "C", "D", "E", "F"]
    links = {0: [5], 2: [2]}
    seen = {" ".join(mix(source, target, links, CodemixConfig(longest_span=0.0), drawn(s))) for s in range(30)}
    assert seen == {"A B c D E F"}
    far = {
        " ".join(mix(source, target, links, CodemixConfig(longest_span=0.0, farthest=1.0), drawn(s))) for s in range(30)
    }
    assert far == {"A B c D E a"}


def test_parallel_text_is_mixed_line_by_line():
    made = list(codemix_parallel(["the house is big", ""], ["das Haus ist gross", "leer"], PAIRS))
    assert made[1] == "leer"
    assert sum(word in ("the", "house", "is", "big") for word in made[0].split()) == 2


def test_bad_input_is_refused_at_once():
    with pytest.raises(BadText, match="the parallel corpus has 3 source lines and 2 target lines"):
        codemix_parallel(["a", "b", "c"], ["A", "B"], PAIRS)
    with pytest.raises(BadText, match="the dictionary has no word pair"):
        codemix_parallel(["a"], ["A"], [])
    with pytest.raises(BadText, match="the dictionary has no word pair"):
        list(codemix(["a"], [("", "x")]))
    with pytest.raises(BadOption, match="longest_span is 1.5, expected 0 to 1"):
        CodemixConfig(longest_span=1.5)
    with pytest.raises(BadOption, match="tries is 0, expected at least 1"):
        CodemixConfig(tries=0)


def test_defaults_are_the_papers():
    assert CodemixConfig() == CodemixConfig(0.4, 0.5, 0.75, 1000)
