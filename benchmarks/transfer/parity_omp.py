"""OMP beside mergekit's on the same rows: equal choices and coefficients, and time.

    python benchmarks/transfer/parity_omp.py --peer /tmp/peers/bin/python [--rows 512] [--atoms 8000] [--dim 512]

The peer (PyPI `mergekit` 0.1.5, `mergekit.tokensurgeon.omp.batch_omp`) runs in a Python of its own, which needs no
tokenlayer. Inputs are random rows around common directions, as embeddings are. Three repeats each, the fastest is
reported. One JSON row for each k: rows with the same choices, the largest difference of what comes out (relative
to their length), how far each of the two is from a float64 loop with least squares, and seconds.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 3


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--peer", required=True, help="Python in which mergekit is installed")
    args.add_argument("--rows", type=int, default=512)
    args.add_argument("--atoms", type=int, default=8000)
    args.add_argument("--dim", type=int, default=512)
    args.add_argument("--k", type=int, nargs="*", default=[8, 64])
    args.add_argument("--as-peer", type=Path)
    given = args.parse_args()
    if given.as_peer:
        peer(given.as_peer, given.k)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        targets, atoms = inputs(given)
        np.savez(work / "in.npz", targets=targets, atoms=atoms)
        ks = [str(k) for k in given.k]
        subprocess.run(
            [given.peer, __file__, "--peer", given.peer, "--as-peer", folder, "--k", *ks], check=True, env=os.environ
        )
        for k in given.k:
            print(json.dumps(compare(work, targets, atoms, k)), flush=True)


def inputs(given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    common = draw.normal(size=(given.dim // 8, given.dim))

    def some(n: int) -> np.ndarray:
        rows = draw.normal(size=(n, given.dim)) + 0.5 * draw.normal(size=(n, given.dim // 8)) @ common
        return (0.02 * draw.uniform(0.5, 1.5, size=(n, 1)) * rows).astype(np.float32)

    return some(given.rows), some(given.atoms)


def compare(work: Path, targets: np.ndarray, atoms: np.ndarray, k: int) -> dict[str, object]:
    import torch

    from tokenlayer.transfer.omp import OmpConfig, pursue

    x, a = torch.from_numpy(targets), torch.from_numpy(atoms)
    (taken, coefficients), ours_s = fastest(lambda: pursue(x, a, OmpConfig(k=k)))
    theirs = np.load(work / f"out{k}.npz")
    same = (taken.numpy() == theirs["taken"]).all(axis=1)
    rows = [made(atoms, taken.numpy(), coefficients.numpy()), made(atoms, theirs["taken"], theirs["coefficients"])]
    length = np.linalg.norm(targets, axis=1)
    gap = np.linalg.norm(rows[0] - rows[1], axis=1) / length
    some = range(0, len(targets), max(1, len(targets) // 32))
    exact = {n: loop(targets[n].astype(np.float64), atoms.astype(np.float64), k) for n in some}
    return {
        "k": k,
        "rows": len(targets),
        "atoms": len(atoms),
        "dim": atoms.shape[1],
        "same_choices": int(same.sum()),
        "largest_difference_of_same": float(gap[same].max(initial=0)),
        "largest_difference_of_others": float(gap[~same].max(initial=0)),
        "ours_choices_of_float64": agreed(taken.numpy(), exact),
        "peer_choices_of_float64": agreed(theirs["taken"], exact),
        "ours_left": float(np.mean(np.linalg.norm(targets - rows[0], axis=1) / length)),
        "peer_left": float(np.mean(np.linalg.norm(targets - rows[1], axis=1) / length)),
        "ours_s": round(ours_s, 3),
        "peer_s": round(float(theirs["seconds"]), 3),
        "ratio": round(float(theirs["seconds"]) / ours_s, 2),
    }


def agreed(taken: np.ndarray, exact: dict[int, list[int]]) -> str:
    return f"{sum(taken[n].tolist() == e for n, e in exact.items())}/{len(exact)}"


def made(atoms: np.ndarray, taken: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    return np.einsum("rk,rkd->rd", coefficients, atoms[taken])


def loop(target: np.ndarray, atoms: np.ndarray, k: int) -> list[int]:
    taken: list[int] = []
    left = target
    for _ in range(k):
        products = np.abs(atoms @ left)
        products[taken] = -1
        taken.append(int(products.argmax()))
        left = target - np.linalg.lstsq(atoms[taken].T, target, rcond=None)[0] @ atoms[taken]
    return taken


def fastest(step):
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def peer(work: Path, ks: list[int]) -> None:
    """Runs in the peer's Python."""
    import torch
    from mergekit.tokensurgeon.omp import batch_omp

    given = np.load(work / "in.npz")
    targets, atoms = torch.from_numpy(given["targets"]), torch.from_numpy(given["atoms"])
    for k in ks:
        (taken, coefficients), seconds = fastest(lambda k=k: batch_omp(targets, atoms, k))
        np.savez(work / f"out{k}.npz", taken=taken.numpy(), coefficients=coefficients.numpy(), seconds=seconds)


if __name__ == "__main__":
    main()
