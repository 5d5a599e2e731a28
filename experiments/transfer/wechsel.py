"""A small English model moved to other languages by WECHSEL: bits per byte before and after a little training.

    python experiments/transfer/small_lm.py ...                    # the English model; see there
    python experiments/transfer/wechsel.py --model SMALLLM --texts DIR --dictionaries DIR --out RUNS

`DIR` of texts holds help-en-us.txt, help-{fr,fi,tr,ru,hi}.txt (documents between empty lines) and par-{train,test}.{en,
swa}.txt; that of dictionaries holds FreeDict lists eng-XXX.tsv.zst. Every run is kept as one line of `RUNS/runs.jsonl`;
a run that is there is not repeated. `--quick` runs the same code in seconds on a part of the Swahili text.

For each language: a byte-level BPE of the model's size is learned, word vectors are trained on all text at hand (CBOW
with 5-grams, 100 dimensions, 20 passes as published), English vectors are turned by the FreeDict list. Held-out text
takes part in none of it. How well the spaces are aligned is measured after 5 passes too. Starts, all trained with the
same batches, rate and number of steps:
    wechsel     rows by the plan, body of the English model
    shuffled    the same rows, dealt out to other tokens; control tokens keep theirs
    gaussian    rows drawn around the mean row with the spread of the English rows, the same body
    pieces      mean of the source pieces (fast vocabulary transfer), the same body
    scratch     new weights everywhere

Decided before the runs: at the last step wechsel < gaussian < scratch in bits per byte, in every language and seed;
wechsel is at least 3 % below gaussian; shuffled is within 1 % of gaussian, so that it is the alignment that helps;
precision at 5 of held-out dictionary pairs is at least five times that of the spaces as they are, in every language.
Nothing was tuned: rate 1e-3, cosine.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from small_lm import cut
from torch import nn

from tokenlayer.app import api
from tokenlayer.core.alignment import align
from tokenlayer.core.neighbours import nearest
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.core.seeds import derive_seed
from tokenlayer.data.dictionaries import Dictionary, read_dictionary
from tokenlayer.data.packing import packed_windows, shuffled
from tokenlayer.data.static_vectors import StaticVectors, VectorConfig, match_pairs, train_vectors
from tokenlayer.data.vector_files import read_vectors, write_fasttext
from tokenlayer.models.loading import load_model
from tokenlayer.models.score import WindowConfig, score_text, start_token
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.train.loop import LoopConfig, LossParts, run_loop
from tokenlayer.transfer import baselines
from tokenlayer.transfer.pieces import pieces
from tokenlayer.transfer.target import prepare_target
from tokenlayer.transfer.wechsel import WechselConfig, wechsel

LANGUAGES = {"swh": "par-{part}.swa.txt", "tur": "help-tr.txt", "fra": "help-fr.txt", "fin": "help-fi.txt",
             "rus": "help-ru.txt", "hin": "help-hi.txt"}  # fmt: skip
TRAINED = ("swh", "tur", "fra")
STARTS = ("wechsel", "shuffled", "gaussian", "pieces", "scratch")
SEEDS = (0, 1, 2)
HELD_DOCUMENTS = 20
"""One document in so many is held out where a language has no test file."""
WINDOW = WindowConfig(window=128, stride=96, batch=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--dictionaries", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", nargs="*", default=list(TRAINED), help="Those that models are trained for.")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=2, help="Windows of 128 tokens in a step.")
    parser.add_argument("--eval-bytes", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=20, help="Of the word vectors.")
    parser.add_argument("--only", choices=["alignment", "training"])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    aligned = list(LANGUAGES)
    if args.quick:
        aligned = args.languages = ["swh"]
        args.seeds, args.steps, args.epochs, args.eval_bytes = [0], 4, 1, 2000
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only != "training":
        for code in aligned:
            for epochs, seed in itertools.product(sorted({min(5, args.epochs), args.epochs}), args.seeds):
                about = {"kind": "alignment", "language": code, "epochs": epochs, "seed": seed}
                keep(args.out, about, partial(alignment, code, epochs, args))
    if args.only != "alignment":
        for seed in args.seeds:
            for code in args.languages:
                for start in STARTS:
                    about = {"kind": "training", "language": code, "seed": seed, "start": start, "steps": args.steps}
                    about |= {"batch": args.batch, "eval_bytes": args.eval_bytes}
                    keep(args.out, about, partial(training, code, args, start))
    print(tables([json.loads(line) for line in (args.out / "runs.jsonl").read_text().splitlines()]))


def keep(out: Path, about: dict, run) -> None:
    """Runs what has not been run and writes it down."""
    log = out / "runs.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if any(about.items() <= row.items() for row in done):
        return
    began = time.perf_counter()
    row = about | run(about["seed"]) | {"seconds": round(time.perf_counter() - began, 1)}
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def documents(code: str, args: argparse.Namespace) -> tuple[list[str], str]:
    """Training documents, and held-out text without the lines that training has too."""
    if code == "eng":
        names = ["par-train.en.txt"] if args.quick else ["help-en-us.txt", "par-train.en.txt"]
        train, held = [text for name in names for text in split(args.texts / name, args)], []
    elif "{part}" in LANGUAGES[code]:
        train, held = (split(args.texts / LANGUAGES[code].format(part=part), args) for part in ("train", "test"))
    else:
        found = split(args.texts / LANGUAGES[code], args)
        held = found[::HELD_DOCUMENTS]
        train = [text for n, text in enumerate(found) if n % HELD_DOCUMENTS]
    known = {line for text in train for line in text.splitlines()}
    lines = [line for text in held for line in text.splitlines() if line not in known]
    return train, cut("\n".join(lines), args.eval_bytes)


def split(path: Path, args: argparse.Namespace) -> list[str]:
    text = path.read_text()
    texts = [part for part in text.split("\n\n") if part.strip()]
    if len(texts) == 1:  # one sentence a line
        lines = text.splitlines()
        texts = ["\n".join(lines[n : n + 20]) for n in range(0, len(lines), 20)]
    return texts[:200] if args.quick else texts


def vectors_of(code: str, epochs: int, args: argparse.Namespace) -> StaticVectors:
    """Trained once and kept."""
    path = args.out / f"{code}-{epochs}.bin"
    if not path.exists():
        began = time.perf_counter()
        made = train_vectors(documents(code, args)[0], VectorConfig(epochs=epochs, buckets=500_000))
        write_fasttext(made, path)
        print(f"# vectors of {code}: {len(made.words)} words in {time.perf_counter() - began:.0f} s", flush=True)
    return read_vectors(path)


def word_list(code: str, args: argparse.Namespace) -> Dictionary:
    """The pairs of all lists that there are for the language, in both directions."""
    pairs = read_dictionary(args.dictionaries / f"eng-{code}.tsv.zst").pairs
    back = args.dictionaries / f"{code}-eng.tsv.zst"
    return Dictionary.of([*pairs, *(read_dictionary(back, swap=True).pairs if back.exists() else ())])


def alignment(code: str, epochs: int, args: argparse.Namespace, seed: int) -> dict:
    """Precision at 5 of English words that took no part in aligning; any translation in the list is right."""
    english, other = vectors_of("eng", epochs, args), vectors_of(code, epochs, args)
    gold = defaultdict(set)
    for one, word in word_list(code, args).pairs:
        if (i := known(english, one)) is not None and (j := known(other, word)) is not None:
            gold[i].add(j)
    words = sorted(gold)
    random.Random(seed).shuffle(words)
    held = words[: len(words) // 5]
    rest = [(english.words[i], other.words[j]) for i in words[len(held) :] for j in sorted(gold[i])]
    pairs = match_pairs(Dictionary.of(rest), english, other)
    found = align(*(torch.from_numpy(table) for table in (pairs.source, pairs.target, pairs.times)))
    queries = torch.from_numpy(english.vectors([english.words[i] for i in held]))
    keys = torch.from_numpy(other.vectors(list(other.words)))

    def right(turned: torch.Tensor) -> int:
        near = nearest(turned, keys, 5).ids.tolist()
        return sum(bool(gold[i] & set(row)) for i, row in zip(held, near, strict=True))

    return {
        "pairs": sum(map(len, gold.values())),
        "english_words": len(words),
        "held_out": len(held),
        "rank": found.rank,
        "target_words": len(other.words),
        "aligned": right(queries @ found.rotation) / len(held),
        "as_they_are": right(queries) / len(held),
    }


def known(vectors: StaticVectors, word: str) -> int | None:
    """Row of a word as it is, else in lower case, else in Title Case."""
    return next((i for w in (word, word.lower(), word.title()) if (i := vectors.find(w)) is not None), None)


def training(code: str, args: argparse.Namespace, start: str, seed: int) -> dict:
    """Bits per byte of one start at 0 steps, a quarter of the way and at the end."""
    train, held = documents(code, args)
    source = load_tokenizer(args.model)
    ready = prepare_target(source, load_tokenizer(learned(code, train, len(source.vocab), args)))
    first = start_token(ready.tokenizer)
    model, origin = started(start, code, ready, args, seed)
    windows = list(packed_windows(train, ready.tokenizer.encode, WINDOW.window, start_id=first))
    order = endless(windows, seed)
    bits: dict[int, float] = {}

    def score(step: int) -> None:
        model.eval()
        found = score_text(model, ready.tokenizer, held, start_id=first, config=WINDOW).scores
        bits[step] = found.bits_per_byte
        model.train()

    def batch(step: int):
        ids = torch.tensor([next(order) for _ in range(args.batch)])
        yield lambda: loss_of(model, ids)

    marks = {args.steps // 4, args.steps}
    score(0)
    config = LoopConfig(steps=args.steps, learning_rate=1e-3, schedule="cosine", seed=seed)
    losses = run_loop(
        dict(model.named_parameters()), batch, config, after_step=lambda n: score(n) if n in marks else None
    )
    return {"bits": bits, "origin": origin, "loss_nats": [round(x, 3) for x in losses[:: max(1, args.steps // 20)]],
            "passes": round(args.steps * args.batch / len(windows), 2), "held_bytes": len(held.encode())}  # fmt: skip


def endless(windows: list[list[int]], seed: int):
    for epoch in range(10**6):
        yield from shuffled(windows, derive_seed(seed, "pass", epoch), buffer=len(windows))


def loss_of(model: nn.Module, ids: torch.Tensor) -> LossParts:
    logits = model(input_ids=ids).logits[:, :-1].float()
    return LossParts(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"),
                     ids[:, 1:].numel())  # fmt: skip


def learned(code: str, train: list[str], size: int, args: argparse.Namespace) -> Path:
    """A tokenizer of the model's kind and size, learned once and kept."""
    folder = args.out / f"tok-{code}"
    if not folder.exists():
        text = args.out / f"train-{code}.txt"
        text.write_text("\n\n".join(train))
        api.learn([str(text)], folder, like=args.model, vocab_size=size)
    return folder


