"""The small case of data mixture inference."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.tiny_tokenizers import FAMILIES, SENTENCES, write

from tokenlayer.app.mixture import mixture


def inferred(folder: Path, *, family: str = "byte-level", seed: int = 0, **given: object) -> bytes:
    """The shares of three languages in a tiny tokenizer, as JSON."""
    tokenizer = given.pop("tokenizer", None) or write(folder / "tokenizer", FAMILIES[family]())
    categories = []
    for name in ("en", "de", "ru"):
        (folder / f"{name}.txt").write_text(SENTENCES[name], encoding="utf-8")
        categories.append(f"{name}={folder}/{name}.txt")
    (folder / "empty.txt").write_text("\n")
    (folder / "signs.txt").write_text("\u2603")
    categories = given.pop("categories", categories) + given.pop("more", [])
    report = mixture(tokenizer, categories, seed=seed, **given)
    return json.dumps([table.rows for table in report.tables]).encode()


def run(folder: Path, seed: int) -> bytes:
    """The main output."""
    return inferred(folder, seed=seed)


Bad = tuple[str, Callable[[Path], object], str]
BAD_INPUTS: tuple[Bad, ...] = (
    ("no such tokenizer", lambda folder: inferred(folder, tokenizer=folder / "nowhere"), "nowhere"),
    ("a Unigram tokenizer", lambda folder: inferred(folder, family="unigram"), "needs BPE merges"),
    ("a WordPiece tokenizer", lambda folder: inferred(folder, family="wordpiece"), "needs BPE merges"),
    ("no category", lambda folder: inferred(folder, categories=[]), "no category was given"),
    ("no name", lambda folder: inferred(folder, more=[f"{folder}/en.txt"]), "is not NAME=PATH"),
    ("a name twice", lambda folder: inferred(folder, more=[f"en={folder}/de.txt"]), "category 'en' is named twice"),
    ("no such text", lambda folder: inferred(folder, more=[f"x={folder}/none.txt"]), "none.txt"),
    ("an empty text", lambda folder: inferred(folder, more=[f"x={folder}/empty.txt"]), "category 'x' has no text"),
    ("a text of nothing", lambda folder: inferred(folder, more=[f"x={folder}/signs.txt"]), "category 'x' has none of"),
    ("another unit", lambda folder: inferred(folder, unit="words"), "unit is 'words', expected one of: bytes"),
    ("no merges", lambda folder: inferred(folder, merges=0), "merges is 0, expected at least 1"),
)
