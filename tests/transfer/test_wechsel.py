"""WECHSEL against a transcription of the published code in NumPy, and each thing that is easy to get wrong."""

import json

import numpy as np
import pytest
import torch
from tests.tiny_tokenizers import FAMILIES, SENTENCES
from tests.toy_vectors import SPECIAL, dense, toy_pair, toy_texts, toy_vectors, toy_vocab

from tokenlayer.core.alignment import principal_axes
from tokenlayer.core.errors import BadOption, BadVectors
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.data.dictionaries import Dictionary
from tokenlayer.data.static_vectors import StaticVectors
from tokenlayer.data.vector_files import read_vectors, write_fasttext
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.initialisers import make_plan
from tokenlayer.transfer.materials import Given, Materials
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.token_vectors import from_ngrams, from_words, token_texts
from tokenlayer.transfer.wechsel import WechselConfig, shared_space, wechsel

WORDS_A, WORDS_B = [t for t in toy_texts(150, 5) if t[0] != " "], [t for t in toy_texts(160, 6) if t[0] != " "]
DICTIONARY = Dictionary.of([(a, b) for n, a in enumerate(WORDS_A) for b in WORDS_B[n : n + 2]])


def quiet(sentence: str) -> None:
    """Takes warnings that are not the point."""


def reference(pair: Pair, source, target, rotation, k=10, temperature=0.1) -> np.ndarray:
    """`create_target_embeddings` of CPJKU/wechsel: weights, zeros for rows without a vector; text tokens only."""
    tables = []
    for vocab, vectors in ((pair.source, source), (pair.target, target)):
        texts = [
            data.decode().strip() * (kind is Kind.NORMAL) for data, kind in zip(vocab.tokens, vocab.kinds, strict=True)
        ]
        tables.append(np.stack([vectors.vector(t) if t else np.zeros(vectors.dim) for t in texts]).astype(np.float64))
    left, right = tables[0] @ rotation, tables[1]
    alive = [j for j in range(len(left)) if left[j].any()]
    left /= np.linalg.norm(left, axis=1)[:, None] + 1e-8
    right /= np.linalg.norm(right, axis=1)[:, None] + 1e-8
    weights = np.zeros((len(right), len(left)))
    for i in range(len(right)):
        if right[i].any():
            cosines = right[i] @ left.T
            best = sorted(alive, key=lambda j: (-round(cosines[j], 9), j))[:k]
            shares = np.exp(cosines[best] / temperature)
            weights[i, best] = shares / shares.sum()
    return weights


def procrustes(source, target, dictionary) -> np.ndarray:
    """`_compute_align_matrix_from_dictionary`: all nine spellings, twice where they are the same."""
    left, right = [], []
    for one, other in dictionary.pairs:
        for a in (one, one.lower(), one.title()):
            for b in (other, other.lower(), other.title()):
                if source.find(a) is not None and target.find(b) is not None:
                    left.append(source.vector(a).astype(np.float64))
                    right.append(target.vector(b).astype(np.float64))
    u, _, vt = np.linalg.svd(np.stack(left).T @ np.stack(right))
    return u @ vt


def mixed_rows(plan) -> list[int]:
    return [i for i, rule in enumerate(plan.origin) if rule == "neighbours"]


@pytest.mark.parametrize("numbers", [{}, {"neighbours": 3, "temperature": 0.5}])
def test_weights_equal_the_published_code(numbers):
    pair, source, target = toy_pair(), toy_vectors(WORDS_A, 0), toy_vectors(WORDS_B, 1)
    plan = wechsel(pair, source, target, WechselConfig(**numbers), dictionary=DICTIONARY)
    expected = reference(
        pair, source, target, procrustes(source, target, DICTIONARY),
        numbers.get("neighbours", 10), numbers.get("temperature", 0.1),
    )  # fmt: skip
    rows = mixed_rows(plan)
    assert len(rows) == 298
    np.testing.assert_allclose(dense(plan)[rows, :-1], expected[rows], atol=1e-6)
    np.testing.assert_allclose(dense(plan).sum(axis=1), 1, atol=1e-6)


