"""Every way to read a tokenizer gives the library's ids, and bytes that are the text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, SENTENCES, byte_level, unigram, wordpiece, write
from tokenizers import Tokenizer

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_files import load_tokenizer


@pytest.fixture(params=FAMILIES)
def tokenizer(request, tmp_path):
    return load_tokenizer(write(tmp_path, FAMILIES[request.param]()))


@pytest.mark.parametrize("language", SENTENCES)
def test_ids_are_the_librarys_ids(tokenizer, language):
    plain = Tokenizer.from_str(json.dumps(tokenizer.data))
    text = SENTENCES[language]
    assert tokenizer.encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_batch([text, text[:5]])[0] == tokenizer.encode(text)


@pytest.mark.parametrize("language", SENTENCES)
def test_bytes_of_the_tokens_are_the_normalised_text(tokenizer, language):
    text = SENTENCES[language]
    found = tokenizer.decode_bytes(tokenizer.encode(text))
    if tokenizer.vocab.family == "wordpiece":
        ids = tokenizer.encode(text)
        if tokenizer.vocab.roles["unk"] not in ids:
            words = tokenizer.backend.pre_tokenizer.pre_tokenize_str(tokenizer.normalised(text))
            assert found.replace(b" ", b"") == "".join(w for w, _ in words).encode()
        return
    assert found in (text.encode(), b" " + text.encode())


@given(st.binary(max_size=40))
@settings(max_examples=60)
def test_broken_utf8_survives_in_byte_level_tokenizers(data):
    tokenizer = _cached("byte-level")
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


@given(st.binary(min_size=1, max_size=12))
@settings(max_examples=60)
def test_spelling_gives_the_bytes_back(data):
    for family in ("byte-level", "split-byte-level", "sentencepiece-bpe", "unigram"):
        vocab = _cached(family).vocab
        assert b"".join(vocab.tokens[i] for i in vocab.spell(data)) == data


_LOADED = {}


def _cached(family):
    if family not in _LOADED:
        from tokenlayer.models.tokenizer_files import LoadedTokenizer

        _LOADED[family] = LoadedTokenizer(json.loads(FAMILIES[family]()))
    return _LOADED[family]


def test_special_strings_in_a_text_are_text(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, byte_level()))
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.vocab.roles["eos"] not in ids
    assert tokenizer.decode_bytes(ids) == b"a<|endoftext|>b"


def test_roles_come_from_the_config_before_well_known_names(tmp_path):
    text = byte_level(specials=("<|endoftext|>", "<|start|>"))
    tokenizer = load_tokenizer(write(tmp_path, text, bos_token="<|start|>", eos_token={"content": "<|start|>"}))
    assert tokenizer.vocab.roles == {"bos": 1, "eos": 1}


def test_kinds_of_every_family(tokenizer):
    vocab = tokenizer.vocab
    assert all(vocab.tokens[i] == b"" for i in vocab.control_ids())
    assert all(vocab.tokens[i] for i in vocab.text_ids())
    if vocab.family in ("byte-level", "sentencepiece"):
        assert vocab.missing_bytes() == []
    if vocab.family == "sentencepiece":
        assert sum(kind is Kind.BYTE for kind in vocab.kinds) == 256
        assert any(token.startswith(b" ") for token in vocab.tokens)


def test_a_normal_token_wins_over_the_byte_fallback_token_of_the_same_byte(tmp_path):
    vocab = load_tokenizer(write(tmp_path, FAMILIES["sentencepiece-bpe"]())).vocab
    found = vocab.find(b"a")
    assert vocab.kinds[found] is Kind.NORMAL
    assert vocab.names[found] == "a"
    only_as_byte = vocab.find(b"\xff")
    assert vocab.kinds[only_as_byte] is Kind.BYTE


def test_wordpiece_words_start_with_a_space_and_punctuation_does_not(tmp_path):
    vocab = load_tokenizer(write(tmp_path, wordpiece())).vocab
    assert vocab.tokens[vocab.find_name("a")] == b" a"
    assert vocab.tokens[vocab.find_name("##a")] == b"a"
    assert vocab.tokens[vocab.find_name(".")] == b"."
    ids = vocab.spell(b" The")
    assert b"".join(vocab.tokens[i] for i in ids) == b" the"
    inner = vocab.spell(b"human")
    assert all(vocab.names[i].startswith("##") for i in inner)


def test_truncation_padding_and_dropout_of_a_file_do_not_reach_us(tmp_path):
    data = json.loads(byte_level())
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    data["model"]["dropout"] = 0.9
    tokenizer = load_tokenizer(write(tmp_path, json.dumps(data)))
    assert tokenizer.encode(SENTENCES["en"]) == Tokenizer.from_str(byte_level()).encode(SENTENCES["en"]).ids


def test_ids_with_gaps_are_holes_and_new_tokens_go_after_the_last(tmp_path):
    data = json.loads(byte_level(300))
    data["model"]["vocab"]["<|late|>"] = 310
    data["added_tokens"].append({**data["added_tokens"][0], "id": 310, "content": "<|late|>"})
    tokenizer = load_tokenizer(write(tmp_path, json.dumps(data)))
    assert len(tokenizer.vocab) == 311
    assert tokenizer.vocab.kinds[305] is Kind.UNUSED
    longer = tokenizer.with_control_tokens(["<|one|>", "<|two|>"])
    assert [longer.vocab.find_name(n) for n in ("<|one|>", "<|two|>")] == [311, 312]
    assert longer.backend.token_to_id("<|two|>") == 312
    assert longer.encode(SENTENCES["en"]) == tokenizer.encode(SENTENCES["en"])


def test_the_library_decides_the_id_of_an_added_token_that_collides(tmp_path):
    """As in a published tokenizer.json: the file gives an added token the id of another token."""
    data = json.loads(byte_level(300))
    data["added_tokens"].append({**data["added_tokens"][0], "id": 40, "content": "[TOOL]"})
    tokenizer = load_tokenizer(write(tmp_path, json.dumps(data)))
    assert tokenizer.vocab.find_name("[TOOL]") == 300
    assert tokenizer.vocab.names[40] != "[TOOL]"


def _broken(change):
    data = json.loads(byte_level(300))
    change(data)
    return json.dumps(data)


BAD = {
    "no model": (lambda d: d.pop("model"), "field 'model' is NoneType, expected an object"),
    "model type": (lambda d: d["model"].update(type="BBPE"), "field 'model.type' is 'BBPE', expected one of: BPE"),
    "vocab is a list": (lambda d: d["model"].update(vocab=[1]), "field 'model.vocab' is list, expected dict"),
    "id is text": (lambda d: d["model"]["vocab"].update(x="7"), "token 'x' has id '7', expected a number"),
    "negative id": (lambda d: d["model"]["vocab"].update(x=-1), "token 'x' has id -1"),
    "huge id": (lambda d: d["model"]["vocab"].update(x=2**31), "token id 2147483648 ('x') in a vocabulary of 300"),
    "two owners": (lambda d: d["model"]["vocab"].update(x=4), "id 4 belongs to"),
    "merge unknown": (lambda d: d["model"]["merges"].append(["zzz", "b"]), "'zzz' is not in the vocabulary"),
    "merge form": (lambda d: d["model"]["merges"].append(["a"]), "expected two pieces"),
    "added without text": (lambda d: d["added_tokens"].append({"id": 3}), "has no text 'content'"),
    "wrong pre-tokenizer": (lambda d: d.update(pre_tokenizer={"type": "Nope"}), "the tokenizers library refuses"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_field_is_named(case, tmp_path):
    change, message = BAD[case]
    folder = write(tmp_path, _broken(change))
    with pytest.raises(BadTokenizer) as caught:
        assert load_tokenizer(folder).vocab
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_files_that_are_no_tokenizer(tmp_path):
    with pytest.raises(BadTokenizer, match="does not exist"):
        load_tokenizer(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadTokenizer, match="holds no tokenizer"):
        load_tokenizer(empty)
    (empty / "vocab.txt").write_text("a\n")
    with pytest.raises(BadTokenizer, match=r"has vocab.txt but no tokenizer.json") as caught:
        load_tokenizer(empty)
    assert "AutoTokenizer" in caught.value.hint
    (empty / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(BadTokenizer, match="not valid JSON at line 1, column 11"):
        load_tokenizer(empty)
    (empty / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(BadTokenizer, match="not UTF-8 at byte 7"):
        load_tokenizer(empty)
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"\x80\x02}q")
    with pytest.raises(BadTokenizer, match="not a tokenizer file that we know"):
        load_tokenizer(binary)


def test_stray_bytes_without_a_token_are_refused(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, unigram(byte_fallback=False)))
    with pytest.raises(BadTokenizer, match="byte 0xff is not part of a UTF-8 character"):
        tokenizer.encode_bytes(b"a\xff")


def test_chat_template_from_config_list_and_file(tmp_path):
    folder = write(tmp_path, byte_level(), chat_template=[{"name": "default", "template": "A"}])
    assert load_tokenizer(folder).chat_template == "A"
    (folder / "chat_template.jinja").write_text("B")
    assert load_tokenizer(folder).chat_template == "B"
