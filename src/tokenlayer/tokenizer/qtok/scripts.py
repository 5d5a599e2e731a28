"""The script of a character, by Unicode's Script property or by the first word of its name."""

import unicodedata
from collections.abc import Callable
from functools import cache

import regex  # type: ignore[import-untyped]

SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Katakana", "Hangul", "Arabic", "Hebrew", "Devanagari"),
    *("Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao"),
    *("Tibetan", "Myanmar", "Georgian", "Armenian", "Ethiopic", "Khmer", "Mongolian", "Cherokee"),
    *("Canadian_Aboriginal", "Syriac", "Thaana", "Nko", "Tifinagh", "Javanese", "Balinese", "Sundanese"),
    *("Meetei_Mayek", "Ol_Chiki", "Bopomofo", "Yi", "Braille", "Runic", "Ogham", "Gothic", "Coptic", "Glagolitic"),
    *("Lisu", "Vai", "Bamum", "Adlam", "Tagalog", "Buginese", "Cham", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
    *("Limbu", "Lepcha", "Batak", "Samaritan", "Mandaic", "Phags_Pa", "Deseret", "Egyptian_Hieroglyphs", "Cuneiform"),
)
"""Scripts that are told apart; letters of any other are `Other script`."""
NEUTRAL = ""
"""Takes the script of the characters beside it: combining marks, joiners, letters that several scripts share."""
NAME_WORDS = frozenset(
    (
        *("ADLAM", "CHAKMA", "OL", "BAMUM", "OGHAM", "BOPOMOFO", "COPTIC", "RUNIC", "HALFWIDTH", "MODI", "KAITHI"),
        *("LEPCHA", "SHAVIAN", "LIMBU", "BATAK", "PHOENICIAN", "GLAGOLITIC", "MANDAIC", "BALINESE", "SAMARITAN"),
        *("PHAGS-PA", "OLD", "BLACK-LETTER", "SUNDANESE", "INSCRIPTIONAL", "LISU", "CHAM", "TAGALOG", "DESERET"),
        *("TAGBANWA", "BUGINESE", "THAANA", "MONGOLIAN", "DINGBAT", "JAVANESE", "EGYPTIAN", "GEORGIAN", "NKO"),
        *("TIFINAGH", "GURMUKHI", "BENGALI", "SINHALA", "ORIYA", "TAI", "KANGXI", "CANADIAN", "CHEROKEE", "LAO"),
        *("TELUGU", "SYRIAC", "TAMIL", "BRAILLE", "ETHIOPIC", "MYANMAR", "HEBREW", "ARABIC", "TIBETAN", "HIRAGANA"),
        *("CYRILLIC", "GREEK", "CJK", "LATIN", "KATAKANA", "KHMER", "THAI", "ARMENIAN", "YI", "HANGUL", "GOTHIC"),
        *("MALAYALAM", "DEVANAGARI", "GUJARATI", "KANNADA", "MEETEI", "ARABIC-INDIC"),
    )
)
"""First words of character names that count as scripts in the reference implementation, classification.py."""
_ONE_OF = regex.compile("|".join(rf"(\p{{Script={name}}})" for name in SCRIPTS))
_NEUTRAL = regex.compile(r"\p{Script=Inherited}|[\p{Script=Common}&&[\p{L}\p{M}]]", regex.VERSION1)
_OTHER_LETTER = regex.compile(r"[\p{L}\p{M}]")

ScriptOf = Callable[[str], str | None]
"""Character -> script, `NEUTRAL`, or None for what belongs to no script (digits, signs, spaces)."""


@cache
def is_named(char: str) -> bool:
    """Whether the character has a name in this Python's Unicode; controls, private use and surrogates have none."""
    return bool(unicodedata.name(char, ""))


@cache
def script_property(char: str) -> str | None:
    """Returns the script by the Script property; see `ScriptOf`."""
    if unicodedata.category(char).startswith("N"):
        return None  # a digit is no script, whichever block it is in
    if (hit := _ONE_OF.match(char)) is not None:
        return SCRIPTS[hit.lastindex - 1].replace("_", " ")
    if _NEUTRAL.match(char):
        return NEUTRAL
    return "Other script" if _OTHER_LETTER.match(char) else None


@cache
def script_name(char: str) -> str | None:
    """Returns the script by the first word of the character's name; a combining mark has none."""
    words = unicodedata.name(char, "").split()
    return words[0] if words and words[0] in NAME_WORDS else None


def script_of_text(text: str, script_of: ScriptOf) -> str | None:
    """Returns the one script of a text, or None if it has several, or none."""
    found = {script_of(c) for c in text} - {NEUTRAL}
    return found.pop() if len(found) == 1 else None
