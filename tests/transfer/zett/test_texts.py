"""Training texts: spans, languages, queues, and the same texts again after a stop."""

import gzip
import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.documents import Source
from tokenlayer.transfer.zett import sampler
from tokenlayer.transfer.zett.sampler import SamplerConfig, SubstringPool, pre_tokens
from tokenlayer.transfer.zett.texts import TrainingTexts, spans

CONFIG = SamplerConfig(vocab_size=450, queue_texts=10, stride=1, noise_median=1e-3)


def write(path, word, documents=60):
    path.write_text("\n\n".join(f"{word} {n} says {word} {n * n}." for n in range(documents)))
    return path


@pytest.fixture
def sources(tmp_path):
    return [
        f"en=6:{write(tmp_path / 'a.txt', 'cat')}",
        f"de=1:{write(tmp_path / 'b.txt', 'Katze', 90)}",
        f"de=3:{write(tmp_path / 'c.txt', 'Hund', 70)}",
    ]


def texts_of(sources, **changes):
    given = {"batch_texts": 4, "text_chars": 50, "sampler": CONFIG, "seed": 1, "warn": stop}
    return TrainingTexts(sources, **(given | changes))


def stop(said):
    raise AssertionError(said)


def told(batch):
    vocab = batch.pool.sample(batch.step)
    return batch.step, batch.language, batch.texts, vocab.tokens, vocab.logprobs.tolist(), vocab.noise


def test_a_text_is_a_span_of_joined_documents():
    documents = [f"document {n}" for n in range(100)]
    found = list(spans(documents, 30, numpy_generator(0, "x")))
    blocks = ["\n\n".join(documents[n : n + 3]) for n in range(0, 100, 3)]
    assert [len(text) for text in found] == [30] * 33 + [len(documents[-1])]
    assert all(text in block for text, block in zip(found, blocks, strict=True))
    starts = {block.index(text) for text, block in zip(found, blocks, strict=True)}
    assert len(starts) > 2


def test_every_start_of_a_span_is_as_likely():
    block = "abcdefgh"
    drawn = Counter(next(spans([block], 5, numpy_generator(n, "x"))) for n in range(2000))
    assert set(drawn) == {block[n : n + 5] for n in range(4)}
    for times in drawn.values():
        assert abs(times - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)


