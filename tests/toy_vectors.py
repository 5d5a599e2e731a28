"""Toy vocabularies and word vectors whose rows a dense loop can work out."""

import random

import numpy as np

from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.data.static_vectors import NgramConfig, StaticVectors
from tokenlayer.transfer.parts import Pair

SPECIAL = {"<s>": "bos", "<pad>": "pad"}


def toy_vocab(texts: list[str | bytes], special: dict[str, str] = SPECIAL) -> ByteVocab:
    """Control tokens first, then one normal token per text; spelling is whole tokens, else single characters."""
    tokens = [b""] * len(special) + [t if isinstance(t, bytes) else t.encode() for t in texts]
    kinds = [Kind.CONTROL] * len(special) + [Kind.NORMAL] * len(texts)
    names = [*special, *(t.replace(" ", "_") if isinstance(t, str) else repr(t) for t in texts)]
    of = {data: i for i, data in enumerate(tokens) if data}

    def spell(many):
        found = []
        for data in many:
            chars = [bytes([b]) for b in data]
            found.append([of[data]] if data in of else [of[c] for c in chars] if all(c in of for c in chars) else [])
        return found

    roles = {role: list(special).index(name) for name, role in special.items() if role}
    return ByteVocab(tuple(tokens), tuple(kinds), tuple(names), roles, speller=spell)


def toy_texts(count: int, seed: int) -> list[str]:
    """Distinct short strings, half of them with a space in front, some the same but for the space."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        word = "".join(draw.choices("abcdeé", k=draw.randint(1, 5)))
        for text in (word, " " + word) if draw.random() < 0.3 else (draw.choice(["", " "]) + word,):
            found[text] = None
    return list(found)[:count]


def toy_vectors(words: list[str], seed: int, *, dim: int = 12, ngrams: bool = True) -> StaticVectors:
    """Random vectors with falling counts."""
    grams = NgramConfig(2, 4, 400) if ngrams else None
    rows = np.random.default_rng(seed).normal(size=(len(words) + (400 if ngrams else 0), dim)).astype(np.float32)
    return StaticVectors(tuple(words), rows, np.arange(len(words), 0, -1), grams)


def toy_pair(source: int = 198, target: int = 298) -> Pair:
    """200 x 300 tokens, two of each being control tokens."""
    return Pair(toy_vocab(toy_texts(source, 0)), toy_vocab(toy_texts(target, 1)))


def dense(plan) -> np.ndarray:
    """The plan's weights as a table, the mean row last."""
    return plan.weights.to_dense().numpy().astype(np.float64)
