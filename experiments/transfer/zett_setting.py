"""What the experiment `zett.py` stands on: its texts, its small model and the five tokenizers that it moves to."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from small_lm import QUICK, SmallConfig, cut, read, small_lm
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedModel, StaticCache

from tokenlayer.app import api
from tokenlayer.models.score import start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer

TARGETS = ("bpe", "wordpiece", "unigram", "german", "random")
LONG_LINE = 40
"""Characters from which on a line is no boilerplate: held-out ones must not occur in training."""
SAMPLED_AT_ONCE = 256
"""Texts that are sampled from the model side by side."""
BYTE_SCORE, LEAST_SCORE, MOST_SCORE = -20.0, -12.0, -8.0
"""Log-probabilities of the half-random tokenizer: a byte is taken where nothing else fits."""

SOURCE = SmallConfig(vocab=4_096, dim=128, steps=1_500)


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    held_bytes: int = 200_000
    """Of held-out text, as much from each of the first two texts."""
    second_bytes: int = 30_000
    """Of the second text to score."""
    other_bytes: int = 3_000_000
    """Of the text that English targets learn from, as much from each file."""
    vocab: int = 3_000
    """Tokens of a target."""
    model: SmallConfig = SOURCE
    """The source model: 4 layers, tied, 1.3 M parameters."""


QUICK_SIZES = Sizes(1_200, 600, 40_000, 400, replace(QUICK, vocab=450))


@dataclass(frozen=True)
class Setting:
    """Where the parts are.

    Attributes:
        texts: what the model and the hypernetwork learn from.
        held: text by name that is only scored.
        other: by target, what its tokenizer learns from.
        model: folder of the source model.
        targets: folder of each target's tokenizer.
    """

    texts: tuple[Path, ...]
    held: dict[str, str]
    other: dict[str, Path]
    model: Path
    targets: dict[str, Path]


def prepare(args, sizes: Sizes) -> Setting:
    """Makes the texts, the model and the targets, unless they are there."""
    folder = args.out / "texts"
    if not (folder / "held.txt").exists():
        write_texts(args, sizes, folder)
    texts = tuple(folder / f"train-{at}.txt" for at in range(len(args.texts)))
    held = {"held out": (folder / "held.txt").read_text(), "ud-en": cut(args.second.read_text(), sizes.second_bytes)}
    other = {name: folder / ("german.txt" if name == "german" else "other.txt") for name in TARGETS}
    model = small_lm(args.out / "model", texts, sizes.model)
    targets = {name: target(args.out / "targets" / name, name, other[name], sizes.vocab) for name in TARGETS}
    return Setting(texts, held, other, model, targets)


def write_texts(args, sizes: Sizes, folder: Path) -> None:
    """Cuts the given texts into training and held-out documents, without a long line in common."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [read(path) for path in args.texts]
    held = [part for some in documents[:2] for part in draw_documents(some, sizes.held_bytes // 2)]
    secret = {line for part in held for line in long_lines(part)}
    whole = set(held)
    for at, some in enumerate(documents):
        kept = [part for part in some if part not in whole and secret.isdisjoint(long_lines(part))]
        (folder / f"train-{at}.txt").write_text("\n\n".join(kept))
    share = sizes.other_bytes // len(args.other)
    (folder / "other.txt").write_text("\n\n".join(cut("\n\n".join(read(path)), share) for path in args.other))
    (folder / "german.txt").write_text(cut("\n\n".join(read(args.german)), sizes.other_bytes))
    (folder / "held.txt").write_text("\n\n".join(held))


def draw_documents(documents: list[str], size: int) -> list[str]:
    """Documents in a random order until they have so many bytes."""
    found, total = [], 0
    for part in random.Random(0).sample(documents, len(documents)):
        if total >= size:
            break
        found.append(part)
        total += len(part.encode())
    return found


def long_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if len(line.strip()) >= LONG_LINE]


def target(folder: Path, name: str, text: Path, vocab: int) -> Path:
    """Learns a tokenizer unless it is there; the half-random one is made from the BPE beside it."""
    if (folder / "tokenizer.json").exists():
        return folder
    if name == "random":
        half_random(folder, folder.parent / "bpe", text)
        return folder
    kind = "bpe" if name == "german" else name
    given = {"normalizer": "none"} if kind == "wordpiece" else {}  # capitals stay, as in all others
    api.learn([str(text)], folder, kind=kind, vocab_size=vocab, force=True, **given)
    return folder


def half_random(folder: Path, bpe: Path, text: Path) -> None:
    """A Unigram tokenizer over bytes, half of a BPE's other tokens, and as many random substrings of words.

    Log-probabilities are random, so that each token is used where the words allow it.
    """
    draw = random.Random(0)
    learned = json.loads((bpe / "tokenizer.json").read_text())
    special = {one["content"] for one in learned["added_tokens"]}
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = sorted(one for one in learned["model"]["vocab"] if len(one) > 1 and one not in special)
    kept = draw.sample(longer, len(longer) // 2)
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words = [word for word, _ in cutter.pre_tokenize_str(cut(text.read_text(), 300_000)) if len(word) > 1]
    drawn = random_parts(words, len(longer) - len(kept), {*longer, *bytes_}, draw)
    scores = [(one, BYTE_SCORE) for one in bytes_]
    scores += [(one, draw.uniform(LEAST_SCORE, MOST_SCORE)) for one in (*kept, *drawn)]
    made = Tokenizer(Unigram(scores))
    made.pre_tokenizer, made.decoder = cutter, decoders.ByteLevel()
    made.add_special_tokens(sorted(special))
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))


