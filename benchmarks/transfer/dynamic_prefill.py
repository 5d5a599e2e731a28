"""Reading prompts in units against reading them in the model's own tokens.

    python benchmarks/transfer/dynamic_prefill.py --model SMOLLM2 --hypernet HYPERNET --text ud-de.txt [--repeats 3]

Batches of `--texts` stretches, `--tokens` tokens each, one after the other through the text; of each batch plain and
units alternate (A B A B ...) in one process. A row of JSON for each boundary: tokens and units, CPU seconds (medians
over batches, of the best of the repeats) for cutting with the rows of new units, and for reading; with an empty cache
for each batch (`cold`) and with one that has seen the batch before (`seen`). `share` is time in units by time in
tokens, cutting and rows included.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from tokenlayer.models.loading import opened_model
from tokenlayer.transfer.dynamic.cache import EmbeddingCache
from tokenlayer.transfer.dynamic.model import DynamicConfig, DynamicModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--hypernet", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--boundaries", nargs="+", default=["pretoken", "sentence"])
    args = parser.parse_args()
    whole = args.text.read_text(encoding="utf-8")
    with opened_model(args.model, args.model) as source:
        model = DynamicModel.open(source, args.hypernet, DynamicConfig(max_length=args.tokens))
    step = len(whole) // (args.texts * args.batches)
    texts = [whole[n * step : (n + 1) * step][: args.tokens * 8] for n in range(args.texts * args.batches)]
    batches = [texts[n : n + args.texts] for n in range(0, len(texts), args.texts)]
    for boundary in args.boundaries:
        print(json.dumps(measure(model.with_config(boundary=boundary), batches, args.repeats)), flush=True)


def measure(model: DynamicModel, batches: list[list[str]], repeats: int) -> dict[str, object]:
    """Times all batches, the first of them once before to warm up."""
    once(model, batches[0], reduction=1.0)
    kept: dict[str, list[tuple[float, float]]] = {"plain": [], "cold": [], "seen": []}
    tokens = units = 0
    for batch in batches:
        best: dict[str, list[tuple[float, float]]] = {name: [] for name in kept}
        for _ in range(repeats):
            best["plain"].append(once(model, batch, reduction=0.0)[:2])
            model.cache = EmbeddingCache(model.rows, model.config.capacity, device="cpu", dtype=model.cache.table.dtype)
            *times, before, after = once(model, batch, reduction=1.0)
            best["cold"].append((times[0], times[1]))
            best["seen"].append(once(model, batch, reduction=1.0)[:2])
        for name, found in best.items():
            kept[name].append(min(found, key=sum))
        tokens, units = tokens + before, units + after
    middle = {name: [statistics.median(part) for part in zip(*found, strict=True)] for name, found in kept.items()}
    return {
        "boundary": model.segmenter.boundary,
        "tokens": tokens,
        "units": units,
        "shorter": round(1 - units / tokens, 3),
        "cutting, reading": {name: [round(x, 3) for x in pair] for name, pair in middle.items()},
        "share": {name: round(sum(middle[name]) / sum(middle["plain"]), 3) for name in ("cold", "seen")},
    }


def once(model: DynamicModel, texts: list[str], *, reduction: float) -> tuple[float, float, int, int]:
    """CPU seconds for cutting and for reading, tokens and units."""
    began = time.process_time()
    units = model.prepare(texts, reduction=reduction)
    cut = time.process_time()
    model.prefill(units)
    found = units.segmentation
    return cut - began, time.process_time() - cut, sum(found.plain_lengths), sum(found.lengths)


if __name__ == "__main__":
    main()
