"""Which natural languages an entry in Latin or Cyrillic letters may belong to.

A language identifier for whole texts ranks languages for a few letters; the best few are kept, and of these only the
languages whose alphabet has most of the letters. A hint for tables over many entries, not a fact about one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any

from tokenlayer.core.errors import MissingExtra
from tokenlayer.tokenizer.qtok.classify import Entry

_BASIC = "abcdefghijklmnopqrstuvwxyz"
_RUSSIAN = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
ALPHABETS: dict[str, dict[str, str]] = {
    "Latin": {
        "ca": _BASIC + "àçéèíïóòúü·",
        "cs": _BASIC + "áčďéěíňóřšťúůýž",
        "cy": _BASIC + "âêîôûŵŷáéíóúẃýàèìòùẁỳäëïöüẅÿ",
        "da": _BASIC + "æøåé",
        "de": _BASIC + "äöüß",
        "en": _BASIC,
        "es": _BASIC + "áéíñóúü",
        "et": _BASIC + "šžõäöü",
        "eu": _BASIC + "ñç",
        "fi": _BASIC + "åäöšž",
        "fr": _BASIC + "àâæçéèêëîïôœùûüÿ",
        "ga": _BASIC + "áéíóú",
        "gl": _BASIC + "áéíñóúüï",
        "hr": "abcčćdđefghijklmnoprsštuvzž",
        "hu": _BASIC + "áéíóöőúüű",
        "is": "aábdðeéfghiíjklmnoóprstuúvxyýþæö",
        "it": _BASIC + "àèéìíîòóùú",
        "lt": "aąbcčdeęėfghiįyjklmnoprsštuųūvzž",
        "lv": "aābcčdeēfgģhiījkķlļmnņoprsštuūvzž",
        "mt": "abċdefġgħhijklmnopqrstuvwxżzàèìòù",
        "nl": _BASIC + "éëïóöü",
        "pl": "aąbcćdeęfghijklłmnńoóprsśtuwyzźż",
        "pt": _BASIC + "áâãàçéêíóôõú",
        "ro": _BASIC + "ăâîșțşţ",
        "sk": _BASIC + "áäčďéíĺľňóôŕšťúýž",
        "sl": "abcčdefghijklmnoprsštuvzž",
        "sq": "abcçdeëfghijklmnopqrstuvxyz",
        "sv": _BASIC + "åäöé",
        "tr": "abcçdefgğhıijklmnoöprsştuüvyzâîû",
    },
    "Cyrillic": {
        "be": "абвгдеёжзійклмнопрстуўфхцчшыьэюя",
        "bg": "абвгдежзийклмнопрстуфхцчшщъьюя",
        "kk": _RUSSIAN + "әғқңөұүһі",
        "ky": _RUSSIAN + "ңөү",
        "mk": "абвгдѓежзѕијклљмнњопрстќуфхцчџш",
        "mn": _RUSSIAN + "өү",
        "ru": _RUSSIAN,
        "sr": "абвгдђежзијклљмнњопрстћуфхцчџш",
        "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
    },
}
"""Script -> language -> the letters of its alphabet, small ones."""
_LETTERS = {script: {code: frozenset(some) for code, some in one.items()} for script, one in ALPHABETS.items()}

MOST = (4, 4, 3, 3, 2, 1)
"""Candidate languages of an entry of 1, 2, ... characters; the last number holds for all longer entries."""

Candidates = Mapping[str, Sequence[str]]
"""Text of an entry -> the languages it may belong to."""

Rank = Callable[[str, str], tuple[str, ...]]
"""(text, script) -> candidate languages."""


class Ranker:
    """Candidate languages of short texts; remembers what it was asked.

    Raises:
        MissingExtra: py3langid is not installed.
    """

    def __init__(self) -> None:
        self._models = {script: _identifier(tuple(codes)) for script, codes in ALPHABETS.items()}
        self._seen: dict[tuple[str, str], tuple[str, ...]] = {}

    def __call__(self, text: str, script: str) -> tuple[str, ...]:
        """Returns the candidate languages of a text in one script, best first; none for other scripts."""
        word, script = text.strip(" "), script.capitalize()
        if script not in self._models or not word:
            return ()
        found = self._seen.get((word, script))
        if found is None:
            most = MOST[min(len(word), len(MOST)) - 1]
            ranked = self._models[script].rank(word)
            knows = ranked[0][1] > ranked[-1][1]  # it saw a feature; else the order is that of the codes
            best = [code for code, _ in ranked[: most * knows]]
            found = tuple(code for code in best if fits_alphabet(word, _LETTERS[script][code]))
            self._seen[(word, script)] = found
        return found


def fits_alphabet(word: str, letters: frozenset[str]) -> bool:
    """Whether no more characters of the word lie outside the letters than inside."""
    inside = sum(c in letters or c.lower() in letters for c in word)
    return len(word) - inside <= inside


def candidates_of(entries: Iterable[Entry], ranker: Rank) -> dict[str, tuple[str, ...]]:
    """Ranks the Latin and Cyrillic entries of more than one character; keys are their texts."""
    found = {}
    for entry in entries:
        if entry.script.capitalize() in ALPHABETS and entry.text is not None and len(entry.text) > 1:
            found[entry.text] = ranker(entry.text, entry.script)
    return {text: codes for text, codes in found.items() if codes}


def language_shares(entries: Iterable[Entry], candidates: Candidates, *, legacy: bool = False) -> dict[str, float]:
    """Percent of the attributed entries that belong to each language, an entry of k languages being 1/k of each.

    Args:
        entries: of one vocabulary; only those with a script and more than one character count.
        candidates: languages by text.
        legacy: divide by the number of (entry, language) pairs, as the reference does by mistake: its rows sum to 55
            to 60 instead of 100.
    """
    share: dict[str, float] = {}
    attributed = 0
    for entry in entries:
        if not entry.script or entry.text is None or len(entry.text) < 2:
            continue
        codes = candidates.get(entry.text, ())
        attributed += (len(codes) if legacy else 1) if codes else 0
        for code in codes:
            share[code] = share.get(code, 0.0) + 1 / len(codes)
    return {code: 100 * n / attributed for code, n in share.items()}


def alphabet_coverage(entries: Iterable[Entry]) -> dict[str, float]:
    """Share of each language's alphabet, small and capital letters, whose letters are entries by themselves."""
    alone = {entry.text.strip(" ") for entry in entries if entry.text is not None and entry.is_text}
    found = {}
    for languages in ALPHABETS.values():
        for code, letters in languages.items():
            wanted = {c for letter in letters for c in (letter, letter.upper()) if len(c) == 1}
            found[code] = len(wanted & alone) / len(wanted)
    return found


def _identifier(codes: tuple[str, ...]) -> Any:
    try:
        import py3langid.langid  # noqa: F401
    except ImportError as error:
        raise MissingExtra("py3langid", "languages", "saying which languages entries may belong to") from error
    identifier = copy(_whole_model())
    identifier.set_languages(codes)
    return identifier


@cache
def _whole_model() -> Any:
    """The model over all its languages; unpacking it takes a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
