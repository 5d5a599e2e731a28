"""Exact cosine neighbours against one dense float32 product of the same size: time, ratio, peak memory.

    python benchmarks/transfer/bench_neighbours.py [--rows 50000] [--keys ROWS] [--dim 300] [--k 10] [--repeats 3]

A B A B in one process, the product in blocks of 1,024 rows into one buffer. `search` is `core.neighbours.nearest`.
`--only search` runs that alone, so that the peak is its own.
"""

import argparse
import json
import platform
import resource
import time

import torch

from tokenlayer.core.neighbours import nearest


def product(queries: torch.Tensor, keys: torch.Tensor) -> None:
    held = torch.empty(1024, len(keys))
    for block in queries.split(1024):
        torch.mm(block, keys.T, out=held[: len(block)])


def timed(run) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--rows", type=int, default=50_000)
    args.add_argument("--keys", type=int)
    args.add_argument("--dim", type=int, default=300)
    args.add_argument("--k", type=int, default=10)
    args.add_argument("--repeats", type=int, default=3)
    args.add_argument("--only", choices=["search", "product"])
    given = args.parse_args()
    print(
        f"# {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(given.rows, given.dim, generator=generator)
    keys = torch.randn(given.keys or given.rows, given.dim, generator=generator)
    before = peak_mib()
    runs = {"product": lambda: product(queries, keys), "search": lambda: nearest(queries, keys, given.k)}
    for n in range(given.repeats):
        row: dict[str, float] = {"rows": given.rows, "keys": len(keys), "dim": given.dim, "k": given.k, "repeat": n}
        for name, run in runs.items():
            if given.only in (None, name):
                row[f"{name}_s"], row[f"{name}_cpu_s"] = (round(t, 2) for t in timed(run))
        if given.only is None:
            row["ratio"] = round(row["search_s"] / row["product_s"], 2)
            row["cpu_ratio"] = round(row["search_cpu_s"] / row["product_cpu_s"], 2)
        row["peak_over_inputs_mib"] = round(peak_mib() - before)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
