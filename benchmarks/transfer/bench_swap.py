"""Time and memory of a whole swap: against the least that it could take, against tokensurgeon, and over body sizes.

    python benchmarks/transfer/bench_swap.py MODEL TOKENIZER [--tokensurgeon PYTHON] [--repeats 5]
    python benchmarks/transfer/bench_swap.py --bodies 4 16 64 [--repeats 3]

The first form compares three ways on one model folder (or .gguf) and one tokenizer.json: `floor` reads the old table,
writes one of the new size and tokenises every new token with the old tokenizer, and does nothing else; `ours` is
`tokenlayer.swap` without texts (planned, written, read back, verified with transformers, report page); `tokensurgeon`
is mergekit's, in the environment whose Python is given, with its nearest method (`subword`) and the tokenizer put
beside a copy of the model as its donor. `bare` is ours without what the others leave out: reading back and
verifying, the report, copying the body. Every run is a process of its own, in the order A B C A B C; the time is that
of the work after the imports. Memory is the peak of the process over that of `import torch` alone.

The second form makes Llama-shaped checkpoints whose bodies grow and whose vocabulary (32 000 x 256) does not.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCAB, DIM = 32_000, 256
IMPORTS = {
    "torch": ("torch",),
    "floor": ("torch", "safetensors.torch", "tokenizers"),
    "ours": (
        "torch",
        "tokenlayer.app.report.page",
        "tokenlayer.app.report.plots",
        "tokenlayer.transfer.swap",
        "matplotlib.backends.backend_svg",
        "transformers.models.llama.modeling_llama",
        "transformers.tokenization_utils_tokenizers",
    ),
    "tokensurgeon": ("torch", "mergekit.scripts.tokensurgeon", "mergekit.tokensurgeon"),
}


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def torch_only(_model: Path, _tokenizer: Path, _out: Path) -> None:
    """Nothing: what `import torch` alone takes."""


def floor(model: Path, tokenizer: Path, out: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    old, new = Tokenizer.from_file(str(model / "tokenizer.json")), Tokenizer.from_file(str(tokenizer))
    tables = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(str(file), "pt") as opened:
            names = [n for n in opened.keys() if n.endswith(("embed_tokens.weight", "lm_head.weight"))]  # noqa: SIM118
            tables |= {name: opened.get_tensor(name).clone() for name in names}
    tokens = [new.decode([i]) for i in range(new.get_vocab_size())]
    old.encode_batch_fast(tokens, add_special_tokens=False)
    out.mkdir()
    save_file({n: torch.empty(len(tokens), t.shape[1], dtype=t.dtype) for n, t in tables.items()}, str(out / "rows"))


def ours(model: Path, tokenizer: Path, out: Path) -> None:
    import tokenlayer

    tokenlayer.swap(str(model), str(tokenizer), out=out)


PARTS = {
    "verify": ("tokenlayer.transfer.swap", "verify_checkpoint"),
    "report": ("tokenlayer.app.report", "write_report_files"),
    "body": ("tokenlayer.models.safetensors_write", "_copy_run"),
}
"""Steps of `ours` that the floor has no counterpart of: reading back, report and card, copying the other tensors."""


def watched(parts: dict[str, float]) -> None:
    """Adds the seconds of each of `PARTS` to `parts`."""
    for name, (module, function) in PARTS.items():
        home = importlib.import_module(module)
        setattr(home, function, timed(name, getattr(home, function), parts))


def timed(name: str, step: Callable[..., Any], parts: dict[str, float]) -> Callable[..., Any]:
    def run_timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        done = step(*given, **named)
        parts[name] = parts.get(name, 0.0) + time.perf_counter() - start
        return done

    return run_timed


def tokensurgeon(model: Path, tokenizer: Path, out: Path) -> None:
    from mergekit.scripts.tokensurgeon import main

    donor = out.parent / "donor"
    shutil.copytree(model, donor, copy_function=os.link)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (donor / name).unlink()
    shutil.copy(tokenizer, donor / "tokenizer.json")
    said = '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    (donor / "tokenizer_config.json").write_text(said, encoding="utf-8")
    options = ["--approximation-method", "subword"]
    main.main([str(model), str(donor), str(out), *options], standalone_mode=False)


WAYS = {"torch": torch_only, "floor": floor, "ours": ours, "tokensurgeon": tokensurgeon}


def measure(way: str, model: Path, tokenizer: Path) -> dict[str, float]:
    """One run in this process."""
    for name in IMPORTS[way]:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        parts: dict[str, float] = {}
        if way == "ours":
            watched(parts)
        start, cpu = time.perf_counter(), time.process_time()
        WAYS[way](model, tokenizer, Path(folder) / "out")
        seconds = time.perf_counter() - start
        row = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak_mb": peak_mb()}
        return row | {"bare": seconds - sum(parts.values())} | parts


def run(python: str, way: str, model: Path, tokenizer: Path) -> dict[str, float]:
    command = [python, __file__, str(model), str(tokenizer), "--measure", way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(pythons: dict[str, str], model: Path, tokenizer: Path, repeats: int) -> dict[str, dict[str, float]]:
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in pythons}
    for _ in range(repeats):
        for way, python in pythons.items():
            rows[way].append(run(python, way, model, tokenizer))
    return {
        way: {key: statistics.median(r[key] for r in found) for key in found[0]}
        | {"fastest": min(r["seconds"] for r in found)}
        for way, found in rows.items()
    }


def show(found: dict[str, dict[str, float]], about: str) -> None:
    print(f"{about}; {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    base = found["torch"]["peak_mb"]
    for way, row in found.items():
        if way == "ours":
            parts = ", ".join(f"{key} {row[key]:.2f}" for key in ("bare", *PARTS) if key in row)
            print(f"{'':13} {parts} s")
        if way != "torch":
            print(
                f"{way:13} {row['seconds']:6.2f} s (fastest {row['fastest']:6.2f}, cpu {row['cpu_seconds']:6.2f})"
                f"   {row['peak_mb'] - base:7.0f} MB over import torch ({base:.0f} MB)"
            )
    for other in ("floor", "tokensurgeon"):
        if other in found:
            times, memory = found["ours"]["seconds"] / found[other]["seconds"], found["ours"]["peak_mb"] - base
            fastest = found["ours"]["fastest"] / found[other]["fastest"]
            theirs = found[other]["peak_mb"] - base
            bare = found["ours"]["bare"] / found[other]["seconds"]
            memory /= max(theirs, 1)
            print(f"ours / {other}: time {times:.2f} (fastest {fastest:.2f}, bare {bare:.2f}), memory {memory:.2f}")


def make_body(folder: Path, layers: int, tokenizer: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": 8192, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=VOCAB, num_hidden_layers=layers, tie_word_embeddings=False, **sizes)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="50MB")
    shutil.copy(tokenizer, folder / "tokenizer.json")


def learned(folder: Path, size: int) -> Path:
    """A byte-level BPE of that size, from the Python files of the standard library."""
    import tokenlayer

    out = folder / f"tokenizer-{size}"
    source = str(Path(os.__file__).parent)
    tokenlayer.learn([source], out=out, vocab_size=size, limit_bytes=20_000_000)
    return out / "tokenizer.json"


def bodies(layers: list[int], repeats: int, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        home = Path(name)
        old, new = learned(home, VOCAB), learned(home, VOCAB - 2000)
        for count in layers:
            model = home / f"body-{count}"
            make_body(model, count, old)
            os.sync()
            size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6
            found = compare({"torch": sys.executable, "ours": sys.executable}, model, new, repeats)
            show(found, f"body of {size:.0f} MB in {len(list(model.glob('*.safetensors')))} shards")
            shutil.rmtree(model)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", nargs="?", type=Path)
    args.add_argument("tokenizer", nargs="?", type=Path)
    args.add_argument("--tokensurgeon", metavar="PYTHON", help="Python of an environment with mergekit")
    args.add_argument("--bodies", nargs="+", type=int)
    args.add_argument("--repeats", type=int, default=3)
    args.add_argument("--folder", type=Path, help="where checkpoints are made")
    args.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    given = args.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.model, given.tokenizer)))
    elif given.bodies:
        bodies(given.bodies, given.repeats, given.folder)
    elif given.model and given.tokenizer:
        pythons = dict.fromkeys(("torch", "floor", "ours"), sys.executable)
        pythons |= {"tokensurgeon": given.tokensurgeon} if given.tokensurgeon else {}
        found = compare(pythons, given.model, given.tokenizer, given.repeats)
        show(found, f"{given.model} with {given.tokenizer.parent.name}")
    else:
        args.error("give MODEL and TOKENIZER, or --bodies")


if __name__ == "__main__":
    main()
