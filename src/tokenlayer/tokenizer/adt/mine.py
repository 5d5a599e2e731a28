"""Traps of a vocabulary: pairs of words whose seam lies inside one of its entries, where the tokenizer falls for it.

Two words written without a space (`moves` + `table`) may hide a third entry (`stable`). Mining lists such pairs for
any open vocabulary, encodes each in a sentence, and keeps those that are really cut across the word boundary.

Paper: Wang et al., "Tokenization Matters! Degrading Large Language Models through Challenging Their Tokenization",
2024 (ADT-Auto; we had its abstract and accounts of it, not its tables or code).

Shapes: in a `LoadedTokenizer` and a lexicon (word -> frequency); out a `Mined` with lists of `Trap`, all in characters
of a sentence. No tensors.

Errors: `BadTokenizer` for a vocabulary without the language, `BadOption` for settings, `BadText` where no pair hides an
entry.

Differences from the paper:

- Pairs come from a join over traps, not from all |W|^2 concatenations.
- A candidate is encoded inside a sentence, and counts only if a token there crosses the boundary; a right cut is kept
  too, as a matched control.
- Templates may take the place of the large model that writes sentence and question (`build.py`), and each instance has
  a control sentence with a gap between the words; the paper has neither.
- No manual check, so there is no bound of 231 instances; `per_trap` bounds how often a trap comes back.
- The hand-made part is our own small set (`own.py`), not the authors'.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenlayer.core.errors import BadOption, BadText, BadTokenizer, choose
from tokenlayer.core.seeds import derive_seed
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.adt.join import Pair, TrapJoin
from tokenlayer.tokenizer.adt.languages import Language, is_word, language
from tokenlayer.tokenizer.adt.lexicon import entry_texts, words_of_vocab
from tokenlayer.tokenizer.adt.verify import Cut, cut_at, hits_trap


@dataclass(frozen=True)
class AdtConfig:
    """What counts as a word and a trap, and how many are tried."""

    lang: str = "en"
    """Language of the words: en, zh, ja or th."""
    words: str = "vocabulary"
    """`vocabulary`: both words are entries, as in the paper; `lexicon`: any word of the lexicon."""
    traps: str = "words"
    """`words`: the trap is a word of the lexicon too, so that another reading exists; `entries`: any entry."""
    top_words: int = 8000
    """Only the most frequent words take part."""
    shortest: int = 0
    """Characters of the shortest word and trap; 0: 2, or 3 where words have spaces between them."""
    order: str = "frequent"
    """Candidates that are tried: `frequent` ones first, or `random` ones of all."""
    tried: int = 4000
    """Candidates that are encoded."""
    per_seam: int = 20
    """Most candidates of a trap and cut when frequent ones come first."""
    per_trap: int = 3
    """Most confirmed traps with the same trap; 0: no bound."""
    per_word: int = 3
    """Most confirmed traps with the same first, or the same second, word; 0: no bound."""
    seed: int = 0
    """Draws candidates, sentences and which word is asked for."""

    def __post_init__(self) -> None:
        language(self.lang)
        choose("words", self.words, ("vocabulary", "lexicon"))
        choose("traps", self.traps, ("words", "entries"))
        choose("order", self.order, ("frequent", "random"))
        least = {"top_words": 1, "tried": 1, "per_seam": 1, "shortest": 0, "per_trap": 0, "per_word": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadOption(
                    f"{name} is {getattr(self, name)}, expected at least {low}", hint=f"give --{_flag(name)}"
                )

    @property
    def least_letters(self) -> int:
        """Characters of the shortest word and trap."""
        return self.shortest or language(self.lang).shortest


@dataclass(frozen=True)
class Trap:
    """Two glued words in a sentence, and how a tokenizer cuts them.

    Attributes:
        w1: first word.
        w2: second word.
        trap: the entry across their seam.
        kind: which parts of the words it covers, such as `"tail+head"`.
        sentence: where they were tried; `span` are the characters of both words in it.
        span: start and end.
        gold: the right reading, both words.
        wrong: a token crosses the boundary.
        hit: that token is the trap itself.
        tokens: what the tokenizer makes of the span, as text (broken characters as `\\xff`).
        ids: their ids.
    """

    w1: str
    w2: str
    trap: str
    kind: str
    sentence: str
    span: tuple[int, int]
    gold: tuple[str, str]
    wrong: bool
    hit: bool
    tokens: tuple[str, ...]
    ids: tuple[int, ...]

    @property
    def boundary(self) -> int:
        """The character of the sentence where the second word starts."""
        return self.span[0] + len(self.w1)


@dataclass(frozen=True)
class Mined:
    """What mining found.

    Attributes:
        confirmed: traps that the tokenizer falls for, at most `per_trap` of each.
        right: candidates that it cuts right, the matched controls.
        entries: entries of the vocabulary that can be traps.
        words: words that took part.
        pairs: candidates of the whole join, compounds included.
        tried: candidates that were encoded.
        wrong: how many of these were cut wrongly, before the bounds.
        hit: how many by the trap itself.
    """

    confirmed: tuple[Trap, ...]
    right: tuple[Trap, ...]
    entries: int
    words: int
    pairs: int
    tried: int
    wrong: int
    hit: int


def mine_traps(tokenizer: LoadedTokenizer, lexicon: Mapping[str, float], config: AdtConfig = AdtConfig()) -> Mined:
    """Finds pairs of words that a tokenizer cuts across their boundary.

    Args:
        tokenizer: any tokenizer with an open vocabulary.
        lexicon: word -> frequency.
        config: see `AdtConfig`.

    Returns:
        Confirmed traps in the order in which they were tried, candidates with a right cut, and counts.

    Raises:
        BadTokenizer: the vocabulary has no entry of that language that is long enough, or none of the words.
        BadText: no pair of words hides an entry.
    """
    of = language(config.lang)
    words = _words(tokenizer.vocab, lexicon, of, config)
    traps = _traps(tokenizer.vocab, lexicon, of, config)
    compounds = set(lexicon) | set(entry_texts(tokenizer.vocab))
    join = TrapJoin(words, traps, compounds)
    if not join.size:
        raise BadText(
            f"none of {len(words)} words next to another hides one of {len(traps)} entries of {tokenizer.where}",
            hint="give a longer lexicon, a larger --top-words, or --traps entries",
        )
    tried = [_try(tokenizer, pair, of, config) for pair in candidates(join, config)]
    wrong = [trap for trap in tried if trap.wrong]
    return Mined(
        confirmed=tuple(_bounded(wrong, config)),
        right=tuple(_bounded([trap for trap in tried if not trap.wrong], config)),
        entries=len(traps),
        words=len(words),
        pairs=join.size,
        tried=len(tried),
        wrong=len(wrong),
        hit=sum(trap.hit for trap in wrong),
    )


def candidates(join: TrapJoin, config: AdtConfig) -> list[Pair]:
    """The pairs that are encoded: random ones, or the best of each trap and cut by the product of frequencies."""
    if config.order == "random":
        return join.sample(config.tried, config.seed)
    found = sorted(join.best(config.per_seam), key=lambda pair: (-join.score(pair), pair))
    return _distinct(found)[: config.tried]


def try_pair(tokenizer: LoadedTokenizer, pair: Pair, sentence: str) -> Trap:
    """Encodes a sentence with `{pair}` in it after the two words were put there, and says how they are cut."""
    start = sentence.index("{pair}")
    glued = pair.first + pair.second
    whole = sentence.replace("{pair}", glued)
    span, boundary = (start, start + len(glued)), start + len(pair.first)
    cut = cut_at(tokenizer, whole, span, (boundary, boundary))
    return Trap(
        pair.first,
        pair.second,
        pair.trap,
        pair.kind,
        whole,
        span,
        (pair.first, pair.second),
        cut.wrong,
        hits_trap(whole, cut, pair.trap),
        _shown(cut),
        cut.ids,
    )


def _words(vocab: ByteVocab, lexicon: Mapping[str, float], of: Language, config: AdtConfig) -> dict[str, float]:
    known = {w: n for w, n in lexicon.items() if is_word(w, of, config.least_letters)}
    if config.words == "vocabulary":
        known = words_of_vocab(vocab, known, of)
    if not known:
        raise BadText(
            f"none of the {len(lexicon)} words has {config.least_letters} or more letters of the language {of.code!r}",
            hint="give a lexicon of that language with --lexicon, or a smaller --shortest",
        )
    best = sorted(known, key=lambda w: (-known[w], w))[: config.top_words]
    return {word: known[word] for word in best}


def _traps(
    vocab: ByteVocab, lexicon: Mapping[str, float], of: Language, config: AdtConfig
) -> dict[str, tuple[bool, bool]]:
    texts = entry_texts(vocab)
    found = {text: forms for text, forms in texts.items() if is_word(text, of, config.least_letters)}
    if not found:
        raise BadTokenizer(
            f"the vocabulary has no entry of {config.least_letters} or more letters of the language {of.code!r}: "
            f"{len(vocab)} entries, {len(texts)} of whole characters",
            hint="take another --lang, or a tokenizer that was made for it",
        )
    return found if config.traps == "entries" else {text: forms for text, forms in found.items() if text in lexicon}


def _try(tokenizer: LoadedTokenizer, pair: Pair, of: Language, config: AdtConfig) -> Trap:
    at = derive_seed(config.seed, "sentence", pair.first, pair.second) % len(of.templates)
    return try_pair(tokenizer, pair, of.templates[at].sentence)


def _distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """The first of the pairs with the same words: the longest trap comes first at the same score."""
    found: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        known = found.setdefault((pair.first, pair.second), pair)
        if len(pair.trap) > len(known.trap):
            found[(pair.first, pair.second)] = pair
    return list(found.values())


def _bounded(traps: Iterable[Trap], config: AdtConfig) -> Iterable[Trap]:
    """At most `per_trap` with the same trap and `per_word` with the same first or second word."""
    seen: Counter[tuple[str, str]] = Counter()
    for trap in traps:
        keys = (("trap", trap.trap), ("first", trap.w1), ("second", trap.w2))
        bounds = (config.per_trap, config.per_word, config.per_word)
        if any(bound and seen[key] >= bound for key, bound in zip(keys, bounds, strict=True)):
            continue
        seen.update(keys)
        yield trap


def _shown(cut: Cut) -> tuple[str, ...]:
    return tuple(token.decode("utf-8", "backslashreplace") for token in cut.tokens)


def _flag(name: str) -> str:
    return name.replace("_", "-")
