"""One small case for each system of the catalogue: a run, and inputs that must be refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import tiny_swaps
from tests.tiny_tokenizers import FAMILIES, write

from tokenlayer.app import api


@dataclass(frozen=True)
class Case:
    """What the contract suite needs to know of a system.

    Attributes:
        run: `(folder, seed) -> bytes`: the system's main output at tiny scale, on a CPU, in under five seconds.
        bad_inputs: at least five of `(what is bad, call on a folder, part of the message)`.
        seeded: whether another seed gives other bytes.
    """

    run: Callable[[Path, int], bytes]
    bad_inputs: tuple[tuple[str, Callable[[Path], object], str], ...]
    seeded: bool = False


def swap_case(init: str, *, seeded: bool) -> Case:
    """The case of an initialiser: a tiny model gets the tokenizer of another family."""

    def swap(folder: Path, **changes: object) -> Path:
        model = tiny_swaps.model_with_tokenizer("tied_llama", folder / "model")
        tokenizer = write(folder / "tokenizer", FAMILIES["split-byte-level"]())
        given = {"model": model, "tokenizer": tokenizer, "out": folder / "out", "init": init, **changes}
        api.swap(given.pop("model"), given.pop("tokenizer"), given.pop("out"), **given)
        return folder / "out"

    def empty_text(folder: Path) -> Path:
        (folder / "empty.txt").write_text(" \n")
        return swap(folder, eval=[str(folder / "empty.txt")])

    def taken(folder: Path) -> Path:
        (folder / "out").mkdir()
        (folder / "out" / "thesis.tex").write_text("")
        return swap(folder, force=True)

    return Case(
        run=lambda folder, seed: (swap(folder, seed=seed) / "model.safetensors").read_bytes(),
        bad_inputs=(
            ("no such model", lambda folder: swap(folder, model=folder / "nowhere"), "nowhere"),
            ("no such tokenizer", lambda folder: swap(folder, tokenizer=folder / "nowhere"), "nowhere"),
            ("a misspelled name", lambda folder: swap(folder, init=f"{init}x"), f"init is '{init}x', expected one of:"),
            ("a text that is empty", empty_text, "empty.txt is empty"),
            ("no such text", lambda folder: swap(folder, eval=[str(folder / "no.txt")]), "no.txt"),
            ("somebody's own folder", taken, "does not look like a checkpoint or tokenizer folder"),
            ("rows that are no multiple", lambda folder: swap(folder, pad_multiple=0), "pad_multiple is 0"),
        ),
        seeded=seeded,
    )


CASES = {
    "pieces": swap_case("pieces", seeded=False),
}
