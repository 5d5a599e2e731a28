"""The join over traps against the double loop over words, on the same lexicon and the same entries.

    python benchmarks/tokenizer/bench_adt.py --tokenizer llama3/tokenizer.json --text en.txt --words 500 1000 2000

Both list every pair of words whose seam hides an entry, and must list the same number. Ours, loop, ours, loop, in CPU
seconds of one process. One JSON row for each size. No published code mines such pairs, so there is no other peer.
"""

import argparse
import json
import time

from tokenlayer.data.documents import Documents
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.tokenizer.adt.join import TrapJoin
from tokenlayer.tokenizer.adt.languages import is_word, language
from tokenlayer.tokenizer.adt.lexicon import count_words, entry_texts


def double_loop(words, traps) -> int:
    """Windows of every concatenation that are entries."""
    found = 0
    longest = max(map(len, traps))
    for one in words:
        for other in words:
            whole, seam = one + other, len(one)
            for start in range(max(0, seam - longest + 1), seam):
                for end in range(seam + 1, min(start + longest, len(whole)) + 1):
                    trap = whole[start:end]
                    if trap in traps and (traps[trap][0] or start == 0):
                        found += 1
    return found


def join(words, traps) -> int:
    """All pairs, listed."""
    return sum(1 for _ in TrapJoin(words, traps, set()))


def seconds(work, *given) -> tuple[float, int]:
    began = time.process_time()
    found = work(*given)
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--lang", default="en")
    parser.add_argument("--words", type=int, nargs="+", default=[500, 1000])
    args = parser.parse_args()
    of, vocab = language(args.lang), load_tokenizer(args.tokenizer).vocab
    counted = count_words(Documents([args.text]).texts(), of, vocab)
    traps = {text: forms for text, forms in entry_texts(vocab).items() if is_word(text, of, of.shortest)}
    frequent = [w for w in counted if is_word(w, of, of.shortest)]
    for n in args.words:
        words = {w: counted[w] for w in frequent[:n]}
        runs = [seconds(work, words, traps) for work in (join, double_loop) * 2]
        assert len({found for _, found in runs}) == 1
        row = {"words": len(words), "entries": len(traps), "pairs": runs[0][1]}
        row |= {"join": min(runs[0][0], runs[2][0]), "double loop": min(runs[1][0], runs[3][0])}
        print(json.dumps(row | {"ratio": row["join"] / row["double loop"]}), flush=True)


if __name__ == "__main__":
    main()
