"""Lists of domain terms by type (drug, disease, ...), from the files in which people keep them.

Readers: a table `term<TAB>type`; a list of terms of one type; an OBO ontology; the UMLS release files MRCONSO.RRF and
MRSTY.RRF; a corpus with labelled spans (IOB or BIOES tags, one token a line). All may be `.gz` or `.zst`. Nothing is
bundled: licensed lists (UMLS, SNOMED) are read from the user's own copy.

Errors: `BadText` with file and line for a file that is not what it was announced as, or that holds no term;
`BadOption` for a semantic type that the file does not know.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenlayer.core.errors import BadOption, BadText, choose
from tokenlayer.data.readers import existing, open_bytes

LONGEST_LINE = 1_000_000
"""A longer line is an error: no term has a megabyte, and memory stays bounded."""
UMLS_TYPES: Mapping[str, tuple[str, ...]] = {
    "drug": ("Pharmacologic Substance", "Clinical Drug"),
    "disease": ("Disease or Syndrome", "Sign or Symptom"),
}
"""Semantic types of the paper, by the type that their terms get."""
MRCONSO_FIELDS = 18
MRSTY_FIELDS = 6
_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TRAILER = re.compile(r"\s+(\{[^{}]*=[^{}]*\}\s*)?(! .*)?$")
"""Qualifiers and comment that may follow a value."""
_ESCAPE = re.compile(r"\\(.)")
_TAG = re.compile(r"([BIESLU])-(\S+)")


@dataclass(frozen=True)
class TermSet:
    """Terms by type.

    Attributes:
        terms: for each type its distinct terms in the order of the file; the order of the types decides ties.

    Raises:
        BadText: there is no type, or a type without a term.
    """

    terms: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.terms:
            raise BadText("there are no terms", hint="give at least one file: --terms drug=drugs.txt")
        for kind, terms in self.terms.items():
            if not any(term.strip() for term in terms):
                raise BadText(f"type {kind!r} has no terms", hint="leave the type out, or give it a longer list")

    def __len__(self) -> int:
        return sum(map(len, self.terms.values()))

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types in order."""
        return tuple(self.terms)

    @cached_property
    def all_terms(self) -> tuple[str, ...]:
        """Distinct terms of all types."""
        return tuple(dict.fromkeys(term for terms in self.terms.values() for term in terms))


def join_terms(sets: Iterable[TermSet]) -> TermSet:
    """Puts several sets together; terms of the same type are joined, each once."""
    return _term_set((kind, term) for one in sets for kind, terms in one.terms.items() for term in terms)


def read_terms(
    files: Sequence[str] = (),
    corpora: Sequence[str] = (),
    *,
    umls: str | Path = "",
    semantic_types: Sequence[str] = (),
    language: str = "ENG",
) -> TermSet:
    """Reads terms from files named as on the command line; the order of the types decides ties.

    Args:
        files: `TYPE=FILE` of lists with a term a line, `TYPE=FILE.obo` of ontologies, `FILE` of tables `term<TAB>type`.
        corpora: files with labelled spans; training splits only.
        umls: folder of MRCONSO.RRF and MRSTY.RRF.
        semantic_types: `TYPE=NAME` of each semantic type to read from UMLS; the paper's if none.
        language: of the UMLS strings.

    Raises:
        BadOption: a name without its type, or semantic types without `umls`.
        BadText: see the readers; or there are no files at all.
    """
    found = [_from_file(spec) for spec in files]
    if semantic_types and not umls:
        raise BadOption("semantic types are given but no UMLS folder", hint="add --umls FOLDER, with MRCONSO.RRF")
    if umls:
        chosen: dict[str, list[str]] = {}
        for spec in semantic_types:
            kind, name = typed_name(spec, "the semantic type", "drug=Clinical Drug")
            chosen.setdefault(kind, []).append(name)
        mrconso, mrsty = (_release_file(Path(umls), name) for name in ("MRCONSO.RRF", "MRSTY.RRF"))
        found.append(terms_from_umls(mrconso, mrsty, chosen or UMLS_TYPES, language=language))
    if corpora:
        found.append(terms_from_corpus(list(corpora)))
    return join_terms(found)


def typed_name(spec: str, what: str, example: str) -> tuple[str, str]:
    """Cuts `TYPE=NAME` in two.

    Raises:
        BadOption: there is no `=`, or nothing on one of its sides.
    """
    kind, mark, name = (part.strip() for part in spec.partition("="))
    if not mark or not kind or not name:
        raise BadOption(f"{what} is {spec!r}, expected TYPE=NAME", hint=f"for example {example}")
    return kind, name


