"""LiB against its reference implementation with the same draws, and how it grows with the text.

    python benchmarks/tokenizer/bench_lib.py --text es=help/es.txt.zst --reference The-Less-is-Better-Model
    python benchmarks/tokenizer/bench_lib.py --text all=help --sizes 1 3 10 30 100

`--reference` is a clone of ray306/The-Less-is-Better-Model; its draws are taken from our generator, so that both learn
the same lexicon, which is checked, and so is its cut of the first lines (`compat`). Ours, theirs, ours, theirs, in CPU
seconds of one process, compiling left out. One JSON row each.
"""

import argparse
import json
import random
import resource
import sys
import time
from types import SimpleNamespace

from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.documents import Documents, ReadOptions
from tokenlayer.tokenizer.lib.config import LibConfig
from tokenlayer.tokenizer.lib.kernel import FREE, LEXICON, NODES
from tokenlayer.tokenizer.lib.learner import LibLearner
from tokenlayer.tokenizer.lib.tokenizer import LibTokenizer


def lines_of(path, suffixes=()):
    texts = Documents([path], options=ReadOptions(suffixes=suffixes)).texts()
    return (line for text in texts for line in text.split("\n") if line.strip())


def draws(seed):
    generator = numpy_generator(seed, "lib")
    while True:
        yield from generator.random(10_000).tolist()


def theirs(folder, lines, config, steps):
    """Their model after so many articles, its lexicon cleaned, and CPU seconds."""
    sys.modules.setdefault("chardet", SimpleNamespace())  # only for files of unknown encoding
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import LiB

    own = draws(config.seed)
    LiB.random = SimpleNamespace(random=lambda: next(own), seed=random.seed)
    corpus = LiB.Corpus([[line] for line in lines])
    names = ("in_rate", "out_rate", "life", "update_rate")
    model = LiB.Model(corpus, **{name: getattr(config, name) for name in names}, random_seed=None)
    began = time.process_time()
    for step in range(steps):
        model.learn(step, article_length_max=config.article, report_interval=None)
    seconds = time.process_time() - began
    model.clean_lexicon()
    return model, seconds


def ours(lines, config):
    learner, began = LibLearner(config, compiled=True), time.process_time()
    learner.fit(lines)
    return learner, time.process_time() - began


def names_of(cutter, chunk):
    """A chunk, or the bytes of a character that is none."""
    return [chunk] if chunk in cutter.rank else [f"<0x{b:02X}>" for b in chunk.encode()]


def against(args, name, path):
    lines = list(lines_of(path))[: args.lines]
    config = LibConfig(
        life=args.life, out_rate=args.out_rate, article=args.article, steps=args.steps, longest_chunk=None
    )
    LibLearner(config, compiled=True).partial_fit(lines[:1])  # compiles
    LibTokenizer(["a"], compiled=True).encode("a")
    sys.setrecursionlimit(100_000)
    held = lines[-1000:]
    for _ in range(args.repeats):
        learner, mine = ours(lines, config)
        model, other = theirs(args.reference, lines, config, args.steps)
        cutter = LibTokenizer(learner.lexicon, compat=True, compiled=True)
        began = time.process_time()
        cut = [cutter.encode(line) for line in held]
        cutting = time.process_time() - began
        began = time.process_time()
        theirs_cut = model.apply(held, flatten=False)
        theirs_cutting = time.process_time() - began
        same = [
            [cutter.names[i] for i in one] == [name for chunk in other for name in names_of(cutter, chunk)]
            for one, other in zip(cut, theirs_cut, strict=True)
        ]
        began = time.process_time()
        cutter.encode("\n".join(held * 20))
        row = {
            "text": name,
            "chars read": learner.chars,
            "lexicon": len(learner.lexicon),
            "same lexicon and order": learner.lexicon == model.lexicon.list,
            "same lines": sum(same) / len(same),
            "learning": [round(mine, 2), round(other, 2), round(other / mine, 1)],
            "cutting line by line": [round(cutting, 3), round(theirs_cutting, 3), round(theirs_cutting / cutting, 1)],
            "cutting whole, Mchar/s": round(20 * sum(map(len, held)) / (time.process_time() - began) / 1e6, 1),
        }
        print(json.dumps(row), flush=True)


def grow(args, name, path):
    LibLearner(compiled=True).partial_fit(["ab"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    learner = LibLearner(LibConfig(article=args.article, life=args.life, out_rate=args.out_rate), compiled=True)
    size, article, seconds, sizes = 0, [], 0.0, sorted(args.sizes)
    while sizes:
        for line in lines_of(path, (".txt", ".py")):
            article.append(line)
            size += len(line.encode()) + 1
            if len(article) < args.article:
                continue
            began = time.process_time()
            learner.partial_fit(article)
            seconds += time.process_time() - began
            article = []
            if size >= sizes[0] * 1e6:
                counts = learner._memory.tables.counts
                row = {
                    "text": name,
                    "MB": round(size / 1e6, 1),
                    "CPU seconds": round(seconds, 1),
                    "MB/s": round(size / 1e6 / seconds, 2),
                    "lexicon": int(counts[LEXICON]),
                    "nodes made": int(counts[NODES]),
                    "nodes in use": int(counts[NODES] - counts[FREE]),
                    "peak MB over start": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3),
                }
                print(json.dumps(row), flush=True)
                sizes = [one for one in sizes if size < one * 1e6]
                if not sizes:
                    return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, metavar="NAME=PATH")
    parser.add_argument("--reference", help="Folder of the reference implementation.")
    parser.add_argument("--lines", type=int, default=None)
    parser.add_argument("--steps", type=int, default=54)
    parser.add_argument("--article", type=int, default=500)
    parser.add_argument("--life", type=int, default=10)
    parser.add_argument("--out-rate", type=float, default=1e-4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", type=float, nargs="*", default=[], help="MB of text, read round and round.")
    args = parser.parse_args()
    name, path = args.text.split("=", 1)
    if args.reference:
        against(args, name, path)
    if args.sizes:
        grow(args, name, path)


if __name__ == "__main__":
    main()
