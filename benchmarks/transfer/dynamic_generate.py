"""Generation from a very large vocabulary: an index of the output rows against all logits.

    python benchmarks/transfer/dynamic_generate.py MODEL VOCAB --states TEXT... --eval TEXT... [--kinds screen ivf]

VOCAB is a folder of `BigVocab.save`. Half of the hidden states are of texts in the model's own tokens, half of texts
in longest tokens; those of --states build the index, those of --eval are searched. For each kind, one JSON row each:
how often the likeliest token of all is found (recall@1), the time of a search for one state, A B A B with all logits,
and greedy texts after --prompts beginnings: the share of steps at which both choose the same token after the same
text, and the share of tokens that are the same at the same place when each goes its own way.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tokenlayer.models.loading import load_model
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.dynamic.big_vocab import BigVocab
from tokenlayer.transfer.dynamic.generate import GenerateConfig, generate, read_states
from tokenlayer.transfer.dynamic.index import ExactSearch, IndexConfig
from tokenlayer.transfer.dynamic.longest_prefix import LongestPrefix

PROMPT = 32
"""Tokens of a beginning."""
EXCERPT = 1_500
"""Characters that are read from the middle of each text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--states", type=Path, nargs="+", required=True)
    parser.add_argument("--eval", type=Path, nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", default=["screen", "ivf"])
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.model)
    model = OutsideRows(load_model(given.model, "decoder")[0], len(tokenizer.vocab))
    vocab = replace(BigVocab.load(given.vocab), search=ExactSearch())
    building, texts = (cuts(tokenizer, vocab, files) for files in (given.states, given.eval))
    states = read_states(model, vocab, texts)
    chosen = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))[: given.count]
    states = states[chosen]
    built_for = read_states(model, vocab, building)
    best = ExactSearch().find(vocab.head(model), states, 1).ids[:, 0]
    tell(what="vocabulary", tokens=len(vocab), own=vocab.own, states=len(states), built_for=len(built_for),
         likeliest_is_new=float((best >= vocab.own).float().mean()))  # fmt: skip
    for kind in given.kinds:
        began, began_cpu = time.perf_counter(), time.process_time()
        indexed = vocab.index(IndexConfig(kind), built_for)
        tell(what="build", kind=kind, seconds=time.perf_counter() - began, cpu=time.process_time() - began_cpu)
        searches(model, vocab, indexed, states, best, given)
        greedy(model, vocab, indexed, [text[:PROMPT] for text in texts][: given.prompts], given)


def cuts(tokenizer: LoadedTokenizer, vocab: BigVocab, files: Sequence[Path]) -> list[list[int]]:
    """The texts in own tokens, then in longest tokens."""
    longest = LongestPrefix(vocab.vocab, tokenizer)
    wholes = [file.read_text(encoding="utf-8") for file in files]
    texts = [whole[len(whole) // 2 :][:EXCERPT] for whole in wholes]
    pairs = [(tokenizer.encode(text), longest.encode_text(text)) for text in texts]
    fair = [(own[: len(long)], long) for own, long in pairs]
    return [cut for pair in fair for cut in pair]


def searches(
    model: OutsideRows, vocab: BigVocab, indexed: BigVocab, states: Tensor, best: Tensor, given: argparse.Namespace
) -> None:
    head, kind = vocab.head(model), indexed.search.config.kind
    with torch.no_grad():
        found = torch.cat([indexed.search.find(head, some, 20).ids for some in states.split(100)])
        hit = (found[:, 0] == best).float()
        new = best >= vocab.own
        tell(what="recall@1 of the likeliest token", kind=kind, recall=float(hit.mean()),
             of_new=float(hit[new].mean()), new=int(new.sum()))  # fmt: skip
        ways: dict[str, Callable[[Tensor], object]] = {
            "dense": lambda one: vocab.search.find(head, one, 20),
            kind: lambda one: indexed.search.find(head, one, 20),
        }
        wall: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.repeats):
            for name, way in ways.items():
                for one in states[:60].split(1):
                    began, began_cpu = time.perf_counter(), time.process_time()
                    way(one)
                    wall[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - began_cpu)
    for name in ways:
        tell(what="search", kind=name, wall_ms=1e3 * statistics.median(wall[name]),
             cpu_ms=1e3 * statistics.median(cpu[name]))  # fmt: skip


def greedy(
    model: OutsideRows, vocab: BigVocab, indexed: BigVocab, prompts: list[list[int]], given: argparse.Namespace
) -> None:
    kind, config = indexed.search.config.kind, GenerateConfig(max_new_tokens=given.steps)
    spent: dict[str, list[float]] = {"dense": [], kind: []}
    texts: dict[str, list[list[int]]] = {}
    for _ in range(given.repeats):
        for name, one in (("dense", vocab), (kind, indexed)):
            began = time.process_time()
            texts[name] = [generate(model, one, prompt, config).ids for prompt in prompts]
            spent[name].append((time.process_time() - began) / sum(map(len, texts[name])))
    same = total = 0
    head = vocab.head(model)
    for prompt, ids in zip(prompts, texts["dense"], strict=True):
        states = read_states(model, vocab, [[*prompt, *ids]])[len(prompt) - 1 : -1]
        with torch.no_grad():
            found = indexed.search.find(head, states, 20).ids[:, 0]
        same, total = same + int((found == torch.tensor(ids)).sum()), total + len(ids)
    pairs = [pair for a, b in zip(texts["dense"], texts[kind], strict=True) for pair in zip(a, b, strict=False)]
    tell(what="greedy", kind=kind, steps=total, same_after_same_text=same / total,
         same_on_its_own=sum(a == b for a, b in pairs) / len(pairs),
         texts_identical=sum(a == b for a, b in zip(texts["dense"], texts[kind], strict=True)),
         texts=len(prompts), new_tokens=sum(i >= vocab.own for ids in texts["dense"] for i in ids),
         dense_tokens_per_cpu_second=1 / min(spent["dense"]), tokens_per_cpu_second=1 / min(spent[kind]))  # fmt: skip


def tell(**row: object) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
