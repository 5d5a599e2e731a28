"""Tokenizers of every family in the byte alphabet: same ids, all bytes, nothing unknown."""

import json

import pyarrow as pa
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tests.tiny_swaps import load, model_with_tokenizer
from tests.tiny_tokenizers import FAMILIES, SENTENCES, sentencepiece_bpe, unigram, write

from tokenlayer.app.cli import main
from tokenlayer.core.byte_alphabet import from_alphabet_or_none, to_alphabet
from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.models.verify import PROBES
from tokenlayer.transfer.swap import SwapConfig, swap
from tokenlayer.transfer.zett.byte_level import BYTE_SCORE, to_byte_level, white_runs

STRANGE = ("", " ", "☃ ✂ 𝒳 a☃b", "hello\x00\x01 x", "𠮷野家で", "a" * 500)
TEXTS = (*SENTENCES.values(), *PROBES, *STRANGE)


def loaded(text):
    return LoadedTokenizer(json.loads(text))


def gemma_like():
    """Spaces become marks in the normaliser; the pre-tokenizer splits at spaces that it never sees."""
    data = json.loads(sentencepiece_bpe())
    data["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    data["pre_tokenizer"] = split
    data["decoder"]["decoders"] = data["decoder"]["decoders"][:-1]
    return json.dumps(data)


def metaspace_bpe(scheme="first"):
    data = json.loads(sentencepiece_bpe())
    data["normalizer"] = None
    data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    return json.dumps(data)


def t5_like():
    data = json.loads(unigram())
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, json.loads(unigram())["pre_tokenizer"]],
    }
    pattern = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, pattern]}
    return json.dumps(data)


CASES = {
    **FAMILIES,
    "unigram without fallback": lambda: unigram(500, False),
    "gemma-like": gemma_like,
    "metaspace": metaspace_bpe,
    "t5-like": t5_like,
}


@pytest.fixture(scope="module")
def converted():
    """Name -> (the tokenizer, what became of it)."""
    found = {name: loaded(make()) for name, make in CASES.items()}
    return {name: (one, to_byte_level(one)) for name, one in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_texts_keep_their_ids_where_nothing_was_unknown(name, converted):
    old, new = converted[name]
    reread = loaded(new.tokenizer.text)
    unknown = old.vocab.roles.get("unk")
    kept = 0
    for text in TEXTS:
        wanted, ids = old.encode(text), new.tokenizer.encode(text)
        assert reread.encode(text) == ids
        assert unknown is None or unknown not in ids
        if unknown is None or unknown not in wanted:
            assert ids == wanted, text
            kept += 1
    assert kept > 0.6 * len(TEXTS)


@pytest.mark.parametrize("name", CASES)
def test_tokens_concatenate_to_the_normalised_text(name, converted):
    _, new = converted[name]
    tokenizer = new.tokenizer
    for text in TEXTS:
        seen = tokenizer.backend.normalizer.normalize_str(text) if tokenizer.backend.normalizer else text
        made = tokenizer.decode_bytes(tokenizer.encode(text)).decode()
        if name in ("wordpiece", "t5-like"):  # white space between words is one space
            assert made.replace(" ", "") == "".join(seen.split()), text
        else:
            assert made in (seen, " " + seen), text


@pytest.mark.parametrize("name", [name for name in CASES if name != "wordpiece"])
def test_ids_decode_to_the_same_text_as_before(name, converted):
    old, new = converted[name]
    for text in TEXTS:
        ids = new.tokenizer.encode(text)
        if ids == old.encode(text):
            assert new.tokenizer.backend.decode(ids) == old.backend.decode(ids), text


def test_a_text_that_spells_a_control_token_of_a_unigram_is_text(converted):
    _, new = converted["unigram"]
    text = "a <s> <0x41> <unk>"
    assert new.tokenizer.decode_bytes(new.tokenizer.encode(text)) == b" " + text.encode()


@pytest.mark.parametrize("name", CASES)
def test_every_byte_has_a_token_and_no_other_id_moves(name, converted):
    old, new = converted[name]
    vocab = new.tokenizer.vocab
    assert vocab.family == "byte-level"
    assert vocab.missing_bytes() == []
    assert len(vocab) == len(old.vocab) + len(new.added_bytes) + new.added_pieces
    assert vocab.roles == old.vocab.roles
    for i in old.vocab.control_ids():
        assert (vocab.names[i], vocab.kinds[i]) == (old.vocab.names[i], Kind.CONTROL)
    for i in old.vocab.text_ids():
        data = old.vocab.tokens[i]
        assert vocab.tokens[i] in (data, b" " + data if name == "wordpiece" else data)
    for b in new.added_bytes:
        assert vocab.find(bytes([b])) >= len(old.vocab)


@pytest.mark.parametrize("name", CASES)
def test_tokens_beyond_ascii_stay_within_reach(name, converted):
    old, new = converted[name]
    wide = [i for i in old.vocab.text_ids() if max(old.vocab.tokens[i]) > 127 and old.vocab.kinds[i] is Kind.NORMAL]
    reached = [i for i in wide if old.vocab.spell(old.vocab.tokens[i]) == [i]]
    assert len(reached) > 20
    for i in reached:
        assert new.tokenizer.vocab.spell(new.tokenizer.vocab.tokens[i]) == [i]


@pytest.mark.parametrize("name", CASES)
def test_what_is_byte_level_stays_as_it_is(name, converted):
    _, new = converted[name]
    again = to_byte_level(new.tokenizer)
    assert again.tokenizer.data["model"]["vocab"] == new.tokenizer.data["model"]["vocab"]
    assert (again.added_bytes, again.added_pieces, again.merges_added) == ((), 0, 0)
    for text in TEXTS:
        assert again.tokenizer.encode(text) == new.tokenizer.encode(text)


@given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30))
@example("é☃é𝒳")
def test_a_bpe_with_fallback_gives_the_same_ids_for_any_text(text):
    old, new = BPE
    assert new.encode(text) == old.encode(text)


