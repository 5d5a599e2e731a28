"""SentencePiece, tiktoken and real tokenizers: our ids are those of the library that owns the format."""

import base64
import io
import json

import pytest
from tests.tiny_tokenizers import SENTENCES, split_byte_level

from tokenlayer.core.byte_alphabet import from_alphabet
from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.matching import match_tokens, overlap
from tokenlayer.models.tokenizer_files import load_tokenizer


@pytest.fixture(params=["unigram", "bpe"])
def sentencepiece_model(request, tmp_path):
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(SENTENCES.values()) * 3),
        model_writer=written,
        model_type=request.param,
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path / "tokenizer.model"
    path.write_bytes(written.getvalue())
    return path, sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


@pytest.mark.parametrize("language", ["en", "de", "ru", "hi", "ja", "sw", "code", "numbers", "emoji"])
def test_sentencepiece_ids(sentencepiece_model, language):
    path, theirs = sentencepiece_model
    text = " ".join(SENTENCES[language].split())
    ours = load_tokenizer(path)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.vocab.roles["unk"] == theirs.unk_id()


def test_a_truncated_sentencepiece_model_is_refused(sentencepiece_model):
    path, _ = sentencepiece_model
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BadTokenizer, match="not a whole SentencePiece model"):
        load_tokenizer(path)


@pytest.fixture
def rank_file(tmp_path):
    """The ranks of a byte-level BPE: single bytes first, then its merges in order."""
    data = json.loads(split_byte_level())["model"]
    merged = [from_alphabet(a + b) for a, b in (m.split(" ") if isinstance(m, str) else m for m in data["merges"])]
    tokens = [*(bytes([b]) for b in range(256)), *dict.fromkeys(merged)]
    path = tmp_path / "ours.tiktoken"
    path.write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)))
    return path, {t: i for i, t in enumerate(tokens)}


@pytest.mark.parametrize("language", SENTENCES)
def test_tiktoken_ids(rank_file, language):
    import tiktoken

    from tokenlayer.core.pretokenizers import CL100K

    path, ranks = rank_file
    theirs = tiktoken.Encoding("ours", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    assert load_tokenizer(path, pre_tokenizer="cl100k").encode(SENTENCES[language]) == theirs.encode(
        SENTENCES[language]
    )


def test_rank_files_need_their_split_and_whole_lines(rank_file):
    path, _ = rank_file
    with pytest.raises(BadTokenizer, match="does not say which pre-tokenizer") as caught:
        load_tokenizer(path)
    assert "cl100k" in caught.value.hint
    path.write_text(path.read_text() + "not base64!! x\n")
    with pytest.raises(BadTokenizer, match=r"line \d+: expected `base64 rank`"):
        load_tokenizer(path, pre_tokenizer="cl100k")


REAL = ("claude", "gpt-2", "gpt-3", "gpt-neox", "gpt35turbo", "gpt4o", "llama", "llama3", "mistral", "qwen3")


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    import pyarrow as pa

    folder, loaded = tmp_path_factory.mktemp("real"), {}

    def get(name):
        if name not in loaded:
            packed = shared_data / "tokenizers" / f"{name}.tokenizer.json.zst"
            path = folder / f"{name}.json"
            path.write_bytes(pa.input_stream(str(packed), compression="zstd").read())
            loaded[name] = load_tokenizer(path)
        return loaded[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_published_tokenizers_keep_the_librarys_ids_and_the_bytes(real, name):
    from tokenizers import Tokenizer

    ours = real(name)
    theirs = Tokenizer.from_str(json.dumps(ours.data))
    for text in SENTENCES.values():
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode_bytes(ids).decode() in (ours.normalised(text), " " + text, text)
    assert match_tokens(ours.vocab, ours.vocab) == [i if ours.vocab.names[i] else None for i in range(len(ours.vocab))]


@pytest.mark.slow
def test_matching_by_bytes_finds_far_more_than_by_strings(real):
    found = overlap(real("mistral").vocab, real("llama3").vocab)
    assert found.by_bytes > 2.5 * found.by_name
