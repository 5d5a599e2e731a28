"""The initialisers by name: what `--init` chooses from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.rowplan import RowPlan
from tokenlayer.transfer import baselines
from tokenlayer.transfer.cw2v import Cw2vConfig, Progress, cw2v
from tokenlayer.transfer.focus import FocusConfig, focus
from tokenlayer.transfer.materials import Given, Materials, check_given, own_config
from tokenlayer.transfer.ofa import OfaConfig, ofa
from tokenlayer.transfer.omp import omp
from tokenlayer.transfer.parts import Pair, untrained
from tokenlayer.transfer.pieces import pieces
from tokenlayer.transfer.wechsel import WechselConfig, wechsel
from tokenlayer.transfer.zett.files import check_source, load_hypernet
from tokenlayer.transfer.zett.predict import PredictConfig, source_table, zett

Drawing = TypeVar("Drawing", WechselConfig, OfaConfig)


@dataclass(frozen=True)
class Initialiser:
    """One way to make rows.

    Attributes:
        make: `(given, seed) -> plan`.
        random: whether the seed matters.
        about: one sentence for `tokenlayer list transfer`.
        paper: where it is described, or `""`.
        needs: what the user must give, in the words of `Materials.have`.
    """

    make: Callable[[Given, int], RowPlan]
    random: bool
    about: str
    paper: str = ""
    needs: tuple[str, ...] = ()


def _wechsel(given: Given, seed: int) -> RowPlan:
    config = _drawing("wechsel", WechselConfig, given)
    ngrams = given.source_vectors.ngrams is not None and given.target_vectors.ngrams is not None
    if config.ngrams and not ngrams:
        given.warn("these vectors have no n-grams: token vectors are made from the words that a token occurs in")
    return wechsel(
        given.pair,
        given.source_vectors,
        given.target_vectors,
        replace(config, ngrams=config.ngrams and ngrams, seed=seed),
        dictionary=given.dictionary,
        source_encode=given.source.encode_batch if given.source else None,
        target_encode=given.target.encode_batch if given.target else None,
        warn=given.warn,
    )


def _ofa(given: Given, seed: int) -> RowPlan:
    return ofa(
        given.pair,
        given.target_vectors,
        replace(_drawing("ofa", OfaConfig, given), seed=seed),
        source_vectors=given.source_vectors,
        dictionary=given.dictionary,
        source_encode=given.source.encode_batch if given.source else None,
        target_encode=given.target.encode_batch if given.target else None,
        warn=given.warn,
    )


def _focus(given: Given, seed: int) -> RowPlan:
    return focus(given.pair, given.token_vectors, FocusConfig(seed=seed))


def _cw2v(given: Given, seed: int) -> RowPlan:
    if given.rows is None:
        raise BadOption("init cw2v needs the rows of a model")
    found = cw2v(
        given.pair,
        given.rows(),
        given.token_ids(),
        own_config("cw2v", Cw2vConfig, given.materials.init_config, PRESETS["cw2v"]),
        output_rows=None if given.output_rows is None else given.output_rows(),
        seed=seed,
        device=given.device,
        progress=_counted(given, "learning rows, steps"),
        warn=given.warn,
    )
    return replace(found.plan, output=found.output_plan)


PRESETS: dict[str, dict[str, Callable[[], Any]]] = {
    "cw2v": {"fast": Cw2vConfig.fast},
    "wechsel": {},
    "ofa": {},
    "zett": {"copy": PredictConfig.copying},
}
"""Names that `Materials.init_config` may hold for the initialisers that have a config of their own."""


def _drawing(init: str, config: type[Drawing], given: Given) -> Drawing:
    """The config that the user gave to an initialiser whose seed is set elsewhere."""
    found = own_config(init, config, given.materials.init_config, PRESETS[init])
    if found.seed != config().seed:
        raise BadOption(f"seed in {given.materials.init_config} is {found.seed}", hint="give it by --seed")
    return found


def _zett(given: Given, seed: int) -> RowPlan:
    if given.rows is None:
        raise BadOption("init zett needs the rows of a model")
    saved = load_hypernet(Path(given.materials.hypernet))
    input_rows, output_rows = given.rows(), None if given.output_rows is None else given.output_rows()
    check_source(
        saved,
        given.pair.source,
        dim=input_rows.shape[1],
        tied=output_rows is None,
        where=given.materials.hypernet,
    )
    tell = given.progress
    return zett(
        given.pair,
        saved.network,
        source_table(input_rows, output_rows),
        _predict_config(given.materials),
        device=given.device,
        progress=None if tell is None else partial(tell, "predicting rows, tokens"),
        warn=given.warn,
    )


def _predict_config(materials: Materials) -> PredictConfig:
    return own_config("zett", PredictConfig, materials.init_config, PRESETS["zett"])


def predict_language(materials: Materials) -> str:
    """The language in which a hypernetwork predicts, as the user gave it."""
    return _predict_config(materials).language


def _counted(given: Given, step: str) -> Progress | None:
    """Gives the steps of all passes to the progress of the whole."""
    tell = given.progress
    return None if tell is None else lambda done, steps, loss: tell(step, done, steps)


INITIALISERS: dict[str, Initialiser] = {
    "pieces": Initialiser(
        lambda given, seed: pieces(given.pair),
        False,
        "copy shared tokens, others are the mean of the source pieces that spell them",
        "Gee et al., Fast Vocabulary Transfer for Language Model Compression, EMNLP Industry 2022",
    ),
    "copy": Initialiser(
        lambda given, seed: baselines.copy(given.pair, seed=seed),
        False,
        "copy shared tokens, others are the mean row",
    ),
    "copy-gaussian": Initialiser(
        lambda given, seed: baselines.copy(given.pair, fallback="gaussian", seed=seed),
        True,
        "copy shared tokens, others are drawn around the mean row",
    ),
    "copy-gaussian-full": Initialiser(
        lambda given, seed: baselines.copy(given.pair, fallback="gaussian-full", seed=seed),
        True,
        "copy shared tokens, others are drawn with the full covariance of the source rows",
    ),
    "mean": Initialiser(lambda given, seed: baselines.mean(given.pair), False, "every token is the mean row"),
    "gaussian": Initialiser(
        lambda given, seed: baselines.gaussian(given.pair, seed=seed),
        True,
        "every token is drawn around the mean row",
    ),
    "gaussian-full": Initialiser(
        lambda given, seed: baselines.gaussian(given.pair, kind="gaussian-full", seed=seed),
        True,
        "every token is drawn with the full covariance of the source rows",
        "Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021",
    ),
    "random": Initialiser(
        lambda given, seed: baselines.random(given.pair, seed=seed),
        True,
        "every token is drawn around zero",
    ),
    "wechsel": Initialiser(
        _wechsel,
        True,
        "mean of the source tokens that mean the same in aligned word vectors, shared tokens too",
        "Minixhofer et al., WECHSEL, NAACL 2022",
        needs=("aligned vectors",),
    ),
    "ofa": Initialiser(
        _ofa,
        True,
        "copy shared tokens, others are the mean of source tokens near them in shared or aligned word vectors",
        "Liu et al., OFA, Findings of NAACL 2024",
        needs=("aligned vectors",),
    ),
    "focus": Initialiser(
        _focus,
        True,
        "copy shared tokens, others are mixed from shared tokens that are used alike in the texts",
        "Dobler and de Melo, FOCUS, EMNLP 2023",
        needs=("texts",),
    ),
    "omp": Initialiser(
        lambda given, seed: omp(given.pair, given.donor_rows),
        False,
        "copy shared tokens, others are made of them as they are in a donor model",
        "Goddard and Fernandes Neto, Training-Free Tokenizer Transplantation, 2025",
        needs=("donor",),
    ),
    "cw2v": Initialiser(
        _cw2v,
        True,
        "copy shared tokens, others are convex mixtures of source rows that word2vec learns on the texts",
        "Mundra et al., CW2V, CoNLL 2024",
        needs=("texts",),
    ),
    "zett": Initialiser(
        _zett,
        False,
        "a hypernetwork, trained once for the model, predicts all rows from the source pieces that spell a token",
        "Minixhofer et al., Zero-Shot Tokenizer Transfer, NeurIPS 2024",
        needs=("hypernet",),
    ),
}


AUTO = "auto"
"""Stands for `best_for` where an initialiser is asked for."""


def best_for(materials: Materials) -> tuple[str, str]:
    """The initialiser that costs least without training for what the user gave, and why.

    Bits per byte decide, as measured in docs/results/transfer.md.
    """
    if materials.donor:
        return "omp", "a transplant from a donor cost least in English and code, and as little as any in German"
    given = [name for name, there in (("texts", materials.texts), ("vectors", materials.vectors)) if there]
    why = "it cost least on the text that a tokenizer was learned for, in four languages of four"
    if given:
        why += f"; initialisers from {' and '.join(given)} are starts for training and cost more without it"
    return "pieces", why


def check_init(name: str, materials: Materials) -> None:
    """Refuses materials that do not fit the one initialiser that is asked for.

    Raises:
        BadOption: an unknown name, something that it needs is not given, or a config for one that has none.
    """
    check_given(name, INITIALISERS[choose("init", name, INITIALISERS)].needs, materials)
    if materials.init_config and name not in PRESETS:
        raise BadOption(f"init {name} has no config of its own", hint=f"it is for: {', '.join(PRESETS)}")


def make_plan(name: str, given: Given | Pair, seed: int = 0) -> RowPlan:
    """Returns the row plan of the initialiser `name`.

    Raises:
        BadOption: an unknown name, with the nearest match; or something that it needs is not given.
    """
    chosen = INITIALISERS[choose("init", name, INITIALISERS)]
    given = Given(given) if isinstance(given, Pair) else given
    check_given(name, chosen.needs, given.materials)
    return chosen.make(_trained(given) if given.materials.exclude_untrained else given, seed)


def _trained(given: Given) -> Given:
    """The same without rows that were never trained."""
    if given.rows is None:
        raise BadOption("exclude_untrained needs the rows of a model")
    ids = given.pair.support
    out = untrained(given.rows(), ids)
    if len(out) == len(ids):
        raise BadOption(f"all {len(ids)} rows look untrained", hint="do without exclude_untrained")
    if out:
        given.warn(f"{len(out)} of {len(ids)} rows were never trained and take no part in means and mixtures")
    return replace(given, pair=replace(given.pair, left_out=out))