def started(start: str, code: str, ready, args: argparse.Namespace, seed: int) -> tuple[nn.Module, dict]:
    """The model of a start and what its rows come from."""
    model, _ = load_model(args.model, "decoder")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    old = model.get_input_embeddings().weight.detach()
    if start == "scratch":
        torch.manual_seed(seed)
        config = model.config
        config.vocab_size = len(ready.tokenizer.vocab)
        return type(model)(config).float(), {}
    makers = {
        "wechsel": lambda: by_wechsel(code, ready, args, seed),
        "shuffled": lambda: dealt_out(by_wechsel(code, ready, args, seed), seed),
        "gaussian": lambda: baselines.gaussian(ready.pair, seed=seed),
        "pieces": lambda: pieces(ready.pair),
    }
    plan = makers[start]()
    rows = nn.Parameter(plan.apply(old.float()))
    if not model.config.tie_word_embeddings:
        model.get_output_embeddings().weight = nn.Parameter(plan.apply(model.get_output_embeddings().weight.detach()))
    else:
        model.get_output_embeddings().weight = rows
    model.get_input_embeddings().weight = rows
    model.config.vocab_size = len(rows)
    return model, plan.counts()


def by_wechsel(code: str, ready, args: argparse.Namespace, seed: int) -> RowPlan:
    vectors = (vectors_of("eng", args.epochs, args), vectors_of(code, args.epochs, args))
    config = WechselConfig(seed=seed)
    return wechsel(ready.pair, *vectors, config, dictionary=word_list(code, args), warn=lambda said: print("#", said))


