"""Typed pieces at run time: the rules by hand, the tokenizer against the base and a plain cut, rows, files, errors."""

import copy
import json
import math
import pickle
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_swaps import first_output, load, model_of, model_with_tokenizer
from tests.tiny_tokenizers import SENTENCES, byte_level, unigram, wordpiece, write

from tokenlayer.core.errors import BadOption, BadText, BadTokenizer, OutputExists
from tokenlayer.core.rowplan import mean_row
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.arbitration import Choices
from tokenlayer.transfer.ktokeniser import KTokeniserConfig, build, ktokeniser, rows_of, term_words
from tokenlayer.transfer.terms import TermSet
from tokenlayer.transfer.typed_pieces import select

DRUGS = ("amoxicillin", "ampicillin", "penicillin", "cloxacillin", "atorvastatin", "simvastatin", "5-HT", "β-blocker")
DISEASES = ("rhinitis", "arthritis", "bronchitis", "hepatitis", "nephritis", "neuritis", "Parkinson's disease")
TERMS = TermSet({"drug": DRUGS, "disease": DISEASES})
TEXTS = [
    "Amoxicillin and hepatitis, naïve [MASK] but HEPATITIS stays.",
    "the simvastatin\tof  pénicillin-resistant\u00a0bronchitis (5-HT, β-blocker)",
    "",
    "   ",
    "x" * 130 + " rhinitis",
    "e\u0301 cloxacillin\u0301 \u200b neuritis\n",
    *SENTENCES.values(),
]


def config(**changes):
    return KTokeniserConfig(**{"min_count": 0, **changes})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_tokenizer(write(tmp_path_factory.mktemp("base"), wordpiece(), pad_token="[PAD]", unk_token="[UNK]"))


@pytest.fixture(scope="module")
def cased(tmp_path_factory):
    data = json.loads(wordpiece())
    data["normalizer"]["lowercase"] = False
    names = {name.upper(): None for name in data["model"]["vocab"] if name.islower()}
    for name in [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *names]:
        data["model"]["vocab"].setdefault(name, len(data["model"]["vocab"]))
    return load_tokenizer(write(tmp_path_factory.mktemp("cased"), json.dumps(data), pad_token="[PAD]"))


@pytest.fixture(scope="module")
def built(base):
    return build(base, TERMS, config())


@pytest.fixture(scope="module")
def always(built):
    return built.load()


@pytest.fixture(scope="module")
def never(base):
    return build(base, TERMS, config(rollback=0.0)).load()


@pytest.fixture(scope="module")
def plain(base):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=base.where + "/tokenizer.json",
        **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
    )


# --- the tokenizer against the base ------------------------------------------------------------------------------

CALLS = [
    {},
    {"add_special_tokens": False},
    {"padding": True},
    {"padding": "max_length", "max_length": 60, "truncation": True},
    {"padding": True, "pad_to_multiple_of": 8},
    {"truncation": True, "max_length": 9, "stride": 2, "return_overflowing_tokens": True, "padding": True},
    {"split_special_tokens": True},
]
ALL = {
    "return_offsets_mapping": True,
    "return_special_tokens_mask": True,
    "return_length": True,
    "return_token_type_ids": True,
}


