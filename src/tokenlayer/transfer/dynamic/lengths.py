"""How long texts are by number of merges: what a wanted share of the reachable reduction is in merges."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tokenlayer.core.errors import BadOption, BadText, VocabMismatch, choose
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.transfer.dynamic.segment import DynamicBPE, check_reduction, merges_to_reach

FORMAT = "tokenlayer-dynamic-lengths-1"
LAWS = ("uniform", "normal")
HINT = "measure the lengths again with lengths_by_merges"


@dataclass(frozen=True)
class LengthTable:
    """Tokens of a data set after so many merges in each batch.

    Attributes:
        totals: tokens of all texts after 0, 1, 2, ... merges a batch (a sample), those of the template included;
            batches that have no more to merge stay as they are.
        texts: texts that were counted.
        batch_texts: texts of a batch.
        boundary: see `DynamicBPE`.
        per: see `DynamicBPE`.
        longest: see `DynamicBPE`.
        max_length: tokens at which texts were cut, or None.
        vocab: digest of the model's own tokens.
    """

    totals: tuple[int, ...]
    texts: int
    batch_texts: int
    boundary: str
    per: str
    longest: int | None
    max_length: int | None
    vocab: str

    @cached_property
    def means(self) -> tuple[float, ...]:
        """Mean tokens of a text after 0, 1, 2, ... merges."""
        return tuple(total / self.texts for total in self.totals)

    @property
    def reachable(self) -> float:
        """Share of the plain tokens that all possible merges take away, 0 to 1."""
        return 1 - self.totals[-1] / self.totals[0] if self.totals[0] else 0.0

    def merges_for(self, reduction: float) -> int:
        """The first number of merges that takes away a share of what all possible merges take away.

        Args:
            reduction: the share, 0 (no merges) to 1 (as many as the batch with the most had).

        Raises:
            BadOption: outside 0 to 1.
        """
        check_reduction(reduction)
        return merges_to_reach([self.totals[0] - total for total in self.totals], reduction)

    def draw(self, generator: np.random.Generator, law: str = "uniform") -> int:
        """Draws a number of merges for a batch, so that what is trained on them serves all reductions.

        Args:
            generator: gives the draws.
            law: of the share that is taken away: uniform from 0 to 1, or normal around a half with a deviation of a
                sixth, cut off at 0 and 1.

        Raises:
            BadOption: another law.
        """
        choose("law", law, LAWS)
        share = generator.random() if law == "uniform" else generator.normal(1 / 2, 1 / 6)
        return self.merges_for(float(np.clip(share, 0.0, 1.0)))

    def check(self, bpe: DynamicBPE) -> None:
        """Refuses to be used with another tokenizer or other settings than it was measured with.

        Raises:
            VocabMismatch: another vocabulary.
            BadOption: another boundary, `per` or `longest`.
        """
        if self.vocab != _digest(bpe.vocab):
            raise VocabMismatch("the lengths were measured with another tokenizer than the model's", hint=HINT)
        for name in ("boundary", "per", "longest"):
            measured, found = getattr(self, name), getattr(bpe, name)
            if measured != found:
                raise BadOption(f"the lengths were measured with {name} {measured}, expected {found}", hint=HINT)

    def save(self, path: Path) -> None:
        """Writes the table as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "LengthTable":
        """Reads what `save` wrote.

        Raises:
            BadText: the file cannot be read, or is not such a table; the message names the field.
        """
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadText(f"cannot read {path}: {error}", hint=HINT) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BadText(f"{path} is no table of lengths: field 'format' is not {FORMAT!r}", hint=HINT)
        return _from_json(path, data)


def lengths_by_merges(
    bpe: DynamicBPE,
    texts: Iterable[str],
    *,
    batch_texts: int = 32,
    max_length: int | None = None,
    specials: bool = True,
) -> LengthTable:
    """Merges each batch of a data set as far as possible and counts what is left after each merge.

    Args:
        bpe: cuts the batches; without a fixed list of merges.
        texts: the data set, cut into batches in its order; the last one may be smaller.
        batch_texts: texts of a batch; 32 is the paper's.
        max_length: see `DynamicBPE.segment`.
        specials: see `DynamicBPE.segment`.

    Raises:
        BadOption: no room for a text, a batch below 1, or a fixed list of merges.
        BadText: no text, or one with a lone surrogate.
    """
    if batch_texts < 1:
        raise BadOption(f"batch_texts is {batch_texts}, expected at least 1")
    if bpe.merges is not None:
        raise BadOption("a fixed list of merges has no reachable reduction", hint="give a DynamicBPE without merges")
    steps: list[int] = []  # tokens that the n-th merge takes away, over all batches
    plain = count = 0
    rest = iter(texts)
    while batch := list(islice(rest, batch_texts)):
        count += len(batch)
        for curve in bpe.lengths_by_merges(batch, max_length=max_length, specials=specials):
            plain += curve[0]
            steps += [0] * (len(curve) - 1 - len(steps))
            for at in range(len(curve) - 1):
                steps[at] += curve[at] - curve[at + 1]
    if not count:
        raise BadText("there is no text to measure lengths of", hint="give at least one text")
    return LengthTable(
        totals=_descending(plain, steps),
        texts=count,
        batch_texts=batch_texts,
        boundary=bpe.boundary,
        per=bpe.per,
        longest=bpe.longest,
        max_length=max_length,
        vocab=_digest(bpe.vocab),
    )


def _descending(plain: int, steps: Sequence[int]) -> tuple[int, ...]:
    totals = [plain]
    for step in steps:
        totals.append(totals[-1] - step)
    return tuple(totals)


def _digest(vocab: ByteVocab) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name, data in zip(vocab.names, vocab.tokens, strict=True):
        found.update(name.encode("utf-8", "surrogatepass") + b"\0" + data + b"\0")
    return found.hexdigest()


def _from_json(path: Path, data: dict[str, Any]) -> LengthTable:
    wanted: dict[str, tuple[type, ...]] = {
        "totals": (list,),
        "texts": (int,),
        "batch_texts": (int,),
        "boundary": (str,),
        "per": (str,),
        "longest": (int, type(None)),
        "max_length": (int, type(None)),
        "vocab": (str,),
    }
    for name, types in wanted.items():
        if not isinstance(data.get(name, ...), types):
            names = " or ".join(one.__name__ for one in types)
            raise BadText(f"{path}: field {name!r} is {data.get(name)!r:.60}, expected {names}", hint=HINT)
    totals = data["totals"]
    whole = bool(totals) and all(isinstance(total, int) for total in totals)
    if not whole or totals[-1] < 0 or any(one < two for one, two in pairwise(totals)):
        raise BadText(f"{path}: field 'totals' is not a descending list of counts", hint=HINT)
    if data["texts"] < 1:
        raise BadText(f"{path}: field 'texts' is {data['texts']}, expected at least 1", hint=HINT)
    return LengthTable(**{**{name: data[name] for name in wanted}, "totals": tuple(totals)})