def test_the_rotation_goes_from_source_to_target():
    pair, source = toy_pair(), toy_vectors(WORDS_A, 0)
    pair = Pair(pair.source, pair.source)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0].astype(np.float32)
    target = StaticVectors(source.words, source.rows @ turn, source.counts, source.ngrams)
    same = Dictionary.of([(w, w) for w in WORDS_A])
    plan = wechsel(pair, source, target, dictionary=same)
    np.testing.assert_allclose(dense(plan), dense(wechsel(pair, source, source)), atol=1e-4)


def test_a_vocabulary_with_its_own_vectors_puts_each_token_first():
    pair, vectors = Pair(toy_pair().source, toy_pair().source), toy_vectors(WORDS_A, 0)
    plan, texts = wechsel(pair, vectors, vectors), token_texts(pair.source)
    for i in mixed_rows(plan):
        assert texts[max(plan.shares(i), key=plan.shares(i).get)] == texts[i]


def test_tokens_that_differ_by_a_space_get_one_row_unless_the_space_is_respected():
    texts = ["ab", " ab", "abc", " abc", "bcd", " bcd", "dea", " dea"]
    pair, vectors = Pair(toy_vocab(texts), toy_vocab(texts)), toy_vectors(WORDS_A, 0)
    two, three = 2, 3
    plan = wechsel(pair, vectors, vectors, WechselConfig(neighbours=4))
    assert plan.shares(two) == plan.shares(three)
    apart = wechsel(pair, vectors, vectors, WechselConfig(neighbours=4, respect_space=True))
    assert {i % 2 for i in apart.shares(two)} == {0}
    assert {i % 2 for i in apart.shares(three)} == {1}
    assert sorted(apart.shares(two).values()) == pytest.approx(sorted(apart.shares(three).values()))


def test_parts_of_a_character_are_copied_or_drawn_but_never_looked_up():
    source = toy_vocab(["ab", "abc", b"\xe2\x82", b"\xff"])
    pair, vectors = Pair(source, toy_vocab([b"\xe2\x82", "abd", b"\xf0"])), toy_vectors(WORDS_A, 0)
    config = WechselConfig(neighbours=2)
    plan = wechsel(pair, vectors, vectors, config)
    assert plan.origin[2:] == ("copy", "neighbours", "gaussian")
    assert plan.shares(2) == {4: 1.0}
    assert set(plan.shares(3)) == {2, 3}  # and not the broken source tokens, though U+FFFD has n-grams
    plan = wechsel(pair, vectors, vectors, WechselConfig(neighbours=2, copy_bytes=False))
    assert plan.origin[2:] == ("gaussian", "neighbours", "gaussian")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_looked_up_by_text_and_not_by_the_names_in_the_file(family):
    tokenizer = LoadedTokenizer(json.loads(FAMILIES[family]()))
    texts = token_texts(tokenizer.vocab)
    assert not [text for text in texts if text.startswith(("##", "Ġ", "▁", "<0x", "<s>", "[CLS]")) or "Ã" in text]
    assert {"в", "и"} <= set(texts)
    text = SENTENCES["en"] if family != "wordpiece" else SENTENCES["en"].lower()
    spelled = [texts[i] for i in tokenizer.encode(text) if texts[i]]
    assert "".join(spelled) == "".join(text.split())


def test_byte_tokens_are_copied_and_are_nobodys_neighbours():
    plain = toy_vocab(["ab", "b"])
    kinds = (*plain.kinds[:3], Kind.BYTE)
    source = ByteVocab(plain.tokens, kinds, plain.names, plain.roles)
    plan = wechsel(Pair(source, source), *[toy_vectors(["b"], 0)] * 2, WechselConfig(neighbours=2))
    assert plan.origin[2:] == ("neighbours", "copy")
    assert plan.shares(2) == {2: 1.0}
    assert plan.shares(3) == {3: 1.0}


