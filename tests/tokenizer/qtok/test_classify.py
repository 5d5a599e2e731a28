import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny_tokenizers import FAMILIES, wordpiece

from tokenlayer.core.errors import BadOption
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.qtok.classify import CATEGORIES, HOLES, classify, reference_strings
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.scripts import script_name, script_of_text, script_property
from tokenlayer.tokenizer.qtok.tables import category_counts, folded, script_percents, union

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def loaded(data):
    return LoadedTokenizer(json.loads(data) if isinstance(data, str) else data, where="test")


def vocabulary(names, *, mark="▁", byte_fallback=True, added=()):
    """A BPE tokenizer of SentencePiece kind with exactly these names, and no merges that make the long ones."""
    names = [*dict.fromkeys(["<unk>", *names])]
    vocab = {name: i for i, name in enumerate(names)}
    merges = [[a, name[len(a) :]] for name in names for a in names if name.startswith(a) and name[len(a) :] in vocab]
    metaspace = {"type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": True}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": byte_fallback}
    tokens = [
        {"id": vocab[name], "content": name, "special": special, "normalized": False, "lstrip": False, "rstrip": False,
         "single_word": False}
        for name, special in added
    ]  # fmt: skip
    return loaded({"version": "1.0", "model": model, "pre_tokenizer": metaspace, "added_tokens": tokens})


def category_of(tokenizer, config=None):
    return {tokenizer.vocab.names[e.id]: (e.category, e.script) for e in classify(tokenizer, config)}


@EVERY_FAMILY
def test_classification_is_a_partition_of_the_vocabulary(family):
    tokenizer = loaded(FAMILIES[family]())
    entries = classify(tokenizer)
    assert [e.id for e in entries] == list(range(len(tokenizer.vocab)))
    assert sum(category_counts(entries).values()) == len(tokenizer.vocab)
    assert {e.category for e in entries} <= {*CATEGORIES, HOLES}
    assert all(bool(e.script) == e.category.endswith("alpha") for e in entries)


@EVERY_FAMILY
def test_text_of_an_entry_is_the_library_s_own_decoding(family):
    tokenizer = loaded(FAMILIES[family]())
    decode = tokenizer.backend.decode
    for e in classify(tokenizer):
        if e.text is None or e.category in ("control_tokens", HOLES, "pure_unicode"):
            continue
        alone = decode([e.id], skip_special_tokens=False)
        assert alone in (e.text, e.text.removeprefix(" "), f"##{e.text}"), tokenizer.vocab.label(e.id)


NAMES = {
    "▁the": ("spaced_alpha", "Latin"),
    "слово": ("inner_alpha", "Cyrillic"),
    "é": ("char_alpha", "Latin"),
    "a": ("char_alpha", "Latin"),
    "<0x41>": ("pure_unicode", ""),
    "7": ("char_other", ""),
    "٣٤": ("inner_other", ""),
    "Ａ": ("char_alpha", "Latin"),
    "e\u0301t": ("inner_alpha", "Latin"),
    "\u0301": ("char_other", ""),
    "क\u094d\u200dष": ("inner_alpha", "Devanagari"),
    "プロー": ("inner_alpha", "Katakana"),
    "❤\ufe0f": ("inner_other", ""),
    "аa": ("inner_other", ""),
    "\ue000": ("char_errors", ""),
    "▁\ue000": ("spaced_errors", ""),
    "x\n": ("inner_errors", ""),
    "▁▁▁": ("spaced_other", ""),
    "<div>": ("control_tokens", ""),
    "<br>": ("inner_other", ""),
    "</b>": ("inner_other", ""),
    "[CODE]": ("control_tokens", ""),
}


def test_kinds_of_entries():
    found = category_of(vocabulary(NAMES))
    assert {name: found[name] for name in NAMES} == NAMES
    assert found["<unk>"] == ("control_tokens", "")


def test_special_flag_comes_before_the_shape():
    names = ["<", "d", "iv", ">", "<d", "<div", "<div>", "iv>", "plain"]
    spelled = vocabulary(names)
    assert category_of(spelled)["<div>"] == ("inner_other", "")
    assert category_of(vocabulary(names, added=[("<div>", False)]))["<div>"] == ("control_tokens", "")
    assert category_of(vocabulary(names, added=[("plain", True)]))["plain"] == ("control_tokens", "")
    assert category_of(loaded(wordpiece()))["[CLS]"] == ("control_tokens", "")


