"""OFA: shared rows copied, the others mixed from the nearest source tokens of one space."""

import numpy as np
import pytest
from tests.toy_vectors import dense, toy_pair, toy_texts, toy_vectors

from tokenlayer.core.errors import BadOption, BadVectors
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import StaticVectors
from tokenlayer.transfer.ofa import OfaConfig, ofa
from tokenlayer.transfer.token_vectors import from_words

WORDS = [t for t in toy_texts(150, 5) if t[0] != " "] + list("abcdeé")


def slow(pair, vectors, k: int, temperature: float) -> dict[int, np.ndarray]:
    """Loops over words and tokens: the plain mean of the words that hold a token, then softmax over neighbours."""
    tables = []
    for vocab in (pair.source, pair.target):
        held = [[] for _ in range(len(vocab))]
        for word in vectors.words:
            for text in (word, " " + word):
                for i in set(vocab.spell(text.encode())):
                    held[i].append(vectors.vector(word).astype(np.float64))
        tables.append([np.mean(h, axis=0) if h else None for h in held])
    rows = {}
    for i, mine in enumerate(tables[1]):
        if mine is not None and pair.matches[i] is None:
            cosine = {
                j: mine @ v / np.linalg.norm(mine) / np.linalg.norm(v) for j, v in enumerate(tables[0]) if v is not None
            }
            best = sorted(cosine, key=lambda j: (-round(cosine[j], 9), j))[:k]
            rows[i] = np.zeros(len(tables[0]))
            rows[i][best] = np.exp(np.array([cosine[j] for j in best]) / temperature)
            rows[i] /= rows[i].sum()
    return rows


def test_weights_equal_a_loop_over_words_and_tokens():
    pair, vectors = toy_pair(), toy_vectors(WORDS, 0, ngrams=False)
    plan = ofa(pair, vectors, warn=lambda said: None)
    expected = slow(pair, vectors, 10, 0.1)
    assert len(expected) == 20
    assert [i for i, rule in enumerate(plan.origin) if rule == "neighbours"] == sorted(expected)
    for i, row in expected.items():
        np.testing.assert_allclose(dense(plan)[i, :-1], row, atol=1e-6)


def test_shared_tokens_are_copied_and_the_rest_is_drawn():
    pair, vectors = toy_pair(), toy_vectors(WORDS, 0, ngrams=False)
    plan = ofa(pair, vectors, warn=lambda said: None)
    shared = [i for i, match in enumerate(pair.matches) if match is not None]
    assert [plan.shares(i) for i in shared] == [{pair.matches[i]: 1.0} for i in shared]
    drawn = [i for i, rule in enumerate(plan.origin) if rule == "gaussian"]
    assert plan.noise.rows.tolist() == drawn
    known = from_words(pair.target, vectors).table.any(dim=1).tolist()
    assert not any(known[i] for i in drawn)


def test_ngrams_can_stand_in_for_words():
    plan = ofa(toy_pair(), toy_vectors(WORDS, 0), OfaConfig(ngrams=True))
    assert set(plan.origin) == {"copy", "neighbours"}
    with pytest.raises(BadVectors, match="these vectors have no n-grams"):
        ofa(toy_pair(), toy_vectors(WORDS, 0, ngrams=False), OfaConfig(ngrams=True))


def test_a_low_coverage_is_warned_about_and_bad_numbers_are_refused():
    said: list[str] = []
    ofa(toy_pair(), toy_vectors(["ab"], 0, ngrams=False), warn=said.append)
    assert [s.split(":")[0] for s in said] == [
        "only 1.0% of the 198 source tokens have a vector",
        "only 0.7% of the 298 target tokens have a vector",
    ]
    with pytest.raises(BadOption, match="temperature is -1, expected above 0"):
        OfaConfig(temperature=-1.0)
    with pytest.raises(BadOption, match="neighbours is 999, the source has 200 tokens"):
        ofa(toy_pair(), toy_vectors(WORDS, 0), OfaConfig(ngrams=True, neighbours=999))


def test_vectors_of_two_languages_are_aligned_by_a_word_list():
    pair, source = toy_pair(), toy_vectors(WORDS, 0, ngrams=False)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0].astype(np.float32)
    target = StaticVectors(source.words, source.rows @ turn, source.counts)
    same = Dictionary.of([(word, word) for word in WORDS])
    quiet = {"warn": lambda said: None}
    turned = ofa(pair, target, source_vectors=source, dictionary=same, **quiet)
    np.testing.assert_allclose(dense(turned), dense(ofa(pair, source, **quiet)), atol=1e-4)
    assert not np.allclose(dense(ofa(pair, target, source_vectors=source, **quiet)), dense(turned), atol=1e-2)
    said = []
    ofa(pair, target, source_vectors=source, dictionary=Dictionary(same.pairs[:9], 10, 1), warn=said.append)
    assert [sentence for sentence in said if "aligned by only 9 word pairs" in sentence]
    with pytest.raises(BadVectors, match="no word pair has a vector on both sides"):
        ofa(pair, target, source_vectors=source, dictionary=Dictionary.of([("xyz", "zyx")]), **quiet)
