"""Which merges of a file count, and what they start from."""

import pytest
from tests.tiny_tokenizers import FAMILIES, write
from tests.tokenizer.mixture.bpe_toys import bpe, text_of, trained

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.mixture.rules import read_rules


def kept(tokenizer, **options):
    rules = read_rules(tokenizer, **options)
    return [rules.label(at) for at in range(len(rules))]


def test_a_list_without_repeats_stays_as_it_is():
    tokenizer = trained([text_of("one")], merges=20)
    rules = read_rules(tokenizer)
    assert list(zip(rules.left, rules.right, strict=True)) == list(tokenizer.vocab.merges)
    assert rules.notes == ()


@pytest.mark.parametrize("form", ["strings", "lists"])
def test_merges_are_strings_or_lists_and_may_hold_spaces(form):
    merges = [["a", "b"], ["ab", "c"]] + ([["c", " "]] if form == "lists" else [])
    written = merges if form == "lists" else [" ".join(m) for m in merges]
    labels = kept(bpe(["a", "b", "c", " ", "ab", "abc", "c "], written))
    assert labels == [" + ".join(m) for m in merges]


def test_of_several_merges_for_a_token_the_one_that_texts_meet_is_kept():
    """`the` by `th + e` needs merge 0 only, by `t + he` merge 1: a text has `th` first."""
    merges = [["t", "h"], ["h", "e"], ["t", "he"], ["th", "e"]]
    assert kept(bpe(["t", "h", "e", "th", "he", "the"], merges)) == ["t + h", "h + e", "th + e"]


def test_ranks_are_compared_one_by_one():
    """`abcd`: ab + cd needs merges 0 and 3, abc + d needs 0 and 1."""
    merges = [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "d"], ["ab", "cd"], ["abc", "d"]]
    assert kept(bpe(["a", "b", "c", "d", "ab", "abc", "bc", "cd", "abcd"], merges))[-1] == "abc + d"


def test_of_mirrored_merges_the_longer_left_part_is_kept():
    merges = [["a", "a"], ["a", "aa"], ["aa", "a"]]
    assert kept(bpe(["a", "aa", "aaa"], merges)) == ["a + a", "aa + a"]


def test_a_merge_of_parts_that_are_made_later_is_left_out():
    merges = [["ab", "c"], ["a", "bc"], ["a", "b"], ["b", "c"]]
    labels = kept(bpe(["a", "b", "c", "ab", "bc", "abc"], merges))
    assert "ab + c" not in labels
    assert "a + bc" not in labels


def test_kept_merges_cut_texts_as_the_whole_list_does():
    from tokenizers import Tokenizer, models

    merges = [["t", "h"], ["h", "e"], ["t", "he"], ["th", "e"], ["e", "n"], ["th", "en"], ["the", "n"]]
    vocab = ["t", "h", "e", "n", "th", "he", "the", "en", "then"]
    rules = read_rules(bpe(vocab, merges))
    ids = {name: i for i, name in enumerate(vocab)}
    pairs = [(vocab[a], vocab[b]) for a, b in zip(rules.left, rules.right, strict=True)]
    whole = Tokenizer(models.BPE(vocab=ids, merges=[tuple(m) for m in merges]))
    few = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    for text in ("then", "the", "hen", "thethen", "ththenen"):
        assert whole.encode(text).tokens == few.encode(text).tokens


def test_runs_of_white_space_are_left_out_when_asked():
    tokenizer = bpe(["▁", "a", "▁▁", "▁a", "aa"], [["▁", "▁"], ["▁", "a"], ["a", "a"]])
    assert kept(tokenizer, drop_space_runs=True) == ["▁ + a", "a + a"]
    assert len(kept(tokenizer)) == 3


def test_prefix_and_suffix_are_part_of_the_symbols():
    inside = bpe(["a", "##b", "##c", "ab", "abc"], [["a", "##b"], ["ab", "##c"]], continuing_subword_prefix="##")
    assert read_rules(inside).symbols("abc") == [0, 1, 2]
    end = bpe(["a", "b", "b</w>", "ab</w>"], [["a", "b</w>"]], end_of_word_suffix="</w>")
    assert read_rules(end).symbols("ab") == [0, 2]


def test_what_is_refused(tmp_path):
    for family in ("unigram", "wordpiece"):
        with pytest.raises(BadTokenizer, match="needs BPE merges") as caught:
            read_rules(load_tokenizer(write(tmp_path / family, FAMILIES[family]())))
        assert "Unigram and WordPiece" in caught.value.hint
    with pytest.raises(BadTokenizer, match="toy has no merges"):
        read_rules(bpe(["a", "b"], []))
    with pytest.raises(BadTokenizer, match="no merges left"):
        read_rules(bpe(["▁", "▁▁"], [["▁", "▁"]]), drop_space_runs=True)


def test_added_tokens_are_no_merges():
    tokenizer = trained([text_of("one")], merges=10).with_control_tokens(["<|x|>"])
    assert len(read_rules(tokenizer)) == 10