def same(one, other):
    assert dict(one) == dict(other)
    for a, b in zip(one.encodings, other.encodings, strict=True):
        for name in ("ids", "tokens", "offsets", "word_ids", "sequence_ids", "type_ids", "special_tokens_mask"):
            assert getattr(a, name) == getattr(b, name), name
        assert len(a.overflowing) == len(b.overflowing)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_rollback_0_is_the_base_in_every_field(never, plain, call):
    assert never.is_fast
    same(never(TEXTS, **ALL, **call), plain(TEXTS, **ALL, **call))
    same(never(TEXTS[:3], TEXTS[3:6], **ALL, **call), plain(TEXTS[:3], TEXTS[3:6], **ALL, **call))
    same(never(TEXTS[0], **ALL, **call), plain(TEXTS[0], **ALL, **call))
    same(never(TEXTS[0], TEXTS[1], **ALL, **call), plain(TEXTS[0], TEXTS[1], **ALL, **call))
    split = [text.split() for text in TEXTS]
    same(never(split, is_split_into_words=True, **ALL, **call), plain(split, is_split_into_words=True, **ALL, **call))
    pair = {"text": split[0], "text_pair": split[1], "is_split_into_words": True, **ALL, **call}
    same(never(**pair), plain(**pair))
    assert never.tokenize(TEXTS[0]) == plain.tokenize(TEXTS[0])
    assert never.num_special_tokens_to_add(True) == plain.num_special_tokens_to_add(True)


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("aeiouclinrtsβ5- ̈éÉİß\u200b\n[]MASK"), max_size=40))
def test_any_text_rolled_back_is_the_base_and_offsets_point_into_the_text(text, never, plain, always):
    same(never(text, **ALL), plain(text, **ALL))
    found = always(text, return_offsets_mapping=True)
    ends = [place for place in found["offset_mapping"] if place != (0, 0)]
    assert all(0 <= start <= end <= len(text) for start, end in ends)
    assert [a[0] for a in ends] == sorted(a[0] for a in ends)
    before = plain(text)
    assert list(dict.fromkeys(found.word_ids())) == list(dict.fromkeys(before.word_ids()))


@settings(max_examples=80)
@given(text=st.text(st.sampled_from("aeiouclinrtsAMXβ5- ̈éÉİß\u200b\n[]"), max_size=40), seed=st.integers(0, 99))
def test_looking_words_up_equals_the_way_over_the_base_encoding(text, seed, always, built, cased):
    words = text.split() * 2
    middle, odd = (rolled(seed, one) for one in (built, cased_build(cased)))
    for tokenizer in (always, middle, odd):
        arbiter = tokenizer.backend_tokenizer
        arbiter._prepare()
        for sequence, split in ((text, False), (words, True)):
            quick = arbiter._quick(sequence, split, 1)
            slow = arbiter._thorough(sequence, split, 1)
            if quick is not None:
                for name in ("ids", "tokens", "offsets", "word_ids", "type_ids", "attention_mask"):
                    assert getattr(quick, name) == getattr(slow, name), (name, sequence)


@lru_cache
def cased_build(cased):
    return build(cased, TERMS, config())


@lru_cache
def rolled(seed, made):
    return replace(made, choices=replace(made.choices, rollback=seed / 100)).load()


def test_a_word_that_the_normaliser_changes_by_its_neighbour_keeps_its_base_cut(tmp_path):
    data = json.loads(wordpiece())
    change = {"type": "Replace", "pattern": {"String": "icillin x"}, "content": "icilla x"}
    data["normalizer"] = {"type": "Sequence", "normalizers": [data["normalizer"], change]}
    odd = load_tokenizer(write(tmp_path, json.dumps(data), pad_token="[PAD]"))
    tokenizer = build(odd, TERMS, config()).load()
    assert tokenizer.tokenize("amoxicillin x") == [odd.vocab.names[i] for i in odd.encode("amoxicillin x")]
    assert tokenizer.tokenize("amoxicillin a") != [odd.vocab.names[i] for i in odd.encode("amoxicillin a")]


def test_most_texts_take_the_quick_way_and_those_with_added_tokens_the_other(built):
    tokenizer = built.load()
    arbiter = tokenizer.backend_tokenizer
    tokenizer(TEXTS)
    quick = [text for text in TEXTS if arbiter._quick(text, False, 0) is not None]
    assert quick == [text for text in TEXTS if "[MASK]" not in text]
    tokenizer.add_tokens(["naive"])  # looked for in the normalised text
    assert tokenizer.tokenize("Naïve amoxicillin")[0] == "naive"
    assert arbiter._quick("amoxicillin", False, 0) is None


