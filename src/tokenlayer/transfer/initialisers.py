"""The initialisers by name: what `--init` chooses from."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenlayer.core.errors import choose
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.transfer import baselines
from tokenlayer.transfer.parts import Pair
from tokenlayer.transfer.pieces import pieces


@dataclass(frozen=True)
class Initialiser:
    """One way to make rows.

    Attributes:
        make: `(pair, seed) -> plan`.
        random: whether the seed matters.
        about: one sentence for `tokenlayer list transfer`.
        paper: where it is described, or `""`.
    """

    make: Callable[[Pair, int], RowPlan]
    random: bool
    about: str
    paper: str = ""


INITIALISERS: dict[str, Initialiser] = {
    "pieces": Initialiser(
        lambda pair, seed: pieces(pair),
        False,
        "copy shared tokens, others are the mean of the source pieces that spell them",
        "Gee et al., Fast Vocabulary Transfer for Language Model Compression, EMNLP Industry 2022",
    ),
    "copy": Initialiser(
        lambda pair, seed: baselines.copy(pair, seed=seed),
        False,
        "copy shared tokens, others are the mean row",
    ),
    "copy-gaussian": Initialiser(
        lambda pair, seed: baselines.copy(pair, fallback="gaussian", seed=seed),
        True,
        "copy shared tokens, others are drawn around the mean row",
    ),
    "copy-gaussian-full": Initialiser(
        lambda pair, seed: baselines.copy(pair, fallback="gaussian-full", seed=seed),
        True,
        "copy shared tokens, others are drawn with the full covariance of the source rows",
    ),
    "mean": Initialiser(lambda pair, seed: baselines.mean(pair), False, "every token is the mean row"),
    "gaussian": Initialiser(
        lambda pair, seed: baselines.gaussian(pair, seed=seed),
        True,
        "every token is drawn around the mean row",
    ),
    "gaussian-full": Initialiser(
        lambda pair, seed: baselines.gaussian(pair, kind="gaussian-full", seed=seed),
        True,
        "every token is drawn with the full covariance of the source rows",
        "Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021",
    ),
    "random": Initialiser(
        lambda pair, seed: baselines.random(pair, seed=seed),
        True,
        "every token is drawn around zero",
    ),
}


def make_plan(name: str, pair: Pair, seed: int = 0) -> RowPlan:
    """Returns the row plan of the initialiser `name`.

    Raises:
        BadOption: an unknown name, with the nearest match.
    """
    return INITIALISERS[choose("init", name, INITIALISERS)].make(pair, seed)
