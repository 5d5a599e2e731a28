"""How well Unigram scores reproduce published tokenizers: the check of section 8 of ZeTT's card, at small scale.

    python experiments/transfer/unigramify.py --tokenizer gpt-2=DIR/tokenizer.json --texts FILE --other FILE --out RUNS

Nine of ten paragraphs of `--texts` are fitted; the tenth, and `--other`, are held out. One line per tokenizer is kept
in `RUNS/runs.jsonl`; a tokenizer that is there is not repeated. `--quick` takes 300 pre-tokens. The table is printed
at the end and written to docs/results by hand together with what it shows.
"""

import argparse
import json
import time
from pathlib import Path

from tokenlayer.data.documents import Documents
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.unigramify import UnigramifyConfig, Unigrammed, accuracy, unigramify

COLUMNS = (
    "tokenizer",
    "pre-tokens",
    "fitted",
    "distinct",
    "held out",
    "other text",
    "rounds",
    "constraints",
    "CPU seconds",
)


def read(path: str) -> list[str]:
    """Paragraphs of a file."""
    text = "\n\n".join(Documents([path]).texts())
    return [part for part in text.split("\n\n") if part.strip()]


def shown(found: Unigrammed) -> list[list[object]]:
    """The most frequent pre-tokens that are cut otherwise."""
    tokens = found.tokenizer.vocab.tokens
    return [
        [word.decode("utf-8", "replace"), times, *(" | ".join(map(str, (tokens[i] for i in ids))) for ids in cuts)]
        for word, times, *cuts in found.wrong[:5]
    ]


def run(name: str, path: str, texts: tuple[list[str], list[str], list[str]], config: UnigramifyConfig) -> dict:
    """Fits one tokenizer and measures it on three texts."""
    tokenizer, (fitted, held, other) = load_tokenizer(path), texts
    began = time.process_time()
    found = unigramify(tokenizer, fitted, config)
    row = {
        "tokenizer": name,
        "pre-tokens": found.pretokens,
        "fitted": found.accuracy,
        "distinct": found.accuracy_distinct,
        "rounds": found.rounds,
        "constraints": found.constraints,
        "CPU seconds": round(time.process_time() - began, 1),
    }
    row["held out"], _ = accuracy(tokenizer, found.tokenizer, held)
    row["other text"], _ = accuracy(tokenizer, found.tokenizer, other)
    return {**row, "wrong": shown(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--texts", required=True)
    parser.add_argument("--other", required=True)
    parser.add_argument("--pretokens", type=int, default=20_000)
    parser.add_argument("--no-own-text", action="store_true", help="The paper's form: pre-tokens of the texts alone.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    config = UnigramifyConfig(pretokens=300 if args.quick else args.pretokens, own_text=not args.no_own_text)
    parts = read(args.texts)
    held = parts[::10]
    texts = [part for at, part in enumerate(parts) if at % 10], held, read(args.other)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for spec in args.tokenizer:
        name, path = spec.split("=", 1)
        name += " (paper's form)" if args.no_own_text else ""
        if name in {row["tokenizer"] for row in rows}:
            continue
        rows.append(run(name, path, texts, config))
        with log.open("a") as file:
            file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
        print(rows[-1], flush=True)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print(
            "| "
            + " | ".join(f"{v:.2%}" if isinstance(v := row[c], float) and v <= 1 else str(v) for c in COLUMNS)
            + " |"
        )


if __name__ == "__main__":
    main()