def test_duplicates_after_decoding_stay_separate():
    tokenizer = vocabulary(["a", "<0x61>", "▁b"])
    texts = Counter(e.text for e in classify(tokenizer))
    assert texts["a"] == 2
    assert len(reference_strings(tokenizer.data)) == len(tokenizer.vocab)


def test_bytes_of_one_and_characters_of_the_alphabet_are_not_confused():
    found = category_of(vocabulary(["Ġ", "ĠA", "A"]))
    assert found["Ġ"] == ("char_alpha", "Latin")
    byte_level = loaded(FAMILIES["byte-level"]())
    entries = classify(byte_level)
    assert sum(e.category == "pure_unicode" for e in entries) == 256
    assert not any(e.text is not None and len(e.data) == 1 and e.script for e in entries)


def test_an_encoding_is_never_guessed_from_content():
    """The reference takes a SentencePiece file without Russian for a byte-level one."""
    tokenizer = vocabulary(["é", "▁é", "Ã©"])
    assert category_of(tokenizer)["Ã©"] == ("inner_other", "")
    assert [e.text for e in classify(tokenizer)][1:] == ["é", " é", "Ã©"]


def test_compat_follows_the_reference():
    config = QtokConfig(compat=True)
    byte_level = {e.text: e.category for e in classify(loaded(FAMILIES["byte-level"]()), config)}
    assert byte_level["A"] == "pure_unicode"
    assert byte_level[" "] == "char_other"
    assert byte_level["\n"] == "char_errors"
    assert byte_level["<0yÃ>"] == "unicode_flanks"
    pieces = {e.text: (e.category, e.script) for e in classify(vocabulary([*NAMES, "A"]), config)}
    assert pieces["A"] == ("pure_unicode", "")
    assert pieces["0X41"] == ("inner_other", "")
    assert pieces[" the"] == ("spaced_alpha", "LATIN")
    assert pieces[" ▁▁"] == ("spaced_other", "")
    assert pieces["e\u0301t"] == ("inner_other", "")
    assert pieces["<br>"] == ("inner_other", "")


def test_compat_reads_unigram_lists_that_the_reference_refuses():
    entries = classify(loaded(FAMILIES["unigram"]()), QtokConfig(compat=True))
    assert sum(category_counts(entries).values()) == len(entries) > 256


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6))
def test_adding_marks_never_changes_a_script(text):
    script = script_of_text(text, script_property)
    assert script_of_text(text + "\u0301", script_property) == script


def test_script_by_property_and_by_name():
    assert [script_property(c) for c in "aяꙮ中ーΩ1 \U00011305"] == [
        *("Latin", "Cyrillic", "Cyrillic", "Han", "", "Greek", None, None, "Other script")
    ]
    assert [script_name(c) for c in "aя中ー1"] == ["LATIN", "CYRILLIC", "CJK", "KATAKANA-HIRAGANA", None][:3] + [
        None
    ] * 2


def test_union_and_shares():
    one, two = classify(vocabulary(["▁a", "b", "<0x62>"])), classify(vocabulary(["▁a", "в"]))
    both = union({"one": one, "two": two})
    assert sorted(e.text for e in both) == sorted([" a", "b", "в", "<unk>"])
    assert script_percents(one) == {"Latin (spaced)": 50, "Latin (char)": 50}
    names, lines = folded({"one": script_percents(one), "two": script_percents(two)}, 50.0)
    assert (names, lines) == (["Other"], [[100.0], [100.0]])
    assert folded({"one": {"a": 3.0, "b": 1.0}}, 1.0)[0] == ["a", "Other"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scripts": "nmae"}, "scripts is 'nmae', expected one of: property, name"),
        ({"same_from": 1.5}, "same_from is 1.5, expected a share"),
        ({"renyi_order": 1.0}, "renyi_order is 1.0, expected above 0 and not 1"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(BadOption, match=message):
        QtokConfig(**given)
