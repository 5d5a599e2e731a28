"""Cutting by two paths against the rule written down, bytes, files, and the command's function."""

import json
import random

import pytest
from tests.tokenizer.lib.oracle import Oracle

from tokenlayer.core.errors import BadOption, BadText, BadTokenizer
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.files import compare, load_learner, load_lib, loaded
from tokenlayer.tokenizer.lib.learn import learn_lib
from tokenlayer.tokenizer.lib.tokenizer import LibTokenizer

WORDS = [
    "the",
    "the",
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "dog",
    "sat",
    "on",
    "log",
    "with",
    "a",
    "hat",
    "in",
    "rain",
]


def random_lexicon(draw, letters="abc"):
    found = {"".join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(14)}
    return draw.sample(sorted(found), len(found))


@pytest.mark.parametrize("compat", [False, True])
def test_two_paths_equal_the_rule_written_down(compat):
    draw = random.Random(1)
    for _ in range(150):
        lexicon = random_lexicon(draw)
        text = "".join(draw.choices("abcd", k=draw.randint(0, 25)))
        asked = Oracle(LibConfig()).tokenize(text, lexicon, compat)
        found = LibTokenizer(lexicon, compat=compat, compiled=False).tokenize(text)
        assert found == [one if one in lexicon else f"<0x{ord(one):02X}>" for one in asked]


@pytest.mark.slow  # compiling takes seconds, when it was not done before
def test_compiled_cutting_is_the_same():
    pytest.importorskip("numba")
    draw = random.Random(2)
    lexicon, text = random_lexicon(draw), "".join(draw.choices("abcdé\n", k=500))
    plain, fast = (LibTokenizer(lexicon, compiled=compiled) for compiled in (False, True))
    assert plain.encode(text) == fast.encode(text)


def test_it_is_not_longest_match():
    tokenizer = LibTokenizer(["a", "ab", "abc", "bcd", "c", "d", "cd", "e", "cde"], compiled=False)
    assert tokenizer.tokenize("abcde") == ["ab", "cde"]  # longest match begins with abc and needs three
    ranks = LibTokenizer(["ab", "cd", "a", "b", "c", "d", "abc"], compiled=False)
    assert ranks.tokenize("abcd") == ["ab", "cd"]  # as many as abc d, better ranks


def test_a_long_chunk_alone_is_kept_but_for_compat():
    assert LibTokenizer(["bcd", "c"], compiled=False).tokenize("bcd") == ["bcd"]
    assert LibTokenizer(["bcd", "c"], compat=True, compiled=False).tokenize("bcd") == ["<0x62>", "c", "<0x64>"]


def test_every_text_comes_back():
    tokenizer = LibTokenizer(["a", "é", "né", "日本"], ["<|endoftext|>"], compiled=False)
    for text in ("", "né a日本語", "\n\n a\r\n", "\0😀<|endoftext|><0x41>", "e\u0301 שלום", "x" * 5000, "a\ud800b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    data = bytes(range(256)) + "né".encode() + b"\xe6\x97"
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    for ids in (tokenizer.encode("<|endoftext|>\n<unk>"), loaded(tokenizer).encode("<|endoftext|>\n<unk>")):
        assert 0 < min(ids) < max(ids) < len(tokenizer) - 1  # text never becomes a control token
    assert tokenizer.tokenize("日本語") == ["日本", "<0xE8>", "<0xAA>", "<0x9E>"]


def test_long_texts_are_cut_in_batches_of_whole_lines(monkeypatch):
    monkeypatch.setattr("tokenlayer.tokenizer.lib.tokenizer.BATCH_CHARS", 7)
    tokenizer = LibTokenizer(["a", "ab", "ba", "aba"], compiled=False)
    text = "ababab\nab\n\nababababababababab\nb"
    whole = [token for line in text.split("\n") for token in [*tokenizer.tokenize(line), "<0x0A>"]][:-1]
    assert tokenizer.tokenize(text) == whole


def test_deeper_cuts_only_into_better_ranks():
    tokenizer = LibTokenizer(["in", "the", " ", "in ", "in the", "n", "theory", "ory"], compiled=False)
    assert tokenizer.tokenize("in the", deeper=True) == ["in", " ", "the"]
    assert tokenizer.tokenize("theory", deeper=True) == ["theory"]  # ory ranks behind it
    assert tokenizer.parts("in the", level=1) == ["in ", "the"]


def test_measures():
    found = LibTokenizer(["a", "b", "ab", "abab"], compiled=False).evaluate(["abab", "ab"])
    assert (found.lexicon, found.tokens, found.token_length, found.eval_index) == (4, 2, 3.0, 1.5)
    with pytest.raises(BadText, match="no text to measure"):
        LibTokenizer(["a"], compiled=False).evaluate([""])


@pytest.mark.parametrize(
    ("lexicon", "said"), [(["a", "a"], "repeated"), (["a", ""], "empty"), (["a\nb"], "holds a line end")]
)
def test_lexicons_that_are_none(lexicon, said):
    with pytest.raises(BadOption, match=said):
        LibTokenizer(lexicon, compiled=False)


@pytest.mark.parametrize("i", [-1, 999])
def test_ids_that_are_none(i):
    with pytest.raises(BadOption, match="a token id is outside 0 to 257"):
        LibTokenizer(["a"], compiled=False).decode([i])


def sentences(seed, lines=400):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(lines)]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lib")
    (folder / "text.txt").write_text("\n".join(sentences(1)))
    report = learn_lib([str(folder / "text.txt")], folder / "tok", LibConfig(article=40, life=4), compiled=False)
    return folder, report


