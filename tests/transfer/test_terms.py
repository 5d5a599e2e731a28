"""Terms by type from tables, ontologies, UMLS files and labelled corpora."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.transfer.terms import (
    TermSet,
    join_terms,
    terms_from_corpus,
    terms_from_obo,
    terms_from_tsv,
    terms_from_umls,
)

OBO = r"""format-version: 1.2
ontology: hp

[Term]
id: HP:1
name: Renal cyst {source="x"}
synonym: "Kidney \"cyst\"" EXACT layperson [HPO:a]
synonym: "cyst, renal" RELATED []

[Term]
id: HP:2
name: Old thing
is_obsolete: true

[Typedef]
id: part_of
name: part of

[Term]
id: HP:3
name: 5-HT excess
is_obsolete: false
"""


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def conso(concept, language, text):
    return "|".join([concept, language, *["x"] * 12, text, "0", "N", "256"]) + "|\n"


def sty(concept, number, name):
    return f"{concept}|{number}|A1|{name}|AT1|256|\n"


def test_a_table_gives_distinct_terms_by_type_in_order(tmp_path):
    text = "\ufeffaspirin\tdrug\r\n\nβ-blocker\tdrug\n5-HT\tdrug\ngout\tdisease\naspirin\tdrug\n"
    path = write(tmp_path, "t.tsv", text)
    assert terms_from_tsv(path).terms == {"drug": ("aspirin", "β-blocker", "5-HT"), "disease": ("gout",)}


def test_a_packed_table_is_read(tmp_path):
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"gout\tdisease\n"))
    assert terms_from_tsv(tmp_path / "t.tsv.gz").types == ("disease",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.tsv holds no term"),
        ("\n \n", "t.tsv holds no term"),
        ("a\tdrug\naspirin\n", "t.tsv:2 has 1 fields, expected 2"),
        ("a\tb\tc\n", "t.tsv:1 has 3 fields, expected 2"),
        ("\tdrug\n", "t.tsv:1 has an empty term"),
        ("a\t \n", "t.tsv:1 has an empty type"),
        ("x" * 1_000_001 + "\tdrug\n", "t.tsv:1 is longer than 1,000,000 bytes"),
    ],
)
def test_a_bad_table_says_where(tmp_path, text, message):
    with pytest.raises(BadText, match=message):
        terms_from_tsv(write(tmp_path, "t.tsv", text))


def test_a_table_that_is_not_utf8_or_not_there(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"gout\tdisease\ncaf\xe9\tdrug\n")
    with pytest.raises(BadText, match="t.tsv:2 is not UTF-8: byte 0xe9"):
        terms_from_tsv(tmp_path / "t.tsv")
    with pytest.raises(BadText, match="does not exist"):
        terms_from_tsv(tmp_path / "none.tsv")


def test_an_ontology_gives_names_and_synonyms_but_nothing_obsolete(tmp_path):
    found = terms_from_obo(write(tmp_path, "hp.obo", OBO), "sign")
    assert found.terms == {"sign": ("Renal cyst", 'Kidney "cyst"', "cyst, renal", "5-HT excess")}
    with pytest.raises(BadText, match="x.obo holds no term"):
        terms_from_obo(write(tmp_path, "x.obo", "<rdf/>\n"), "sign")


def test_umls_keeps_the_language_and_the_semantic_types(tmp_path):
    lines = conso("C1", "ENG", "aspirin") + conso("C1", "SPA", "aspirina") + conso("C2", "ENG", "gout")
    mrconso = write(tmp_path, "MRCONSO.RRF", lines + conso("C3", "ENG", "hand") + conso("C4", "ENG", "both"))
    rows = [("C1", "T121", "Pharmacologic Substance"), ("C2", "T047", "Disease or Syndrome"),
            ("C3", "T023", "Body Part"), ("C4", "T047", "Disease or Syndrome"), ("C4", "T200", "Clinical Drug"),
            ("C2", "T184", "Sign or Symptom")]  # fmt: skip
    mrsty = write(tmp_path, "MRSTY.RRF", "".join(sty(*row) for row in rows))
    assert terms_from_umls(mrconso, mrsty).terms == {"drug": ("aspirin", "both"), "disease": ("gout", "both")}
    assert terms_from_umls(mrconso, mrsty, {"body": ["T023"]}).terms == {"body": ("hand",)}
    with pytest.raises(BadOption, match="semantic type is 'Clinical Drugs', expected one of") as caught:
        terms_from_umls(mrconso, mrsty, {"drug": ["Clinical Drugs"]})
    assert "did you mean 'Clinical Drug'" in caught.value.hint
    with pytest.raises(BadText, match="no FRE string for type 'drug'"):
        terms_from_umls(mrconso, mrsty, language="FRE")
    with pytest.raises(BadText, match=r"MRSTY.RRF:1 has 6 columns, MRCONSO.RRF has 18"):
        terms_from_umls(mrsty, mrsty)
    with pytest.raises(BadText, match=r"short:1 has 18 columns"):
        terms_from_umls(mrconso, write(tmp_path, "short", conso("C1", "ENG", "a")))


def test_a_corpus_gives_its_labelled_spans(tmp_path):
    text = (
        "-DOCSTART- -X- O\n\nAspirin\tB-Drug\nacid\tI-Drug\nhelps\tO\ngout\tS-Disease\nB\tB-Disease\nC\tB-Disease\n\n"
        "D\tI-Disease\nE\tI-Drug\n"
    )
    found = terms_from_corpus(write(tmp_path, "train.tsv", text))
    assert found.terms == {"Drug": ("Aspirin acid", "E"), "Disease": ("gout", "B", "C", "D")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\n\n", "holds no term"),
        ("a\tDisease\n", "c.tsv:1 has the tag 'Disease'"),
        ("a\tO\nalone\n", "c.tsv:2 has 1 column, expected a token and a tag"),
    ],
)
def test_a_bad_corpus_says_where(tmp_path, text, message):
    with pytest.raises(BadText, match=message):
        terms_from_corpus(write(tmp_path, "c.tsv", text))


def test_empty_sets_are_refused_and_sets_join():
    with pytest.raises(BadText, match="there are no terms"):
        TermSet({})
    with pytest.raises(BadText, match="type 'drug' has no terms"):
        TermSet({"drug": ()})
    joined = join_terms([TermSet({"drug": ("a", "b")}), TermSet({"x": ("a",), "drug": ("b", "c")})])
    assert joined.terms == {"drug": ("a", "b", "c"), "x": ("a",)}
    assert joined.all_terms == ("a", "b", "c")
    assert len(joined) == 4


@given(st.lists(st.tuples(st.sampled_from(["B", "I", "O"]), st.sampled_from("XY")), max_size=12))
def test_spans_equal_a_plain_reading_of_the_tags(tags):
    """Oracle: a token begins a span unless it is I of the type that the token before it has."""
    import tempfile
    from pathlib import Path

    wanted: dict[str, list[str]] = {}
    spans: list[tuple[str, list[str]]] = []
    before = None
    for at, (mark, kind) in enumerate(tags):
        if mark == "O":
            before = None
            continue
        if mark == "I" and before == kind:
            spans[-1][1].append(f"w{at}")
        else:
            spans.append((kind, [f"w{at}"]))
        before = kind
    for kind, words in spans:
        wanted.setdefault(kind, []).append(" ".join(words))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.tsv")
        path.write_text("".join(f"w{at}\t{m if m == 'O' else f'{m}-{k}'}\n" for at, (m, k) in enumerate(tags)))
        if not spans:
            with pytest.raises(BadText):
                terms_from_corpus(path)
        else:
            assert {k: list(v) for k, v in terms_from_corpus(path).terms.items()} == wanted
