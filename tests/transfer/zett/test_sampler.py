"""Sampled vocabularies: counts and ranks against the plain way, the noise, the cut, and the queue."""

import math
import subprocess
import sys
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from tokenlayer.core.byte_alphabet import from_alphabet
from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.transfer.zett import sampler
from tokenlayer.transfer.zett.sampler import NEVER, SampledVocab, SamplerConfig, SubstringPool, pre_tokens

FIXED = 256 + 9 * 15
ENGLISH = "The cat sat on the mat. The cat's hat; the cats' hats!\n\n\tThat was 12345 cats ago,  the end.\n"
MANY = [
    ENGLISH,
    "Über den Dächern von Köln läuft eine große Katze, die Mäuse mag.",
    "नमस्ते दुनिया, यह एक परीक्षण है",
    "قطة على السجادة والقطط كثيرة",
    "猫坐在垫子上，猫很多。猫坐在垫子上",
    "แมวนั่งอยู่บนเสื่อ",
    "e\u0301te\u0301 cafe\u0301 👩‍👩‍👧 naïve  \t\t x\x00y",
    "def f(x):\n\tif x:\n\t\treturn x ** 2\n    \n",
]
SMALL = SamplerConfig(vocab_size=FIXED + 60, queue_texts=6, stride=1, noise=False)
ANY_TEXT = st.text(
    st.sampled_from("ab \n\t'sé1猫ก\u0301.\u00a0") | st.characters(exclude_categories=["Cs"]), max_size=40
)


def changed(config=SMALL, **fields):
    return SamplerConfig(**{name: getattr(config, name) for name in config.__dataclass_fields__} | fields)


def plain_counts(texts, config):
    """Every substring of every pre-token, one by one."""
    counts = Counter()
    for text in texts:
        for word in pre_tokens(text):
            for first in range(0, len(word), config.stride):
                rest = word[first:].encode()
                counts.update(rest[:length] for length in range(1, min(config.longest, len(rest)) + 1))
    return counts


def plain_vocab(texts, config):
    """Tokens and probabilities without noise."""
    scores = {part: n * len(part) for part, n in plain_counts(texts, config).items()}
    total = sum(scores.values())
    marks = {part: sum(part.count(mark) for mark in (b" ", b"\n", b"\t")) for part in scores}
    ranked = sorted((-n, part) for part, n in scores.items() if len(part) > 1 and marks[part] < 2)
    runs = [a + b * n for b in (b" ", b"\n", b"\t") for n in range(1, config.longest + 1) for a in (b" ", b"\n", b"\t")]
    tokens = [bytes([b]) for b in range(256)] + runs
    shares = [min(scores.values()) / total] * 256 + [1.0] * len(runs)
    for score, part in ranked[: config.vocab_size - len(tokens)]:
        tokens.append(part)
        shares.append(-score / total)
    return tokens, shares


def pooled(texts, config):
    pool = SubstringPool(config)
    pool.push(texts)
    return pool


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("longest", [3, 15])
def test_without_noise_it_is_the_plain_table(stride, longest):
    config = changed(stride=stride, longest=longest, queue_texts=20)
    pool = pooled(MANY, config)
    assert pool.totals == plain_counts(MANY, config)
    for room in (1, 7, 200, 100_000):
        config = changed(config, vocab_size=256 + 9 * longest + room)
        tokens, shares = plain_vocab(MANY, config)
        vocab = pooled(MANY, config).sample(0)
        assert list(vocab.tokens) == tokens
        np.testing.assert_allclose(vocab.logprobs, np.log(shares), rtol=1e-12)
        assert vocab.noise == 0
        assert vocab.wanted == config.vocab_size >= len(vocab)
    assert len(vocab) < 256 + 9 * longest + 100_000


def test_substrings_start_between_characters_and_have_bytes():
    found = set(pooled(["é猫🙂b"], changed(stride=1, longest=4)).totals)
    whole = " é猫🙂b".encode()
    words = [" é猫".encode(), "🙂".encode(), b"b"]
    assert b"".join(words) == whole
    assert found == {w[i : i + n] for w in words for i in range(len(w)) for n in range(1, 5) if w[i] & 0xC0 != 0x80}
    assert b" \xc3" in found  # may end inside a character
    assert not any(one[0] & 0xC0 == 0x80 for one in found)
    assert "猫".encode() in pooled(["é猫"], changed(stride=2)).totals  # characters 0 and 2, not bytes 0, 2 and 4
    assert "é".encode() not in pooled(["é猫"], changed(stride=2)).totals


