"""Tokens as source pieces: their bytes are the token's."""

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.core.byte_alphabet import CHAR_OF_BYTE
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.decompose import Decomposer

TOKENS = [b" the", b"a", "ö".encode(), "день".encode()[:3], b" 12", b"\n\n", b"\xff\xfe", "ไทย".encode(), b" " * 9]


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_spell_the_token(family, tmp_path):
    vocab = load_tokenizer(write(tmp_path, FAMILIES[family]())).vocab
    made = Decomposer(vocab, 7)
    extra_bytes = [b for b in CHAR_OF_BYTE if vocab.find(bytes([b])) is None]
    assert made.extra == len(extra_bytes)
    words = [word.encode() for text in SENTENCES.values() for word in text.split()[:8]]
    lower = [word.decode().lower().encode() for word in words if word.isascii() and word.isalpha()]
    asked = lower if family == "wordpiece" else [*TOKENS, *words]
    for token, ids in zip(asked, made.spell(asked), strict=True):
        assert ids
        spelled = b"".join(vocab.tokens[i] if i < len(vocab) else bytes([extra_bytes[i - len(vocab)]]) for i in ids)
        assert spelled == token


def test_what_the_source_cannot_spell_is_spelled_by_bytes(tmp_path):
    vocab = load_tokenizer(write(tmp_path, FAMILIES["wordpiece"]())).vocab
    made = Decomposer(vocab, 7, first_extra=10_000)
    (ids,) = made.spell([b"\xff\xfe"])
    assert len(ids) == 2
    assert min(ids) >= 10_000
    assert made.spell([b"\xfe"])[0] == ids[1:]


def test_long_tokens_are_cut_and_named(tmp_path):
    vocab = load_tokenizer(write(tmp_path, FAMILIES["byte-level"]())).vocab
    made = Decomposer(vocab, 3)
    tokens = [b"a", b"\xff\xfe\xfd\xfc", b"b"]
    pieces, cut = made.pieces(tokens)
    assert cut == [1]
    assert pieces.lengths.tolist() == [1, 3, 1]
    assert pieces.values.tolist()[1:4] == list(made.spell([tokens[1]])[0][:3])


def test_a_spelling_is_made_once(tmp_path, monkeypatch):
    vocab = load_tokenizer(write(tmp_path, FAMILIES["byte-level"]())).vocab
    made = Decomposer(vocab, 7)
    first = made.spell([b" the", b"a", b" the"])
    object.__setattr__(vocab, "speller", None)
    assert made.spell([b"a", b" the"]) == [first[1], first[0]]


def test_a_capital_begins_a_word_where_the_source_reads_small_letters(tmp_path):
    made = Decomposer(load_tokenizer(write(tmp_path / "uncased", FAMILIES["wordpiece"]())).vocab, 7)
    whole, start, capital, middle = made.spell([b" human", b" Human", b"Human", b"human"])
    assert whole == start == capital != middle
    cased = load_tokenizer(write(tmp_path / "cased", FAMILIES["byte-level"]())).vocab
    one, other = Decomposer(cased, 7).spell([b"Human", b" Human"])
    assert one != other
