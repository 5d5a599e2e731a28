"""Words with frequencies: from a file, or the vocabulary's own words counted in a text."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenlayer.core.errors import BadText, BadTokenizer
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.tokenizer.adt.languages import Language, is_word

LONGEST = 8
"""Characters of the longest word that is looked for in a text without spaces."""


def read_lexicon(path: str | Path, of: Language) -> dict[str, float]:
    """Reads a word list: a word a line, with its frequency after a space or tab where it is known.

    jieba's `dict.txt` (word, frequency, part of speech) has this form. Words with characters of other languages are
    left out; a word without a frequency has 1.

    Args:
        path: UTF-8 text.
        of: whose letters count.

    Returns:
        Word -> frequency, in file order.

    Raises:
        BadText: the file is missing, not UTF-8, has a frequency that is no number, or no word of the language.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadText(
            f"cannot read the lexicon {path}: {error}", hint="give a UTF-8 file with a word a line"
        ) from error
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or not is_word(parts[0], of, 1):
            continue
        found[parts[0]] = found.get(parts[0], 0.0) + _frequency(parts[1:], path, number)
    if not found:
        raise BadText(
            f"{path} holds no word of the language {of.code!r} in {len(lines)} lines",
            hint="write a word a line, its frequency after a space; --lang says which letters count",
        )
    return found


def count_words(
    texts: Iterable[str], of: Language, vocab: ByteVocab, wanted: Iterable[str] | None = None
) -> dict[str, float]:
    """Counts words in a text of the user.

    Where words have spaces between them, words are runs of letters. Elsewhere every place where a wanted word stands
    counts, also inside another word: a rough frequency that needs no segmenter.

    Args:
        texts: any text.
        of: whose letters count.
        vocab: its entries are the words that are looked for if there are no `wanted` ones (no spaces only).
        wanted: count these alone.

    Returns:
        Word -> times, the most frequent first; words that do not occur are left out.

    Raises:
        BadText: no word occurs.
    """
    some = None if wanted is None else set(wanted)
    if not of.spaced and some is None:
        some = {text for text in entry_texts(vocab) if is_word(text, of, of.shortest)}
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_runs(text, of) if of.spaced else _inside(text, of, some or set()))
    found = {w: float(n) for w, n in counts.most_common() if some is None or w in some}
    if not found:
        raise BadText(f"the texts hold no word of the language {of.code!r}", hint="give texts of that language")
    return found


def entry_texts(vocab: ByteVocab) -> dict[str, tuple[bool, bool]]:
    """What the vocabulary's entries spell, without the space in front.

    Returns:
        Text -> (an entry is just that, an entry is that after a space). Entries that are not whole characters, that
        have a role, or that are single bytes are left out.
    """
    found: dict[str, tuple[bool, bool]] = {}
    for token, kind in zip(vocab.tokens, vocab.kinds, strict=True):
        if kind is not Kind.NORMAL:
            continue
        try:
            text = token.decode("utf-8")
        except UnicodeDecodeError:
            continue
        bare, spaced = found.get(text.removeprefix(" "), (False, False))
        found[text.removeprefix(" ")] = (True, spaced) if not text.startswith(" ") else (bare, True)
    return found


def words_of_vocab(vocab: ByteVocab, lexicon: Mapping[str, float], of: Language) -> dict[str, float]:
    """The words of the lexicon that are entries of the vocabulary, with or without a space in front.

    Raises:
        BadTokenizer: no entry is a text of the language, or none of these is in the lexicon; with counts.
    """
    entries = {text for text in entry_texts(vocab) if is_word(text, of, of.shortest)}
    found = {word: n for word, n in lexicon.items() if word in entries}
    if not found:
        raise BadTokenizer(
            f"of {len(vocab)} entries {len(entries)} have {of.shortest} or more letters of the language {of.code!r}, "
            f"and {len(found)} of these are among the {len(lexicon)} words of the lexicon",
            hint="take another --lang, or words that are no entries with --words lexicon",
        )
    return found


def _frequency(rest: list[str], path: str | Path, number: int) -> float:
    if not rest:
        return 1.0
    try:
        value = float(rest[0])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise BadText(
            f"{path}, line {number}: the frequency is {rest[0]!r}, expected a number from 0",
            hint="write `word frequency` in each line, or words alone",
        )
    return value


def _runs(text: str, of: Language) -> Iterable[str]:
    """Runs of letters between anything else; a word with a foreign letter is none."""
    return (run for run in re.findall(r"[^\W\d_]+", text) if all(map(of.is_letter, run)))


def _inside(text: str, of: Language, wanted: set[str]) -> Iterable[str]:
    """Every wanted word that stands somewhere in the text, overlapping ones too."""
    for start in range(len(text)):
        if not of.is_letter(text[start]):
            continue
        for end in range(start + of.shortest, min(start + LONGEST, len(text)) + 1):
            if text[start:end] in wanted:
                yield text[start:end]
