"""Matching two vocabularies by bytes and roles, against plain search."""

from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.matching import MARKERS, STAND_INS, match_roles, match_tokens, overlap
from tokenlayer.core.vocab import ROLES, ByteVocab, Kind

TEXT = (Kind.NORMAL, Kind.BYTE)
MARKS = sorted({name for group in MARKERS for name in group} | {"<s>", "[CLS]", "<x>"})


@st.composite
def vocabs(draw):
    """Text tokens with duplicates, byte tokens, holes and control tokens, in any order."""
    entry = st.one_of(
        st.tuples(st.binary(min_size=1, max_size=2), st.just(Kind.NORMAL)),
        st.tuples(st.integers(97, 100).map(lambda b: bytes([b])), st.just(Kind.BYTE)),
        st.just((b"", Kind.UNUSED)),
        st.sampled_from(MARKS).map(lambda name: (name, Kind.CONTROL)),
    )
    tokens, kinds, names, used = [], [], [], set()
    for data, kind in draw(st.lists(entry, min_size=1, max_size=25)):
        if kind is Kind.CONTROL:
            name, data = data, b""
            if name in used:
                continue
        elif kind is Kind.UNUSED:
            name = ""
        else:
            name = f"{kind}:{data!r}{'' if (kind, data) not in used else len(used)}"
            used.add((kind, data))
        used.add(name)
        tokens.append(data)
        kinds.append(kind)
        names.append(name)
    control = [i for i, kind in enumerate(kinds) if kind is Kind.CONTROL]
    roles = {role: draw(st.sampled_from(control)) for role in ROLES if control and draw(st.booleans())}
    return tuple(tokens), tuple(kinds), tuple(names), roles  # a ByteVocab's fields: type checks in here draw numbers


@given(vocabs(), vocabs())
def test_a_match_has_the_same_bytes_and_none_is_missed(source, target):
    source, target = ByteVocab(*source), ByteVocab(*target)
    for i, match in enumerate(match_tokens(source, target)):
        same_name = [j for j, name in enumerate(source.names) if name and name == target.names[i]]
        if target.kinds[i] in TEXT:
            same = [j for j, data in enumerate(source.tokens) if data == target.tokens[i] and source.kinds[j] in TEXT]
            assert (match is None) == (not same)
            assert match is None or match in same
        elif target.kinds[i] is Kind.CONTROL:
            assert match == next(iter(same_name), None)
        else:
            assert match is None or target.names[match] == target.names[i]


@given(vocabs())
def test_a_vocabulary_matched_with_itself_is_the_identity(vocab):
    vocab = ByteVocab(*vocab)
    named = [i for i, name in enumerate(vocab.names) if name]
    matches = match_tokens(vocab, vocab)
    assert [matches[i] for i in named] == named


@given(vocabs(), vocabs())
def test_control_tokens_take_the_best_row_there_is(source, target):
    source, target = ByteVocab(*source), ByteVocab(*target)
    control = {source.names[i]: i for i, kind in enumerate(source.kinds) if kind is Kind.CONTROL}
    found = match_roles(source, target)
    assert [m.target for m in found] == [i for i, kind in enumerate(target.kinds) if kind is Kind.CONTROL]
    for match in found:
        name = target.names[match.target]
        stand_ins = [source.roles[r] for r in STAND_INS.get(match.role, ()) if r in source.roles]
        group = next((g for g in MARKERS if name in g), frozenset())
        job = [control[n] for n in sorted(group) if n in control]
        expected = [*([control[name]] if name in control else []), *stand_ins, *job]
        assert match.source == next(iter(expected), None)
        assert (match.how == "none") == (match.source is None)
        assert match.how != "same name" or source.names[match.source] == name


@given(vocabs(), vocabs())
def test_overlap_counts_what_a_search_counts(source, target):
    source, target = ByteVocab(*source), ByteVocab(*target)
    both = overlap(source, target)
    ids = [i for i, kind in enumerate(target.kinds) if kind in TEXT]
    data = {d for d, kind in zip(source.tokens, source.kinds, strict=True) if kind in TEXT}
    names = {n for n, kind in zip(source.names, source.kinds, strict=True) if kind in TEXT}
    assert both.target_tokens == len(ids)
    assert both.by_bytes == sum(target.tokens[i] in data for i in ids)
    assert both.by_name == sum(target.names[i] in names for i in ids)


def test_the_same_word_under_two_spellings_is_one_token():
    byte_level = ByteVocab((b" the", b"\n"), (Kind.NORMAL,) * 2, ("Ġthe", "Ċ"))
    marked = ByteVocab((b" the", b"\n"), (Kind.NORMAL, Kind.BYTE), ("▁the", "<0x0A>"))
    assert match_tokens(byte_level, marked) == [0, 1]
    assert (overlap(byte_level, marked).by_name, overlap(byte_level, marked).by_bytes) == (0, 2)


def test_a_normal_token_wins_over_a_byte_token_and_the_lowest_id_over_others():
    source = ByteVocab((b"a", b"a", b"a"), (Kind.BYTE, Kind.NORMAL, Kind.NORMAL), ("<0x61>", "a", "a2"))
    assert match_tokens(source, ByteVocab((b"a",), (Kind.NORMAL,), ("▁a",))) == [1]
    assert match_tokens(source, ByteVocab((b"a",), (Kind.BYTE,), ("<0x61>",))) == [0]


def test_a_bos_may_stand_in_for_cls_but_a_mask_for_nothing():
    control = (Kind.CONTROL,) * 2
    source = ByteVocab((b"", b""), control, ("<s>", "</s>"), {"bos": 0, "eos": 1})
    names = ("[CLS]", "[SEP]", "[MASK]")
    target = ByteVocab((b"",) * 3, (Kind.CONTROL,) * 3, names, {"cls": 0, "sep": 1, "mask": 2})
    assert [(m.source, m.how) for m in match_roles(source, target)] == [
        (0, "stand-in"),
        (1, "stand-in"),
        (None, "none"),
    ]
