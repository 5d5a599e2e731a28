"""Does what a vocabulary holds of a language tell how cheaply it spells that language?

    python experiments/tokenizer/qtok.py --tokenizers gpt-2.json llama3.json --texts de=help/de.txt.zst --out RUNS

For each language with an alphabet of ours, its part of a vocabulary is the number of entries that are attributed to it,
an entry of k languages being 1/k of each; for other languages it is the number of entries in their script. Against that
stands bytes per token on a sample of the language's text, `--kb` large, one for each seed. Printed: Spearman's rho over
the tokenizers of each language and seed, with the share of the vocabulary and with the number of entries. One line per
language, seed and tokenizer is kept in `RUNS/runs.jsonl`. `--quick` takes 4 kB and one seed.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from tokenlayer.app.audit import load_all
from tokenlayer.data.documents import Documents
from tokenlayer.tokenizer.qtok.audit import audit
from tokenlayer.tokenizer.qtok.classify import Entry
from tokenlayer.tokenizer.qtok.config import QtokConfig
from tokenlayer.tokenizer.qtok.languages import ALPHABETS
from tokenlayer.tokenizer.qtok.texts import use_of_texts

SCRIPT_OF = {"el": "Greek", "ja": "Hiragana", "hi": "Devanagari", "ko": "Hangul", "zh": "Han", "he": "Hebrew"}
"""Languages whose part of a vocabulary is that of a script."""


def part_of(entries: list[Entry], language: str, candidates: dict[str, tuple[str, ...]]) -> float:
    """Entries of a language: attributed ones, or those of its script."""
    if language in SCRIPT_OF:
        return sum(e.script == SCRIPT_OF[language] for e in entries)
    found = [candidates.get(e.text or "", ()) for e in entries if e.script]
    return sum(1 / len(codes) for codes in found if language in codes)


def spearman(one: list[float], other: list[float]) -> float:
    """The correlation of ranks; equal values share the mean of their ranks."""
    ranks = [
        np.array([(np.sum(np.array(xs) < x) + np.sum(np.array(xs) <= x) - 1) / 2 for x in xs]) for xs in (one, other)
    ]
    a, b = (r - r.mean() for r in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tokenizers", nargs="+", required=True)
    args.add_argument("--texts", nargs="+", required=True, metavar="LANGUAGE=PATH")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--kb", type=int, default=100)
    args.add_argument("--seeds", type=int, default=3)
    args.add_argument("--quick", action="store_true")
    given = args.parse_args()
    size, seeds = (4_000, 1) if given.quick else (1000 * given.kb, given.seeds)
    texts = dict(one.split("=", 1) for one in given.texts)
    unknown = [code for code in texts if code not in SCRIPT_OF and not any(code in a for a in ALPHABETS.values())]
    if unknown:
        raise SystemExit(f"no alphabet and no script for: {', '.join(unknown)}")
    tokenizers = load_all(given.tokenizers)
    found = audit(tokenizers, config=QtokConfig())
    rows = []
    for code, path in texts.items():
        for seed in range(seeds):
            documents = list(Documents([f"{code}:{path}"], limit_bytes=size, seed=seed))
            for label, tokenizer in tokenizers.items():
                use, entries = use_of_texts(tokenizer, documents)[code], found.entries[label]
                part = part_of(entries, code, found.candidates or {})
                row = {"language": code, "seed": seed, "tokenizer": label, "entries": round(part, 2)}
                row |= {"share": part / len(entries), "bytes_per_token": use.bytes_per_token, "bytes": use.bytes}
                rows.append(row)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _print(rows, list(texts), seeds)


def _print(rows: list[dict[str, object]], languages: list[str], seeds: int) -> None:
    print("| language | bytes per token, least to most | rho with the share | rho with the number |")
    print("|---|---|---|---|")
    every: dict[str, list[float]] = {"share": [], "entries": []}
    for code in languages:
        cells = []
        for measure, means in every.items():
            rhos = []
            for seed in range(seeds):
                some = [r for r in rows if r["language"] == code and r["seed"] == seed]
                rhos.append(spearman([r[measure] for r in some], [r["bytes_per_token"] for r in some]))
            means.append(statistics.mean(rhos))
            cells.append(f"{statistics.mean(rhos):.2f} ({min(rhos):.2f} to {max(rhos):.2f})")
        spread = [float(r["bytes_per_token"]) for r in rows if r["language"] == code]
        print(f"| {code} | {min(spread):.2f} to {max(spread):.2f} | {cells[0]} | {cells[1]} |")
    overall = [f"{statistics.mean(values):.2f}" for values in every.values()]
    print(f"| mean | | {overall[0]} | {overall[1]} |")


if __name__ == "__main__":
    main()
