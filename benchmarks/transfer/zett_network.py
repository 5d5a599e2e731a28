"""The hypernetwork on packed pieces against the same network on padded ones, and the rows of a whole vocabulary.

    python benchmarks/transfer/zett_network.py MODEL TOKENIZER [--tokens 4096] [--repeats 3] [--dtype bfloat16]

Weights are drawn; time does not depend on them. `packed` is ours; `padded` computes all positions of every token in
every layer with an attention mask, as the reference does, from the same weights. Forward and backward of a step, A B
A B, medians; results are compared. Then the rows of all tokens of TOKENIZER are predicted once. One JSON row each.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tokenlayer.models.blocks.ragged import Packed
from tokenlayer.models.loading import opened_model
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.network import Hypernet
from tokenlayer.transfer.zett.predict import predict
from tokenlayer.transfer.zett.train import HypernetRun, make_network, source_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    with opened_model(given.model, Path(".")) as source:
        rows = source_rows(source)
        network = make_network(source, rows, HypernetRun(("unused",)))
        vocab = load_tokenizer(given.tokenizer).vocab
        decomposer = Decomposer(source.tokenizer.vocab, network.config.longest)
        whole, cut = decomposer.pieces([vocab.tokens[i] for i in vocab.text_ids()])
    known = torch.ones(len(whole), dtype=torch.bool)  # tokens without bytes that the source lacks
    known[whole.owners()[whole.values >= network.config.vocab_size]] = False
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    chosen = order[known[order]][: given.tokens]
    steps(network, whole.take(chosen), rows.table, given)
    began, began_cpu = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=given.dtype == "bfloat16"):
        predict(network, whole, rows.table)
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    tell(what="whole vocabulary", tokens=len(whole), cut=len(cut), **spent, peak_mb=peak)


def steps(network: Hypernet, pieces: Packed, table: Tensor, given: argparse.Namespace) -> None:
    """Times both forms in turn and compares what they give."""
    ways: dict[str, Callable[[], Tensor]] = {
        "packed": lambda: network(pieces, table).rows,
        "padded": lambda: padded_rows(network, pieces, table),
    }
    with torch.no_grad():
        gap = float((ways["packed"]() - ways["padded"]()).abs().max())
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, way in ways.items():
            network.zero_grad()
            began, began_cpu = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=given.dtype == "bfloat16"):
                found = way()
            found.square().sum().backward()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - began_cpu)
    medians = {f"{name}_seconds": statistics.median(found) for name, found in wall.items()}
    medians |= {f"{name}_cpu_seconds": statistics.median(found) for name, found in cpu.items()}
    tell(
        what="step",
        tokens=len(pieces),
        pieces=len(pieces.values),
        largest_gap=gap,
        ratio=medians["packed_cpu_seconds"] / medians["padded_cpu_seconds"],
        **medians,
    )


def padded_rows(network: Hypernet, pieces: Packed, table: Tensor) -> Tensor:
    """All positions of every token, with a mask."""
    longest = network.config.longest
    ids = torch.zeros(len(pieces), longest, dtype=torch.int64)
    real = torch.arange(longest) < pieces.lengths[:, None]
    ids[real] = pieces.values
    x = network.project_block(network.project(network.in_scaler(table[ids].float())))
    x = network.norm(x + network.position.weight[:longest] + network.kind)
    for layer in network.layers:
        parts = [p(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for p in (layer.query, layer.key, layer.value)]
        seen = functional.scaled_dot_product_attention(*parts, attn_mask=real[:, None, None, :])
        x = layer.norm(x + layer.out(seen.transpose(1, 2).flatten(2)))
        x = layer.last_norm(x + layer.outer(functional.gelu(layer.inner(x))))
    return network.scaler(network.head(network.head_block(x[:, 0])).float())


def tell(**values: object) -> None:
    """One JSON row."""
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in values.items()}))


if __name__ == "__main__":
    main()
