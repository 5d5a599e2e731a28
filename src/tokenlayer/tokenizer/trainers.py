"""Runs a trainer over texts and returns the model of a tokenizer.json; the same texts give the same bytes.

The trainers of `tokenizers` walk hash maps that are ordered anew in every process. What that touches is fixed here:
the alphabet is given to them in order, and the scores and order of Unigram are put into one form.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tokenlayer.core.byte_alphabet import CHAR_OF_BYTE
from tokenlayer.core.errors import BadText
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.shape import Shape

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Texts = Callable[[], Iterable[str]]
"""A new pass over the texts at each call."""
BYTE_ALPHABET = sorted(CHAR_OF_BYTE.values())
REQUIRED_STEP = 0.0001  # tokenizers, unigram/trainer.rs: min_score_penalty_delta
SCORE_DIGITS = 6
"""Sums over hash maps differ from the 15th digit on; the sixth cannot change a cut."""
UNIGRAM_LENGTH = 16  # tokenizers and sentencepiece: max_piece_length
ALPHABET_SHARE = 0.5
"""At most this share of the vocabulary is single characters, the most frequent ones."""


def train_model(texts: Texts, shape: Shape, config: LearnConfig) -> dict[str, Any]:
    """Trains with the `tokenizers` library.

    Args:
        texts: read once for byte-level tokenizers, twice for the others.
        shape: kind, stages and special tokens.
        config: sizes.

    Returns:
        The `model` field of a tokenizer.json. Ids: special tokens, byte tokens, then what was learned.

    Raises:
        BadText: there is no text.
    """
    trained = {"BPE": _bpe, "Unigram": _unigram, "WordPiece": _wordpiece}[shape.kind](texts, shape, config)
    return {**shape.model, **trained}


def untrained(shape: Shape) -> "Tokenizer":
    """Returns the normaliser and pre-tokenizer of a shape around an empty model."""
    from tokenizers import Tokenizer, models

    empty = {"BPE": models.BPE, "Unigram": models.Unigram}.get(shape.kind, _empty_wordpiece)()
    data = json.loads(Tokenizer(empty).to_str())
    data["normalizer"] = shape.stages["normalizer"]
    data["pre_tokenizer"] = shape.training_split or shape.stages["pre_tokenizer"]
    return Tokenizer.from_str(json.dumps(data))


def _empty_wordpiece() -> Any:
    from tokenizers import models

    return models.WordPiece(vocab={"[UNK]": 0}, unk_token="[UNK]")


def _bpe(texts: Texts, shape: Shape, config: LearnConfig) -> dict[str, Any]:
    from tokenizers import trainers

    alphabet = _alphabet(texts, shape, config, forms=1)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*shape.names, *shape.byte_tokens],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=config.max_token_length,
        show_progress=False,
    )
    model = _run(texts, shape, trainer)
    return {"vocab": model["vocab"], "merges": model["merges"]}


def _wordpiece(texts: Texts, shape: Shape, config: LearnConfig) -> dict[str, Any]:
    """Every character gets its ## form beforehand: left to the trainer, their ids would follow a hash map."""
    from tokenizers import trainers

    alphabet = _alphabet(texts, shape, config, forms=2)
    prefix = str(shape.model.get("continuing_subword_prefix") or "##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*shape.names, *(prefix + c for c in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    return {"vocab": _run(texts, shape, trainer)["vocab"]}


def _unigram(texts: Texts, shape: Shape, config: LearnConfig) -> dict[str, Any]:
    from tokenizers import trainers

    fixed = [*shape.names, *shape.byte_tokens]
    unk = shape.model.get("unk_token")
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=fixed,
        initial_alphabet=_alphabet(texts, shape, config, forms=1),
        unk_token=unk,
        max_piece_length=config.max_token_length or UNIGRAM_LENGTH,
        show_progress=False,
    )
    learned = [(str(p), float(s)) for p, s in _run(texts, shape, trainer)["vocab"]]
    pieces = one_form([(p, s) for p, s in learned if p not in set(fixed)])
    lowest = min((s for _, s in pieces), default=0.0)
    vocab = [*((n, 0.0) for n in shape.names), *((b, lowest) for b in shape.byte_tokens), *pieces]
    return {"vocab": [list(entry) for entry in vocab], "unk_id": shape.names.index(unk) if unk else None}


def one_form(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Puts learned pieces into one order with one score each.

    Characters that training had dropped come back with scores that rise from the lowest in steps, in the order of
    a hash map; all of them get the lowest.
    """
    if not pieces:
        return []
    lowest = min(score for _, score in pieces)
    n_characters = sum(len(piece) == 1 for piece, _ in pieces)
    brought_back = lowest + REQUIRED_STEP * (n_characters + 1)
    flat = [(p, lowest if len(p) == 1 and s < brought_back else s) for p, s in pieces]
    return sorted(((p, round(s, SCORE_DIGITS)) for p, s in flat), key=lambda entry: (-entry[1], entry[0]))


def _alphabet(texts: Texts, shape: Shape, config: LearnConfig, *, forms: int) -> list[str]:
    """The characters that get a token, sorted: the 256 of the byte alphabet, or the most frequent of the text."""
    if shape.byte_level:
        return BYTE_ALPHABET
    tokenizer = untrained(shape)
    normalizer, cutter = tokenizer.normalizer, tokenizer.pre_tokenizer
    seen: Counter[str] = Counter()
    for text in texts():
        seen.update(normalizer.normalize_str(text) if normalizer is not None else text)
    room = max(1, int((config.vocab_size - len(shape.names) - len(shape.byte_tokens)) * ALPHABET_SHARE) // forms)
    survives = Counter({c: n for c, n in seen.items() if cutter is None or cutter.pre_tokenize_str(c)})
    if space := cutter is not None and cutter.pre_tokenize_str("a b"):
        survives.update(c for piece, _ in space for c in piece if c not in "ab")
    kept = sorted(survives.items(), key=lambda entry: (-entry[1], entry[0]))[:room]
    return sorted(c for c, _ in kept if c != " " or shape.training_split)


def _run(texts: Texts, shape: Shape, trainer: Any) -> Mapping[str, Any]:
    tokenizer = untrained(shape)
    stream = _not_empty(texts())
    tokenizer.train_from_iterator(stream, trainer)
    model: Mapping[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _not_empty(texts: Iterable[str]) -> Iterable[str]:
    n = 0
    for n, text in enumerate(texts, 1):
        yield text
    if n == 0:
        raise BadText(
            "there is no text to learn from: all documents are empty",
            hint="check the sources, the field name and the suffixes",
        )