def test_white_space_and_zero_vectors_have_no_neighbours_and_are_none():
    source, target = toy_vocab([" ", "ab", "zz", "ba"]), toy_vocab(["\n\n", "ab", "zz"])
    vectors = toy_vectors(["ab", "ba"], 0, ngrams=False)
    config = WechselConfig(neighbours=4, ngrams=False, copy_bytes=False)
    plan = wechsel(Pair(source, target), vectors, vectors, config)
    assert plan.origin[2:] == ("gaussian", "neighbours", "gaussian")
    assert set(plan.shares(3)) == {3, 5}
    assert sum(plan.shares(3).values()) == pytest.approx(1)


def test_rows_without_a_vector_are_drawn_by_the_seed_with_mean_and_spread_of_the_source():
    source, texts = toy_vocab(toy_texts(50, 0)), [b"\xf0" + bytes([i]) for i in range(128, 192)] * 40
    pair, vectors = Pair(source, toy_vocab(texts)), toy_vectors(WORDS_A, 0)
    old = torch.randn(52, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4]) + 5
    old[:2] = 1e4  # control tokens take no part
    drawn = wechsel(pair, vectors, vectors, warn=quiet).apply(old)[2:]
    torch.testing.assert_close(drawn.mean(0), old[2:].mean(0), atol=0.4, rtol=0)
    torch.testing.assert_close(drawn.std(0), old[2:].std(0, correction=0), atol=0.0, rtol=0.06)
    assert torch.equal(drawn, wechsel(pair, vectors, vectors, warn=quiet).apply(old)[2:])
    assert not torch.equal(drawn, wechsel(pair, vectors, vectors, WechselConfig(seed=1), warn=quiet).apply(old)[2:])


def test_control_tokens_go_by_name_and_role_and_never_by_their_text():
    source = toy_vocab(toy_texts(20, 0), {"<s>": "bos", "<|end|>": "eos", "<pad>": "pad"})
    target = toy_vocab(toy_texts(20, 1), {"<pad>": "pad", "</s>": "eos", "[CLS]": "bos"})
    vectors = toy_vectors([*WORDS_A, "<s>", "<pad>"], 0)
    plan = wechsel(Pair(source, target), vectors, vectors)
    assert [plan.shares(i) for i in range(3)] == [{2: 1.0}, {1: 1.0}, {0: 1.0}]
    assert plan.origin[:3] == ("copy", "role", "role")
    assert dense(plan)[3:, :3].sum() == 0


def test_overlap_is_copied_only_when_asked():
    pair, vectors = toy_pair(), toy_vectors(WORDS_A, 0)
    shared = [i for i, match in enumerate(pair.matches) if match is not None and i >= len(SPECIAL)]
    assert shared
    assert {wechsel(pair, vectors, vectors).origin[i] for i in shared} == {"neighbours"}
    plan = wechsel(pair, vectors, vectors, WechselConfig(copy_overlap=True))
    assert [plan.shares(i) for i in shared] == [{pair.matches[i]: 1.0} for i in shared]


def test_padded_rows_of_the_model_take_no_part():
    pair, vectors = toy_pair(), toy_vectors(WORDS_A, 0)
    old = torch.randn(264, 4, generator=torch.Generator().manual_seed(0))
    old[200:] = float("nan")
    assert torch.isfinite(wechsel(pair, vectors, vectors).apply(old)).all()


