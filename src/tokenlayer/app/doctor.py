"""What is inside a model or tokenizer, and what would break in a swap, a conversion or a reload."""

from collections import Counter
from pathlib import Path
from typing import Any

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.report import Report
from tokenlayer.core.vocab import Kind, show
from tokenlayer.models.checkpoint import Checkpoint
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer

SHOWN = 8
KINDS = {"decoder": "decoder", "masked": "encoder with a masked head", "encoder": "encoder without a head"}


def doctor(what: str | Path) -> Report:
    """Examines a checkpoint folder, a GGUF file, a tokenizer folder or a tokenizer file.

    Args:
        what: path, or hub id when no such path exists.

    Returns:
        Facts as metrics and tables, and one warning for each thing that would go wrong.

    Raises:
        BadCheckpoint: a model that cannot be read at all.
        BadTokenizer: a tokenizer that cannot be read at all.
    """
    report = Report(title=f"{what}")
    report.settings = {"what": str(what)}
    checkpoint = _checkpoint(Path(what), report)
    tokenizer = _tokenizer(what, checkpoint, report)
    if tokenizer is not None:
        _examine_tokenizer(tokenizer, report)
        _examine_template(tokenizer, report)
        _examine_reload(Path(what), tokenizer, report)
        if checkpoint is not None:
            _examine_rows(checkpoint, tokenizer, report)
    model, name = (str(what), "TOKENIZER") if checkpoint is not None else ("MODEL", str(what))
    report.next_command = f"tokenlayer swap {model} {name} --out DIR --dry-run"
    return report


def _checkpoint(path: Path, report: Report) -> Checkpoint | None:
    """The opened checkpoint, None where the path is only a tokenizer."""
    from tokenlayer.models.checkpoint import open_checkpoint

    if not (path.is_dir() and any(p.suffix in (".safetensors", ".bin", ".pt", ".pth") for p in path.iterdir())):
        return None
    checkpoint = open_checkpoint(path)
    rows = checkpoint.rows
    size = sum(info.bytes for info in checkpoint.tensors.values())
    facts = [
        ("architecture", checkpoint.architecture or "not named in config.json"),
        ("kind", KINDS[checkpoint.kind]),
        ("input rows", f"{rows.input}, {rows.rows} x {rows.dim}, {checkpoint.dtype}".replace("torch.", "")),
        ("output rows", rows.output or ("tied to the input rows" if rows.tied else "none")),
        ("output bias", ", ".join(rows.biases) or "none"),
        (
            "weights",
            f"{len(checkpoint.shards)} files, {size / 1e6:,.0f} MB, of it tables {_tables(checkpoint):,.0f} MB",
        ),
    ]
    report.add_table("model", ("what", "found"), facts)
    report.warnings += checkpoint.notes
    return checkpoint


def _tables(checkpoint: Checkpoint) -> float:
    return sum(checkpoint.tensors[name].bytes for name in checkpoint.rows.stored) / 1e6


def _tokenizer(what: str | Path, checkpoint: Checkpoint | None, report: Report) -> LoadedTokenizer | None:
    try:
        return load_tokenizer(what)
    except BadTokenizer as error:
        if checkpoint is None:
            raise
        report.warn(f"the model has no readable tokenizer: {error.message}")
        return None


def _examine_tokenizer(tokenizer: LoadedTokenizer, report: Report) -> None:
    vocab = tokenizer.vocab
    kinds = Counter(vocab.kinds)
    report.add("vocab size", len(vocab), "tokens")
    report.add_table(
        "tokenizer",
        ("what", "found"),
        [
            ("model", f"{vocab.model}, {vocab.family}"),
            ("tokens", ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())),
            ("merges", str(len(vocab.merges))),
            ("pre-tokenizer in llama.cpp", _llama_cpp(tokenizer, report)),
        ],
    )
    roles = [(role, i, vocab.names[i]) for role, i in vocab.roles.items()]
    report.add_table("special roles", ("role", "id", "token"), roles)
    for sentence in vocab.lossy:
        report.warn(sentence)
    if not {"eos", "sep"} & vocab.roles.keys():
        report.warn("no token has the role eos: generation will not know where to stop")
    missing = vocab.missing_bytes() if vocab.family == "byte-level" else []
    if missing:
        report.warn(f"{len(missing)} of the 256 bytes have no token of their own (first 0x{missing[0]:02x})")
    if vocab.duplicates():
        examples = ", ".join(show(data) for data in list(vocab.duplicates())[:3])
        report.warn(f"{len(vocab.duplicates())} byte strings have several tokens: {examples}")
    _examine_dead(tokenizer, report)
    _examine_added(tokenizer, report)


