"""Whether a free answer names the right word, the trap, or neither."""

import unicodedata

from tokenlayer.core.errors import BadOption

RIGHT, TRAPPED, WRONG, ABSTAINED = "right", "trapped", "wrong", "abstained"
REFUSALS = (
    "i don't know",
    "i do not know",
    "cannot answer",
    "can't answer",
    "not sure",
    "不知道",
    "无法",
    "わかりません",
)


def judge(answer: str, gold: str, trap: str, *, spaced: bool) -> str:
    """Judges an answer by the words in it.

    Width, case and punctuation do not count. The longer of the two words is looked for first, since one often lies in
    the other (`table` in `stable`).

    Args:
        answer: what a model said.
        gold: the right word.
        trap: the word that a wrong cut suggests.
        spaced: words are whole words, not parts of longer ones.

    Returns:
        `"right"` (names gold and not the trap), `"trapped"` (names the trap), `"abstained"` (empty, or says that it
        does not know) or `"wrong"`.

    Raises:
        BadOption: gold and trap are the same after normalisation.
    """
    said, right, wrong = plain(answer), plain(gold), plain(trap)
    if right == wrong:
        raise BadOption(f"gold {gold!r} and trap {trap!r} are the same word", hint="leave this instance out")
    named = set()
    for word in sorted((right, wrong), key=len, reverse=True):
        rest = _without(said, word, spaced)
        if rest != said:
            named.add(word)
        said = rest
    if wrong in named:
        return TRAPPED
    if right in named:
        return RIGHT
    whole = plain(answer)
    return ABSTAINED if not whole or any(plain(phrase) in whole for phrase in REFUSALS) else WRONG


def plain(text: str) -> str:
    """Folds width (NFKC) and case, and writes punctuation as spaces; runs of spaces become one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded).split())


def _without(text: str, word: str, spaced: bool) -> str:
    if not spaced:
        return text.replace(word, "\n")
    return f" {text} ".replace(f" {word} ", " \n ").strip() if f" {word} " in f" {text} " else text
