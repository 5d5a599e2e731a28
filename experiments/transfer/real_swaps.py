"""Real swaps end to end: folders that load in plain transformers, generate, and still tell sentences apart.

    python experiments/transfer/real_swaps.py --smollm2 SmolLM2.gguf --tokenizers DIR --minilm FOLDER
        --texts FILE [FILE ...] --stsb stsb-test.csv.zst --out RUNS

SmolLM2 goes to every `DIR/NAME/tokenizer.json`; the written folder is loaded with `AutoModelForCausalLM` and
`AutoTokenizer` alone and continues a prompt. all-MiniLM-L6-v2 goes to a WordPiece and a byte-level BPE that are
learned from the texts, by several initialisers; measured is the rank correlation with people on STS-B (mean pooling).
Every run is one line of `RUNS/real.jsonl`; a run that is there is not repeated. `--quick` takes one target, 40 pairs.
"""

import argparse
import csv
import io
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr

import tokenlayer
from tokenlayer.data.readers import open_bytes
from tokenlayer.models.compare import line_vectors
from tokenlayer.models.gguf_checkpoint import convert_gguf
from tokenlayer.models.loading import load_model
from tokenlayer.models.tokenizer_files import load_tokenizer

PROMPT = "The capital of France is"
VOCAB = 16_000
INITS = ("pieces", "copy", "mean", "copy-gaussian")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--stsb", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = Runs(args.out / "real.jsonl")
    targets = args.targets or sorted(p.parent.name for p in args.tokenizers.glob("*/tokenizer.json"))
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        decoders(args, targets[:1] if args.quick else targets, Path(scratch), runs)
        encoders(args, Path(scratch), runs)


class Runs:
    """What was measured, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.done = {json.loads(line)["run"] for line in lines}

    def add(self, run: str, **found: object) -> None:
        """Keeps one run."""
        line = json.dumps({"run": run} | found, ensure_ascii=False)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def decoders(args: argparse.Namespace, targets: list[str], scratch: Path, runs: Runs) -> None:
    import transformers

    names = [t for t in targets if f"smollm2 {t}" not in runs.done]
    if not names:
        return
    source = scratch / "source"
    source.mkdir()
    convert_gguf(args.smollm2, source)
    (source / "tokenizer.json").write_text(load_tokenizer(args.smollm2).text, encoding="utf-8")
    for target in names:
        out = scratch / "swapped"
        report = tokenlayer.swap(source, args.tokenizers / target, out=out)
        model = transformers.AutoModelForCausalLM.from_pretrained(out)
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        made = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=12, do_sample=False)
        runs.add(
            f"smollm2 {target}",
            rows=report.metric("rows").value,
            tied=model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr(),
            text=tokenizer.decode(made[0], skip_special_tokens=True),
            seconds=round(report.metric("seconds").value, 1),
            folder_mb=round(sum(f.stat().st_size for f in out.iterdir()) / 1e6),
        )
        shutil.rmtree(out)


def encoders(args: argparse.Namespace, scratch: Path, runs: Runs) -> None:
    pairs = read_pairs(args.stsb)[: 40 if args.quick else None]
    if "minilm source" not in runs.done:
        runs.add("minilm source", **correlation(args.minilm, pairs))
    for kind in ("wordpiece", "bpe"):
        learned = scratch / kind
        tokenlayer.learn(args.texts, out=learned, kind=kind, vocab_size=VOCAB)
        for init in INITS[: 1 if args.quick else None]:
            for seed in (0, 1, 2) if "gaussian" in init else (0,):
                run = f"minilm {kind} {init} {seed}"
                if run in runs.done:
                    continue
                out = scratch / "swapped"
                tokenlayer.swap(args.minilm, learned, out=out, init=init, seed=seed)
                runs.add(run, **correlation(out, pairs))
                shutil.rmtree(out)


def read_pairs(file: Path) -> list[tuple[str, str, float]]:
    with open_bytes(file) as opened:
        data = opened.read().decode("utf-8")
    return [(one, other, float(score)) for one, other, score in csv.reader(io.StringIO(data))]


def correlation(folder: Path, pairs: list[tuple[str, str, float]]) -> dict[str, object]:
    began = time.perf_counter()
    model, _ = load_model(folder, "encoder")
    tokenizer = load_tokenizer(folder)
    lines = [line for one, other, _ in pairs for line in (one, other)]
    vectors = line_vectors(model, tokenizer, lines, most=len(lines))
    cosine = torch.nn.functional.cosine_similarity(vectors[0::2], vectors[1::2], dim=1)
    found = spearmanr(cosine.numpy(), [score for _, _, score in pairs]).statistic
    tokens = sum(map(len, tokenizer.encode_batch(lines)))
    return {
        "spearman": round(float(found), 4),
        "n": len(pairs),
        "tokens": tokens,
        "s": round(time.perf_counter() - began),
    }


if __name__ == "__main__":
    main()
