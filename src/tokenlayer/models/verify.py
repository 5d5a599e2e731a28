"""Reads a written checkpoint back with plain transformers and compares it with what was planned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenlayer.core.errors import VerifyFailed
from tokenlayer.models.checkpoint import Checkpoint, open_checkpoint
from tokenlayer.models.loading import load_model, quiet_transformers
from tokenlayer.models.tokenizer_files import LoadedTokenizer

PROBES = (
    "The quick brown fox jumps over the lazy dog. It's 3.14159, isn't it?",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # squares\n\n\n",
    "Straße, naïve café, İstanbul, ağaç, smörgåsbord, dŵr, Việt Nam, ọ̀rọ̀",
    "Все люди рождаются свободными и равными. Όλοι οι άνθρωποι.",
    "すべての人間は自由である。人人生而自由。모든 인간은 태어날 때부터 자유롭다.",
    "सभी मनुष्यों को गौरव। يولد جميع الناس أحرارا. כל בני האדם.",
    "  two  spaces\tand\r\nlines\n\n\n 12345 67 8 👩‍👩‍👧 e\u0301 \u00a0\u200b",
)
"""Texts whose ids are compared after saving: scripts, code, digits, white space, marks."""


def verify_checkpoint(
    folder: Path, source: Checkpoint, rows: Mapping[str, Tensor], tokenizer: LoadedTokenizer, probes: Sequence[str] = ()
) -> list[str]:
    """Compares a written folder with the plan; loads the token tables and one layer, not the body.

    Args:
        folder: what was written.
        source: what it was made from.
        rows: planned tables by tensor name.
        tokenizer: the tokenizer that was written.
        probes: more texts to compare ids on.

    Returns:
        What was checked, one sentence each.

    Raises:
        VerifyFailed: the first difference.
    """
    written = open_checkpoint(folder)
    size = len(next(iter(rows.values())))
    _check(written.rows.rows == size, f"{folder} has {written.rows.rows} rows, planned {size}")
    _check(written.rows.tied == source.rows.tied, f"tied is {written.rows.tied}, was {source.rows.tied}")
    _check(set(written.tensors) == set(source.tensors), "the names of the stored tensors changed")
    for name, table in rows.items():
        _check(_same(written.read(name), table), f"{name} does not hold the planned rows")
    model, info = load_model(folder, source.kind, layers=1)
    done = [f"{len(rows)} token tables read back bit for bit"]
    done += _check_loaded(model, info, written, rows)
    done += _check_ids(folder, tokenizer, [*PROBES, *probes])
    return done


def _check_loaded(
    model: nn.Module, info: Mapping[str, Any], written: Checkpoint, rows: Mapping[str, Tensor]
) -> list[str]:
    missing = {key for key in info["missing_keys"] if "embed" in key or "head" in key}
    _check(not missing, f"transformers misses {sorted(missing)[:3]}")
    _check(not info["mismatched_keys"], f"transformers finds other shapes for {list(info['mismatched_keys'])[:3]}")
    inputs = model.get_input_embeddings().weight  # type: ignore[operator]
    _check(_same(inputs.detach(), rows[written.rows.input]), "transformers loads other input rows than planned")
    head = model.get_output_embeddings() if written.kind != "encoder" else None  # type: ignore[operator]
    if head is not None:
        planned = rows[written.rows.output or written.rows.input]
        _check(_same(head.weight.detach(), planned), "transformers loads other output rows than planned")
        tied = head.weight.data_ptr() == inputs.data_ptr()
        _check(tied == written.rows.tied, f"transformers has tied={tied}, planned {written.rows.tied}")
    return ["plain transformers loads these rows, " + ("tied" if written.rows.tied else "as planned")]


def _check_ids(folder: Path, tokenizer: LoadedTokenizer, probes: Sequence[str]) -> list[str]:
    problem = auto_tokenizer_differs(folder, tokenizer, probes)
    _check(not problem, problem)
    return [f"AutoTokenizer gives the same ids on {len(probes)} probe texts"]


def auto_tokenizer_differs(folder: Path, tokenizer: LoadedTokenizer, probes: Sequence[str] = PROBES) -> str:
    """Says in a sentence how `AutoTokenizer` differs from tokenizer.json; empty when it does not."""
    from transformers import AutoTokenizer

    theirs: Any = None
    try:
        with quiet_transformers():
            theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            found = [theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in probes]
    except Exception as error:  # tokenizer classes raise whatever their files lead to
        what = "load" if theirs is None else f"({type(theirs).__name__}) encode with"
        return f"AutoTokenizer cannot {what} {folder}: {type(error).__name__}: {str(error)[:120]}"
    for text, got in zip(probes, found, strict=True):
        wanted = tokenizer.encode(text)
        if got != wanted:
            shown = json.dumps(text[:40], ensure_ascii=False)
            return f"AutoTokenizer ({type(theirs).__name__}) gives other ids for {shown}: {got[:6]}, not {wanted[:6]}"
    return ""


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _check(fact: bool, otherwise: str) -> None:
    if not fact:
        raise VerifyFailed(
            f"what was written does not read back: {otherwise}",
            hint="nothing was kept; please report this with the two tokenizers' names",
        )
