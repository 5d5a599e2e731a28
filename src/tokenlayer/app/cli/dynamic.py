"""`tokenlayer transfer dynamic`: texts in units that the batch decides on."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common

app = typer.Typer(help="Read texts in fewer tokens: merge what is frequent in a batch, predict the rows on the fly.")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, .gguf file or hub id.")]
Hypernet = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="MODEL's hypernetwork, from `tokenlayer transfer hypernet`.")
]
Method = Annotated[str, typer.Option(help="Rows of new units: hypernet; fvt (mean of the pieces) or random.")]
Boundary = Annotated[str, typer.Option(help="What units never cross: pretoken, word, word_hyphen or sentence.")]
Per = Annotated[str, typer.Option(help="Whose frequencies decide: batch or sample.")]
Language = Annotated[str, typer.Option(help="For a hypernetwork that was trained with languages.")]
Merges = Annotated[int | None, typer.Option(min=0, help="At most so many merges in a batch; 0: plain tokens.")]
Reduction = Annotated[
    float | None, typer.Option(help="Share of what merging can save, 0 to 1; 0.5 if nothing is asked.")
]
Shorter = Annotated[float | None, typer.Option(help="Share of all tokens to save, as far as merging can.")]
Frozen = Annotated[
    Path | None, typer.Option(metavar="MERGES.TXT", help="Make these merges instead of frequent ones: reproducible.")
]

ENCODE_EXAMPLE = """\b
Example:
  tokenlayer transfer dynamic encode ./minilm sentences.txt --hypernet hn --reduction 0.5 --out vectors
"""


@app.callback()
def dynamic() -> None:
    """Read texts in fewer tokens: merge what is frequent in a batch, predict the rows on the fly."""


@app.command("encode", epilog=ENCODE_EXAMPLE)
def encode(
    model: Model,
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="One text a line, or JSON lines or Parquet.")],
    *,
    out: common.Out,
    hypernet: Hypernet = None,
    merges: Merges = None,
    reduction: Reduction = None,
    shorter: Shorter = None,
    frozen: Frozen = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts whose frequencies decide together.")] = 32,
    pool: Annotated[
        str, typer.Option(help="A unit weighs as its tokens did (tokens), or all alike (units).")
    ] = "tokens",
    boundary: Boundary = "pretoken",
    per: Per = "batch",
    method: Method = "hypernet",
    language: Language = "",
    max_length: Annotated[int | None, typer.Option(min=1, help="Tokens of a text before merging.")] = None,
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Write one vector for each text."""
    from tokenlayer.app import dynamic as jobs
    from tokenlayer.app.render import render

    report = jobs.encode(
        model,
        texts,
        out,
        hypernet=hypernet,
        merges=merges,
        reduction=reduction,
        shorter=shorter,
        frozen=frozen,
        batch=batch,
        pool=pool,
        boundary=boundary,
        per=per,
        method=method,
        language=language,
        max_length=max_length,
        dtype=dtype,
        device=device,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


EVALUATE_EXAMPLE = """\b
Example:
  tokenlayer transfer dynamic evaluate ./smollm2 --hypernet hypernets/smollm2-135m \\
      --eval news-de.txt:de --method hypernet --method fvt --out report
"""


@app.command("evaluate", epilog=EVALUATE_EXAMPLE)
def evaluate(
    model: Model,
    *,
    evaluate: Annotated[list[str], typer.Option("--eval", metavar="FILE[:LANG]", help="Text to read. Repeat.")],
    hypernet: Hypernet = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and its page.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="hypernet, fvt or random. Repeat to compare.")] = None,
    reduction: Annotated[list[float] | None, typer.Option(help="Shares of what merging can save. Repeat.")] = None,
    shorter: Annotated[list[float] | None, typer.Option(help="Instead: shares of all tokens to save. Repeat.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts whose frequencies decide together.")] = 32,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a prompt; of encoders, of a text at most.")] = 128,
    continuation: Annotated[int, typer.Option(min=1, help="Decoders: tokens scored behind a prompt.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Prompts or texts of each file at most.")] = 128,
    eval_bytes: Annotated[int, typer.Option(min=1, help="Bytes of each file that are looked at.")] = 200_000,
    boundary: Boundary = "pretoken",
    per: Per = "batch",
    language: Language = "",
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    seed: common.Seed = 0,
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say how much shorter texts get, and what that costs."""
    from tokenlayer.app import dynamic as jobs
    from tokenlayer.app.render import render

    report = jobs.evaluate(
        model,
        evaluate,
        hypernet=hypernet,
        out=out,
        eval_bytes=eval_bytes,
        options={
            "methods": tuple(method) if method else None,
            "reductions": tuple(reduction) if reduction else None,
            "shorter": tuple(shorter) if shorter else None,
            "batch": batch,
            "context": context,
            "continuation": continuation,
            "samples": samples,
        },
        boundary=boundary,
        per=per,
        language=language,
        seed=seed,
        dtype=dtype,
        device=device,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


GENERATE_EXAMPLE = """\b
Example:
  tokenlayer transfer dynamic generate ./smollm2 "The tokenizer of a language model" \\
      --hypernet hypernets/smollm2-135m --vocab big --max-new-tokens 40
