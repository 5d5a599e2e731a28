"""The case of ADT: traps of a tokenizer with merges written by hand, and what must be refused."""

from pathlib import Path

from tests.tokenizer.adt.tiny import bpe

from tokenlayer.app import traps

WORDS = "".join(f"{a}{b}s 1\n" for a in "abcdefgh" for b in "abcdefgh") + "table 4\nstable 3\n"


def mined(folder: Path, *, words: str = WORDS, **given: object) -> Path:
    """Writes traps into `folder/out`."""
    (folder / "tokenizer.json").write_text(bpe("stable", "table").text)
    (folder / "words.txt").write_text(words, encoding="utf-8")
    settings = {"lexicon": folder / "words.txt", "words": "lexicon", "order": "random", "tried": 20, **given}
    traps.traps(settings.pop("tokenizer", folder / "tokenizer.json"), folder / "out", **settings)
    return folder / "out"


def run(folder: Path, seed: int) -> bytes:
    """The questions."""
    found = (mined(folder, seed=seed) / "adt.jsonl").read_text()
    return found.replace(str(folder), "").encode()


def taken(folder: Path) -> Path:
    """Somebody's own folder as the output."""
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("")
    return mined(folder, force=True)


def empty_set(folder: Path) -> Path:
    """A set without a question."""
    (folder / "adt.jsonl").write_text("\n")
    return mined(folder, questions=folder / "adt.jsonl")


BAD_INPUTS = (
    ("no such tokenizer", lambda folder: mined(folder, tokenizer=folder / "nowhere"), "nowhere"),
    ("no words", lambda folder: mined(folder, lexicon=""), "there are no words"),
    ("no such lexicon", lambda folder: mined(folder, lexicon=folder / "no.txt"), "no.txt"),
    (
        "a lexicon of another language",
        lambda folder: mined(folder, words="研究\n"),
        "holds no word of the language 'en'",
    ),
    ("a frequency that is none", lambda folder: mined(folder, words="cat often\n"), "line 1: the frequency is 'often'"),
    (
        "a vocabulary without the language",
        lambda folder: mined(folder, words="研究\n生命\n", lang="zh"),
        "no entry of 2 or more letters of the language 'zh'",
    ),
    ("words that hide nothing", lambda folder: mined(folder, words="stable\nzzz\n"), "hides one of"),
    ("an unknown language", lambda folder: mined(folder, lang="xx"), "lang is 'xx', expected one of"),
    ("an empty set", empty_set, "holds no instance"),
    ("a set that is none", lambda folder: mined(folder, questions=folder / "words.txt"), "line 1 is no instance"),
    ("no such model", lambda folder: mined(folder, model=folder / "nowhere"), "nowhere"),
    ("no questions", lambda folder: mined(folder, instances=0), "instances is 0"),
    ("somebody's own folder", taken, "does not look like a checkpoint or tokenizer folder"),
)
