"""A small English language model for experiments: learned on texts that you give, saved as an ordinary folder.

    python experiments/transfer/small_lm.py --texts FILE FILE.zst FILE.zip ... --out MODEL --eval NAME=FILE ...

A byte-level BPE of 16,384 tokens is learned on all texts, then a Llama (4 layers, 256 dimensions, 7.3 M parameters when
tied) is trained on windows of 128 tokens: AdamW, rate 3e-3 after 5 % of warm-up, cosine to zero, products in bf16 and
losses in float32. `MODEL/READY` holds bits per byte of the `--eval` texts when it is done; a run that stopped goes on
from its last state. `--quick` makes a model in seconds. Other experiments call `small_lm`.
"""

import argparse
import io
import json
import random
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from tokenlayer.app import api
from tokenlayer.data.documents import Documents
from tokenlayer.data.packing import packed_windows
from tokenlayer.models.loading import load_model
from tokenlayer.models.score import WindowConfig, score_text, start_token
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.train.loop import LoopConfig, LossParts, run_loop


@dataclass(frozen=True)
class SmallConfig:
    """What is learned and for how long."""

    vocab: int = 16_384
    layers: int = 4
    dim: int = 256
    heads: int = 4
    tied: bool = True
    window: int = 128
    batch: int = 16
    """Windows in a step."""
    steps: int = 500
    learning_rate: float = 3e-3
    seed: int = 0


QUICK = SmallConfig(vocab=512, layers=1, dim=32, window=32, batch=4, steps=8)


def small_lm(folder: Path, texts: Sequence[Path], config: SmallConfig = SmallConfig()) -> Path:
    """Learns a tokenizer and a model on texts, unless the folder is there.

    Args:
        folder: what is written: config.json, model.safetensors, tokenizer.json.
        texts: .txt or .zst files (documents between empty lines), or .zip files of them.
        config: see `SmallConfig`.
    """
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    documents = [text for path in texts for text in read(path)]
    random.Random(config.seed).shuffle(documents)
    if not (folder / "tokenizer.json").exists():
        with tempfile.TemporaryDirectory() as scratch:
            joined = Path(scratch) / "all.txt"
            joined.write_text("\n\n".join(documents))
            api.learn([str(joined)], folder, vocab_size=config.vocab, force=True)
    tokenizer = load_tokenizer(folder)
    model = untrained(tokenizer, config)
    train(model, tokenizer, documents, config, folder)
    model.save_pretrained(folder)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return folder


def read(path: Path) -> list[str]:
    """Documents of a file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            names = [name for name in packed.namelist() if name.endswith(".txt")]
            texts = [io.TextIOWrapper(packed.open(name), "utf-8", "replace").read() for name in names]
    else:
        texts = list(Documents([str(path)]).texts())
    parts = [part.strip() for text in texts for part in text.replace("\r", "").split("\n\n")]
    return [part.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".") for part in parts if part]


def cut(text: str, size: int) -> str:
    """The first bytes of a text, without half a character."""
    return text.encode()[:size].decode("utf-8", "ignore")


def untrained(tokenizer: LoadedTokenizer, config: SmallConfig) -> LlamaForCausalLM:
    """The model with new weights."""
    torch.manual_seed(config.seed)
    start = start_token(tokenizer)
    shape = LlamaConfig(
        vocab_size=len(tokenizer.vocab), hidden_size=config.dim, num_hidden_layers=config.layers,
        intermediate_size=8 * config.dim // 3 // 32 * 32, num_attention_heads=config.heads,
        num_key_value_heads=config.heads, max_position_embeddings=512, tie_word_embeddings=config.tied,
        bos_token_id=start, eos_token_id=start, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(shape)


def train(
    model: nn.Module, tokenizer: LoadedTokenizer, documents: Sequence[str], config: SmallConfig, folder: Path
) -> None:
    """Trains in place, each window once before any comes again."""
    start, began = start_token(tokenizer), time.perf_counter()
    windows = list(packed_windows(documents, tokenizer.encode, config.window, start_id=start))
    print(f"# {len(windows)} windows, {config.steps * config.batch / len(windows):.2f} passes", flush=True)

    def batch(step: int) -> Iterator[partial[LossParts]]:
        yield partial(loss_of, model, torch.tensor(window_batch(windows, step, config.batch, config.seed)))

    def tell(done: int, steps: int) -> None:
        if done % 50 == 0:
            print(f"# step {done} of {steps}, {time.perf_counter() - began:.0f} s", flush=True)

    model.train()
    loop = LoopConfig(config.steps, config.learning_rate, "cosine", warmup=0.05, weight_decay=0.01, seed=config.seed)
    losses = run_loop(dict(model.named_parameters()), batch, loop, state=folder / "state", progress=tell)
    print(f"# loss of the last steps {sum(losses[-20:]) / len(losses[-20:]):.3f} nats", flush=True)
    model.eval()


def window_batch(windows: Sequence[list[int]], step: int, batch: int, seed: int) -> list[list[int]]:
    """The windows of a step: all of them in one random order, then in another; the same for every model."""
    places = (divmod(at, len(windows)) for at in range(step * batch, (step + 1) * batch))
    return [windows[order(len(windows), seed, turn)[place]] for turn, place in places]


@cache
def order(size: int, seed: int, turn: int) -> list[int]:
    """A random order of that many windows."""
    return random.Random(f"{seed} {turn}").sample(range(size), size)


def loss_of(model: nn.Module, ids: torch.Tensor) -> LossParts:
    """Next-token loss of windows of one length; products in bf16, the loss in float32."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    wanted = ids[:, 1:].flatten()
    return LossParts(cross_entropy(logits.flatten(0, 1).float(), wanted, reduction="sum"), wanted.numel())


def bits_per_byte(model: nn.Module, tokenizer: LoadedTokenizer, text: str) -> float:
    """Bits per byte of a text in windows of 128 tokens."""
    model.eval()
    config = WindowConfig(window=128, stride=96, batch=8)
    return score_text(model, tokenizer, text, start_id=start_token(tokenizer), config=config).scores.bits_per_byte


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--eval", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--eval-bytes", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=SmallConfig.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--untied", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    config = QUICK if args.quick else SmallConfig(steps=args.steps, seed=args.seed, tied=not args.untied)
    began = time.perf_counter()
    small_lm(args.out, args.texts, config)
    model, _ = load_model(args.out, "decoder")
    found = {"seconds": round(time.perf_counter() - began)}
    for name, path in (spec.split("=", 1) for spec in args.eval):
        text = Path(path).read_bytes()[: args.eval_bytes].decode("utf-8", "ignore")
        found[name] = round(bits_per_byte(model, load_tokenizer(args.out), text), 4)
    (args.out / "READY").write_text(json.dumps(found) + "\n")
    print(found)


if __name__ == "__main__":
    main()
