"""Known mixtures recovered from tokenizers, and real tokenizers looked into.

    python experiments/tokenizer/mixture.py --texts HELP --out RUNS [--sizes 5,10] [--seeds 5] [--merges 1000,3000]
    python experiments/tokenizer/mixture.py --texts HELP --more python=DIR --tokenizers DIR --out RUNS

HELP holds a file LANGUAGE.txt or LANGUAGE.txt.zst for each language, blank lines between documents. Every second
document may be trained on, the others are only counted. A trial draws languages and shares (distinct cuts of the line
at multiples of 1 / 10,000, as the paper does), trains a byte-level BPE on them and infers the shares. Baselines: even
shares; shares drawn anew; tokens by the category that makes them most often (TC); encoding efficiency (TEE): shares
that grow with the bytes per token gained over a tokenizer of even shares, the slope fitted on the other trials.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.data.cutter import Cutter
from tokenlayer.data.documents import Documents, Source
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.tokenizer.mixture.config import MixtureConfig
from tokenlayer.tokenizer.mixture.counting import Cut, byte_total, count_texts, cut_of
from tokenlayer.tokenizer.mixture.infer import Mixture, infer_mixture

CUT = "gpt2-digits"
"""The pre-tokenizer of the trials: digits one by one, then GPT-2's; the paper's but for runs of digits."""


def halves(source: Source, limit: int) -> tuple[list[str], list[str]]:
    """Documents to train on and documents to count, at most `limit` bytes each."""
    found: tuple[list[str], list[str]] = ([], [])
    sizes = [0, 0]
    for n, text in enumerate(Documents([source]).texts()):
        if sizes[n % 2] < limit:
            found[n % 2].append(text)
            sizes[n % 2] += len(text.encode())
    return found


def drawn_shares(draw: np.random.Generator, n: int) -> np.ndarray:
    cuts = np.sort(draw.choice(np.arange(1, 10_000), n - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [10_000]])) / 10_000


def take(texts: Sequence[str], size: int) -> list[str]:
    """Documents of about that many bytes in all, the first ones again if there are not enough."""
    found: list[str] = []
    left = size
    while left > 0:
        for text in texts:
            data = text.encode()[: max(left, 0)]
            found.append(data.decode(errors="ignore"))
            left -= len(data)
            if left <= 0:
                break
    return found


def trained(texts: Sequence[str], merges: int) -> LoadedTokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = Tokenizer.from_str(
        json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer(CUT), "model": empty})
    )
    tokenizer.model = models.BPE()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    )
    return LoadedTokenizer(json.loads(tokenizer.to_str()), where="trial")


def error(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.log10(np.mean((found - true) ** 2)))


def bytes_per_token(tokenizer: LoadedTokenizer, names: Sequence[str], counts: dict[str, Any], cut: Cut) -> np.ndarray:
    """Of each language, on its counted text."""
    cutter = Cutter(tokenizer.backend)
    found = []
    for name in names:
        words = {w: n for part in counts[name].counts.values() for w, n in part.items()}
        lengths = cutter.lengths(list(words))
        found.append(
            sum(len(w.encode()) * n for w, n in words.items())
            / sum(a * n for a, n in zip(lengths, words.values(), strict=True))
        )
    return np.array(found)


def trials(args: argparse.Namespace, sources: dict[str, Source], keep: Any) -> list[dict[str, Any]]:
    texts = {name: halves(source, args.megabytes * 10**6) for name, source in sources.items()}
    cut = cut_of(trained(["a b"], 1))
    counts = {name: count_texts(counted, cut) for name, (_, counted) in texts.items()}
    rows = []
    for n in args.sizes:
        for seed in range(args.seeds):
            draw = np.random.default_rng([n, seed])
            names = sorted(draw.choice(sorted(texts), n, replace=False).tolist())
            true = drawn_shares(draw, n)
            size = int(args.train_megabytes * 10**6)
            parts = {name: take(texts[name][0], int(size * share)) for name, share in zip(names, true, strict=True)}
            tokenizer = trained([t for part in parts.values() for t in part], max(args.merges))
            even = trained([t for name in names for t in take(texts[name][0], size // n)], max(args.merges))
            gain = np.log(bytes_per_token(tokenizer, names, counts, cut) / bytes_per_token(even, names, counts, cut))
            for merges in args.merges:
                row = one_trial(tokenizer, {name: counts[name] for name in names}, true, merges, args)
                row |= {"n": n, "seed": seed, "names": names, "gain": gain.tolist()}
                row |= {"even": error(np.full(n, 1 / n), true), "random": error(drawn_shares(draw, n), true)}
                rows.append(row)
                keep(row)
        own = [row for row in rows if row["n"] == n and row["merges"] == max(args.merges)]
        for row in own:
            row["TEE"] = by_efficiency(row, [one for one in own if one is not row])
    return rows


def one_trial(
    tokenizer: LoadedTokenizer, counts: dict[str, Any], true: np.ndarray, merges: int, args: argparse.Namespace
) -> dict[str, Any]:
    began = time.process_time()
    config = MixtureConfig(merges=merges, gap=args.gap, range_slack=0.0)
    found = infer_mixture(tokenizer, counts, config)
    weights = found.baseline
    assert found.solution is not None
    return {
        "merges": merges,
        "true": true.tolist(),
        "found": found.shares.tolist(),
        "ours": error(found.shares, true),
        "TC": error(weights, true),
        "slack": found.solution.objective,
        "gap": found.solution.gap,
        "rounds": found.solution.rounds,
        "rows": found.solution.rows,
        "cpu": time.process_time() - began,
    }


def by_efficiency(row: dict[str, Any], others: Sequence[dict[str, Any]]) -> float:
    """Error of shares proportional to exp(slope x gain), the slope fitted on the other trials."""
    if not others:
        return float("nan")
    x = np.concatenate([np.array(o["gain"]) - np.mean(o["gain"]) for o in others])
    y = np.concatenate([np.log(o["true"]) - np.mean(np.log(o["true"])) for o in others])
    shares = np.exp((x @ y) / max(float(x @ x), 1e-12) * np.array(row["gain"]))
    return error(shares / shares.sum(), np.array(row["true"]))


def looked_into(args: argparse.Namespace, sources: dict[str, Source], keep: Any) -> list[dict[str, Any]]:
    """The shares of published tokenizers, with the same text for all."""
    texts = {name: halves(source, args.megabytes * 10**6)[1] for name, source in sources.items()}
    rows = []
    for folder in sorted(Path(args.tokenizers).iterdir()):
        if args.only and folder.name not in args.only:
            continue
        tokenizer = load_tokenizer(folder)
        config = MixtureConfig(merges=max(args.merges), gap=args.gap, range_slack=0.0)
        cut = cut_of(tokenizer)
        counts = {name: count_texts(one, cut) for name, one in texts.items()}
        found: Mixture = infer_mixture(tokenizer, counts, config, cut=cut)
        assert found.solution is not None
        row = {"tokenizer": folder.name, "merges": found.merges, "missing": len(found.missing)}
        row |= {"shares": found.as_dict(), "slack": found.solution.objective, "rounds": found.solution.rounds}
        row |= {"bytes": {name: byte_total(one) for name, one in counts.items()}, "notes": list(found.notes)}
        rows.append(row)
        keep(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| n | merges | trials | ours | TC | TEE | even | random | rows | rounds | CPU s |", "|" + "---|" * 11]
    for n, merges in sorted({(row["n"], row["merges"]) for row in rows}):
        some = [row for row in rows if (row["n"], row["merges"]) == (n, merges)]

        def spread(name: str, some: Sequence[dict[str, Any]] = some) -> str:
            values = [row[name] for row in some if name in row]
            if not values:
                return ""
            return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")

        middle = " | ".join(spread(name) for name in ("ours", "TC", "TEE", "even", "random"))
        cost = " | ".join(f"{mean(row[name] for row in some):.0f}" for name in ("rows", "rounds", "cpu"))
        lines.append(f"| {n} | {merges} | {len(some)} | {middle} | {cost} |")
    return "\n".join(lines)


def shares_table(rows: Sequence[dict[str, Any]]) -> str:
    names = sorted({name for row in rows for name in row["shares"]})
    lines = ["| | " + " | ".join(row["tokenizer"] for row in rows) + " |", "|" + "---|" * (len(rows) + 1)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(f"{100 * row['shares'].get(name, 0):.1f}" for row in rows) + " |")
    lines.append("| slack | " + " | ".join(f"{row['slack']:.3f}" for row in rows) + " |")
    lines.append("| merges without text | " + " | ".join(str(row["missing"]) for row in rows) + " |")
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--texts", required=True)
    args.add_argument("--more", action="append", default=[], metavar="NAME=PATH")
    args.add_argument("--out", required=True)
    args.add_argument("--tokenizers")
    args.add_argument("--only", type=lambda text: text.split(","))
    args.add_argument("--sizes", type=numbers, default=[5, 10])
    args.add_argument("--seeds", type=int, default=5)
    args.add_argument("--merges", type=numbers, default=[1000, 3000])
    args.add_argument("--megabytes", type=float, default=2)
    args.add_argument("--train-megabytes", type=float, default=8)
    args.add_argument("--gap", type=float, default=0.001)
    args.add_argument("--quick", action="store_true")
    given = args.parse_args()
    if given.quick:
        given.sizes, given.seeds, given.merges, given.train_megabytes = [2, 3], 2, [40, 80], 0.03
    sources = {p.name.split(".")[0]: Source(str(p)) for p in sorted(Path(given.texts).glob("*.txt*"))}
    for spec in given.more:
        name, _, path = spec.partition("=")
        sources[name] = Source(path)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "runs.jsonl").open("w", encoding="utf-8") as file:

        def keep(row: dict[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()

        print(
            shares_table(looked_into(given, sources, keep)) if given.tokenizers else table(trials(given, sources, keep))
        )


if __name__ == "__main__":
    main()