def test_word_mode_averages_the_words_that_a_token_occurs_in():
    vocab = toy_vocab(["a", "b", "c", " a", "ab", " ", " cab"])
    vectors = StaticVectors(("ab", "ba", "cab", "bab"), np.eye(4, dtype=np.float32), np.array([8, 4, 2, 1]))
    found = from_words(vocab, vectors, most_words=3).table.numpy()
    # ab -> [ab] and [ ,a,b]; ba -> [b,a] and [ ,b,a]; cab -> [c,a,b] and [ cab]; bab is past the third word
    expected = {"a": [8, 8, 2], "b": [8, 8, 2], "c": [0, 0, 2], "ab": [8, 0, 0], " cab": [0, 0, 2], " ": [8, 4, 0]}
    for text, weights in expected.items():
        row = np.array([*weights, 0]) / sum(weights)
        np.testing.assert_allclose(found[vocab.find(text.encode())], row, atol=1e-6)
    assert not found[vocab.find(b" a")].any()
    assert not found[0].any()


def test_word_mode_asks_the_tokenizer_when_it_has_one():
    vocab = toy_vocab(["a", "b", "ab"])
    found = from_words(vocab, toy_vectors(["ab"], 0, ngrams=False), encode=lambda texts: [[2, 3] for _ in texts])
    assert found.table.any(dim=1).tolist() == [False, False, True, True, False]


def test_word_mode_gives_a_plan_too():
    pair, vectors = toy_pair(), toy_vectors(WORDS_A + list("abcde"), 0, ngrams=False)
    plan = wechsel(pair, vectors, vectors, WechselConfig(ngrams=False), warn=quiet)
    assert mixed_rows(plan)
    np.testing.assert_allclose(dense(plan).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dims", [(12, 8), (8, 12)])
def test_the_wider_space_is_narrowed_whichever_it_is(dims):
    pair = toy_pair()
    source, target = toy_vectors(WORDS_A, 0, dim=dims[0]), toy_vectors(WORDS_B, 1, dim=dims[1])
    space = shared_space(pair, source, target, WechselConfig(), DICTIONARY)
    assert space.source.shape == (200, 8)
    assert space.target.shape == (300, 8)
    if dims[1] == 12:
        axes = principal_axes(torch.from_numpy(target.vectors(target.words)), 8)
        torch.testing.assert_close(space.target, from_ngrams(pair.target, target).table @ axes, atol=1e-5, rtol=0)
    else:
        assert torch.equal(space.target, from_ngrams(pair.target, target).table)


def test_a_thin_dictionary_is_warned_about_with_its_numbers():
    pair, source, target = toy_pair(), toy_vectors(WORDS_A, 0), toy_vectors(WORDS_B, 1)
    thin = Dictionary((*DICTIONARY.pairs[:9:2], ("no", "word")), 9, 3, ("line 2 has 1 fields",), "en-sw.tsv")
    said: list[str] = []
    wechsel(pair, source, target, dictionary=thin, warn=said.append)
    assert said[0] == "3 of 9 dictionary lines of en-sw.tsv were skipped: line 2 has 1 fields"
    assert "by only 5 word pairs from 5 of 6 dictionary pairs, expected at least 50" in said[1]
    assert "determine 5 of 12 dimensions" in said[2]
    with pytest.warns(UserWarning, match="5 word pairs"):
        wechsel(pair, source, target, dictionary=Dictionary.of(thin.pairs))


def test_a_dictionary_of_other_languages_is_an_error():
    pair, source = toy_pair(), toy_vectors(WORDS_A, 0)
    with pytest.raises(BadVectors, match="no word pair has a vector on both sides"):
        wechsel(pair, source, source, dictionary=Dictionary.of([("xyz", "zyx")]))


def test_vectors_without_ngrams_name_the_other_mode():
    with pytest.raises(BadVectors, match="these vectors have no n-grams") as caught:
        wechsel(toy_pair(), *[toy_vectors(WORDS_A, 0, ngrams=False)] * 2)
    assert "ngrams=False" in caught.value.hint


def test_vectors_of_another_script_are_warned_about_with_the_coverage():
    pair, vectors = toy_pair(), toy_vectors(["ab", "abc"], 0, ngrams=False)
    said: list[str] = []
    encode = lambda texts: [[i for i in ids if i == 2] for ids in pair.target.spell_all([t.encode() for t in texts])]  # noqa: E731
    with pytest.raises(BadVectors, match="no source token has a vector"):
        wechsel(pair, toy_vectors(["日"], 0, ngrams=False), vectors, WechselConfig(ngrams=False))
    source = toy_vectors([t for t in WORDS_A for _ in range(2)] + list("abcde"), 0, ngrams=False)
    wechsel(pair, source, vectors, WechselConfig(ngrams=False), target_encode=encode, warn=said.append)
    assert [s for s in said if "0.0% of the 298 target tokens have a vector" in s]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0, expected above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"neighbours": 0}, "neighbours is 0, expected at least 1"),
    ],
)
def test_bad_numbers_are_value_errors(numbers, said):
    with pytest.raises(ValueError, match=said):
        WechselConfig(**numbers)


