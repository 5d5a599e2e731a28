"""Word lists: FreeDict entries, plain pairs, malformed lines that are counted and shown."""

import gzip

import pytest

from tokenlayer.core.errors import BadText
from tokenlayer.data.dictionaries import LONGEST_LINE, Dictionary, read_dictionary, translations

FREEDICT = "abandon\t1. acha, tupa | 2. telekeza (kabisa)\nabove\tjuu\na while\tkitambo\n"


def write(folder, data):
    path = folder / "eng-swh.tsv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_every_translation_of_a_freedict_line_makes_a_pair(tmp_path):
    found = read_dictionary(write(tmp_path, FREEDICT))
    assert found.pairs == (
        *(("abandon", word) for word in ("acha", "tupa", "telekeza")),
        ("above", "juu"),
        ("a while", "kitambo"),
    )
    assert (found.lines, found.malformed, found.warnings()) == (3, 0, [])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("flat", ["flat"]),
        ("1. flat, dwelling | 2. home, flat", ["flat", "dwelling", "home"]),
        ("(old (very)) house; hut [rare]", ["house", "hut"]),
        ("1,000", ["1,000"]),
        ("3.5 units", ["3.5 units"]),
        ("word,", ["word"]),
        ("(only a note)", []),
        ("horse{the animal}", ["horse"]),
        ("by~stages", ["by stages"]),
    ],
)
def test_numbers_and_notes_are_no_part_of_a_translation(entry, words):
    assert translations(entry) == words


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        # each as it stands in a FreeDict list
        ("konehuone | compartment on a ship", ["konehuone"]),
        ("1. penska, kersa | child (colloq.) | 2. vohla, kili", ["penska", "kersa", "vohla", "kili"]),
        ("herttuatar 2. | female ruler of a duchy | 3.", ["herttuatar"]),
        ("1. hyppy, loikka | 2. hyppy 2. | instance of causing oneself to fall", ["hyppy", "loikka"]),
        ("1. | stairs | 2.", ["stairs"]),
        ("in | ; at", ["in", "at"]),
        ("tailor | Synonym: {mshoni}", ["tailor"]),
        ("Plural of {bata}: duck", ["duck"]),
        ("Plural of {mlango}: 1. door 2. gate, portal", ["door", "gate", "portal"]),
        ('1. लेखक~वर्ग | "He wrote." | 2. लेखन{कर्म}', ["लेखक वर्ग", "लेखन"]),
        ('1. | "Il faut quelque chose" | need', ["need"]),
        ("1. zararsız. harmlessly zararsız bir şekilde. harmlessness zararsızlık", ["zararsız"]),
        ("1. (huk.) avukat, dava vekili .", ["avukat", "dava vekili"]),
        ("1. St. Petersburg | 2. 1000.", ["St. Petersburg", "1000."]),
    ],
)
def test_definitions_examples_references_and_idioms_make_no_pairs(entry, words):
    assert translations(entry) == words


def test_a_line_without_a_tab_is_cut_at_its_first_space(tmp_path):
    assert read_dictionary(write(tmp_path, "\ufeffthe das\r\n\n  \nof von der\n")).pairs == (
        ("the", "das"),
        ("of", "von der"),
    )


def test_malformed_lines_are_skipped_counted_and_the_first_three_shown(tmp_path):
    long = b"x" * (3 * LONGEST_LINE) + b"\ty"
    lines = [b"one", b"a\tb", b"\tempty", b"a\tb\tc", b"\xff\tc", long, b"c\td"]
    found = read_dictionary(write(tmp_path, b"\n".join(lines)))
    assert found.pairs == (("a", "b"), ("c", "d"))
    assert (found.lines, found.malformed) == (7, 5)
    assert found.first_malformed == (
        "line 1 has 1 fields, expected 2: 'one'",
        r"line 3 has an empty side: '\tempty'",
        r"line 4 has 3 fields, expected 2: 'a\tb\tc'",
    )
    assert found.warnings()[0].startswith("5 of 7 dictionary lines of ")


def test_the_direction_can_be_turned(tmp_path):
    path = write(tmp_path, FREEDICT)
    assert read_dictionary(path, swap=True).pairs[0] == ("acha", "abandon")
    assert read_dictionary(path, swap=True).swapped() == read_dictionary(path)


def test_compressed_files_are_read(tmp_path):
    path = tmp_path / "eng-swh.tsv.gz"
    path.write_bytes(gzip.compress(FREEDICT.encode()))
    assert len(read_dictionary(path)) == 5
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(BadText, match="cannot read .*eng-swh.tsv.gz"):
        read_dictionary(path)


def test_pairs_at_hand_make_a_dictionary():
    assert Dictionary.of([("a", "b")]) == Dictionary((("a", "b"),), 1)


@pytest.mark.parametrize(
    ("data", "said"), [("", "the file is empty"), ("alone\n", "line 1 has 1 fields, expected 2: 'alone'")]
)
def test_a_list_without_any_pair_is_an_error(data, said, tmp_path):
    with pytest.raises(BadText, match=f"no word pair in .*: {said}") as caught:
        read_dictionary(write(tmp_path, data))
    assert caught.value.hint == "write one pair a line, source word TAB target word"


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(BadText, match="cannot open .*none.tsv: No such file"):
        read_dictionary(tmp_path / "none.tsv")


def test_real_freedict_lists_are_read(shared_data):
    found = read_dictionary(shared_data / "dictionaries" / "eng-swh.tsv.zst")
    assert found.lines == 1450
    assert found.malformed < 10
    assert ("above", "juu") in found.pairs