"""


@app.command("generate", epilog=GENERATE_EXAMPLE)
def generate(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="Texts to go on from.")],
    *,
    hypernet: Hypernet = None,
    vocab: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Choose from this very large vocabulary, see build-index.")
    ] = None,
    merges: Merges = None,
    reduction: Reduction = None,
    shorter: Shorter = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from that many of the candidates.")] = 10,
    min_p: Annotated[float, typer.Option(help="Leave out tokens under this share of the likeliest one.")] = 0.1,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens that were there count less.")] = 1.0,
    eos_bias: Annotated[float, typer.Option(help="Added to the logits of the end tokens.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which to end. Repeat for more.")] = None,
    boundary: Boundary = "pretoken",
    per: Per = "batch",
    method: Method = "hypernet",
    language: Language = "",
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    seed: common.Seed = 0,
    config: common.Config = None,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Read prompts in fewer tokens, and go on from them."""
    from tokenlayer.app import dynamic as jobs
    from tokenlayer.app.render import render

    report = jobs.generate(
        model,
        prompts,
        hypernet=hypernet,
        vocab=vocab,
        merges=merges,
        reduction=reduction,
        shorter=shorter,
        options={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "eos_bias": eos_bias,
            "stop": tuple(stop or ()),
            "seed": seed,
        },
        boundary=boundary,
        per=per,
        method=method,
        language=language,
        dtype=dtype,
        device=device,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


INDEX_EXAMPLE = """\b
Example:
  tokenlayer transfer dynamic build-index ./smollm2 --hypernet hypernets/smollm2-135m \\
      --texts en:news.txt.zst --size 200000 --out big

\b
An index needs pip install 'tokenlayer\\[ann]'; --index exact does without.
"""


@app.command("build-index", epilog=INDEX_EXAMPLE)
def build_index(
    model: Model,
    *,
    out: common.Out,
    hypernet: Hypernet = None,
    texts: Annotated[
        list[str] | None, typer.Option(metavar="[GROUP[=WEIGHT]:]FILE", help="Go on learning tokens on these. Repeat.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Tokens in all, with --texts.")] = None,
    tokens_of: Annotated[
        str | None, typer.Option(metavar="TOKENIZER", help="Instead: take the tokens of this tokenizer.")
    ] = None,
    index: Annotated[str, typer.Option(help="auto, exact, screen, ivf or hnsw.")] = "auto",
    states: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Texts like those to generate: makes a screen index twice as fast."),
    ] = None,
    rows_dtype: Annotated[str, typer.Option(help="Of the rows: float32, bfloat16 or float16.")] = "float32",
    method: Method = "hypernet",
    language: Language = "",
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    config: common.Config = None,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Predict rows for many new tokens, and index them to generate from."""
    from tokenlayer.app import dynamic as jobs
    from tokenlayer.app.render import render

    report = jobs.build_index(
        model,
        out,
        hypernet=hypernet,
        texts=tuple(texts or ()),
        size=size,
        tokens_of=tokens_of,
        index=index,
        states=states,
        rows_dtype=rows_dtype,
        method=method,
        language=language,
        dtype=dtype,
        device=device,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)
