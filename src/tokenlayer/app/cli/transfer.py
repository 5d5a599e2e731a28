"""`tokenlayer transfer`: give a model another tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from tokenlayer.app.cli import common, dynamic, port, terms
from tokenlayer.app.cli import hypernet as hypernet_command

app = typer.Typer(help="Give a model another tokenizer.")

EXAMPLE = """\b
Example:
  tokenlayer swap HuggingFaceTB/SmolLM2-135M ./turkish/tokenizer.json \\
      --out smol-tr --eval news-tr.txt:tr --generate "Bir zamanlar"

\b
Word vectors that are trained from --texts need pip install 'tokenlayer\\[vectors]'.
"""


@app.callback()
def transfer() -> None:
    """Give a model another tokenizer."""


@app.command("swap", epilog=EXAMPLE)
def swap(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, .gguf file or hub id.")],
    tokenizer: Annotated[
        str, typer.Argument(metavar="TOKENIZER", help="Folder, tokenizer.json, .model, .tiktoken, .gguf, hub id.")
    ],
    *,
    out: common.Out,
    init: Annotated[
        str, typer.Option(help="How new rows are made, see `tokenlayer list transfer`; auto picks.")
    ] = "pieces",
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="FILE[:LANG]", help="Text to score before and after. Repeat for more."),
    ] = None,
    eval_bytes: Annotated[int, typer.Option(min=1, help="Bytes scored of each text.")] = 20_000,
    generate: Annotated[
        list[str] | None,
        typer.Option(metavar="PROMPT", help="Continue PROMPT greedily before and after. Repeat for more."),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Text that the new tokenizer is meant for, for inits that learn from it."),
    ] = None,
    source_texts: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Text of the kind that MODEL knows already.")
    ] = None,
    vectors: Annotated[str, typer.Option(metavar="FILE", help="Word vectors of the new texts' language.")] = "",
    source_vectors: Annotated[str, typer.Option(metavar="FILE", help="Word vectors of the language MODEL knows.")] = "",
    dictionary: Annotated[str, typer.Option(metavar="TSV", help="Word list: source word TAB target words.")] = "",
    swap_dictionary: Annotated[
        bool, typer.Option("--swap-dictionary", help="The word list goes from target to source.")
    ] = False,
    donor: Annotated[str, typer.Option(metavar="MODEL", help="A model whose own tokenizer is TOKENIZER.")] = "",
    hypernet: Annotated[
        str, typer.Option(metavar="FOLDER", help="Of `tokenlayer transfer hypernet MODEL`, for --init zett.")
    ] = "",
    init_config: Annotated[
        str,
        typer.Option(
            metavar="NAME|TOML", help="Settings of --init: `fast` (cw2v), `copy` (zett), or a file with its fields."
        ),
    ] = "",
    exclude_untrained: Annotated[
        bool, typer.Option("--exclude-untrained", help="Keep rows that were never trained out of means and mixtures.")
    ] = False,
    heal: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Train on this text after the swap. Repeat for more.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Tokens to train on with --heal.")] = 500_000,
    heal_train: Annotated[str, typer.Option(help="What --heal trains: rows, new-rows, lora, all, hypernet.")] = "rows",
    heal_rate: Annotated[float | None, typer.Option(help="Learning rate of --heal; each --heal-train has one.")] = None,
    distill: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the --heal loss that MODEL itself teaches, 0 to 1.")
    ] = 0.0,
    specials: Annotated[
        str, typer.Option(help="Control tokens that the model uses and TOKENIZER lacks: add, keep.")
    ] = "add",
    pre_tokenizer: Annotated[str | None, typer.Option(help="Pre-tokenizer of a bare tiktoken file.")] = None,
    byte_level: Annotated[
        bool, typer.Option("--byte-level", help="Rewrite TOKENIZER in bytes first: same ids, nothing unknown.")
    ] = False,
    pad_multiple: Annotated[int, typer.Option(min=1, help="Round the number of rows up to a multiple of this.")] = 1,
    split: Annotated[
        bool, typer.Option("--split", help="Tables in a file of their own: later swaps link the other one.")
    ] = False,
    check_hull: Annotated[
        bool, typer.Option("--check-hull", help="Say whether a new token could win where an old one did.")
    ] = False,
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    seed: common.Seed = 0,
    config: common.Config = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Give MODEL another tokenizer and write a normal checkpoint."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.swap(
        model,
        tokenizer,
        out,
        init=init,
        eval=evaluate or [],
        eval_bytes=eval_bytes,
        generate=generate or [],
        texts=texts or [],
        source_texts=source_texts or [],
        vectors=vectors,
        source_vectors=source_vectors,
        dictionary=dictionary,
        swap_dictionary=swap_dictionary,
        donor=donor,
        hypernet=hypernet,
        init_config=init_config,
        exclude_untrained=exclude_untrained,
        heal=heal or [],
        budget=budget,
        heal_train=heal_train,
        heal_rate=heal_rate,
        distill=distill,
        specials=specials,
        pre_tokenizer=pre_tokenizer,
        byte_level=byte_level,
        pad_multiple=pad_multiple,
        split=split,
        check_hull=check_hull,
        dtype=dtype,
        device=device,
        seed=seed,
        dry_run=dry_run,
        force=force,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


EXPLAIN_EXAMPLE = """\b
Example:
  tokenlayer transfer explain MODEL tok-sw --token " maji" --init wechsel \\
      --texts sw.txt --source-texts en.txt --dictionary eng-swh.tsv
