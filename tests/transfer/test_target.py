"""The target tokenizer made ready: what is appended, what stands around a text, which roles it has."""

import json
from itertools import product

import pytest
from tests.tiny_tokenizers import FAMILIES, SENTENCES, byte_level, wordpiece, write

from tokenlayer.core.errors import BadOption
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.target import prepare_target, role_table, surroundings


def loaded(folder, name, text, **config):
    return load_tokenizer(write(folder / name, text, **config))


@pytest.fixture
def tokenizers(tmp_path):
    return {name: loaded(tmp_path, name, make()) for name, make in FAMILIES.items()}


@pytest.mark.parametrize("names", list(product(FAMILIES, FAMILIES)), ids="->".join)
def test_texts_keep_their_ids_and_get_around_them_what_the_model_knows(names, tokenizers):
    source, target = (tokenizers[name] for name in names)
    ready = prepare_target(source, target).tokenizer
    before, after = surroundings(source)
    names_of = [source.vocab.names[i] for i in before], [source.vocab.names[i] for i in after]
    for text in SENTENCES.values():
        ids = target.encode(text)
        assert ready.encode(text) == ids
        whole = list(ready.backend.encode(text).ids)
        assert whole[len(before) : len(whole) - len(after)] == ids
    around = surroundings(ready)
    assert tuple(len(side) for side in around) == tuple(len(side) for side in names_of)


@pytest.mark.parametrize("names", list(product(FAMILIES, FAMILIES)), ids="->".join)
def test_what_was_derived_equals_what_is_read_again_from_the_written_file(names, tokenizers):
    ready = prepare_target(tokenizers[names[0]], tokenizers[names[1]]).tokenizer
    again = LoadedTokenizer(json.loads(ready.text), roles=ready.vocab.roles)
    for field in ("tokens", "kinds", "names", "merges", "family", "model", "lossy"):
        assert getattr(ready.vocab, field) == getattr(again.vocab, field)
    assert dict(ready.vocab.roles) == dict(again.vocab.roles)
    data = [one for one in ready.vocab.tokens if one]
    assert ready.vocab.spell_all(data) == again.vocab.spell_all(data)
    assert ready.backend.to_str() == again.backend.to_str()


def test_roles_that_the_model_uses_are_appended_or_only_reported(tokenizers):
    source, target = tokenizers["wordpiece"], tokenizers["byte-level"]
    added = prepare_target(source, target)
    assert added.added == ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
    assert added.lacking == ()
    size = len(target.vocab)
    assert {role: added.tokenizer.vocab.roles[role] for role in ("pad", "cls", "sep", "mask")} == {
        "pad": size,
        "cls": size + 1,
        "sep": size + 2,
        "mask": size + 3,
    }
    kept = prepare_target(source, target, "keep")
    assert kept.added == ()
    assert kept.lacking == added.added
    assert len(kept.tokenizer.vocab) == size
    with pytest.raises(BadOption, match="add"):
        prepare_target(source, target, "ad")


def test_a_role_that_the_target_has_by_another_name_is_not_appended(tmp_path):
    source = loaded(tmp_path, "source", byte_level())
    target = loaded(tmp_path, "target", FAMILIES["split-byte-level"]())
    ready = prepare_target(source, target)
    assert ready.added == ()
    assert ready.token_map[source.vocab.roles["eos"]] == target.vocab.roles["eos"]
    rows = {row[0]: row for row in role_table(ready)}
    assert rows["eos"][1:] == ("<|endoftext|>", 0, "<|end_of_text|>", 1, "same role")


def test_the_files_say_the_roles_and_keep_the_models_settings(tmp_path):
    config = {"model_max_length": 77, "padding_side": "left", "chat_template": "{{ messages }}[SEP]"}
    source = loaded(tmp_path, "source", wordpiece(), **config)
    target = loaded(tmp_path, "target", byte_level(), model_max_length=5)
    files = prepare_target(source, target).tokenizer.files(like=source)
    assert set(files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    said = json.loads(files["tokenizer_config.json"])
    assert said["model_max_length"] == 77
    assert said["padding_side"] == "left"
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert said["mask_token"] == "[MASK]"
    assert files["chat_template.jinja"] == config["chat_template"]


def test_a_fixed_pad_id_changes_places_with_another_token(tokenizers):
    source, target = tokenizers["unigram"], tokenizers["byte-level"]
    pad = source.vocab.roles["pad"]
    ready = prepare_target(source, target, fixed_pad=pad).tokenizer
    assert ready.vocab.roles["pad"] == pad
    assert ready.vocab.names[pad] == "<pad>"
    moved = ready.vocab.find_name(target.vocab.names[pad])
    for text in SENTENCES.values():
        swapped = [moved if i == pad else i for i in target.encode(text)]
        assert ready.encode(text) == swapped
