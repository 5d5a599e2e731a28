"""The optional fast BPE trainer, used only where it gives the merges that `tokenizers` gives.

gigabpe cuts with GPT-2's pattern, line by line (0.1.0). So the pre-tokenizer must be exactly that, and a document
must be one line that does not end in a space: then cutting at lines changes no pre-token. Both trainers are run on
a sample each time, and their merges compared.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadOption, BadText, MissingExtra, VerifyFailed
from tokenlayer.core.pretokenizers import PRE_TOKENIZERS
from tokenlayer.tokenizer.config import LearnConfig
from tokenlayer.tokenizer.shape import Shape
from tokenlayer.tokenizer.trainers import BYTE_ALPHABET, Texts, train_model

SAMPLE_BYTES = 1_000_000
SAMPLE_VOCAB = 2_000
"""Tokens of the sample run, on top of the special ones and the alphabet."""


@dataclass(frozen=True)
class Trained:
    """A model with the trainer that made it."""

    model: dict[str, Any]
    trainer: str
    why: str


class _NotOneLine(Exception):
    """A document that gigabpe would cut differently."""


def train(texts: Texts, shape: Shape, config: LearnConfig) -> Trained:
    """Trains with gigabpe if the config asks for it or lets us choose, else with `tokenizers`.

    Raises:
        BadOption: gigabpe was asked for, and the pre-tokenizer or the documents do not fit it.
        MissingExtra: gigabpe was asked for and is not installed.
        VerifyFailed: gigabpe was asked for and gave other merges on the sample.
        BadText: there is no text.
    """
    if config.trainer == "tokenizers":
        return Trained(train_model(texts, shape, config), "tokenizers", "it was asked for")
    wanted = config.trainer == "gigabpe"
    if why := _unfit(shape):
        if wanted:
            raise BadOption(f"trainer 'gigabpe' cannot be used: {why}", hint="leave the trainer out")
        return Trained(train_model(texts, shape, config), "tokenizers", why)
    if find_spec("gigabpe") is None:
        if wanted:
            raise MissingExtra("gigabpe", "fast", "trainer 'gigabpe'")
        return Trained(train_model(texts, shape, config), "tokenizers", "gigabpe is not installed")
    return _with_gigabpe(texts, shape, config, wanted=wanted)


def _unfit(shape: Shape) -> str:
    if shape.kind != "BPE":
        return f"it trains BPE only, not {shape.kind}"
    cutter = dict(shape.stages["pre_tokenizer"] or {})
    cutter.pop("trim_offsets", None)
    gpt2 = {k: v for k, v in PRE_TOKENIZERS["gpt2"].items() if k != "trim_offsets"}
    if {"use_regex": True, **cutter} != gpt2 or shape.stages["normalizer"] is not None:
        return "gigabpe knows only the pre-tokenizer gpt2 without a normalizer"
    return ""


def _with_gigabpe(texts: Texts, shape: Shape, config: LearnConfig, *, wanted: bool) -> Trained:
    with tempfile.TemporaryDirectory(prefix="tokenlayer-") as folder:
        corpus = Path(folder, "corpus.txt")
        try:
            sample = _write_lines(texts(), corpus)
        except _NotOneLine as error:
            if wanted:
                raise BadOption(
                    f"trainer 'gigabpe' cannot be used: {error}",
                    hint="leave the trainer out, or make each line a document",
                ) from None
            return Trained(train_model(texts, shape, config), "tokenizers", str(error))
        if not _same_on(sample, shape, config, Path(folder, "sample.txt")):
            if wanted:
                raise VerifyFailed(
                    "gigabpe and tokenizers gave different merges on a sample", hint="leave the trainer out"
                )
            return Trained(train_model(texts, shape, config), "tokenizers", "gigabpe gave other merges on a sample")
        why = f"same merges as tokenizers on a sample of {sum(len(t.encode()) for t in sample) / 1e6:.1f} MB"
        return Trained({**shape.model, **_gigabpe(corpus, shape, config, config.vocab_size)}, "gigabpe", why)


def _write_lines(texts: Iterable[str], path: Path) -> list[str]:
    """Writes one document a line and returns the first of them."""
    sample: list[str] = []
    left = SAMPLE_BYTES
    with path.open("w", encoding="utf-8", newline="") as file:
        for n, text in enumerate(texts):
            if "\n" in text or text[-1].isspace():
                what = "has line breaks" if "\n" in text else "ends in a space"
                raise _NotOneLine(f"gigabpe trains line by line, and document {n} {what}")
            file.write(text + "\n")
            if left > 0:
                sample.append(text)
                left -= len(text)
    if not sample:
        raise BadText("there is no text to learn from: all documents are empty")
    return sample


def _same_on(sample: list[str], shape: Shape, config: LearnConfig, path: Path) -> bool:
    from dataclasses import replace

    size = min(config.vocab_size, shape.fixed + SAMPLE_VOCAB)
    path.write_text("".join(text + "\n" for text in sample), encoding="utf-8", newline="")
    ours = train_model(lambda: sample, shape, replace(config, vocab_size=size))
    theirs = _gigabpe(path, shape, config, size)
    return bool(ours["merges"] == theirs["merges"] and ours["vocab"] == theirs["vocab"])


def _gigabpe(path: Path, shape: Shape, config: LearnConfig, vocab_size: int) -> dict[str, Any]:
    """The alphabet goes in as special tokens: they get the ids that `tokenizers` gives it."""
    import gigabpe

    vocab, merges = gigabpe.train_bpe(
        [str(path)],
        vocab_size,
        special_tokens=[*shape.names, *BYTE_ALPHABET],
        min_frequency=config.min_frequency,
        max_token_length=config.max_token_length,
        pretokenizer="bytelevel",
    )
    by_id = sorted(vocab.items(), key=lambda entry: entry[1])
    return {"vocab": dict(by_id), "merges": [list(pair) for pair in merges]}
