"""Time and memory of rewriting the token tables, over bodies of growing size and one vocabulary.

    python benchmarks/models/bench_surgery.py [--layers 4 16 64] [--folder DIR]

Each run is a process of its own, three times: ours on shards (one layer each), on a single file, on the result of
a first `split=True`, and as baseline `resize_token_embeddings` of transformers on the single file. One JSON row each.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCAB, DIM = 32_000, 256
WAYS = ("shards", "single", "split", "baseline")


def make(folder: Path, layers: int, *, sharded: bool) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": 8192, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=VOCAB, num_hidden_layers=layers, tie_word_embeddings=False, **sizes)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="13MB" if sharded else "50GB")


def ours(source: Path, out: Path, *, split: bool = False) -> None:
    from tokenlayer.models.checkpoint import open_checkpoint
    from tokenlayer.models.checkpoint_write import write_checkpoint

    checkpoint = open_checkpoint(source)
    rows = {name: checkpoint.read(name)[: VOCAB - 8] for name in checkpoint.rows.names}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    out.mkdir()
    write_checkpoint(checkpoint, out, rows=rows, vocab_size=VOCAB - 8, special_ids=ids, files={}, split=split)


def baseline(source: Path, out: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(VOCAB - 8)
    model.save_pretrained(out)


def measure(way: str, source: Path) -> dict[str, float]:
    """One run in this process; imports are not counted."""
    import tokenlayer.models.checkpoint_write  # noqa: F401

    out = Path(tempfile.mkdtemp(dir=source.parent)) / "out"
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    (baseline if way == "baseline" else ours)(source, out)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(out.parent)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "grown_mb": (after.ru_maxrss - before.ru_maxrss) / 1e3}


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--layers", nargs="+", type=int, default=[4, 16, 64])
    args.add_argument("--folder", type=Path, default=None)
    args.add_argument("--measure", nargs=2)
    given = args.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    for layers in given.layers:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            home = Path(name)
            make(home / "shards", layers, sharded=True)
            make(home / "single", layers, sharded=False)
            ours(home / "single", home / "split", split=True)
            (home / "baseline").symlink_to(home / "single")
            os.sync()
            for way in WAYS:
                size = sum(file.stat().st_size for file in (home / way).glob("*.safetensors"))
                command = [sys.executable, __file__, "--measure", way, str(home / way)]
                for repeat in range(3):
                    row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                    row = {key: round(value, 3) for key, value in row.items()}
                    about = {"way": way, "layers": layers, "size_mb": round(size / 1e6), "repeat": repeat}
                    print(json.dumps(about | row | {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}))


if __name__ == "__main__":
    main()
