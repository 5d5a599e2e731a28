"""Where the rows of chosen tokens come from: the source tokens behind each, with their shares.

Every initialiser but the hypernetwork returns a row plan, so one look serves all of them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.report import Report
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.models.loading import opened_model
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer
from tokenlayer.transfer.initialisers import AUTO, INITIALISERS, best_for, check_init, make_plan
from tokenlayer.transfer.materials import Materials, given_for
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.target import prepare_target

SHOWN = 10
"""Source tokens of a row that are shown."""


def explain(
    model: str | Path,
    tokenizer: str | Path,
    tokens: Sequence[str],
    *,
    init: str = "pieces",
    materials: Materials | None = None,
    top: int = SHOWN,
    seed: int = 0,
    pre_tokenizer: str | None = None,
) -> Report:
    """Plans a swap and shows the rows of a few tokens; nothing is written.

    Args:
        model: checkpoint folder, GGUF file or hub id.
        tokenizer: the tokenizer to move to.
        tokens: texts. One that is a token (its bytes, or its name in the file) stands for it; any other is cut by the
            target tokenizer, and each of its tokens is shown.
        init: an initialiser; see `INITIALISERS`.
        materials: what it needs.
        top: source tokens of each row that are shown, largest share first.
        seed: for initialisers that draw rows.
        pre_tokenizer: of a bare tiktoken rank file.

    Returns:
        A report with the table `rows`: token, rule, source token, share; and all shares of these rows under
        `data["rows"]`.

    Raises:
        BadOption: no token, one that is empty, `top` below 1, an unknown initialiser, or one whose materials are
            not given.
    """
    materials = materials or Materials()
    if choose("init", init, [*INITIALISERS, AUTO]) == AUTO:
        init, _ = best_for(materials)
    check_init(init, materials)
    if top < 1:
        raise BadOption(f"top is {top}, expected at least 1", hint=f"{SHOWN} is the default")
    if not tokens or not all(tokens):
        raise BadOption("no token to explain" if not tokens else "a token to explain is empty", hint="--token TEXT")
    wanted = load_tokenizer(tokenizer, pre_tokenizer=pre_tokenizer)
    with tempfile.TemporaryDirectory() as scratch, opened_model(model, Path(scratch)) as source:
        report = Report(
            f"Rows of {wanted.where} by {init}",
            settings={"model": str(model), "tokenizer": str(tokenizer), "init": init, "token": list(tokens)},
            next_command=f"tokenlayer swap {model} {tokenizer} --init {init} --out DIR",
        )
        target = prepare_target(source.tokenizer, wanted, fixed_pad=source.fixed_pad)
        plan = make_plan(init, given_for(source, target, materials, report.warn), seed)
    ids = list(dict.fromkeys(i for text in tokens for i in token_ids(target.tokenizer, text)))
    for rule, count in plan.counts().items():
        report.add("rows", count, "rows", n=plan.new_vocab, source=rule)
    rows = [row for i in ids for row in _rows(plan, target.pair, i, top)]
    report.add_table("rows", ("token", "rule", "source token", "share"), rows)
    report.data["rows"] = [_data(plan, target.pair, i) for i in ids]
    return report


def token_ids(tokenizer: LoadedTokenizer, text: str) -> list[int]:
    """The token that a text is, by its bytes or else by its name; otherwise the tokens that it is cut into.

    Raises:
        BadOption: the tokenizer makes nothing of the text.
    """
    vocab = tokenizer.vocab
    found = vocab.find(text.encode("utf-8", "surrogatepass"))
    found = vocab.find_name(text) if found is None else found
    ids = tokenizer.encode(text) if found is None else [found]
    if not ids:
        raise BadOption(f"{tokenizer.where} makes no token of {text!r}", hint="give a text that it can encode")
    return ids


def _rows(plan: RowPlan, pair: Pair, token_id: int, top: int) -> Iterator[tuple[str, str, str, float]]:
    """Table rows of one token; the token and its rule stand in the first."""
    shares = sorted(plan.shares(token_id).items(), key=lambda entry: (-abs(entry[1]), entry[0]))
    token, rule = pair.target.label(token_id), plan.origin[token_id]
    if not shares:
        yield token, rule, "nothing: zeros", 0.0
    for j, share in shares[:top]:
        yield token, rule, _label(plan, pair, j), share
        token = rule = ""
    if rest := shares[top:]:
        yield "", "", f"and {len(rest)} more", sum(share for _, share in rest)


def _label(plan: RowPlan, pair: Pair, token_id: int) -> str:
    return "the mean row" if token_id == plan.old_vocab else pair.source.label(token_id)


def _data(plan: RowPlan, pair: Pair, token_id: int) -> dict[str, object]:
    noisy = plan.noise is not None and bool((plan.noise.rows == token_id).any())
    return {
        "id": token_id,
        "token": pair.target.label(token_id),
        "rule": plan.origin[token_id],
        "noise": noisy,
        "sources": [
            {"id": j if j < plan.old_vocab else None, "token": _label(plan, pair, j), "share": share}
            for j, share in plan.shares(token_id).items()
        ],
    }
