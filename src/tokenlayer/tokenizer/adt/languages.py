"""What a language needs for traps: its letters, sentences around two glued words, and questions about them."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenlayer.core.errors import choose


def _between(*ranges: tuple[int, int]) -> Callable[[str], bool]:
    """Whether a character has a code point in one of the ranges, ends included."""
    return lambda char: any(low <= ord(char) <= high for low, high in ranges)


HAN = (0x4E00, 0x9FFF)


@dataclass(frozen=True)
class Template:
    """A sentence with two glued words, the same with a gap between them, and what is asked about it.

    `{pair}` stands for the two words in sentence and question; `{first}` and `{second}` are never used in them.
    """

    sentence: str
    """`{pair}` is where the two words stand."""
    question: str
    """`{which}` is the ordinal of the word that is asked for."""


@dataclass(frozen=True)
class Language:
    """How one language writes two words without a space between them."""

    code: str
    is_letter: Callable[[str], bool]
    """Whether a character can be part of a word of the lexicon."""
    shortest: int
    """Characters of the shortest word and trap; shorter ones are mostly noise."""
    gap: str
    """What stands between the words of a control sentence: the cut is right there."""
    templates: tuple[Template, ...]
    ordinals: tuple[str, str]
    options: str
    """How a question names its two choices: `{one}` and `{other}`."""
    answer: str
    """What a prompt ends with, before the answer."""
    spaced: bool = False
    """Whether running text has spaces between words; only glued words (hashtags, host names) are in danger then."""


ENGLISH = Language(
    code="en",
    is_letter=_between((0x61, 0x7A)),
    shortest=3,
    gap=" ",
    templates=(
        Template("The new site is called {pair}.", "Its name is made of two words. Which is the {which} word?"),
        Template("They posted it under #{pair} today.", "The tag is made of two words. Which is the {which} word?"),
        Template("The function {pair} was renamed.", "Its name is made of two words. Which is the {which} word?"),
    ),
    ordinals=("first", "second"),
    options="Answer with {one} or {other}.",
    answer="Answer:",
    spaced=True,
)
CHINESE = Language(
    code="zh",
    is_letter=_between(HAN),
    shortest=2,
    gap="，",
    templates=(
        Template("纸条上写着“{pair}”。", "这里有两个词，{which}词是什么？"),
        Template("他念了{pair}。", "他念了两个词，{which}词是什么？"),
    ),
    ordinals=("前面的", "后面的"),
    options="请回答{one}或{other}。",
    answer="答案：",
)
JAPANESE = Language(
    code="ja",
    is_letter=_between(HAN, (0x3041, 0x3096), (0x30A1, 0x30FA), (0x30FC, 0x30FC), (0x3005, 0x3005)),
    shortest=2,
    gap="、",
    templates=(
        Template("紙に「{pair}」と書いてある。", "ここには言葉が二つある。{which}の言葉は何か。"),
        Template("見出しは{pair}だった。", "ここには言葉が二つある。{which}の言葉は何か。"),
    ),
    ordinals=("前", "後"),
    options="{one}か{other}で答えよ。",
    answer="答え：",
)
THAI = Language(
    code="th",
    is_letter=_between((0x0E01, 0x0E3A), (0x0E40, 0x0E4E)),
    shortest=2,
    gap=" ",
    templates=(Template("ในกระดาษเขียนว่า “{pair}”", "มีสองคำ คำ{which}คือคำใด"),),
    ordinals=("แรก", "ที่สอง"),
    options="ตอบว่า {one} หรือ {other}",
    answer="คำตอบ:",
)
LANGUAGES = {one.code: one for one in (ENGLISH, CHINESE, JAPANESE, THAI)}


def language(code: str) -> Language:
    """Returns the language of a code.

    Raises:
        BadOption: we have no letters and sentences for it.
    """
    return LANGUAGES[choose("lang", code, LANGUAGES)]


def is_word(text: str, of: Language, shortest: int) -> bool:
    """Whether a text is long enough and all of it is letters of the language."""
    return len(text) >= shortest and all(map(of.is_letter, text))