BPE = (loaded(sentencepiece_bpe()), to_byte_level(loaded(sentencepiece_bpe())).tokenizer)


def test_characters_are_built_before_anything_else_is_merged(converted):
    old, new = converted["sentencepiece-bpe"]
    merges = new.tokenizer.data["model"]["merges"]
    assert len(merges) == new.merges_added + len(old.data["model"]["merges"])
    first = [from_alphabet_or_none(a + b) for a, b in merges[: new.merges_added]]
    assert "é".encode() in first
    assert all(one[0] > 127 for one in first)
    assert new.added_pieces > 0


def test_a_fallback_token_becomes_its_byte_unless_another_token_is_it(converted):
    old, new = converted["sentencepiece-bpe"]
    names = new.tokenizer.vocab.names
    a, newline = old.vocab.find(b"a"), old.vocab.find_name("<0x02>")
    assert names[a] == "a"
    assert names[newline] == to_alphabet(b"\x02")
    twin = old.vocab.find_name("<0x61>")
    assert new.duplicates[twin] == a
    assert new.tokenizer.vocab.tokens[twin] == b"a"
    assert from_alphabet_or_none(names[twin]) is None  # no text spells it
    assert any("stand for the bytes of another one" in sentence for sentence in new.warnings)


def test_two_spellings_of_the_same_bytes_keep_both_ids():
    data = json.loads(sentencepiece_bpe())
    size = len(data["model"]["vocab"])
    spelled = next(name for name in data["model"]["vocab"] if name.startswith("▁") and len(name) > 2)
    data["model"]["vocab"][spelled.replace("▁", " ")] = size
    old = loaded(json.dumps(data))
    new = to_byte_level(old)
    owner = old.vocab.find_name(spelled)
    assert new.duplicates[size] == owner < size
    assert new.tokenizer.vocab.tokens[size] == new.tokenizer.vocab.tokens[owner] == old.vocab.tokens[owner]
    for text in TEXTS:
        assert new.tokenizer.encode(text) == old.encode(text)


@pytest.mark.parametrize("name", ["sentencepiece-bpe", "unigram", "wordpiece"])
def test_added_tokens_keep_their_name_and_place(name):
    data = json.loads(CASES[name]())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    size = len(data["model"]["vocab"])
    data["added_tokens"].append({"id": size, "content": "ünü!", **flags})
    old = loaded(json.dumps(data))
    new = to_byte_level(old).tokenizer
    assert new.vocab.names[size] == "ünü!"
    assert new.vocab.tokens[size] == "ünü!".encode()
    assert new.backend.token_to_id("ünü!") == size
    assert new.encode("frei ünü! frei") == old.encode("frei ünü! frei")


def test_scores_stay_and_bytes_get_a_very_low_one(converted):
    for name in ("unigram", "unigram without fallback"):
        old, new = converted[name]
        before, after = old.data["model"]["vocab"], new.tokenizer.data["model"]["vocab"]
        bytes_ = {i for i, kind in enumerate(old.vocab.kinds) if kind is Kind.BYTE}
        for i, (entry, now) in enumerate(zip(before, after, strict=False)):
            if old.vocab.kinds[i] is not Kind.CONTROL:
                assert now[1] == (BYTE_SCORE if i in bytes_ else entry[1])
        assert all(score == BYTE_SCORE for _, score in after[len(before) :])


def test_a_word_that_was_too_long_is_spelled(converted):
    old, new = converted["wordpiece"]
    text = "frei" * 60
    assert old.encode(text) == [old.vocab.roles["unk"]]
    assert new.tokenizer.decode_bytes(new.tokenizer.encode(text)) == b" " + text.encode()
    assert new.tokenizer.data["model"]["continuing_subword_prefix"] == ""
    assert any("white space between words is not kept" in sentence for sentence in new.warnings)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece-bpe", "unigram"])