def greedy(word, vocab):
    """WordPiece by hand."""
    pieces, at = [], 0
    while at < len(word):
        lead = "##" if at else ""
        end = next((e for e in range(len(word), at, -1) if lead + word[at:e] in vocab), None)
        if end is None:
            return None
        pieces.append(lead + word[at:end])
        at = end
    return pieces if len(word) <= 100 else None


def by_hand(built, text):
    """Words by the base's pre-tokenizer; each candidate by hand; the rule in one line."""
    backend, rules = built.base.backend, built.choices
    base = set(built.base.vocab.names)
    counts = {kind: found.ngrams for kind, found in built.found.items()}
    total = sum(sum(some.values()) for some in counts.values())
    pieces = []
    for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
        cuts = [greedy(word, base | set(built.selected[kind])) for kind in rules.pieces] + [greedy(word, base)]

        def h(cut):
            grams = [piece.removeprefix("##") for piece in cut]
            p = (1 + sum(sum(some.get(g, 0) for some in counts.values()) or 1 for g in grams)) / total
            return -p * math.log2(p)

        known = [cut for cut in cuts if cut is not None]
        pieces += min(known, key=h) if known else ["[UNK]"]
    return pieces


@pytest.mark.parametrize("text", [text for text in TEXTS if "[" not in text])
def test_rollback_1_is_the_choice_word_by_word(built, always, text):
    lower = text.lower()  # words in upper case are another test
    assert always.tokenize(lower) == by_hand(built, lower)


def test_the_choice_is_seen_in_the_pieces(always, plain):
    assert len(always.tokenize("amoxicillin")) < len(plain.tokenize("amoxicillin"))
    assert always.tokenize("HEPATITIS") == plain.tokenize("HEPATITIS")
    assert always.tokenize("Hepatitis") == always.tokenize("hepatitis") != plain.tokenize("hepatitis")


def test_a_sentence_that_saves_too_much_goes_back_as_a_whole(base, plain):
    middle = build(base, TERMS, config(rollback=0.3)).load()
    much, little = "amoxicillin", "the rights of all " * 6 + "rhinitis"
    assert middle.tokenize(much) == plain.tokenize(much)
    assert middle.tokenize(little) != plain.tokenize(little)
    both = middle(much, little).tokens()  # each half of a pair is a sentence
    assert both == ["[CLS]", *plain.tokenize(much), "[SEP]", *middle.tokenize(little), "[SEP]"]
    explained = middle.explain(much)
    assert not explained.kept
    assert explained.shortening >= 0.3
    assert list(explained.pieces) == plain.tokenize(much)


def test_explain_names_candidates_scores_and_choice(always):
    found = always.explain("The amoxicillin, HIV")
    assert [(word.text, word.start, word.end) for word in found.words] == [
        ("The", 0, 3),
        ("amoxicillin", 4, 15),
        (",", 15, 16),
        ("HIV", 17, 20),
    ]
    word = found.words[1]
    assert word.chosen == "drug"
    assert word.scores["drug"] == min(score for score in word.scores.values() if score is not None)
    assert list(word.candidates) == ["drug", "disease", "base"]
    assert found.kept
    assert list(found.pieces) == always.tokenize("The amoxicillin, HIV")


def test_offsets_are_those_of_the_original_text_with_a_cased_base(cased):
    tokenizer = build(cased, TERMS, config()).load()
    text = "Amoxicillin, Rhinitis and HEPATITIS"
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spelled = [text[start:end] for start, end in found["offset_mapping"]]
    assert "".join(spelled) == text.replace(" ", "")
    for name, part in zip(found.tokens(), spelled, strict=True):
        assert name.removeprefix("##") in (part, part.lower())
    assert len(tokenizer.tokenize("Amoxicillin")) < len(cased.encode("Amoxicillin"))
    kept = build(cased, TERMS, config(lower_for_lookup=False)).load()
    assert kept.tokenize("amoxicillin") == tokenizer.tokenize("amoxicillin")
    assert kept.tokenize("Amoxicillin") != tokenizer.tokenize("Amoxicillin")