def test_a_learned_folder_has_words_and_more_than_words(learned):
    folder, report = learned
    tokenizer = load_lib(folder / "tok", compiled=False)
    assert " the " in {f" {chunk.strip()} " for chunk in tokenizer.lexicon}
    assert any(len(chunk.split()) > 1 for chunk in tokenizer.lexicon)
    assert report.metric("lexicon").value == len(tokenizer.lexicon)
    assert report.metric("articles read").value == 10
    held = sentences(9, 50)
    assert tokenizer.evaluate(held).tokens < sum(len(line.split()) for line in held)


def test_tokenizer_json_has_the_same_ids_and_never_more_tokens(learned):
    folder, report = learned
    tokenizer, other = load_lib(folder / "tok", compiled=False), load_tokenizer(folder / "tok")
    assert other.vocab.tokens == tokenizer.tokens
    held = sentences(3, 100)
    cut = compare(tokenizer, held)
    assert cut.json_tokens <= cut.tokens
    for text in (*held[:10], "né\n\n日本 the cat"):
        assert other.decode_bytes(other.encode(text)) == text.encode()
    assert other.encode_bytes(b"the \xff") == tokenizer.encode_bytes(b"the \xff")
    assert any("which no tokenizer.json can express" in one for one in report.warnings)


def test_fewest_tokens_then_best_ranks_in_the_json():
    other = loaded(LibTokenizer(["ab", "c", "a", "bc", "d"], compiled=False))
    assert [other.vocab.names[i] for i in other.encode("abc")] == ["ab", "c"]
    assert [other.vocab.names[i] for i in other.encode("abcd")] == ["ab", "c", "d"]


def test_learning_goes_on_from_a_folder(learned, tmp_path):
    folder, _ = learned
    (folder / "more.txt").write_text("\n".join(sentences(2)))
    learn_lib([str(folder / "more.txt")], tmp_path / "two", start=folder / "tok", compiled=False)
    once = load_learner(folder / "tok", compiled=False).fit(sentences(2))
    assert load_learner(tmp_path / "two", compiled=False).state() == once.state()
    assert once.steps == 20


def test_reading_again_within_a_life_is_warned_of(learned, tmp_path):
    folder, _ = learned
    config = LibConfig(article=100, life=4, steps=5)
    report = learn_lib([str(folder / "text.txt")], tmp_path / "tok", config, compiled=False)
    assert any("every accidental chunk met itself" in one for one in report.warnings)


def test_folders_that_hold_no_learner(tmp_path):
    with pytest.raises(BadTokenizer, match="there is no lib.json"):
        load_lib(tmp_path)
    (tmp_path / "lib.json").write_text(json.dumps({"format": "other/1"}))
    with pytest.raises(BadTokenizer, match="format is 'other/1'"):
        load_lib(tmp_path)
    (tmp_path / "lib.json").write_text(json.dumps({"format": "tokenlayer-lib/1"}))
    with pytest.raises(BadTokenizer, match="is damaged: KeyError"):
        load_lib(tmp_path)


def test_texts_that_teach_nothing(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(BadText, match="no text to learn from"):
        learn_lib([str(tmp_path / "blank.txt")], tmp_path / "tok")
    (tmp_path / "short.txt").write_text("ab\n")
    with pytest.raises(BadText, match="left probation within 1 articles"):
        learn_lib([str(tmp_path / "short.txt")], tmp_path / "tok")
    assert not (tmp_path / "tok").exists()