"""


@app.command("explain", epilog=EXPLAIN_EXAMPLE)
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, .gguf file or hub id.")],
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="The tokenizer to move to.")],
    *,
    token: Annotated[
        list[str], typer.Option(metavar="TEXT", help="A token of it, or a text that it cuts. Repeat for more.")
    ],
    init: Annotated[str, typer.Option(help="How new rows are made, see `tokenlayer list transfer`.")] = "pieces",
    top: Annotated[int, typer.Option(min=1, help="Source tokens shown of each row.")] = 10,
    texts: Annotated[list[str] | None, typer.Option(metavar="FILE", help="As for swap.")] = None,
    source_texts: Annotated[list[str] | None, typer.Option(metavar="FILE", help="As for swap.")] = None,
    vectors: Annotated[str, typer.Option(metavar="FILE", help="As for swap.")] = "",
    source_vectors: Annotated[str, typer.Option(metavar="FILE", help="As for swap.")] = "",
    dictionary: Annotated[str, typer.Option(metavar="TSV", help="As for swap.")] = "",
    swap_dictionary: Annotated[bool, typer.Option("--swap-dictionary", help="As for swap.")] = False,
    donor: Annotated[str, typer.Option(metavar="MODEL", help="As for swap.")] = "",
    hypernet: Annotated[str, typer.Option(metavar="FOLDER", help="As for swap.")] = "",
    init_config: Annotated[str, typer.Option(metavar="NAME|TOML", help="As for swap.")] = "",
    pre_tokenizer: Annotated[str | None, typer.Option(help="Pre-tokenizer of a bare tiktoken file.")] = None,
    seed: common.Seed = 0,
    config: common.Config = None,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Show which tokens of MODEL the rows of new tokens are made of."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.explain(
        model,
        tokenizer,
        token,
        init=init,
        top=top,
        texts=texts or [],
        source_texts=source_texts or [],
        vectors=vectors,
        source_vectors=source_vectors,
        dictionary=dictionary,
        swap_dictionary=swap_dictionary,
        donor=donor,
        hypernet=hypernet,
        init_config=init_config,
        pre_tokenizer=pre_tokenizer,
        seed=seed,
    )
    render(report, as_json=as_json, quiet=quiet)


COMPARE_EXAMPLE = """\b
Example:
  tokenlayer transfer compare MODEL --to tr:tok-tr --to qwen:qwen3/tokenizer.json --out runs --eval news.txt:tr
      --init pieces --init focus --texts tr:train-tr.txt
