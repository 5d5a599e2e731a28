"""K-Tokeniser with `compat=True` against the authors' released code, step by step on the same terms.

    python benchmarks/transfer/parity_ktokeniser.py --reference K-Tokenizer --model MINILM --data bio-ner

`--reference` is a checkout of abulhasanbbk/K-Tokenizer (GPL-3; it is run, not copied). Its files of UMLS counts are not
in the repository, so both sides start from the labelled spans of BC5CDR and NCBI-disease, training splits. Compared:
n-gram counts, pieces of 200 words of each type, the alphabetical selection (also of their UMLS pieces, against the
vocabularies that they ship), the thresholds; then, with the pieces of all terms, the choice of all words of
NCBI-disease's test split, and its sentences at four values of `rollback`.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenlayer.data.readers import open_bytes
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.ktokeniser import Built, KTokeniserConfig, build
from tokenlayer.transfer.terms import TermSet, terms_from_corpus
from tokenlayer.transfer.typed_pieces import TypedPiecesConfig, count_ngrams, delta_curve, select, typed_pieces

WORDS = 200
SIZE = 300
"""Pieces that each type keeps."""
CASED = 28_996
"""Tokens of bert-base-cased, which the shipped vocabularies begin with."""
ROLLBACKS = (0.0, 0.035, 0.065, 1.0)
SHIPPED = (
    ("drug", "drug_bpe_from_umls_20_.json", "drug-umls-bert-base-cased-10000"),
    ("disease", "symptom_bpe_from_umls_20_.json", "disease-umls-bert-base-cased-3000"),
)
"""Type, its pieces of UMLS, and the vocabulary that was selected from them; the number is at its end."""
NAMES = {"drug": "Chemical", "disease": "Disease"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", required=True, help="Folder of a BERT tokenizer.")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    found = terms_from_corpus([args.data / f"{name}-IOB/train.tsv.zst" for name in ("BC5CDR", "NCBI-disease")])
    words = {kind: first_words(found.terms[tag]) for kind, tag in NAMES.items()}
    makers = module(args.reference / "N2C2/umls_tokenization/utils.py", "utils")
    steps = module(args.reference / "N2C2/umls_tokenization/create_KTokenizer.py", "create")
    for kind, some in words.items():
        compare_pieces(kind, some, makers, steps)
    for kind, file, shipped in SHIPPED:
        compare_shipped(kind, args.reference / "N2C2/umls_tokenization", file, shipped)
    terms = TermSet({kind: found.terms[tag] for kind, tag in NAMES.items()})
    sentences = read_sentences(args.data / "NCBI-disease-IOB/test.tsv.zst")
    sys.path.pop(0)
    theirs = module(args.reference / "N2C2/utils.py", "choices")
    built = build(load_tokenizer(args.model), terms, KTokeniserConfig(words="whitespace", compat=True))
    for rollback in ROLLBACKS:
        choices = replace(built.choices, rollback=rollback)
        compare_choice(replace(built, choices=choices), theirs, sentences, rollback)


def module(path: Path, name: str) -> Any:
    """Runs a file of the reference as a module; its folder can be imported from."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def first_words(terms: tuple[str, ...]) -> list[str]:
    """The first 200 distinct words of terms, in lower case."""
    return list(dict.fromkeys(word for term in terms for word in term.lower().split()))[:WORDS]


def read_sentences(path: Path) -> list[list[str]]:
    with open_bytes(path) as stream:
        blocks = stream.read().decode().split("\n\n")
    return [[line.split("\t")[0] for line in block.splitlines()] for block in blocks if block.strip()]