def _llama_cpp(tokenizer: LoadedTokenizer, report: Report) -> str:
    from tokenlayer.models.gguf_tokenizer import pre_tokenizer_name

    if tokenizer.vocab.family != "byte-level":
        return "not needed for this family"
    name = pre_tokenizer_name(tokenizer.data)
    if name is None:
        report.warn("llama.cpp has no name for this pre-tokenizer; conversion to GGUF will not recognise it")
    return name or "not known"


def _examine_dead(tokenizer: LoadedTokenizer, report: Report) -> None:
    """Tokens that the tokenizer's own model never makes of their bytes."""
    vocab = tokenizer.vocab
    added = {t["content"] for t in tokenizer.data.get("added_tokens") or ()}
    ids = [i for i, kind in enumerate(vocab.kinds) if kind is Kind.NORMAL and vocab.names[i] not in added]
    spelled = vocab.spell_all([vocab.tokens[i] for i in ids])
    dead = [(i, parts) for i, parts in zip(ids, spelled, strict=True) if parts != [i]]
    report.add("dead tokens", len(dead), "tokens", n=len(ids))
    if dead:
        rows = [(i, show(vocab.tokens[i]), " ".join(show(vocab.tokens[j]) for j in parts)) for i, parts in dead[:SHOWN]]
        report.add_table("dead tokens", ("id", "token", "is cut into"), rows, note=f"first {len(rows)} of {len(dead)}")


def _examine_added(tokenizer: LoadedTokenizer, report: Report) -> None:
    library = {t.content: i for i, t in tokenizer.backend.get_added_tokens_decoder().items()}
    for token in tokenizer.data.get("added_tokens") or ():
        got = library.get(token["content"])
        if got != token.get("id"):
            report.warn(
                f"the file gives the added token {token['content']!r} the id {token.get('id')}, the library reads {got}"
            )


def _examine_template(tokenizer: LoadedTokenizer, report: Report) -> None:
    template = tokenizer.chat_template
    if template is None:
        return
    vocab = tokenizer.vocab
    known = [vocab.names[i] for i in vocab.control_ids() if vocab.names[i] and vocab.names[i] in template]
    report.add_table(
        "chat template", ("control token", "id"), [(name, vocab.find_name(name)) for name in known[:SHOWN]]
    )
    if not known:
        report.warn("the chat template writes none of the control tokens: its markers would be cut into text pieces")


def _examine_reload(path: Path, tokenizer: LoadedTokenizer, report: Report) -> None:
    """Whether `AutoTokenizer` gives the ids of tokenizer.json."""
    if not (path / "tokenizer.json").is_file():
        return
    from tokenlayer.models.verify import auto_tokenizer_differs

    problem = auto_tokenizer_differs(path, tokenizer)
    report.data["auto tokenizer"] = problem or "same ids"
    if problem:
        report.warn(problem)


def _examine_rows(checkpoint: Checkpoint, tokenizer: LoadedTokenizer, report: Report) -> None:
    rows, size = checkpoint.rows.rows, len(tokenizer.vocab)
    report.add("rows", rows, "rows")
    report.add("padded rows", max(rows - size, 0), "rows")
    if size > rows:
        report.warn(f"{size - rows} tokens have no row; the first is {tokenizer.vocab.label(rows)}")
    configured: dict[str, Any] = checkpoint.text_config
    for role in ("bos", "eos", "pad"):
        said, ours = configured.get(f"{role}_token_id"), tokenizer.vocab.roles.get(role)
        listed = said if isinstance(said, list) else [said]
        if said is not None and ours is not None and ours not in listed:
            report.warn(f"config.json says {role} is {said}, the tokenizer says {ours} ({tokenizer.vocab.names[ours]})")