def dealt_out(plan: RowPlan, seed: int) -> RowPlan:
    """The same rows for other tokens; those of control tokens and bytes stay."""
    mixed = [i for i, rule in enumerate(plan.origin) if rule == "neighbours"]
    other = list(mixed)
    random.Random(seed).shuffle(other)
    rows = [plan.shares(i) for i in range(plan.new_vocab)]
    for i, j in zip(mixed, other, strict=True):
        rows[i] = plan.shares(j)
    made = RowPlan.from_rows(rows, plan.origin, plan.old_vocab, plan.support.tolist())
    return replace(made, noise=plan.noise)


def tables(rows: list[dict]) -> str:
    """Markdown: precision, then bits per byte at each mark; mean and range over seeds."""
    lines = ["| language | passes | pairs | English words | precision at 5, aligned | as they are |"]
    lines.append("|---|---|---|---|---|---|")
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("alignment", "training")}
    for code, epochs in dict.fromkeys((row["language"], row["epochs"]) for row in kinds["alignment"]):
        same = [row for row in kinds["alignment"] if (row["language"], row["epochs"]) == (code, epochs)]
        spans = " | ".join(spread([100 * row[name] for row in same], 1) for name in ("aligned", "as_they_are"))
        lines.append(f"| {code} | {epochs} | {same[0]['pairs']} | {same[0]['english_words']} | {spans} |")
    marks = sorted({int(step) for row in kinds["training"] for step in row["bits"]})
    lines += ["", "| language | start | seeds | " + " | ".join(f"{step} steps" for step in marks) + " |"]
    lines.append("|---|---|---|" + "---|" * len(marks))
    for code, start in dict.fromkeys((row["language"], row["start"]) for row in kinds["training"]):
        same = [row for row in kinds["training"] if (row["language"], row["start"]) == (code, start)]
        cells = [spread([row["bits"][str(step)] for row in same if str(step) in row["bits"]], 3) for step in marks]
        lines.append(f"| {code} | {start} | {len(same)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.mean(values):.{digits}f}" + (f" ({low}-{high})" if low != high else "")


if __name__ == "__main__":
    main()