def compare_pieces(kind: str, words: list[str], makers: Any, steps: Any) -> None:
    """Counts, pieces, selection and thresholds of one type."""
    made = object.__new__(makers.BPEVocabularyBuilder)
    made.concept_dict, made.symbol, made.bpe_voc = dict.fromkeys(words), "##", {}
    made.global_voc = makers.GenerateCharNGramVocMain(made.concept_dict)._generate_char_n_gram_voc()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        made.build_bpe_vocabulary(20)
    ours = typed_pieces(words, TypedPiecesConfig(compat=True))
    say(f"{kind}: n-grams", made.global_voc == count_ngrams(Counter(words), tails=True), len(made.global_voc))
    say(f"{kind}: pieces of {len(words)} words", made.bpe_voc == ours.pieces, len(made.bpe_voc))
    kept = steps.remove_word_pieces(made.bpe_voc, SIZE)
    say(
        f"{kind}: selection",
        list(kept.items()) == list(select(ours.pieces, size=SIZE, alphabetical=True).items()),
        SIZE,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        deltas, entropies, sizes = steps.calculate_sufficient_delta_set(steps.calculate_prob(made.bpe_voc))
    curve = delta_curve(ours.pieces)
    close = all(
        abs(a - b) < 1e-9
        for row, h, d in zip(curve, entropies, deltas, strict=True)
        for a, b in ((row[1], h), (row[0], d))
    )
    say(f"{kind}: thresholds", close and [row[2] for row in curve] == sizes, len(curve))


def compare_shipped(kind: str, folder: Path, file: str, name: str) -> None:
    """The vocabulary in their repository against our alphabetical selection from their UMLS pieces."""
    pieces = json.loads((folder / file).read_text())
    vocab = json.loads((folder / name / "tokenizer.json").read_text())["model"]["vocab"]
    kept = select(pieces, size=int(name.rsplit("-", 1)[1]), alphabetical=True)
    known = {piece for piece, i in vocab.items() if i < CASED}
    new = set(vocab) - known
    say(f"{kind}: shipped UMLS vocabulary, up to {max(kept)}", new == kept.keys() - known, len(new))


def compare_choice(built: Built, theirs: Any, sentences: list[list[str]], rollback: float) -> None:
    """Words and sentences by their class, given our vocabularies, and by our tokenizer.

    Ours cuts words by the pre-tokenizer of the base before it chooses, theirs after: compared are the words that the
    pre-tokenizer leaves whole, and the sentences of such words.
    """
    ours = built.load()
    reference = reference_tokenizer(built, theirs, rollback)
    cutter = built.base.backend.pre_tokenizer
    whole = [[word for word in some if len(cutter.pre_tokenize_str(word)) == 1] for some in sentences]
    words = list(dict.fromkeys(word for some in whole for word in some))
    if rollback == 1:
        said, mine = ([one.tokenize(word) for word in words] for one in (reference, ours))
        changed = sum(cut != reference.tok.tokenize(word) for cut, word in zip(said, words, strict=True))
        same = sum(a == b for a, b in zip(said, mine, strict=True))
        say(f"choice of {len(words)} words ({changed} not the base's)", same == len(words), same)
    equal = sum(reference.encode(some)[0] == ours(some, is_split_into_words=True)["input_ids"] for some in whole)
    say(f"sentences, rollback {rollback:g} ({reference.roll_back} sent back)", equal == len(whole), equal)


def reference_tokenizer(built: Built, theirs: Any, rollback: float) -> Any:
    """Their class around tokenizers with our vocabularies (its own constructor reads the missing UMLS file)."""
    from transformers import PreTrainedTokenizerFast

    counts: Counter[str] = Counter()
    for one in built.found.values():
        counts.update(one.ngrams)
    made = object.__new__(theirs.KTokenizer)
    made.n_gram_voc, made.tf, made.special, made.f, made.roll_back = counts, counts.total(), "##", rollback, 0
    tokens = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    new = {piece for some in built.choices.pieces.values() for piece in some}
    for name, kept in (("tok", ()), ("drug_tok", "drug"), ("disease_tok", "disease"), ("k_tok", None)):
        own = new if kept is None else set(built.choices.pieces[kept]) if kept else set()
        data = json.loads(json.dumps(built.tokenizer.data))
        data["model"]["vocab"] = {p: i for p, i in data["model"]["vocab"].items() if p not in new or p in own}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(json.dumps(data | {"truncation": None, "padding": None}))
            setattr(made, name, PreTrainedTokenizerFast(tokenizer_file=str(path), model_max_length=512, **tokens))
    return made


def say(what: str, same: bool, number: int) -> None:
    print(f"{'equal ' if same else 'DIFFER'}  {what}: {number}")


if __name__ == "__main__":
    main()