def test_marks_stay_with_their_letters():
    assert pre_tokens("cafe\u0301s नमस्ते") == [" cafe\u0301s", " नमस्ते"]


def test_ascii_texts_are_cut_alike():
    ascii = [chr(code) for code in range(128)]
    for text in ("".join(parts) for parts in product(ascii, [*" \n'a1."], [*"\tsv.", "ll", "re "])):
        assert pre_tokens(text) == sampler._FIND(" " + text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_texts_are_cut_alike_too(text):
    assert pre_tokens(text) == (sampler._FIND(" " + text) if text else [])


@given(ANY_TEXT)
def test_the_cut_is_that_of_tokenizers(text):
    space = normalizers.Prepend(" ")
    cut = pre_tokenizers.Split(Regex(sampler.SPLIT), "removed", invert=True)
    stages = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    normal = space.normalize_str(text)
    words = pre_tokens(text)
    assert "".join(words) == normal
    if all(ord(c) < 0x500 for c in text):  # both libraries know these alike
        assert words == [from_alphabet(piece).decode() for piece, _ in stages.pre_tokenize_str(normal)]


@given(st.lists(st.lists(ANY_TEXT, max_size=9), max_size=5), st.integers(1, 7), st.integers(1, 3))
def test_running_totals_are_those_of_a_fresh_pool(batches, queue, stride):
    config = changed(queue_texts=queue, stride=stride, noise=True, noise_median=1e-2, noise_sigma=0.0)
    pool = SubstringPool(config)
    for batch in batches:
        pool.push(batch)
    latest = [text for batch in batches for text in batch][-queue:]
    fresh = pooled(latest, config)
    assert len(pool) == len(fresh) == len(latest)
    assert pool.totals == fresh.totals == plain_counts(latest, config)
    if any(latest):
        same(pool.sample(5), fresh.sample(5))
    table = pool._table
    assert len(table.names) - len(table.free) == len(table.slot_of)


def same(one, other):
    assert one.tokens == other.tokens
    assert one.logprobs.tolist() == other.logprobs.tolist()
    assert one.noise == other.noise


def test_slots_are_used_again():
    pool = SubstringPool(changed(queue_texts=2))
    for n in range(50):
        pool.push([f"text number {n} of {n * 7}"])
    assert len(pool._table.names) < 3 * len(pool.totals)


def test_peeking_leaves_no_trace():
    pool = pooled(MANY, changed(noise=True))
    before, drawn = pool.totals, pool.sample(1)
    unseen = ["quite another zebra", "and xylophones"]
    seen = pool.peek(unseen, 1)
    assert pool.totals == before
    assert len(pool) == 6
    same(pool.sample(1), drawn)
    assert pool.sample(2).tokens != drawn.tokens
    assert b" zebra" not in before
    same(pooled([*MANY, *unseen], pool.config).sample(1), seen)
    pool.push(["one"])
    assert pool.totals == plain_counts([*MANY[-5:], "one"], pool.config)  # the oldest still goes first


def test_one_z_for_all_substrings():
    """With z far above all frequencies the probabilities are half of a normal distribution of that width."""
    config = changed(vocab_size=100_000, queue_texts=20, noise=True, noise_median=50.0, noise_sigma=0.0)
    pool = pooled(MANY, config)
    vocab = pool.sample(3)
    assert vocab.noise == pytest.approx(50.0)
    logs = vocab.logprobs[FIXED:]
    n = len(logs)
    positive = np.exp(logs[logs > NEVER])
    assert logs[-1] == NEVER
    assert abs(len(positive) - n / 2) < 4 * math.sqrt(n) / 2
    squares = (positive / 50.0) ** 2
    assert abs(squares.mean() - 1) < 4 * math.sqrt(2 / len(squares))
    assert abs(np.mean(positive < 0.6745 * 50.0) - 0.5) < 4 * 0.5 / math.sqrt(len(squares))
    assert all(a >= b for a, b in pairwise(logs))
    tied = list(vocab.tokens[FIXED + len(positive) :])
    assert tied == sorted(tied)


def test_noise_is_independent_of_the_substring_and_the_seed():
    """Correlations within and between draws are those of independent numbers."""
    config = changed(vocab_size=100_000, queue_texts=20, noise=True, noise_median=1.0, noise_sigma=0.0)
    pool = pooled(MANY, config)
    table = pool._table
    slots = np.array(sorted(table.slot_of.values()))
    drawn = np.stack([sampler._gaussian(table.hashes[slots], np.uint64(key)) for key in range(40)])
    assert len(set(drawn[0].tolist())) == len(slots)
    bound = 4 / math.sqrt(drawn.size)
    for first, second in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        assert abs(np.mean(first * second)) < bound
    assert abs(drawn.mean()) < bound
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / drawn.size)
    assert abs((drawn**4).mean() - 3) < 4 * math.sqrt(96 / drawn.size)