def test_a_long_document_gives_several_spans():
    whole = "".join(chr(0x4E00 + n) for n in range(10_000))
    found = list(spans([whole], 100, numpy_generator(0, "x")))
    assert len(found) == 6
    starts = [whole.index(text) for text in found]
    assert all(n * 10_000 // 6 <= start <= (n + 1) * 10_000 // 6 - 100 for n, start in enumerate(starts))
    assert {len(text) for text in found} == {100}


def test_a_step_has_the_next_texts_of_one_language(sources):
    texts = texts_of(sources)
    assert texts.languages == ("en", "de")
    assert texts.shares.tolist() == [0.6, 0.4]
    streams = {name: one._texts for name, one in texts_of(sources)._of.items()}
    for stream in streams.values():
        list(islice(stream, 10))  # what fills the queue
    for step in range(40):
        batch = texts.batch(step)
        assert batch.texts == list(islice(streams[batch.language], 4))
        words = {"en": ("cat",), "de": ("Katze", "Hund")}[batch.language]
        assert all(any(word in text for word in words) for text in batch.texts)


def test_languages_come_by_weight(sources):
    texts = texts_of(sources, batch_texts=1)
    names = Counter(texts._next() for _ in range(3000))
    assert abs(names["en"] - 1800) < 4 * math.sqrt(3000 * 0.6 * 0.4)
    inside = Counter("Hund" in text for text in islice(texts._of["de"]._texts, 2000))
    assert abs(inside[True] - 1500) < 4 * math.sqrt(2000 * 0.75 * 0.25)


def test_tempering_evens_the_languages_out(sources):
    shares = texts_of(sources, tempering=0.1).shares
    wanted = np.array([0.6, 0.4]) ** 0.1
    np.testing.assert_allclose(shares, wanted / wanted.sum())
    assert texts_of(sources, tempering=0.0).shares.tolist() == [0.5, 0.5]
    assert texts_of(sources, tempering=1.0).shares.tolist() == pytest.approx([0.6, 0.4])


def test_the_queue_is_full_before_the_first_step(sources):
    texts = texts_of(sources)
    stream = {name: one._texts for name, one in texts_of(sources)._of.items()}
    first = texts.batch(0)
    latest = list(islice(stream[first.language], 14))
    assert len(first.pool) == 10
    assert first.pool.totals == pooled(latest[-10:]).totals  # the oldest four are gone
    assert first.texts == latest[-4:]


def pooled(latest):
    pool = SubstringPool(CONFIG)
    pool.push(latest)
    return pool


@pytest.mark.parametrize("steps", [[9], [3, 4, 21], [1, 2, 29], [29]])
def test_going_on_later_is_as_if_it_had_not_stopped(sources, steps):
    texts = texts_of(sources)
    whole = [told(texts.batch(step)) for step in range(30)]
    assert {one[1] for one in whole} == {"en", "de"}
    again = texts_of(sources)
    assert [told(again.batch(step)) for step in steps] == [whole[step] for step in steps]


def test_what_is_dropped_again_is_not_counted(sources, monkeypatch):
    cut = []
    monkeypatch.setattr(sampler, "pre_tokens", lambda text: cut.append(text) or pre_tokens(text))
    texts_of(sources).batch(500)
    assert len(cut) == 10 + 4


def test_each_pass_takes_other_spans(tmp_path):
    texts = texts_of([str(write(tmp_path / "a.txt", "cat"))])
    first = list(islice(texts._of["a"]._texts, 20))
    one_pass = len(list(texts._of["a"]._source.of_source(0, 0)))
    again = list(islice(texts._of["a"]._texts, one_pass - 20, one_pass))
    assert len(again) == 20
    assert first != again


def test_the_seed_decides(sources):
    one, same, other = (texts_of(sources, seed=seed) for seed in (1, 1, 2))
    drawn = [[told(texts.batch(step)) for step in range(8)] for texts in (one, same, other)]
    assert drawn[0] == drawn[1]
    assert [one[1] for one in drawn[0]] != [one[1] for one in drawn[2]]
    spans_of = [list(texts._of["en"]._source.of_source(0, 0)) for texts in (one, same, other)]
    assert spans_of[0] == spans_of[1] != spans_of[2]


def test_the_place_of_a_file_does_not_matter(tmp_path):
    (tmp_path / "there").mkdir()
    paths = [write(tmp_path / "a.txt", "cat"), write(tmp_path / "there" / "b.txt", "cat")]
    first, second = (
        texts_of([Source(str(path), "en", weight)]) for path, weight in zip(paths, (1.0, 5.0), strict=True)
    )
    assert told(first.batch(0)) == told(second.batch(0))


def test_sources_of_a_language_draw_their_own_spans(tmp_path):
    path = write(tmp_path / "a.txt", "cat")
    texts = texts_of([f"x:{path}", f"x:{path}", f"y:{path}"])
    source = texts._of["x"]._source
    own = [list(islice(stream, 10)) for stream in (source.of_source(0, 0), source.of_source(1, 0))]
    other = list(islice(texts._of["y"]._source.of_source(0, 0), 10))
    assert own[0] != own[1]
    assert other not in own


def test_languages_draw_their_sources_apart(tmp_path):
    cat, dog = write(tmp_path / "a.txt", "cat"), write(tmp_path / "b.txt", "dog")
    texts = texts_of([f"{language}:{path}" for language in "xy" for path in (cat, dog)])
    orders = [["cat" in text for text in islice(texts._of[language]._texts, 60)] for language in "xy"]
    assert orders[0] != orders[1]


def test_peeking_leaves_no_trace(sources):
    texts, plain = texts_of(sources), texts_of(sources)
    unseen = ["a zebra", "two zebras"]
    filled = list(islice(texts_of(sources)._of["de"]._texts, 10))
    assert texts.peek("de", unseen, 3).tokens == pooled([*filled, *unseen]).sample(3).tokens  # before its first step
    for step in range(12):
        assert told(texts.batch(step)) == told(plain.batch(step))
        texts.peek("en", unseen, step)
    with pytest.raises(BadOption, match="language is 'dee', expected one of: en, de"):
        texts.peek("dee", unseen, 0)


def test_a_short_language_gets_a_short_queue(tmp_path):
    said = []
    path = write(tmp_path / "a.txt", "cat", 20)
    texts = texts_of([f"en:{path}"], warn=said.append)
    n = len(list(texts._of["en"]._source.of_source(0, 0)))
    assert 4 < n < 10
    assert said == [f"en: the queue is shortened from 10 to {n} texts, one pass over the sources gives {n}"]
    assert [len(texts.batch(step).pool) for step in range(3)] == [n] * 3


def test_a_batch_always_fits_into_the_queue(tmp_path):
    said = []
    path = write(tmp_path / "a.txt", "cat", 3)
    texts = texts_of([f"en:{path}"], warn=said.append)
    assert said == ["en: the queue is shortened from 10 to 4 texts, one pass over the sources gives 1"]
    batch = texts.batch(0)
    assert len(batch.texts) == len(batch.pool) == 4


def test_compressed_files(tmp_path):
    path = write(tmp_path / "a.txt", "cat")
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert told(texts_of([f"en:{packed}"]).batch(3)) == told(texts_of([f"en:{path}"]).batch(3))


def test_steps_come_in_order(sources):
    texts = texts_of(sources)
    texts.batch(4)
    for step in (4, 0):
        with pytest.raises(BadOption, match=f"step {step} was asked for after step 4: texts come in order"):
            texts.batch(step)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_texts": 0}, "batch_texts is 0 and text_chars 50, expected at least 1 each"),
        ({"text_chars": 0}, "batch_texts is 4 and text_chars 0, expected at least 1 each"),
        ({"batch_texts": 11}, "batch_texts is 11 and queue_texts 10: the queue must hold the batch"),
        ({"tempering": 1.5}, r"tempering is 1.5, expected 0 \(all languages alike\) to 1"),
        ({"tempering": math.nan}, "tempering is nan"),
    ],
)
def test_bad_numbers(sources, changes, said):
    with pytest.raises(BadOption, match=said):
        texts_of(sources, **changes)


def test_bad_sources(tmp_path):
    with pytest.raises(BadOption, match="no source was given"):
        texts_of([])
    with pytest.raises(BadOption, match="training texts cannot come from standard input"):
        texts_of(["en:-"])
    with pytest.raises(BadText, match=r"none\.txt does not exist"):
        texts_of([f"en:{tmp_path / 'none.txt'}"])
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n\n")
    with pytest.raises(BadText, match=r"the text .*empty\.txt is empty"):
        texts_of([f"en:{write(tmp_path / 'a.txt', 'cat')}", f"en:{empty}"])
    latin = tmp_path / "latin.txt"
    latin.write_bytes("größe".encode("latin-1") * 20)
    with pytest.raises(BadText, match=r"latin\.txt"):
        texts_of([f"en:{latin}"])
    damaged = tmp_path / "damaged.txt.gz"
    damaged.write_bytes(b"no gzip")
    with pytest.raises(BadText, match=r"damaged\.txt\.gz"):
        texts_of([f"en:{damaged}"])