"""


@app.command("compare", epilog=COMPARE_EXAMPLE)
def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, .gguf file or hub id.")],
    *,
    to: Annotated[list[str], typer.Option(metavar="[NAME:]TOKENIZER", help="A tokenizer to move to. Repeat for more.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; those that are finished are not repeated.")],
    evaluate: Annotated[list[str], typer.Option("--eval", metavar="FILE[:LANG]", help="Text to score. Repeat.")],
    eval_bytes: Annotated[int, typer.Option(min=1, help="Bytes scored of each text.")] = 20_000,
    init: Annotated[list[str] | None, typer.Option(help="An initialiser; see `tokenlayer list transfer`.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="For initialisers that draw rows; 0, 1, 2 if none.")] = None,
    texts: Annotated[
        list[str] | None, typer.Option(metavar="[NAME:]FILE", help="Text that a tokenizer is meant for.")
    ] = None,
    source_texts: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Text of the kind that MODEL knows already.")
    ] = None,
    vectors: Annotated[list[str] | None, typer.Option(metavar="[NAME:]FILE", help="Word vectors.")] = None,
    source_vectors: Annotated[str, typer.Option(metavar="FILE", help="Word vectors of MODEL's language.")] = "",
    dictionary: Annotated[list[str] | None, typer.Option(metavar="[NAME:]TSV", help="Word list.")] = None,
    donor: Annotated[list[str] | None, typer.Option(metavar="[NAME:]MODEL", help="Model of that tokenizer.")] = None,
    hypernet: Annotated[str, typer.Option(metavar="FOLDER", help="As for swap.")] = "",
    init_config: Annotated[
        str, typer.Option(metavar="NAME|TOML", help="As for swap, for the inits that have a config of their own.")
    ] = "",
    dtype: common.Dtype = None,
    device: common.Device = "cpu",
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Score MODEL with several tokenizers and initialisers, one table and plot."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.compare(
        model,
        to,
        out,
        eval=evaluate,
        eval_bytes=eval_bytes,
        inits=init or (),
        seeds=seed or (0, 1, 2),
        materials={
            "texts": tuple(texts or ()),
            "source_texts": tuple(source_texts or ()),
            "vectors": tuple(vectors or ()),
            "source_vectors": source_vectors,
            "dictionary": tuple(dictionary or ()),
            "donor": tuple(donor or ()),
            "hypernet": hypernet,
            "init_config": init_config,
        },
        dtype=dtype,
        device=device,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


EXPAND_EXAMPLE = """\b
Example:
  tokenlayer transfer expand MODEL hi:hindi.txt.zst --add 8000 --out tok-hi
"""


@app.command("expand", epilog=EXPAND_EXAMPLE)
def expand(
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="Folder or file of a BPE tokenizer.")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="[GROUP[=WEIGHT]:]PATH of the texts.")],
    *,
    add: Annotated[int, typer.Option(help="Tokens to add.")],
    out: common.Out,
    drop_ascii: Annotated[
        bool, typer.Option(help="New tokens hold no ASCII but one leading space: English is cut as before.")
    ] = True,
    min_count: Annotated[int, typer.Option(help="A pair must occur this often.")] = 2,
    longest_bytes: Annotated[int | None, typer.Option(help="Longest new token.")] = None,
    limit_bytes: Annotated[int | None, typer.Option(min=1, help="Learn from a sample of this size.")] = None,
    dry_run: common.DryRun = False,
    force: common.Force = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Learn more tokens for TOKENIZER; old tokens, ids and merges stay."""
    from tokenlayer.app import api
    from tokenlayer.app.render import render

    report = api.expand(
        tokenizer,
        sources,
        out,
        add=add,
        drop_ascii=drop_ascii,
        min_count=min_count,
        longest_bytes=longest_bytes,
        limit_bytes=limit_bytes,
        force=force,
        dry_run=dry_run,
        quiet=quiet or as_json,
    )
    render(report, as_json=as_json, quiet=quiet)


app.command("terms", epilog=terms.EXAMPLE)(terms.terms)
app.add_typer(dynamic.app, name="dynamic")
app.command("port", epilog=port.EXAMPLE)(port.port)
app.command("hypernet", epilog=hypernet_command.EXAMPLE)(hypernet_command.hypernet)