def test_z_is_log_normal():
    pool = pooled(["ab"], changed(noise=True, noise_median=1e-5, noise_sigma=4.0))
    logs = np.log([pool.sample(seed).noise for seed in range(2000)])
    assert abs(logs.mean() - math.log(1e-5)) < 4 * 4.0 / math.sqrt(2000)
    assert abs(logs.std() / 4.0 - 1) < 4 / math.sqrt(2 * 2000)
    low, high = np.exp(np.quantile(logs, [0.05, 0.95]))
    assert 1e-8 < low < 2e-8  # the spread that the paper's numbers give
    assert 5e-3 < high < 1e-2


def test_noise_changes_the_vocabulary_and_can_be_switched_off():
    noisy = pooled(MANY, changed(noise=True, noise_median=1e-2, noise_sigma=0.0))
    assert set(noisy.sample(0).tokens) != set(noisy.sample(1).tokens)
    quiet = pooled(MANY, changed(noise=False))
    same(quiet.sample(0), quiet.sample(1))


def test_a_generator_can_draw():
    pool = pooled(MANY, changed(noise=True))
    same(pool.sample(4), pool.sample(numpy_generator(4, "sampled-vocab")))


SCRIPT = """
import hashlib
from tokenlayer.transfer.zett.sampler import SamplerConfig, SubstringPool
for noise in (True, False):
    pool = SubstringPool(SamplerConfig(vocab_size=450, queue_texts=3, stride=1, noise=noise))
    pool.push(["the cat sat on the mat", "猫坐在垫子上", "der Hut", "zebras and cats"])
    vocab = pool.sample(7)
    print(hashlib.sha256(repr((vocab.tokens, vocab.logprobs.tolist())).encode()).hexdigest())
"""
WITHOUT_TORCH = "import sys, types; sys.modules['torch'] = types.SimpleNamespace(Generator=object)"
"""Saves a second: only the seeds of another library would need it."""


def test_the_hash_seed_of_python_changes_nothing():
    here = []
    exec(SCRIPT, {"print": here.append})
    assert len(set(here)) == 2
    command = [sys.executable, "-c", WITHOUT_TORCH + SCRIPT]
    found = subprocess.run(command, env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True)
    assert found.stdout.split() == here, found.stderr


def best_sum(data, score):
    """The greatest sum over all ways to cut `data`, by trying them all."""
    if not data:
        return 0.0
    return max(score[data[:n]] + best_sum(data[n:], score) for n in range(1, len(data) + 1) if data[:n] in score)


@pytest.mark.parametrize("seed", range(4))
def test_encode_finds_the_best_cut(seed):
    config = changed(vocab_size=FIXED + 150, queue_texts=20, noise=True, noise_median=3e-3, noise_sigma=1.0)
    vocab = pooled(MANY, config).sample(seed)
    score = dict(zip(vocab.tokens, vocab.logprobs.tolist(), strict=True))
    texts = ["The cats", "große", "नम", "猫很", " \t\t ", "that\n\n\n", "\x00\x01"]
    for text, ids in zip(texts, vocab.encode(texts), strict=True):
        found = sum(vocab.logprobs[i] for i in ids)
        assert found == pytest.approx(sum(best_sum(word.encode(), score) for word in pre_tokens(text)), rel=1e-12)


def test_impossible_tokens_are_avoided():
    tokens = (*(bytes([b]) for b in range(256)), b"ab", b"bc", b" a")
    logs = np.full(len(tokens), -9.0)
    logs[256:] = [NEVER, -1.0, -2.0]
    vocab = SampledVocab(tokens, logs, 0.0, len(tokens))
    assert [tokens[i] for i in vocab.encode(["abc"])[0]] == [b" a", b"bc"]
    assert [tokens[i] for i in vocab.encode(["cab"])[0]] == [b" ", b"c", b"a", b"b"]


