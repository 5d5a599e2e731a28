"""The contract's case of Qtok: two small tokenizers compared, and what must be refused."""

from pathlib import Path

from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.app.audit import audit


def compare(folder: Path, **given: object) -> Path:
    """Compares two tokenizers on two texts into `folder/out`."""
    paths = [write(folder / name, FAMILIES[name]()) for name in ("byte-level", "unigram")]
    for code in ("en", "de"):
        (folder / f"{code}.txt").write_text(SENTENCES[code], encoding="utf-8")
    (folder / "empty.txt").write_text(" \n")
    parallel = [f"{code}:{folder}/{code}.txt" for code in ("en", "de")]
    settings = {"parallel": parallel, "languages": False, **given}
    audit(settings.pop("tokenizers", paths), out=folder / "out", **settings)
    return folder / "out"


def run(folder: Path, seed: int) -> bytes:
    """The lines of the entries and the paper's table."""
    out = compare(folder)
    return (out / "tokens.tsv").read_bytes() + (out / "basic_stats_abs.tsv").read_bytes()


def taken(folder: Path) -> Path:
    """An output folder with somebody's own file."""
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("")
    return compare(folder, force=True)


def broken(folder: Path) -> Path:
    """A tokenizer file that ends too early."""
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0,')
    return compare(folder, tokenizers=[folder / "tokenizer.json"])


def no_model(folder: Path) -> Path:
    """A tokenizer file without a model."""
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return compare(folder, tokenizers=[folder / "tokenizer.json"])


BAD_INPUTS = (
    ("no such tokenizer", lambda folder: compare(folder, tokenizers=[folder / "nowhere"]), "nowhere"),
    ("a broken file", broken, "tokenizer.json"),
    ("a file without a model", no_model, "field 'model' is"),
    ("an address", lambda folder: compare(folder, tokenizers=["https://x.org/t.json"]), "is an address; only files"),
    ("too many labels", lambda folder: compare(folder, labels=["a", "b", "c"]), "3 labels for 2 tokenizers"),
    ("one label twice", lambda folder: compare(folder, labels=["a", "a"]), "two tokenizers are called 'a'"),
    ("no such text", lambda folder: compare(folder, texts=[f"{folder}/no.txt"]), "no.txt"),
    ("an empty text", lambda folder: compare(folder, texts=[f"{folder}/empty.txt"]), "all documents are empty"),
    ("one language", lambda folder: compare(folder, parallel=[f"en:{folder}/en.txt"]), "parallel texts are all 'en'"),
    ("an unknown reference", lambda folder: compare(folder, reference="fr"), "the reference is 'fr'"),
    ("an unknown rule", lambda folder: compare(folder, scripts="nmae"), "scripts is 'nmae'"),
    ("somebody's own folder", taken, "does not look like"),
)
