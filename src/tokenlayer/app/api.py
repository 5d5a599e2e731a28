"""The library's entries in Python: each command is one of these calls."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadOption
from tokenlayer.core.report import Report


def swap(
    model: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    *,
    eval: Sequence[str] = (),
    eval_bytes: int = 20_000,
    generate: Sequence[str] = (),
    texts: Sequence[str] = (),
    source_texts: Sequence[str] = (),
    vectors: str | Path = "",
    source_vectors: str | Path = "",
    dictionary: str | Path = "",
    swap_dictionary: bool = False,
    donor: str | Path = "",
    hypernet: str | Path = "",
    init_config: str | Path = "",
    exclude_untrained: bool = False,
    heal: Sequence[str] = (),
    budget: int = 500_000,
    heal_train: str = "rows",
    heal_rate: float | None = None,
    distill: float = 0.0,
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Gives a model another tokenizer, writes an ordinary folder with report and model card.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizer: folder, tokenizer.json, SentencePiece model, tiktoken ranks, GGUF or hub id.
        out: the folder to write.
        eval: `FILE[:LANG]` of each text to score before and after: text, JSON lines, Parquet, a folder, also .zst.
        eval_bytes: bytes of each text that are scored.
        generate: prompts to continue greedily before and after.
        texts: what initialisers need, as the nine that follow: see `tokenlayer.transfer.materials.Materials`.
        source_texts: see `Materials`.
        vectors: see `Materials`.
        source_vectors: see `Materials`.
        dictionary: see `Materials`.
        swap_dictionary: see `Materials`.
        donor: see `Materials`.
        hypernet: see `Materials`.
        init_config: see `Materials`.
        exclude_untrained: see `Materials`.
        heal: `[GROUP[=WEIGHT]:]PATH` of each text to train on after the swap.
        budget: tokens to train on.
        heal_train: what is trained: rows, new-rows, lora, all.
        heal_rate: learning rate; None takes the one for what is trained.
        distill: share of the training loss that comes from the source model.
        force: replace an existing folder.
        dry_run: report the plan, write nothing.
        quiet: no progress bars.
        options: the other fields of `tokenlayer.transfer.swap.SwapConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_report_files
    from tokenlayer.data.sources import parse_eval_spec
    from tokenlayer.transfer.heal import HealConfig
    from tokenlayer.transfer.materials import Materials
    from tokenlayer.transfer.swap import SwapConfig, read_texts
    from tokenlayer.transfer.swap import swap as run

    given: dict[str, Any] = {
        "texts": tuple(texts),
        "source_texts": tuple(source_texts),
        "vectors": str(vectors),
        "source_vectors": str(source_vectors),
        "dictionary": str(dictionary),
        "swap_dictionary": swap_dictionary,
        "donor": str(donor),
        "hypernet": str(hypernet),
        "init_config": str(init_config),
        "exclude_untrained": exclude_untrained,
    }
    materials = Materials(**given)
    scored = read_texts([parse_eval_spec(spec) for spec in eval], eval_bytes)
    healing = None
    if heal:
        healing = HealConfig(tuple(heal), budget, heal_train, learning_rate=heal_rate, distill=distill)
        given |= {"heal": list(heal), "budget": budget, "heal_train": heal_train, "heal_rate": heal_rate}
        given["distill"] = distill
    elif distill:
        raise BadOption("distill needs texts to train on", hint="give one with --heal FILE")
    config = SwapConfig(texts=scored, prompts=tuple(generate), materials=materials, heal=healing, **options)
    flags: dict[str, Any] = {"model": str(model), "tokenizer": str(tokenizer), "out": str(out), "eval": list(eval)}
    flags |= {"eval_bytes": eval_bytes, "generate": list(generate), **given}
    flags |= {name: value for name, value in options.items() if isinstance(value, str | int | float)}
    with steps(quiet) as progress:
        return run(
            model,
            tokenizer,
            Path(out),
            config,
            force=force,
            dry_run=dry_run,
            finish=partial(write_report_files, flags=flags),
            progress=progress,
        )


def explain(
    model: str | Path,
    tokenizer: str | Path,
    tokens: Sequence[str],
    *,
    init: str = "pieces",
    top: int = 10,
    seed: int = 0,
    pre_tokenizer: str | None = None,
    **materials: Any,
) -> Report:
    """Shows which source tokens the rows of a few target tokens would be made of; nothing is written.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizer: the tokenizer to move to.
        tokens: tokens, or texts that are cut into tokens.
        init: how rows are made.
        top: source tokens that are shown of each row.
        seed: for initialisers that draw rows.
        pre_tokenizer: of a bare tiktoken rank file.
        materials: the fields of `tokenlayer.transfer.materials.Materials`.

    Raises:
        TokenLayerError: a subclass that says what is wrong.
    """
    from tokenlayer.transfer.explain import explain as run
    from tokenlayer.transfer.materials import Materials

    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in materials.items()}
    return run(
        model,
        tokenizer,
        tokens,
        init=init,
        materials=Materials(**given),
        top=top,
        seed=seed,
        pre_tokenizer=pre_tokenizer,
    )


def learn(
    sources: Sequence[str],
    out: str | Path,
    *,
    like: str | Path | None = None,
    suffixes: tuple[str, ...] = (),
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Learns a tokenizer from texts and writes an ordinary tokenizer folder.

    Args:
        sources: `[GROUP[=WEIGHT]:]PATH` of each file or folder of texts.
        out: the folder to write.
        like: a tokenizer whose stages, special tokens and roles the new one takes over.
        suffixes: only these files of a folder.
        force: replace an existing tokenizer folder.
        dry_run: only estimate memory.
        quiet: no progress bar.
        options: the fields of `tokenlayer.tokenizer.config.LearnConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import progress_bar
    from tokenlayer.data.readers import ReadOptions
    from tokenlayer.tokenizer.config import LearnConfig
    from tokenlayer.tokenizer.learn import learn as run

    with progress_bar(None, "bytes read", quiet) as advance:
        return run(
            sources,
            Path(out),
            LearnConfig(**options),
            like=like,
            options=ReadOptions(suffixes=suffixes),
            force=force,
            dry_run=dry_run,
            progress=advance,
        )


def expand(
    tokenizer: str | Path,
    sources: Sequence[str],
    out: str | Path,
    *,
    add: int,
    limit_bytes: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Learns further tokens for a tokenizer, after all that it has, and writes an ordinary tokenizer folder.

    Args:
        tokenizer: folder or file of a byte-level or SentencePiece BPE.
        sources: `[GROUP[=WEIGHT]:]PATH` of the texts.
        out: the folder to write.
        add: how many tokens to add.
        limit_bytes: learn from a sample of this size.
        force: replace an existing tokenizer folder.
        dry_run: learn and report, write nothing.
        quiet: no progress bar.
        options: the fields of `tokenlayer.transfer.expand.ExpandConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.transfer.expand import ExpandConfig
    from tokenlayer.transfer.expand_folder import expand_folder

    with steps(quiet) as tell:
        return expand_folder(
            tokenizer,
            sources,
            Path(out),
            add,
            ExpandConfig(**options),
            limit_bytes=limit_bytes,
            force=force,
            dry_run=dry_run,
            progress=partial(tell, "tokens learned"),
        )


def compare(
    model: str | Path,
    tokenizers: Sequence[str],
    out: str | Path,
    *,
    eval: Sequence[str],
    eval_bytes: int = 20_000,
    inits: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    materials: Mapping[str, Any] | None = None,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Scores a model with several tokenizers and initialisers; running it again goes on where it stopped.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizers: `[NAME:]PATH` of each tokenizer to move to.
        out: folder for `runs.jsonl`, `report.html` and `tokenlayer.json`.
        eval: `FILE[:LANG]` of each text to score.
        eval_bytes: bytes of each text that are scored.
        inits: names of initialisers; the default of `CompareConfig` when empty.
        seeds: for initialisers that draw rows.
        materials: as in `swap`; a path written `NAME:PATH` is for the tokenizer of that name alone.
        quiet: no progress bar.
        options: the other fields of `tokenlayer.transfer.comparison.CompareConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; finished runs are kept.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_comparison
    from tokenlayer.data.sources import parse_eval_spec, parse_source
    from tokenlayer.transfer.comparison import Candidate, CompareConfig
    from tokenlayer.transfer.comparison import compare as run
    from tokenlayer.transfer.materials import materials_for
    from tokenlayer.transfer.swap import read_texts

    texts = read_texts([parse_eval_spec(spec) for spec in eval], eval_bytes)
    chosen = tuple(inits) or CompareConfig.inits
    config = CompareConfig(inits=chosen, texts=texts, seeds=tuple(seeds), **options)
    places = [parse_source(spec) for spec in tokenizers]
    names = [place.group or Path(place.path).stem.removesuffix(".tokenizer") for place in places]
    found = [
        Candidate(name, place.path, materials_for(name, materials or {}, names))
        for name, place in zip(names, places, strict=True)
    ]
    with steps(quiet) as progress:
        report = run(model, found, Path(out), config, progress=progress)
    write_comparison(report, Path(out))
    return report


def terms(
    model: str | Path,
    out: str | Path | None = None,
    *,
    files: Sequence[str] = (),
    corpora: Sequence[str] = (),
    umls: str | Path = "",
    semantic_types: Sequence[str] = (),
    language: str = "ENG",
    size_of: Sequence[str] = (),
    explain: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Gives a WordPiece model pieces for types of domain terms, or explains how such a model cuts texts.

    Args:
        model: checkpoint folder or hub id; a folder that this wrote, if there are no terms.
        out: the folder to write.
        files: see `tokenlayer.transfer.terms.read_terms`, as the four that follow.
        corpora: see `read_terms`.
        umls: see `read_terms`.
        semantic_types: see `read_terms`.
        language: see `read_terms`.
        size_of: `TYPE=NUMBER` of pieces of single types.
        explain: texts to explain word by word.
        force: replace an existing folder.
        dry_run: build and report, write nothing.
        quiet: no progress bars.
        options: the other fields of `tokenlayer.transfer.ktokeniser.KTokeniserConfig`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_report_files
    from tokenlayer.app.report.command import terms_command
    from tokenlayer.transfer.ktokeniser import KTokeniserConfig, ktokeniser, parse_sizes
    from tokenlayer.transfer.ktokeniser_report import explain as explain_folder
    from tokenlayer.transfer.terms import read_terms

    if explain and out is None and not (files or corpora or umls):
        return explain_folder(model, explain)
    if out is None and not dry_run:
        raise BadOption("there is no folder to write to", hint="add --out DIR, or --dry-run")
    sizes: dict[str, Any] = {"sizes": parse_sizes(size_of)} if size_of else {}
    config = KTokeniserConfig(**sizes, **options)
    given: dict[str, Any] = {"out": str(out or ""), "terms": list(files), "corpus": list(corpora), "umls": str(umls)}
    given |= {"semantic_type": list(semantic_types), "language": language, "size_of": list(size_of), **options}
    found = read_terms(files, corpora, umls=umls, semantic_types=semantic_types, language=language)

    def finish(report: Report, folder: Path) -> None:
        flags = {"model": str(model), **given}
        report.settings["command"] = terms_command(flags)
        write_report_files(report, folder, flags=flags)

    with steps(quiet) as progress:
        return ktokeniser(
            model,
            found,
            Path(out or "."),
            config,
            explain=explain,
            force=force,
            dry_run=dry_run,
            finish=finish,
            progress=progress,
        )


def port(
    finetune: str | Path,
    base: str | Path,
    swapped: str | Path,
    out: str | Path,
    *,
    lam: float = 0.5,
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
) -> Report:
    """Gives a fine-tune the tokenizer that its base model was given, and writes an ordinary folder.

    Args:
        finetune: folder or hub id of the fine-tune.
        base: the model that it was tuned from.
        swapped: what `swap` made of the base.
        out: the folder to write.
        lam: share of the swap's change of the body that is added, 0 to 1.
        force: replace an existing folder.
        dry_run: compare and report, write nothing.
        quiet: no progress bars.

    Raises:
        TokenLayerError: a subclass that says what is wrong; nothing is left behind.
    """
    from tokenlayer.app.progress import steps
    from tokenlayer.app.report import write_report_files
    from tokenlayer.app.report.command import port_command
    from tokenlayer.transfer.port import port as run

    flags = {"model": str(finetune), "base": str(base), "swapped": str(swapped), "lambda": lam, "out": str(out)}

    def finish(report: Report, folder: Path) -> None:
        report.settings["command"] = port_command(flags)
        write_report_files(report, folder, flags=flags)

    with steps(quiet) as progress:
        return run(
            finetune,
            base,
            swapped,
            Path(out),
            lam=lam,
            force=force,
            dry_run=dry_run,
            finish=finish,
            progress=progress,
        )


def hypernet(
    model: str | Path,
    texts: Sequence[str],
    out: str | Path,
    *,
    preset: str = "paper",
    steps: int | None = None,
    changes: Mapping[str, Any] | None = None,
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> Report:
    """Trains a hypernetwork for a model, which then serves any tokenizer, and writes it as a folder.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        texts: `[LANGUAGE[=WEIGHT]:]PATH` of each text to train on.
        out: the folder to write.
        preset: paper or small: the numbers to begin with.
        steps: all steps; the stages keep their shares.
        changes: fields of `tokenlayer.transfer.zett.config.ZettConfig` (and `vocab_size` of its sampler) that differ
            from the preset; None keeps the preset's.
        force: replace an existing folder.
        dry_run: say how large and how slow it would be, write nothing.
        quiet: no progress bars.
        options: the other fields of `tokenlayer.transfer.zett.train.HypernetRun`.

    Raises:
        TokenLayerError: a subclass that says what is wrong; a stopped run keeps its state.
    """
    from tokenlayer.app.progress import steps as shown
    from tokenlayer.app.report import write_report_files
    from tokenlayer.app.report.command import hypernet_command
    from tokenlayer.transfer.zett.config import ZettConfig
    from tokenlayer.transfer.zett.train import HypernetRun, train_hypernet

    given = {name: value for name, value in (changes or {}).items() if value is not None}
    given |= {"identity_steps": 0} if options.get("start") else {}
    config = HypernetRun(tuple(texts), ZettConfig.chosen(preset, steps, given), **options)
    flags: dict[str, Any] = {"model": str(model), "texts": list(texts), "out": str(out), "preset": preset}
    flags |= {"steps": steps, **given, **options}
    flags["dtype"] = flags.pop("precision", "float32")
    flags = {name: value for name, value in flags.items() if value is not None}

    def finish(report: Report, folder: Path) -> None:
        report.settings["command"] = hypernet_command(flags)
        write_report_files(report, folder, flags=flags)

    with shown(quiet) as progress:
        return train_hypernet(model, Path(out), config, force=force, dry_run=dry_run, finish=finish, progress=progress)


def doctor(what: str | Path) -> Report:
    """Says what is inside a model or tokenizer, and what would break in a swap.

    Raises:
        TokenLayerError: nothing readable is there.
    """
    from tokenlayer.app.doctor import doctor as run

    return run(what)


def load_report(folder: str | Path) -> Report:
    """Reads the report that `swap` or `learn` left in a folder.

    Raises:
        BadText: there is none.
    """
    return Report.load(Path(folder) / "tokenlayer.json")