def test_white_space_becomes_regular_when_asked(name):
    data = json.loads(CASES[name]())
    mixed, size = {"byte-level": "ĠaĠ"}.get(name, "▁a▁"), len(data["model"]["vocab"])
    if isinstance(data["model"]["vocab"], list):
        data["model"]["vocab"].append([mixed, -1.0])
    else:
        data["model"]["vocab"][mixed] = size
    new = to_byte_level(loaded(json.dumps(data)), consistent_whitespace=True)
    vocab = new.tokenizer.vocab
    assert vocab.kinds[size] is Kind.UNUSED
    assert vocab.names[size] == f"<unused {size}>"
    assert new.renamed >= 1
    assert len(white_runs()) == 135
    for run in white_runs():
        assert vocab.spell(run) == [vocab.find(run)]
    assert b"\n" + b" " * 15 in white_runs()
    text = "a\n    b"
    assert new.tokenizer.decode_bytes(new.tokenizer.encode(text)).strip() == text.encode()


def test_missing_bytes_of_a_byte_level_tokenizer_are_appended_behind_added_tokens():
    data = json.loads(FAMILIES["byte-level"]())
    vocab = data["model"]["vocab"]
    lost = to_alphabet(b"\xf5")
    at = vocab.pop(lost)
    vocab["unused-name ☃"] = at
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"].append({"id": len(vocab), "content": "<|late|>", **flags})
    old = loaded(json.dumps(data))
    new = to_byte_level(old)
    assert new.added_bytes == (0xF5,)
    assert new.tokenizer.vocab.find(b"\xf5") == len(old.vocab) == len(vocab) + 1
    assert new.tokenizer.backend.token_to_id("<|late|>") == len(vocab)
    assert new.tokenizer.backend.token_to_id(lost) == len(old.vocab)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_of_word_suffix": "</w>"}, "is a BPE whose words end in '</w>', which cannot be written in bytes"),
        ({"type": "WordLevel", "unk_token": "<unk>"}, "is a WordLevel tokenizer, which cannot be written in bytes"),
    ],
)
def test_what_cannot_be_written_in_bytes_is_refused(change, message):
    data = json.loads(sentencepiece_bpe())
    data["model"] = {**data["model"], **change}
    with pytest.raises(BadTokenizer, match=message):
        to_byte_level(loaded(json.dumps(data)))


def test_a_pre_tokenizer_that_sees_other_spaces_is_told():
    data = json.loads(sentencepiece_bpe())
    data["pre_tokenizer"] = {"type": "Whitespace"}
    assert any(
        "the pre-tokenizer Whitespace sees spaces" in one for one in to_byte_level(loaded(json.dumps(data))).warnings
    )


def test_a_model_can_be_given_the_rewritten_tokenizer(tmp_path, capsys):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", unigram(500, False))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["swap", str(source), str(target), "--byte-level", "--out", str(out), "--json"])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    report = json.loads(printed.out)
    added = len(load_tokenizer(out).vocab) - len(load_tokenizer(target).vocab)
    assert f"{added} of the 256 bytes had no token and got one" in report["warnings"]
    assert "--byte-level" in report["settings"]["command"]
    text = "a ☃ 𝒳"
    assert load_tokenizer(out).decode_bytes(load_tokenizer(out).encode(text)) == b" " + text.encode()
    old, new = load_tokenizer(source).vocab, load_tokenizer(out).vocab
    rows = [load(one).get_input_embeddings().weight for one in (source, out)]
    assert torch.equal(rows[1][new.find(b"\xe2")], rows[0][old.find(b"\xe2")])


def test_tokens_with_the_same_bytes_have_the_same_row(tmp_path):
    source = model_with_tokenizer("tied_llama", tmp_path / "source")
    target = write(tmp_path / "target", sentencepiece_bpe())
    swap(source, target, tmp_path / "out", SwapConfig(byte_level=True))
    rows = load(tmp_path / "out").get_input_embeddings().weight
    for i, owner in list(to_byte_level(load_tokenizer(target)).duplicates.items())[:20]:
        assert torch.equal(rows[i], rows[owner])


@pytest.mark.slow
def test_published_tokenizers_keep_their_ids(shared_data):
    files = sorted((shared_data / "tokenizers").glob("*.tokenizer.json.zst"))
    assert len(files) >= 10
    for file in files:
        with pa.input_stream(str(file), compression="zstd") as stream:
            old = loaded(stream.read().decode())
        new = to_byte_level(old).tokenizer
        assert new.vocab.missing_bytes() == []
        for text in TEXTS:
            assert new.encode(text) == old.encode(text), file.name
