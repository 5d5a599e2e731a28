"""Encoding with typed pieces: our word cache against the same choice without one, and against the base tokenizer.

    python benchmarks/transfer/bench_k_tokenizer.py --model MINILM --data shared/data/tasks/bio-ner [--repeats 3]

Texts are the sentences of BC5CDR and NCBI-disease (all splits, one string a sentence); terms are the spans of their
training splits. Runs alternate (A B C A B C ...) in one process; times are CPU seconds, medians.

- `cached`: `KTokenizer` that has seen the texts; `cold`: a new one, so that each distinct word is chosen once;
- `released`: no cache, `tokenize(word)` of one transformers tokenizer for each type and the base, as the authors' code
  does; `plain`: the same choice on bare `tokenizers` backends. Both are given the words, and give the ids of `cached`;
- `base`: the bare fast tokenizer of the model.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenlayer.data.readers import open_bytes
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.arbitration import BASE
from tokenlayer.transfer.ktokeniser import KTokeniserConfig, build
from tokenlayer.transfer.terms import TermSet, terms_from_corpus

CORPORA = ("BC5CDR", "NCBI-disease")
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    texts = [text for name in CORPORA for part in ("train", "devel", "test") for text in read(args.data, name, part)]
    texts = texts[:: max(len(texts) // args.texts, 1)]
    found = terms_from_corpus([args.data / f"{name}-IOB/train.tsv.zst" for name in CORPORA])
    terms = TermSet({"drug": found.terms["Chemical"], "disease": found.terms["Disease"]})
    built = build(load_tokenizer(args.model), terms, KTokeniserConfig(min_count=0))
    before = peak_mb()
    warm = built.load()
    encode(warm, texts)
    after = peak_mb()
    base, wrapped = built.base.backend, wrapped_cutters(warm)
    base.no_padding()
    base.no_truncation()
    ways: dict[str, Callable[[], Any]] = {
        "cached": lambda: encode(warm, texts),
        "cold": lambda: encode(built.load(), texts),
        "released": lambda: plain(warm, texts, {kind: one.tokenize for kind, one in wrapped.items()}),
        "plain": lambda: plain(warm, texts, bare_cutters(warm)),
        "base": lambda: [one.ids for one in batched(base.encode_batch, texts)],
    }
    ids = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    middle = {name: statistics.median(some) for name, some in seconds.items()}
    row = {
        "texts": len(texts),
        "MB": round(sum(len(text.encode()) for text in texts) / 1e6, 2),
        "words": sum(len(text.split()) for text in texts),
        "same ids": all(ids[name] == ids["cached"] for name in ("cold", "released", "plain")),
        "seconds": {name: round(some, 2) for name, some in middle.items()},
        "released / cached": round(middle["released"] / middle["cached"], 1),
        "plain / cached": round(middle["plain"] / middle["cached"], 1),
        "plain / cold": round(middle["plain"] / middle["cold"], 1),
        "cached / base": round(middle["cached"] / middle["base"], 2),
        "peak MB of loading and encoding": after - before,
    }
    print(json.dumps(row), flush=True)


def read(data: Path, name: str, part: str) -> list[str]:
    """Sentences as strings."""
    with open_bytes(data / f"{name}-IOB/{part}.tsv.zst") as stream:
        blocks = stream.read().decode().split("\n\n")
    return [" ".join(line.split("\t")[0] for line in block.splitlines()) for block in blocks if block.strip()]


def batched(encode_batch: Callable[[list[str]], list[Any]], texts: list[str]) -> list[Any]:
    return [one for at in range(0, len(texts), BATCH) for one in encode_batch(texts[at : at + BATCH])]


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return [one.ids for one in batched(tokenizer.backend_tokenizer.encode_batch, texts)]


Cutters = dict[str, Callable[[str], list[str]]]


def bare_cutters(tokenizer: Any) -> Cutters:
    def pieces(backend: Any) -> Callable[[str], list[str]]:
        return lambda word: backend.encode(word, add_special_tokens=False).tokens

    return {kind: pieces(backend) for kind, backend in tokenizer.backend_tokenizer._cutters.items()}


def wrapped_cutters(tokenizer: Any) -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    cutters = tokenizer.backend_tokenizer._cutters
    return {kind: PreTrainedTokenizerFast(tokenizer_object=one, unk_token="[UNK]") for kind, one in cutters.items()}


def plain(tokenizer: Any, texts: list[str], cutters: Cutters) -> list[list[int]]:
    """Each word by every vocabulary, each time anew."""
    rules, ids = tokenizer.choices, tokenizer.get_vocab()
    cutter = tokenizer.backend_tokenizer._cutters[BASE].pre_tokenizer
    rows = []
    for text in texts:
        row = [tokenizer.cls_token_id]
        for word, _ in cutter.pre_tokenize_str(text):
            cuts = {kind: cut(word) for kind, cut in cutters.items()}
            kind = rules.choose({k: None if "[UNK]" in cut else cut for k, cut in cuts.items()}, upper=word.isupper())
            row += [ids[piece] for piece in cuts[kind]]
        rows.append([*row, tokenizer.sep_token_id])
    return rows


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


if __name__ == "__main__":
    main()
