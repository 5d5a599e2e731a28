"""CPU seconds and memory of CW2V at the size of SmolLM2: real text, real rows, some steps or all of them.

    python benchmarks/transfer/bench_cw2v.py --model SmolLM2.gguf --texts help-de.txt help-ru.txt [--add 2000]
        [--preset paper|fast] [--steps 2] [--threads 1]

New tokens are learned on the texts first (not counted). With `--steps` training stops there and the rest is reckoned
from the steps that were done after the first one. One JSON row.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from tokenlayer.data.documents import Documents
from tokenlayer.models.loading import opened_model
from tokenlayer.transfer.cw2v import Cw2vConfig, cw2v
from tokenlayer.transfer.expand import ExpandConfig, expand
from tokenlayer.transfer.parts import Pair


class Enough(Exception):
    """Ends a run after some steps."""


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--model", required=True)
    args.add_argument("--texts", nargs="+", required=True)
    args.add_argument("--text-bytes", type=int, default=1_000_000, help="Of each text.")
    args.add_argument("--add", type=int, default=2000)
    args.add_argument("--preset", choices=["paper", "fast"], default="paper")
    args.add_argument("--steps", type=int, default=0, help="0: all.")
    args.add_argument("--threads", type=int, default=1)
    given = args.parse_args()
    torch.set_num_threads(given.threads)
    config = Cw2vConfig() if given.preset == "paper" else Cw2vConfig.fast()
    with tempfile.TemporaryDirectory() as scratch, opened_model(given.model, Path(scratch)) as source:
        rows, old = source.checkpoint.read(source.checkpoint.rows.input), source.tokenizer
    texts = [t for path in given.texts for t in Documents([path], limit_bytes=given.text_bytes).texts()]
    new = expand(old, texts, given.add, ExpandConfig(drop_ascii=False), warn=lambda said: None).tokenizer
    stream = new.encode_batch([line for text in texts for line in text.splitlines() if line.strip()])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks: list[tuple[float, float]] = [(time.process_time(), time.perf_counter())]
    expected = 0

    def tell(done: int, steps: int, loss: float) -> None:
        nonlocal expected
        expected = steps
        marks.append((time.process_time(), time.perf_counter()))
        if given.steps and done == given.steps:
            raise Enough

    row: dict[str, object] = {"preset": given.preset, "new": given.add, "old": len(old.vocab), "dim": rows.shape[1]}
    row |= {"text_MB": round(sum(len(t.encode()) for t in texts) / 1e6, 1), "threads": given.threads}
    try:
        found = cw2v(Pair(old.vocab, new.vocab), rows, stream, config, progress=tell, warn=lambda said: None)
        row |= {"losses_nats": [round(loss, 3) for loss in found.losses_nats], "moved": round(found.moved, 4)}
        row |= {
            "all_cpu_s": round(time.process_time() - marks[0][0]),
            "all_s": round(time.perf_counter() - marks[0][1]),
        }
    except Enough:
        pass
    cpu = (marks[-1][0] - marks[1][0]) / (len(marks) - 2)
    row |= {"steps": len(marks) - 1, "cpu_s_per_step": round(cpu, 1), "expected_steps": expected}
    row |= {"expected_cpu_min": round(cpu * expected / 60, 1), "start_MB": before // 1000}
    row["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