def _from_file(spec: str) -> TermSet:
    kind, mark, path = spec.partition("=")
    if not mark or "/" in kind:
        kind, path = "", spec
    if _is_obo(path):
        if not kind:
            raise BadOption(f"{path} is an ontology without a type", hint=f"for example --terms disease={path}")
        return terms_from_obo(path, kind)
    return terms_from_list(path, kind) if kind else terms_from_tsv(path)


def _is_obo(path: str) -> bool:
    return Path(path.removesuffix(".gz").removesuffix(".zst")).suffix.lower() == ".obo"


def _release_file(folder: Path, name: str) -> Path:
    """The file, or its packed form."""
    return next((path for end in ("", ".gz", ".zst") if (path := folder / (name + end)).is_file()), folder / name)


def terms_from_list(path: str | Path, kind: str) -> TermSet:
    """Reads a term a line, all of one type; empty lines are passed over.

    Raises:
        BadText: a line with a tab, or no term at all.
    """
    found = []
    for where, line in _lines(Path(path)):
        if "\t" in line.strip():
            raise BadText(
                f"{where} has several fields, but the file was given as terms of type {kind!r}, one a line",
                hint=f"for lines term<TAB>type leave the type out: --terms {path}",
            )
        found.append((kind, line))
    return _named(path, [pair for pair in found if pair[1].strip()], "each line is one term")


def terms_from_tsv(path: str | Path) -> TermSet:
    """Reads lines `term<TAB>type`; empty lines are passed over, there is no header and no comment.

    Raises:
        BadText: a line without exactly two fields or with an empty one, or no term at all.
    """
    return _named(path, _tsv(Path(path)))


def terms_from_obo(path: str | Path, kind: str) -> TermSet:
    """Reads names and synonyms of the terms of an OBO ontology that are not obsolete.

    Args:
        path: the ontology (HPO, DOID, ChEBI, ...).
        kind: the type that all terms get.

    Raises:
        BadText: the file has no `[Term]` stanza with a name.
    """
    return _named(path, ((kind, term) for term in _obo(Path(path))), "is it an OBO file (format-version: 1.2 or 1.4)?")


def terms_from_umls(
    mrconso: str | Path, mrsty: str | Path, types: Mapping[str, Sequence[str]] = UMLS_TYPES, *, language: str = "ENG"
) -> TermSet:
    """Reads the strings of concepts with chosen semantic types from a UMLS release.

    Holds the ids of the chosen concepts in memory, not the file.

    Args:
        mrconso: MRCONSO.RRF.
        mrsty: MRSTY.RRF.
        types: for each type of ours the semantic types (names or ids such as T121) that belong to it.
        language: three letters as in the file.

    Raises:
        BadText: a line with another number of columns, or no term of a type in that language.
        BadOption: a semantic type that MRSTY does not have.
    """
    wanted = _concepts(Path(mrsty), types)
    found: list[tuple[str, str]] = []
    for fields in _rrf(Path(mrconso), MRCONSO_FIELDS, "MRCONSO"):
        if fields[1] == language:
            found += [(kind, fields[14]) for kind in wanted.get(fields[0], ())]
    ordered = [(kind, term) for wished in types for kind, term in found if kind == wished]
    missing = [kind for kind in types if all(kind != seen for seen, _ in ordered)]
    if missing:
        raise BadText(
            f"{mrconso} has no {language} string for type {missing[0]!r}",
            hint="do both files come from one release, and is the language in its subset?",
        )
    return _term_set(ordered)


