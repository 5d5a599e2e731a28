"""Code-mixed text: sentences of the new language with some of their words in the old one.

New tokens that stand beside known ones learn more from them; CW2V is trained on such text.

Paper: Mundra et al., "An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for Language
Models", CoNLL 2024. Reference implementation: AI4Bharat/VocabAdaptation_LLM (word2vec/create_codemix_at_word.py), whose
numbers are the defaults.

Shapes: one text in, one text out. Words are what white space separates; signs at the ends of a word stay where they
are when it is looked up and replaced.

Errors: `BadText` for a parallel corpus whose sides differ in length (both counts are in the message) and for an empty
dictionary; `BadOption` for shares outside 0 to 1.

Differences from the paper:
    - words are aligned by a dictionary (each with its nearest translation in the other sentence), not by fast_align;
    - without parallel text, words are replaced by their first translations in place (`codemix`);
    - the total is a limit: a span that would go beyond it is not taken;
    - a span that meets another on either side, or lies around it, is passed over; the reference misses the second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import regex  # type: ignore[import-untyped]

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator

_ENDS = regex.compile(r"^([^\p{L}\p{M}\p{N}]*)(.*?)([^\p{L}\p{M}\p{N}]*)$", regex.DOTALL)

Span = tuple[int, int]
"""First word and one past the last."""
Lexicon = Mapping[str, Sequence[str]]
"""A word in lower case -> its translations, in the order they were given."""


@dataclass(frozen=True)
class CodemixConfig:
    """Defaults are the paper's."""

    longest_span: float = 0.4
    """Longest run of words that is replaced at once, as a share of the sentence; one word is always allowed."""
    most_replaced: float = 0.5
    """Words that are replaced in all, as a share of the sentence."""
    farthest: float = 0.75
    """A word and its image may be this far apart, as a share of the last aligned place."""
    tries: int = 1000
    """Spans that are drawn before a sentence is left as it is."""

    def __post_init__(self) -> None:
        for name in ("longest_span", "most_replaced", "farthest"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadOption(f"{name} is {getattr(self, name):g}, expected 0 to 1")
        if self.tries < 1:
            raise BadOption(f"tries is {self.tries}, expected at least 1")


def codemix(
    texts: Iterable[str], pairs: Iterable[tuple[str, str]], config: CodemixConfig | None = None, *, seed: int = 0
) -> Iterator[str]:
    """Replaces words of target texts by their first translations.

    In a span only the words that the dictionary knows are replaced, and only they count towards the total.

    Args:
        texts: target texts, one sentence each.
        pairs: (source word, target word); `Dictionary.pairs` is one.
        config: see `CodemixConfig`.
        seed: same seed, same texts; what happens to one text does not depend on the others.

    Raises:
        BadText: there is no pair.
    """
    config = config or CodemixConfig()
    to_source = _lexicon((target, source) for source, target in pairs)
    for n, text in enumerate(texts):
        words = text.split()
        found = {i: to_source[core] for i, word in enumerate(words) if (core := _core(word)) in to_source}
        taken: set[int] = set()
        most = int(config.most_replaced * len(words))
        for first, end in _draws(len(words), config, numpy_generator(seed, "codemix", n)):
            if len(taken) >= min(most, len(found)):
                break
            inside = {i for i in range(first, end) if i in found}
            if inside and not inside & taken and len(taken) + len(inside) <= most:
                taken |= inside
        yield " ".join(
            _dressed(word, found[i][0], capital=i == 0) if i in taken else word for i, word in enumerate(words)
        )


def codemix_parallel(
    source: Sequence[str],
    target: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    config: CodemixConfig | None = None,
    *,
    seed: int = 0,
) -> Iterator[str]:
    """Replaces in target sentences the images of spans of the source sentences by these spans.

    Args:
        source: sentences of the old language.
        target: their translations, line by line.
        pairs: (source word, target word), by which words are aligned.
        config: see `CodemixConfig`.
        seed: same seed, same texts.

    Raises:
        BadText: the two sides have different numbers of lines, or there is no pair.
    """
    if len(source) != len(target):
        raise BadText(
            f"the parallel corpus has {len(source)} source lines and {len(target)} target lines",
            hint="line n of one file must be the translation of line n of the other",
        )
    return _mixed_pairs(source, target, _lexicon(pairs), config or CodemixConfig(), seed)


def _mixed_pairs(
    source: Sequence[str], target: Sequence[str], to_target: Lexicon, config: CodemixConfig, seed: int
) -> Iterator[str]:
    for n, (one, other) in enumerate(zip(source, target, strict=True)):
        words, images = one.split(), other.split()
        links = align_words(words, images, to_target)
        yield " ".join(mix(words, images, links, config, numpy_generator(seed, "codemix", n)))


def align_words(source: Sequence[str], target: Sequence[str], to_target: Lexicon) -> dict[int, list[int]]:
    """Links each source word to its translation in the target sentence; of several to the one that stands nearest."""
    places: dict[str, list[int]] = {}
    for j, word in enumerate(target):
        places.setdefault(_core(word), []).append(j)
    links: dict[int, list[int]] = {}
    for i, word in enumerate(source):
        hits = [j for translation in to_target.get(_core(word), ()) for j in places.get(translation.lower(), ())]
        if hits:
            expected = i * len(target) / len(source)
            links[i] = [min(hits, key=lambda j: (abs(j - expected), j))]
    return links


def mix(
    source: Sequence[str],
    target: Sequence[str],
    links: Mapping[int, Sequence[int]],
    config: CodemixConfig,
    generator: np.random.Generator,
) -> list[str]:
    """One code-mixed sentence: images of random source spans are replaced by the spans.

    Args:
        source: words of the source sentence.
        target: words of the target sentence.
        links: source place -> target places, from any aligner.
        config: see `CodemixConfig`.
        generator: draws the spans.
    """
    most, last = int(config.most_replaced * len(source)), max((j for js in links.values() for j in js), default=0)
    taken: list[tuple[Span, Span]] = []
    done = 0
    for first, end in _draws(len(source), config, generator) if links else ():
        if done >= most:
            break
        jumps = any(abs(i - max(links[i])) > config.farthest * last for i in range(first, end) if i in links)
        image = [j for i in range(first, end) for j in links.get(i, ())]
        if not image or jumps or done + end - first > most:
            continue
        span = (min(image), max(image) + 1)
        if not any(_meet((first, end), one) or _meet(span, other) for one, other in taken):
            taken.append(((first, end), span))
            done += end - first
    words: list[str] = []
    at = 0
    for (first, end), (begin, beyond) in sorted(taken, key=lambda both: both[1]):
        words += [*target[at:begin], *source[first:end]]
        at = beyond
    return [*words, *target[at:]]


def _draws(length: int, config: CodemixConfig, generator: np.random.Generator) -> Iterator[Span]:
    """Random spans of a sentence, as many as are tried."""
    longest = max(1, int(config.longest_span * length))
    for _ in range(config.tries if length else 0):
        first = int(generator.integers(length))
        yield first, min(length, first + int(generator.integers(1, longest + 1)))


def _meet(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _lexicon(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, translation in pairs:
        if word and translation:
            found.setdefault(word.lower(), []).append(translation)
    if not found:
        raise BadText("the dictionary has no word pair", hint="give pairs (source word, target word)")
    return found


def _core(word: str) -> str:
    """A word in lower case without the signs around it."""
    return str(_ENDS.match(word)[2]).lower()


def _dressed(word: str, other: str, *, capital: bool) -> str:
    """Another word with the signs that are around this one and, at the start of a text, its capital."""
    before, core, after = _ENDS.match(word).groups()
    raised = capital and core[:1].isupper()
    return f"{before}{other[:1].upper() + other[1:] if raised else other}{after}"
