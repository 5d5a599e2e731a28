"""Small corpora, and the obvious way to do what the package does fast."""

import json
import random
from collections import Counter
from itertools import pairwise

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tokenlayer.models.tokenizer_files import LoadedTokenizer

LETTERS = {"one": "abcde", "two": "cdefg", "three": "aeghi"}


def words_of(category, n=60, seed=0):
    draw = random.Random(f"{category} {seed}")
    return ["".join(draw.choices(LETTERS[category], k=draw.randint(2, 6))) for _ in range(n)]


def text_of(category, size=3000, seed=0):
    """Words by a Zipf law, one line each 12 words."""
    draw, own = random.Random(f"{category} {seed} text"), words_of(category)
    weights = [1 / (n + 1) for n in range(len(own))]
    lines, length = [], 0
    while length < size:
        lines.append(" ".join(draw.choices(own, weights, k=12)))
        length += len(lines[-1]) + 1
    return "\n".join(lines)


def trained(texts, merges=60):
    """A byte-level BPE on texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return LoadedTokenizer(json.loads(tokenizer.to_str()), where="toy")


def bpe(vocab, merges, **fields):
    """A tokenizer of one's own merges over characters, without a pre-tokenizer but white space."""
    model = {"type": "BPE", "vocab": {name: i for i, name in enumerate(vocab)}, "merges": merges, **fields}
    data = {"version": "1.0", "added_tokens": [], "normalizer": None, "model": model}
    return LoadedTokenizer({**data, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None}, where="toy")


def recounted(words, rules, step):
    """Counts of all pairs after `step` merges, from scratch."""
    counts = Counter()
    for word, times in words.items():
        symbols = rules.symbols(word)
        for left, right, made in list(zip(rules.left, rules.right, rules.result, strict=True))[:step]:
            out, at = [], 0
            while at < len(symbols):
                if symbols[at : at + 2] == [left, right]:
                    out.append(made)
                    at += 2
                else:
                    out.append(symbols[at])
                    at += 1
            symbols = out
        for pair in pairwise(symbols):
            if min(pair) >= 0:
                counts[pair] += times
    return dict(counts)