def random_parts(words: list[str], count: int, taken: set[str], draw: random.Random) -> list[str]:
    """So many different substrings of random words, of 2 to 8 bytes, that are not taken."""
    found: dict[str, None] = {}
    while len(found) < count:
        word = draw.choice(words)
        start = draw.randrange(len(word) - 1)
        part = word[start : start + draw.randint(2, 8)]
        if part not in taken:
            found[part] = None
    return list(found)


def write_sampled(
    path: Path, model: PreTrainedModel, tokenizer: LoadedTokenizer, size: int, window: int, seed: int = 0
) -> None:
    """Writes text that a model makes by itself, each window of it begun at the start token.

    Args:
        path: the file; it appears when it is whole.
        model: causal, with a start token.
        tokenizer: its own.
        size: bytes to reach.
        window: tokens of a sample with the start token: what the model was trained on.
        seed: another seed, another text.
    """
    draw = torch.Generator().manual_seed(seed)
    tokens = tokenizer.vocab.tokens
    start, keep = start_token(tokenizer), torch.tensor(tokenizer.vocab.text_ids())
    parts: list[str] = []
    total = 0
    while total < size:
        ids = torch.cat(list(sampled_ids(model, start, keep, window, draw)), dim=1)
        found = [b"".join(tokens[i] for i in row).decode("utf-8", "ignore") for row in ids.tolist()]
        parts += found
        total += sum(len(part.encode()) + 2 for part in found)  # two line ends between samples
    unfinished = path.with_suffix(".part")
    unfinished.write_text(cut("\n\n".join(parts), size))
    unfinished.rename(path)


@torch.no_grad()
def sampled_ids(
    model: PreTrainedModel, start: int, keep: torch.Tensor, window: int, draw: torch.Generator
) -> Iterator[torch.Tensor]:
    """The next token of each sample, shape `(samples, 1)`, at temperature 1 among the ids to keep."""
    cache = StaticCache(config=model.config, max_cache_len=window)
    last = torch.full((SAMPLED_AT_ONCE, 1), start)
    for _ in range(window - 1):
        logits = model(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1, keep].float()
        mass = torch.softmax(logits, dim=-1).cumsum(dim=-1)
        drawn = torch.rand(len(mass), 1, generator=draw) * mass[:, -1:]
        last = keep[torch.searchsorted(mass, drawn, right=True).clamp(max=len(keep) - 1)]
        yield last