def test_ids_decode_and_old_ids_stay(built, always, plain):
    text = "amoxicillin and hepatitis"
    assert always.decode(always(text)["input_ids"], skip_special_tokens=True) == text
    assert always.decode(always(text)["input_ids"]) == f"[CLS] {text} [SEP]"
    old = plain.get_vocab()
    assert {name: i for name, i in always.get_vocab().items() if name in old} == old
    assert sorted(always.get_vocab().values()) == list(range(len(always)))
    assert max(always(text)["input_ids"]) >= built.first_id


def test_tensors_and_words_come_out_as_from_any_fast_tokenizer(always):
    found = always(["amoxicillin", "a b"], padding=True, return_tensors="pt")
    assert found["input_ids"].shape == found["attention_mask"].shape
    assert found.word_to_tokens(0, 0).end > found.word_to_tokens(0, 0).start + 1
    assert found.char_to_token(0, 10) == len(always.tokenize("amoxicillin"))


def test_saving_loading_copying_and_pickling_change_nothing(always, tmp_path):
    always.save_pretrained(tmp_path / "one")
    again = type(always).from_pretrained(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    for file in ("k_tokeniser.json", "tokenizer.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    for other in (again, copy.deepcopy(always), pickle.loads(pickle.dumps(always))):
        same(other(TEXTS, padding=True, **ALL), always(TEXTS, padding=True, **ALL))
        assert other.choices.to_json() == always.choices.to_json()


def test_tokens_that_are_added_later_are_found_and_keep_the_rest(built):
    tokenizer = built.load()
    before = tokenizer.tokenize("amoxicillin")
    tokenizer.add_tokens(["<drug>"], special_tokens=True)
    assert tokenizer.tokenize("<drug>amoxicillin") == ["<drug>", *before]
    assert tokenizer.convert_tokens_to_ids("<drug>") == len(built.tokenizer.vocab)


def test_remembered_words_are_bounded(built, monkeypatch):
    monkeypatch.setattr("tokenlayer.transfer.k_tokenizer.MOST_WORDS", 3)
    tokenizer = built.load()
    tokenizer(["x" * 101, "y" * 101 + " [MASK]"])
    assert not tokenizer.backend_tokenizer._tokens
    assert len(tokenizer.backend_tokenizer._known) <= 3
    assert [tokenizer.tokenize(text) for text in DISEASES * 2] == [built.load().tokenize(t) for t in DISEASES * 2]


# --- building ----------------------------------------------------------------------------------------------------


def test_words_of_terms_are_those_that_the_base_sees(base, built):
    assert term_words(base)("β-blocker 5-HT Café's") == ["β", "-", "blocker", "5", "-", "ht", "cafe", "'", "s"]
    assert {"β", "blocker", "ht"} <= set(built.found["drug"].words)
    whole = build(base, TERMS, config(words="whitespace"))
    assert {"β-blocker", "5-ht", "parkinson's"} <= {w for found in whole.found.values() for w in found.words}


def test_sizes_bound_the_pieces_of_a_type(base):
    made = build(base, TERMS, config(size=5, sizes={"disease": 2}))
    assert {kind: len(kept) for kind, kept in made.selected.items()} == {"drug": 5, "disease": 2}
    pieces = made.found["drug"].pieces
    assert min(made.selected["drug"].values()) >= max(n for p, n in pieces.items() if p not in made.selected["drug"])


def test_compat_takes_the_alphabetical_sets_and_never_finds_continuations(base):
    made = build(base, TERMS, config(compat=True, size=7, sizes={}))
    for kind, found in made.found.items():
        assert list(made.selected[kind]) == sorted(found.pieces)[:7]
        assert made.selected[kind] == select(found.pieces, size=7, alphabetical=True)
    assert not any(gram.startswith("##") for gram in made.choices.counts)
    p = 2 / made.choices.total
    assert made.choices.score(["##itis"]) == pytest.approx(-p * math.log2(p))


def test_new_rows_are_the_mean_of_base_pieces_and_old_rows_stay(base, built):
    plan = rows_of(base, built.tokenizer, config())
    old = torch.randn(len(base.vocab), 4, generator=torch.Generator().manual_seed(0))
    new = plan.apply(old)
    assert torch.equal(new[: built.first_id], old)
    known = set(base.vocab.names)
    spelled = 0
    for i in range(built.first_id, plan.new_vocab):
        name = built.tokenizer.vocab.names[i]
        lead = "##" if name.startswith("##") else ""
        cut = greedy_inside(name.removeprefix("##"), known, lead)
        if cut is None:
            assert plan.origin[i] == "gaussian"
            assert not torch.allclose(new[i], mean_row(old, plan.support))
        else:
            spelled += 1
            assert plan.origin[i] == "pieces"
            torch.testing.assert_close(new[i], torch.stack([old[base.vocab.find_name(p)] for p in cut]).mean(0))
    assert spelled > 20
    assert "gaussian" in plan.origin  # a piece that the base cannot spell is drawn
    drawn = rows_of(base, built.tokenizer, config(init="gaussian"))
    assert set(drawn.origin[built.first_id :]) == {"gaussian"}
    assert torch.equal(drawn.apply(old), drawn.apply(old))
    other = rows_of(base, built.tokenizer, config(init="gaussian", seed=1))
    assert not torch.equal(drawn.apply(old)[built.first_id :], other.apply(old)[built.first_id :])


def greedy_inside(word, vocab, lead):
    pieces, at = [], 0
    while at < len(word):
        mark = "##" if at else lead
        end = next((e for e in range(len(word), at, -1) if mark + word[at:e] in vocab), None)
        if end is None:
            return None
        pieces.append(mark + word[at:end])
        at = end
    return pieces


@pytest.mark.parametrize("kind", ["bert_encoder", "bert_mlm"])
def test_a_model_gets_pieces_and_plain_transformers_loads_it(kind, tmp_path):
    from tokenlayer.transfer.k_tokenizer import KTokenizer

    source = model_with_tokenizer(kind, tmp_path / "model")
    report = ktokeniser(source, TERMS, tmp_path / "out", config())
    tokenizer = KTokenizer.from_pretrained(tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert len(report.data["checks"]) == 3
    old, new = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    for name in old.rows.names:
        assert torch.equal(new.read(name)[: old.rows.rows], old.read(name))
    assert old.rows.tied == new.rows.tied
    ids = tokenizer("the rights of all", add_special_tokens=True)["input_ids"]
    if max(ids) < old.rows.rows and kind == "bert_encoder":
        torch.testing.assert_close(first_output(model, ids), first_output(load(source), ids))
    assert first_output(model, tokenizer("amoxicillin")["input_ids"]).isfinite().all()
    for kind in TERMS.types:
        per_word = report.metric("pieces per word", kind)
        assert per_word.value < per_word.baseline
        assert report.metric("words changed", kind).value > 0.5
    assert report.metric("new pieces").value == len(tokenizer) - old.rows.rows
    assert report.table("pieces by type").rows[0][:2] == ("drug", len(DRUGS))
    assert report.table("words that change most").rows
    assert not report.warnings
    with pytest.raises(OutputExists):
        ktokeniser(source, TERMS, tmp_path / "out", config())
    with pytest.raises(BadTokenizer, match="is a K-Tokeniser already"):
        ktokeniser(tmp_path / "out", TERMS, tmp_path / "twice", config())


def test_the_same_run_writes_the_same_bytes(tmp_path):
    source = model_with_tokenizer("bert_encoder", tmp_path / "model")
    for name in ("one", "two"):
        ktokeniser(source, TERMS, tmp_path / name, config())
    for file in ("model.safetensors", "tokenizer.json", "k_tokeniser.json", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_padded_rows_stay_where_new_pieces_do_not_need_them(tmp_path):
    data = json.loads(wordpiece())
    source = model_of("bert_encoder", tmp_path / "model", json.dumps(data))
    few = dict(list(data["model"]["vocab"].items())[:-200])
    write(source, json.dumps({**data, "model": {**data["model"], "vocab": few}}))
    report = ktokeniser(source, TERMS, tmp_path / "out", config(size=10))
    assert open_checkpoint(tmp_path / "out").rows.rows == len(data["model"]["vocab"])
    assert report.metric("rows", "padding").value > 0


# --- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "kind"), [(byte_level, "byte-level BPE"), (unigram, "Unigram")])
def test_other_families_are_refused(make, kind, tmp_path):
    from tokenizers import Tokenizer

    from tokenlayer.transfer.k_tokenizer import Arbiter

    with pytest.raises(BadTokenizer, match=f"{kind}, expected WordPiece"):
        build(load_tokenizer(write(tmp_path, make())), TERMS)
    with pytest.raises(BadTokenizer, match="expected WordPiece"):
        Arbiter(Tokenizer.from_str(make()), Choices({"drug": []}, {}, total=1))


def test_bad_terms_and_numbers_say_what_is_wrong(base):
    with pytest.raises(BadText, match="the terms have 1 distinct words"):
        build(base, TermSet({"drug": ("aspirin",)}))
    with pytest.raises(BadOption, match="a type is called 'base'"):
        build(base, TermSet({"base": DRUGS}))
    with pytest.raises(BadOption, match="type in sizes is 'drugs', expected one of: drug, disease"):
        build(base, TERMS, config(sizes={"drugs": 5}))
    for changes, message in [
        ({"rollback": -0.1}, "rollback is -0.1"),
        ({"rollback": math.nan}, "rollback is nan"),
        ({"min_count": -1}, "min_count is -1"),
        ({"size": 0}, "size is 0"),
        ({"sizes": {"drug": 0}}, r"sizes\['drug'\] is 0"),
        ({"words": "pretokens"}, "words is 'pretokens'"),
        ({"init": "mean"}, "init is 'mean'"),
        ({"merges": 0}, "merges is 0"),
    ]:
        with pytest.raises(BadOption, match=message):
            KTokeniserConfig(**changes)


def test_a_folder_without_choices_says_so(base):
    from tokenlayer.transfer.k_tokenizer import KTokenizer

    with pytest.raises(BadTokenizer, match="has no k_tokeniser.json"):
        KTokenizer.from_pretrained(base.where)


def test_half_a_character_is_refused(always):
    with pytest.raises(BadText, match=r"half a character, '\\ud800' at place 2"):
        always(["a", "b \ud800"])


def test_what_is_unusual_is_warned_of(tmp_path):
    source = model_with_tokenizer("bert_encoder", tmp_path / "model")
    names = [name for name in load_tokenizer(source).vocab.names if name.isascii() and name.isalpha() and len(name) > 2]
    known = TermSet({"drug": tuple(names)})
    report = ktokeniser(source, known, tmp_path / "one", KTokeniserConfig(rollback=0.0, min_count=100_000))
    said = " ".join(report.warnings)
    assert f"{len(names)} of {len(names)} terms are single tokens already" in said
    assert "min_count is 100000 but all n-grams of the terms count only" in said
    assert "rollback 0 sends every sentence back" in said
    rare = " ".join(ktokeniser(source, TERMS, tmp_path / "rare", KTokeniserConfig(min_count=150)).warnings)
    assert "min_count 150 sends 11 of 11 words of type 'drug' back to the base" in rare
    long = TermSet({"drug": (*DRUGS, "x" * 101)})
    assert "1 words of type 'drug' were too long" in " ".join(
        ktokeniser(source, long, tmp_path / "two", config()).warnings
    )