@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.integers(0, 3))
def test_encode_spells_every_text(texts, seed):
    vocab = SPELLERS[seed]
    for text, ids in zip(texts, vocab.encode(texts), strict=True):
        assert b"".join(vocab.tokens[i] for i in ids) == ((" " + text) if text else "").encode()


SPELLERS = [
    pooled(MANY, changed(vocab_size=FIXED + 300, queue_texts=20, noise=True, noise_median=z)).sample(seed)
    for seed, z in enumerate([1e-5, 1e-4, 1e-3, 1e-1])
]


def test_a_pre_token_has_one_cut():
    """Asked alone, beside others, or again."""
    vocab = SPELLERS[0]
    together = vocab.encode([*MANY, MANY[0]])
    assert together[0] == together[-1] == vocab.encode([MANY[0]])[0]


def test_whitespace_runs_win():
    vocab = pooled(MANY, changed(queue_texts=20)).sample(0)
    assert set(vocab.logprobs[256:FIXED]) == {0.0}
    cut = [vocab.tokens[i] for i in vocab.encode(["a\t\t\t\tb"])[0]]
    assert cut[-3:] == [b"\t\t\t", b"\t", b"b"]
    assert not any(sum(token.count(mark) for mark in (b" ", b"\n", b"\t")) > 1 for token in vocab.tokens[FIXED:])
    assert len(set(vocab.tokens)) == len(vocab.tokens)


def test_long_pre_tokens():
    pool = pooled(["x" * 5000, "猫" * 3000, "\x00" * 40], changed(noise=True))
    assert pool.totals[b"x" * 15] == 4986
    assert pool.totals[b"\x00" * 2] == 39
    hashes = {name: int(pool._table.hashes[slot]) for name, slot in pool._table.slot_of.items()}
    assert len(set(hashes.values())) == len(hashes)  # also of NUL bytes
    vocab = pool.sample(0)
    text = "x" * 100 + "\x00" * 3
    assert b"".join(vocab.tokens[i] for i in vocab.encode([text])[0]) == (" " + text).encode()


def test_blank_texts_give_bytes_and_runs_alone():
    vocab = pooled(["\n\n  \n"], changed(noise=True)).sample(0)
    assert len(vocab) == FIXED
    assert [vocab.tokens[i] for i in vocab.encode([" \n\n"])[0]] == [b"  ", b"\n\n"]


def test_the_rarest_substring_gives_the_bytes_their_probability():
    pool = pooled(["aab", "aab"], changed())
    counts = plain_counts(["aab", "aab"], SMALL)
    total = sum(n * len(part) for part, n in counts.items())
    assert pool.sample(0).logprobs[:256] == pytest.approx(math.log(2 / total))


def test_defaults_are_the_papers():
    config = SamplerConfig()
    assert (config.vocab_size, config.queue_texts, config.stride, config.longest) == (32_768, 2_048, 4, 15)
    assert (config.noise_median, config.noise_sigma, config.noise) == (1e-5, 4.0, True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue_texts": 0}, "queue_texts is 0, expected at least 1"),
        ({"stride": -1}, "stride is -1, expected at least 1"),
        ({"longest": 0}, "longest is 0, expected at least 1"),
        ({"noise_median": 0.0}, "noise_median is 0 and noise_sigma 4, expected a median above 0"),
        ({"noise_sigma": math.nan}, "noise_median is 1e-05 and noise_sigma nan"),
        ({"vocab_size": 391}, "vocab_size is 391, expected more than 391: 256 bytes and 135 whitespace runs"),
    ],
)
def test_bad_numbers(fields, said):
    with pytest.raises(BadOption, match=said):
        SamplerConfig(**fields)


def test_bad_texts():
    pool = SubstringPool(SMALL)
    with pytest.raises(BadText, match="there is no text to draw a vocabulary from"):
        pool.sample(0)
    pool.push(["", ""])
    with pytest.raises(BadText, match="there is no text to draw a vocabulary from"):
        pool.sample(0)
    with pytest.raises(BadText, match=r"a text has a lone surrogate, '\\ud800', at character 1"):
        pool.push(["good", "a\ud800"])
    assert pool.totals == {}
    with pytest.raises(BadText, match="lone surrogate"):
        SPELLERS[0].encode(["\udfff"])
