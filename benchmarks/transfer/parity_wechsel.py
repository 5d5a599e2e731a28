"""WECHSEL and FOCUS beside their published packages on the same inputs: equal rows, time and memory.

    python benchmarks/transfer/parity_wechsel.py --peer /tmp/peers2/bin/python [--data shared/data] [--work DIR]
        [--source tokenizer.json --target tokenizer.json] [--vocab 8000] [--repeats 1]

The peers (PyPI `wechsel` 0.0.4, `deepfocus` 1.0.1) run in a Python of their own, which needs no tokenlayer. Without
`--source` and `--target`, byte-level tokenizers are learned on LibreOffice help text, English and French. Word vectors
are trained here (gensim) on the same text, written as fastText files, and read from those by both. The peer's
Procrustes is run in float64: in float32 rounding decides the directions that little text hardly determines. Each of
the two runs in a process of its own, ours, peer, ours, peer..., `--repeats` times. One JSON row a method: the largest
difference of a row, the rows that differ by more than 1e-4 and why; wall and CPU seconds after loading (medians), and
the largest memory of each process, of which what it held before it began.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

DIM = 64
BY_TIES = 3e-6
"""Cosines closer than this may change places in the peer's argpartition."""


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--peer", required=True, help="Python in which wechsel and deepfocus are installed")
    args.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    args.add_argument("--work", type=Path, default=Path("/tmp/parity_wechsel"))
    args.add_argument("--source", type=Path)
    args.add_argument("--target", type=Path)
    args.add_argument("--vocab", type=int, default=8000)
    args.add_argument("--only", choices=["wechsel", "focus"])
    args.add_argument("--repeats", type=int, default=1)
    args.add_argument("--as-ours", choices=["wechsel", "focus"])
    args.add_argument("--as-peer", choices=["wechsel", "focus"])
    given = args.parse_args()
    if given.as_peer:
        peer(given.as_peer, given.work)
        return
    if given.as_ours:
        ours(given.as_ours, given.work)
        return
    given.work.mkdir(parents=True, exist_ok=True)
    prepare(given)
    for method in ("wechsel", "focus"):
        if given.only in (None, method):
            print(json.dumps(compare(method, given)), flush=True)


def prepare(given: argparse.Namespace) -> None:
    """Writes tokenizers, vectors, pairs and rows into the work folder; what is there already is kept."""
    from tokenlayer.data.dictionaries import read_dictionary
    from tokenlayer.data.documents import Documents
    from tokenlayer.data.static_vectors import VectorConfig, train_vectors
    from tokenlayer.data.vector_files import write_fasttext
    from tokenlayer.transfer.focus import token_text_vectors

    work, texts = given.work, {}
    for side, lang, path in (("source", "en-us", given.source), ("target", "fr", given.target)):
        texts[side] = Documents([str(given.data / "text" / "help" / f"{lang}.txt.zst")], limit_bytes=4_000_000)
        tokenizer = work / f"{side}.json"
        if not tokenizer.exists():
            tokenizer.write_text(path.read_text() if path else learned(texts[side].texts(), given.vocab))
        if not (work / f"{side}.bin").exists():
            write_fasttext(
                train_vectors(texts[side].texts, VectorConfig(epochs=5, buckets=200_000)), work / f"{side}.bin"
            )
    if not (work / "tokens.bin").exists():
        target = load(work / "target.json")
        small = VectorConfig(dim=100, min_count=10, epochs=3, min_n=3, max_n=6, buckets=200_000)
        write_fasttext(
            token_text_vectors(texts["target"].texts, target.vocab, target.encode, small), work / "tokens.bin"
        )
    pairs = read_dictionary(given.data / "dictionaries" / "eng-fra.tsv.zst").pairs
    (work / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    rows = len(load(work / "source.json").vocab)
    np.save(work / "rows.npy", np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32))


