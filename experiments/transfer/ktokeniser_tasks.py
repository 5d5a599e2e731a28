"""The two tasks of `ktokeniser.py`: disease names in NCBI-disease, and chapters of ICD-10-CM descriptions."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenlayer.data.readers import open_bytes
from tokenlayer.transfer.terms import TermSet, join_terms, terms_from_corpus, terms_from_obo

NAMES = {"Chemical": "drug", "Disease": "disease"}
DISEASE_CHAPTERS = range(1, 19)
POISONS = "T36-T50"
LATER = re.compile(r", (initial|subsequent) encounter.*$|, sequela$")


@dataclass(frozen=True)
class Item:
    """Words with a label each, or a text with one."""

    text: Sequence[str] | str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """What is learned, and from what the vocabularies come."""

    name: str
    labels: tuple[str, ...]
    train: Sequence[Item]
    held_out: Sequence[Item]
    test: Sequence[Item]
    terms: TermSet

    @property
    def per_word(self) -> bool:
        """Labels are of words, not of texts."""
        return not isinstance(self.train[0].text, str)


def entities(data: Path) -> Task:
    """Disease names in NCBI-disease; terms are the labelled spans of two training splits."""
    labels = ("O", "B-Disease", "I-Disease")
    split = {part: sentences(data / f"NCBI-disease-IOB/{part}.tsv.zst", labels) for part in ("train", "devel", "test")}
    found = terms_from_corpus([data / f"{name}-IOB/train.tsv.zst" for name in ("BC5CDR", "NCBI-disease")])
    terms = TermSet({NAMES[kind]: found.terms[kind] for kind in NAMES})
    return Task("entities", labels, split["train"], split["devel"], split["test"], terms)


def sentences(path: Path, labels: Sequence[str]) -> list[Item]:
    """Words and tags of each sentence of an IOB file."""
    with open_bytes(path) as stream:
        blocks = stream.read().decode().split("\n\n")
    rows = [[line.split("\t")[:2] for line in block.splitlines() if line.strip()] for block in blocks]
    return [Item([word for word, _ in some], tuple(labels.index(tag) for _, tag in some)) for some in rows if some]


def chapters(hpo: Path, train: int = 10_000, test: int = 1000) -> Task:
    """ICD-10-CM descriptions and their chapters; codes that differ in the kind of encounter only are one item.

    Terms: descriptions of drug poisoning in the training split are drugs; those of chapters 1 to 18 and the terms of
    the Human Phenotype Ontology are diseases.
    """
    import simple_icd_10_cm as icd

    found: dict[str, tuple[str, str]] = {}
    for code in icd.get_all_codes(True):
        above = icd.get_ancestors(code) if icd.is_leaf(code) else []
        if len(above) >= 2 and above[-1] != "22":  # three codes
            found.setdefault(LATER.sub("", icd.get_description(code)), (above[-1], above[-2]))
    labels = tuple(sorted({chapter for chapter, _ in found.values()}, key=int))
    texts = list(found)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [texts[at] for at in order[: train + 250 + test]]
    items = [Item(text, (labels.index(found[text][0]),)) for text in chosen]
    seen = chosen[:train]
    drugs = [text for text in seen if found[text][1] == POISONS]
    diseases = [text for text in seen if int(found[text][0]) in DISEASE_CHAPTERS]
    lists = TermSet({"drug": tuple(drugs), "disease": tuple(diseases)})
    terms = join_terms([lists, terms_from_obo(hpo, "disease")])
    return Task("chapters", labels, items[:train], items[train : train + 250], items[train + 250 :], terms)


def forward(parts: tuple[nn.Module, nn.Module], tokenizer: Any, batch: Sequence[Item], device: str) -> tuple[Any, ...]:
    """Logits in float32 with labels and words: of every piece (label -100 and word -1 for none), or of the text."""
    encoder, head = parts
    per_word = not isinstance(batch[0].text, str)
    found = tokenizer(
        [item.text for item in batch],
        is_split_into_words=per_word,
        padding=True,
        truncation=True,
        max_length=256,
        return_tensors="pt",
    )
    inputs = {name: found[name].to(device) for name in ("input_ids", "attention_mask")}
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        states = encoder(**inputs).last_hidden_state
    if not per_word:
        mask = inputs["attention_mask"].unsqueeze(-1)
        states = (states.float() * mask).sum(1) / mask.sum(1)
        return head(states), torch.tensor([item.labels[0] for item in batch], device=device), None
    words = torch.tensor([[-1 if w is None else w for w in found.word_ids(row)] for row in range(len(batch))])
    labels = torch.full(words.shape, -100)
    for row, item in enumerate(batch):
        known = words[row] >= 0
        labels[row, known] = torch.tensor(item.labels)[words[row, known]]  # on all pieces of a word, as in the paper
    return head(states.float()), labels.to(device), words


def batches(items: Sequence[Item], size: int, order: Sequence[int] | None = None) -> Iterator[list[Item]]:
    """Batches of items of like length: shuffled, sorted within runs of eight batches, shuffled again by their order."""
    shuffled = [items[at] for at in (order or range(len(items)))]
    for run in range(0, len(shuffled), 8 * size):
        some = sorted(shuffled[run : run + 8 * size], key=lambda item: len(item.text))
        made = [some[at : at + size] for at in range(0, len(some), size)]
        yield from made[1::2] + made[::2]


@torch.inference_mode()
def measure(task: Task, parts: tuple[nn.Module, nn.Module], tokenizer: Any, items: Sequence[Item], device: str):
    """Entity F1 (a word's tag is that of its first piece), or macro-F1 over the chapters; in percent."""
    guesses: list[tuple[int, ...]] = []
    wanted: list[tuple[int, ...]] = []
    for batch in batches(items, 32):
        logits, _, words = forward(parts, tokenizer, batch, device)
        best = logits.argmax(-1).cpu()
        guesses += (
            [first_tags(best[row], words[row], item) for row, item in enumerate(batch)]
            if task.per_word
            else [(int(one),) for one in best]
        )
        wanted += [item.labels for item in batch]
    return entity_f1(guesses, wanted) if task.per_word else macro_f1(guesses, wanted, len(task.labels))


def first_tags(best: Tensor, words: Tensor, item: Item) -> tuple[int, ...]:
    """The tag of each word's first piece; O for words that were cut off."""
    tags = [0] * len(item.text)
    for at in reversed(range(len(words))):
        if words[at] >= 0:
            tags[int(words[at])] = int(best[at])
    return tuple(tags)


def entity_f1(guesses: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    """Of spans that agree in both ends."""
    said = [spans(one) for one in guesses]
    true = [spans(one) for one in wanted]
    right = sum(len(a & b) for a, b in zip(said, true, strict=True))
    return 200 * right / max(sum(map(len, said)) + sum(map(len, true)), 1)


def spans(tags: Sequence[int]) -> set[tuple[int, int]]:
    """First word and the word after the last, of each entity."""
    found, start = set(), None
    for at, tag in enumerate([*tags, 0]):
        if start is not None and tag != 2:
            found.add((start, at))
            start = None
        if tag == 1 or (tag == 2 and start is None):
            start = at
    return found


def macro_f1(guesses: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], labels: int) -> float:
    """Mean F1 of the labels that occur."""
    pairs = [(a[0], b[0]) for a, b in zip(guesses, wanted, strict=True)]
    found = []
    for label in range(labels):
        right = sum(a == b == label for a, b in pairs)
        either = sum((a == label) + (b == label) for a, b in pairs)
        if any(b == label for _, b in pairs):
            found.append(200 * right / either)
    return sum(found) / max(len(found), 1)


def pieces_per_word(task: Task, tokenizer: Any) -> dict[str, float]:
    """Of the test items: all words, and domain words (words of entities; all words of descriptions)."""
    items = [item.text if task.per_word else str(item.text).split() for item in task.test]
    found = tokenizer(items, is_split_into_words=True, add_special_tokens=False)
    counts = {"all": [0, 0], "domain": [0, 0]}
    for row, (item, words) in enumerate(zip(task.test, items, strict=True)):
        pieces = [0] * len(words)
        for at in found.word_ids(row):
            pieces[at] += 1
        for at, n in enumerate(pieces):
            for name in ("all", "domain") if not task.per_word or item.labels[at] else ("all",):
                counts[name][0] += n
                counts[name][1] += 1
    return {f"pieces per {name} word": pieces / max(words, 1) for name, (pieces, words) in counts.items()}