def terms_from_corpus(paths: str | Path | Sequence[str | Path]) -> TermSet:
    """Harvests the labelled spans of a corpus: one token a line, the tag in the last column.

    Give the training split only: pieces learned from test spans leak the answers.

    Args:
        paths: files with tags `O`, `B-Disease`, `I-Disease` (or BIOES, BILOU), sentences parted by empty lines.

    Raises:
        BadText: a tag that is none, a line with one column, or no labelled span.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [(kind, term) for path in files for kind, term in _spans(Path(path))]
    return _named(", ".join(map(str, files)), found, "the last column holds tags such as B-Disease")


def _term_set(found: Iterable[tuple[str, str]]) -> TermSet:
    terms: dict[str, dict[str, None]] = {}
    for kind, term in found:
        terms.setdefault(kind, {})[" ".join(term.split())] = None
    return TermSet({kind: tuple(term for term in some if term) for kind, some in terms.items()})


def _named(path: str | Path, found: Iterable[tuple[str, str]], hint: str = "") -> TermSet:
    pairs = list(found)
    if not pairs:
        raise BadText(f"{path} holds no term", hint=hint or "each line is term<TAB>type")
    return _term_set(pairs)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (place, line without its end); the place is file and line number."""
    with open_bytes(existing(str(path))) as stream:
        number = 0
        while data := stream.readline(LONGEST_LINE + 1):
            number += 1
            where = f"{path}:{number}"
            if len(data) > LONGEST_LINE:
                raise BadText(f"{where} is longer than {LONGEST_LINE:,} bytes", hint="is it a text file of terms?")
            try:
                line = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadText(
                    f"{where} is not UTF-8: byte 0x{data[error.start]:02x}",
                    hint="convert the file: iconv -f LATIN1 -t UTF-8",
                ) from None
            yield where, line.removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")


def _tsv(path: Path) -> Iterator[tuple[str, str]]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise BadText(f"{where} has {len(fields)} fields, expected 2", hint="each line is term<TAB>type")
        term, kind = (field.strip() for field in fields)
        if not term or not kind:
            raise BadText(f"{where} has an empty {'type' if term else 'term'}", hint="each line is term<TAB>type")
        yield kind, term


def _obo(path: Path) -> Iterator[str]:
    held: list[str] = []
    inside = obsolete = False
    for _, line in _lines(path):
        if line.startswith("["):
            yield from () if obsolete else held
            held, inside, obsolete = [], line.strip() == "[Term]", False
        elif inside and line.startswith("name:"):
            held.append(_unescaped(_TRAILER.sub("", line.removeprefix("name:")).strip()))
        elif inside and line.startswith("synonym:") and (quoted := _SYNONYM.search(line)):
            held.append(_unescaped(quoted[1]))
        elif inside and line.startswith("is_obsolete:"):
            obsolete = line.removeprefix("is_obsolete:").strip().startswith("true")
    yield from () if obsolete else held


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda hit: {"n": " ", "W": " ", "t": " "}.get(hit[1], hit[1]), text)


def _concepts(mrsty: Path, types: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Concept id -> our types, in the order of `types`."""
    if not types:
        raise BadOption("no semantic types were chosen", hint="for example {'drug': ['Clinical Drug']}")
    kinds: dict[str, list[str]] = {}
    for kind, names in types.items():
        for name in names:
            kinds.setdefault(name, []).append(kind)
    found: dict[str, list[str]] = {}
    known: set[str] = set()
    for concept, number, _, name, *_ in _rrf(mrsty, MRSTY_FIELDS, "MRSTY"):
        known |= {number, name}
        for kind in (*kinds.get(number, ()), *kinds.get(name, ())):
            if kind not in found.setdefault(concept, []):
                found[concept].append(kind)
    for name in kinds:
        choose("semantic type", name, sorted(known))
    return found


def _rrf(path: Path, width: int, what: str) -> Iterator[list[str]]:
    """Fields of each line; every field ends with a bar, the last one too."""
    for where, line in _lines(path):
        fields = line.split("|")
        if len(fields) != width + 1 or fields[-1]:
            raise BadText(
                f"{where} has {len(fields) - 1} columns, {what}.RRF has {width}, each ended by a bar",
                hint="is it the file of that name from a UMLS release in Rich Release Format?",
            )
        yield fields[:-1]


def _spans(path: Path) -> Iterator[tuple[str, str]]:
    kind, held = "", list[str]()
    for where, line in _lines(path):
        token, tag = ("", "O") if not line.strip() or line.startswith("-DOCSTART-") else _columns(line, where)
        mark = None if tag == "O" else _TAG.fullmatch(tag)
        if tag != "O" and mark is None:
            raise BadText(f"{where} has the tag {tag!r}, expected O or a form such as B-Disease")
        goes_on = mark is not None and mark[1] in "IEL" and mark[2] == kind and held
        if held and not goes_on:
            yield kind, " ".join(held)
            held = []
        if mark is not None:
            kind = mark[2]
            held.append(token)
    if held:
        yield kind, " ".join(held)


def _columns(line: str, where: str) -> tuple[str, str]:
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) < 2 or not fields[0].strip():
        raise BadText(
            f"{where} has {len(fields)} column, expected a token and a tag", hint="for example aspirin\tB-Drug"
        )
    return fields[0].strip(), fields[-1].strip()