def learned(texts, vocab: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def load(path: Path):
    from tokenlayer.models.tokenizer_files import load_tokenizer

    return load_tokenizer(path)


def compare(method: str, given: argparse.Namespace) -> dict[str, object]:
    import torch

    rows = torch.from_numpy(np.load(given.work / "rows.npy"))
    spent: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(given.repeats):
        for side, python in (("ours", sys.executable), ("peer", given.peer)):
            command = [python, __file__, "--peer", given.peer, f"--as-{side}", method, "--work", str(given.work)]
            subprocess.run(command, check=True)
            spent[side].append(json.loads((given.work / f"{method}_{side}.json").read_text()))
    plan, explain = {"wechsel": ours_wechsel, "focus": ours_focus}[method](given.work, rows)
    made = np.load(given.work / f"{method}_ours.npy")
    theirs = np.load(given.work / f"{method}_peer.npy")
    difference = np.abs(made - theirs).max(axis=1)
    mixed = [i for i, rule in enumerate(plan.origin) if rule == "neighbours"]
    apart = [i for i in mixed if difference[i] > 1e-4]
    why = dict(zip(apart, explain(apart, theirs), strict=True))
    left = [i for i in apart if not why[i]]
    same = [i for i in mixed if difference[i] <= 1e-4]
    medians = {
        f"{side}_{name}": round(statistics.median(run[name] for run in runs), 2)
        for side, runs in spent.items()
        for name in runs[0]
    }
    return {
        "method": method,
        "source_tokens": len(rows),
        "target_tokens": len(made),
        "origin": plan.counts(),
        "mixed_rows": len(mixed),
        "equal_rows": len(same),
        "largest_difference_of_equal_rows": float(difference[same].max(initial=0)),
        "explained": {
            reason: sum(w == reason for w in why.values()) for reason in sorted({w for w in why.values() if w})
        },
        "unexplained": len(left),
        "worst_unexplained": [(i, float(difference[i])) for i in sorted(left, key=lambda i: -difference[i])[:5]],
        "other_rows_equal": int(sum(difference[i] <= 1e-4 for i in range(len(made)) if plan.origin[i] != "neighbours")),
        "repeats": given.repeats,
        **medians,
        "ratio": round(medians["peer_seconds"] / medians["ours_seconds"], 1),
        "cpu_ratio": round(medians["peer_cpu_s"] / medians["ours_cpu_s"], 1),
    }


def ours(method: str, work: Path) -> None:
    """Runs alone in its process; imports and files are ready before the clock starts."""
    import torch

    rows = torch.from_numpy(np.load(work / "rows.npy"))
    make = {"wechsel": wechsel_inputs, "focus": focus_inputs}[method](work)
    spend = Spent()
    made = make().apply(rows).numpy()
    spend.write(work / f"{method}_ours.json")
    np.save(work / f"{method}_ours.npy", made)


class Spent:
    """Wall and CPU seconds since it was made, and the largest memory of the process before and after."""

    def __init__(self) -> None:
        self.peak = self.peak_mb()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def write(self, path: Path) -> None:
        """Writes down what was spent."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        row = {"seconds": wall, "cpu_s": cpu, "peak_mb": self.peak_mb(), "peak_before_mb": self.peak}
        path.write_text(json.dumps(row))

    @staticmethod
    def peak_mb() -> float:
        """The largest memory of the process so far, in MB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def wechsel_inputs(work: Path):
    from tokenlayer.data.dictionaries import Dictionary
    from tokenlayer.data.vector_files import read_vectors
    from tokenlayer.transfer.parts import Pair
    from tokenlayer.transfer.wechsel import wechsel

    pair = Pair(load(work / "source.json").vocab, load(work / "target.json").vocab)
    vectors = [read_vectors(work / f"{side}.bin") for side in ("source", "target")]
    lines = (work / "pairs.tsv").read_text().splitlines()
    dictionary = Dictionary.of([(a, b) for a, b in (line.split("\t") for line in lines)])
    return lambda: wechsel(
        pair, *vectors, dictionary=dictionary, warn=lambda said: print("warning:", said, file=sys.stderr)
    )


def focus_inputs(work: Path):
    from tokenlayer.data.vector_files import read_vectors
    from tokenlayer.transfer.focus import focus
    from tokenlayer.transfer.parts import Pair

    pair = Pair(load(work / "source.json").vocab, load(work / "target.json").vocab)
    vectors = read_vectors(work / "tokens.bin")
    return lambda: focus(pair, vectors)


def ours_wechsel(work: Path, rows):
    import torch

    from tokenlayer.core.neighbours import nearest
    from tokenlayer.data.dictionaries import Dictionary
    from tokenlayer.data.vector_files import read_vectors
    from tokenlayer.transfer.parts import Pair
    from tokenlayer.transfer.token_vectors import is_broken
    from tokenlayer.transfer.wechsel import WechselConfig, shared_space, wechsel

    source, target = load(work / "source.json"), load(work / "target.json")
    pair = Pair(source.vocab, target.vocab)
    vectors = [read_vectors(work / f"{side}.bin") for side in ("source", "target")]
    lines = (work / "pairs.tsv").read_text().splitlines()
    dictionary = Dictionary.of([(a, b) for a, b in (line.split("\t") for line in lines)])
    plan = wechsel(pair, *vectors, dictionary=dictionary, warn=lambda said: None)
    space = shared_space(pair, *vectors, WechselConfig(), dictionary)

    def explain(ids: list[int], theirs) -> list[str]:
        """Why the peer may choose other neighbours: a tie at the k-th place, or a special token among them."""
        cosines = nearest(space.target[ids], space.source, 11).cosines
        special = [source.vocab.names[j] for j in source.vocab.control_ids()]
        special += [b.decode("utf-8", "replace").strip() for b in source.vocab.tokens if is_broken(b)]
        looked_up = torch.from_numpy(vectors[0].vectors(special)) @ _rotation(vectors, dictionary)
        near = nearest(space.target[ids], looked_up, 1).cosines[:, 0]
        tied, beside = cosines[:, 9] - cosines[:, 10] < BY_TIES, near > cosines[:, 9] - BY_TIES
        return [
            "tie at the tenth place" if t else "a special token or a broken one (U+FFFD) is a neighbour there" * bool(b)
            for t, b in zip(tied.tolist(), beside.tolist(), strict=True)
        ]

    return plan, explain


def _rotation(vectors, dictionary):
    import torch

    from tokenlayer.core.alignment import align
    from tokenlayer.data.static_vectors import match_pairs

    pairs = match_pairs(dictionary, *vectors)
    return align(*(torch.from_numpy(table) for table in (pairs.source, pairs.target, pairs.times))).rotation


def ours_focus(work: Path, rows):
    from tokenlayer.data.vector_files import read_vectors
    from tokenlayer.transfer.focus import focus
    from tokenlayer.transfer.parts import Pair

    pair = Pair(load(work / "source.json").vocab, load(work / "target.json").vocab)
    vectors = read_vectors(work / "tokens.bin")
    plan = focus(pair, vectors)
    pair.__dict__["matches"] = peer_matches(pair)
    again = focus(pair, vectors).apply(rows).numpy()

    def explain(ids: list[int], theirs) -> list[str]:
        equal = np.abs(again[ids] - theirs[ids]).max(axis=1) < 1e-4
        return ["equal once tokens are matched as the peer does, by decoded text" * bool(e) for e in equal]

    return plan, explain


def peer_matches(pair):
    """The peer matches decoded strings without white space, U+FFFD and all; of several source tokens the last."""

    def form(vocab, i: int) -> str:
        text = vocab.tokens[i].decode("utf-8", "replace") or vocab.names[i]
        return "▁" * vocab.names[i].startswith("Ġ") + text.lstrip()

    last = {form(pair.source, i): i for i in range(len(pair.source))}
    return [last.get(form(pair.target, i)) for i in range(len(pair.target))]


def peer(method: str, work: Path) -> None:
    """Runs in the peers' Python."""
    import fasttext
    import torch
    from transformers import PreTrainedTokenizerFast

    source, target = (PreTrainedTokenizerFast(tokenizer_file=str(work / f"{s}.json")) for s in ("source", "target"))
    rows = np.load(work / "rows.npy")
    if method == "wechsel":
        import wechsel
        from scipy.linalg import orthogonal_procrustes

        wechsel.orthogonal_procrustes = lambda a, b: orthogonal_procrustes(a.astype(float), b.astype(float))
        vectors = [fasttext.load_model(str(work / f"{side}.bin")) for side in ("source", "target")]
        spend = Spent()
        made, _ = wechsel.WECHSEL(*vectors, bilingual_dictionary=str(work / "pairs.tsv")).apply(source, target, rows)
    else:
        from deepfocus import FOCUS

        spend = Spent()
        made = FOCUS(
            target_tokenizer=target,
            source_tokenizer=source,
            source_embeddings=torch.from_numpy(rows),
            fasttext_model_path=str(work / "tokens.bin"),
            verbosity="silent",
        ).numpy()
    spend.write(work / f"{method}_peer.json")
    np.save(work / f"{method}_peer.npy", made)


if __name__ == "__main__":
    main()