def test_more_neighbours_than_source_tokens_is_a_value_error():
    vectors = toy_vectors(WORDS_A, 0)
    with pytest.raises(BadOption, match="neighbours is 201, the source has 200 tokens"):
        wechsel(toy_pair(), vectors, vectors, WechselConfig(neighbours=201))


def test_settings_come_from_a_file_and_the_seed_does_not(tmp_path):
    write_fasttext(toy_vectors(WORDS_A, 0), tmp_path / "a.bin")
    (tmp_path / "wechsel.toml").write_text("neighbours = 3\ntemperature = 0.5\nrespect_space = true\n")
    pair = toy_pair()
    given = Given(pair, materials=Materials(vectors=f"{tmp_path}/a.bin", init_config=f"{tmp_path}/wechsel.toml"))
    vectors = read_vectors(tmp_path / "a.bin")
    config = WechselConfig(neighbours=3, temperature=0.5, respect_space=True, seed=5)
    np.testing.assert_array_equal(dense(make_plan("wechsel", given, 5)), dense(wechsel(pair, vectors, vectors, config)))
    for text, said in (("seed = 3", "seed in .* is 3"), ("neighbour = 3", "is 'neighbour', expected one of")):
        (tmp_path / "wechsel.toml").write_text(text)
        with pytest.raises(BadOption, match=said):
            make_plan("wechsel", given, 5)
    (tmp_path / "wechsel.toml").write_text("most_words = 50\nngrams = false\n")
    assert "neighbours" in make_plan("wechsel", given, 5).origin


@pytest.mark.parametrize("init", ["wechsel", "ofa"])
def test_neither_a_file_nor_a_preset(init, tmp_path):
    write_fasttext(toy_vectors(WORDS_A, 0), tmp_path / "a.bin")
    given = Given(toy_pair(), materials=Materials(vectors=f"{tmp_path}/a.bin", init_config="fast"))
    with pytest.raises(BadOption, match=f"init config fast is neither a file nor a preset of {init}") as caught:
        make_plan(init, given)
    assert caught.value.hint == "presets: none"


def test_vectors_without_ngrams_are_used_by_words_and_that_is_said(tmp_path):
    vectors = toy_vectors(WORDS_A + list("abcde"), 0, ngrams=False)
    lines = [f"{w} " + " ".join(map(str, v)) for w, v in zip(vectors.words, vectors.rows.tolist(), strict=True)]
    (tmp_path / "a.vec").write_text("\n".join([f"{len(lines)} 12", *lines]))
    said = []
    given = Given(toy_pair(), materials=Materials(vectors=f"{tmp_path}/a.vec"), warn=said.append)
    plan = make_plan("wechsel", given, 1234)
    assert "token vectors are made from the words that a token occurs in" in said[0]
    read = read_vectors(tmp_path / "a.vec")
    expected = wechsel(toy_pair(), read, read, WechselConfig(ngrams=False), warn=quiet)
    np.testing.assert_allclose(dense(plan), dense(expected), atol=1e-6)
