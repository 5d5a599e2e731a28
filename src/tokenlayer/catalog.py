"""The table of the published systems that work here, one entry each; nothing is imported until it is used."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tokenlayer.core.errors import choose

ROOMS = {
    "tokenizer": "Make a tokenizer from your own text.",
    "transfer": "Give a model another tokenizer.",
}
"""The rooms that have commands, with what a user comes to them for."""


@dataclass(frozen=True)
class System:
    """One published method: where it lives, what it is called, how it is run."""

    slug: str
    """Its name in commands, file names and docs pages."""
    room: str
    """The package that holds it: `tokenlayer.<room>`."""
    title: str
    """What it does, in a few words."""
    paper: str
    """Authors, title, venue."""
    year: int
    entry: str
    """`module:function`."""
    command: str
    """What to type after `tokenlayer`."""
    config: str | None = None
    """`module:Class` of a frozen dataclass whose defaults are the paper's, or None if there is nothing to set."""
    extra: str | None = None
    """The extra to install, as in `pip install 'tokenlayer[extra]'`, or None."""

    def load_entry(self) -> Callable[..., Any]:
        """Imports the function."""
        found: Callable[..., Any] = _load(self.entry)
        return found

    def load_config(self) -> type[Any] | None:
        """Imports the config class, if there is one."""
        found: type[Any] | None = _load(self.config) if self.config else None
        return found


SYSTEMS: tuple[System, ...] = (
    System(
        slug="mixture",
        room="tokenizer",
        title="shares of languages and code in a tokenizer's training data, from the order of its merges",
        paper="Hayase et al., Data Mixture Inference: What do BPE Tokenizers Reveal about their Training Data?, 2024",
        year=2024,
        entry="tokenlayer.tokenizer.mixture.infer:infer_mixture",
        command="tokenizer mixture",
        config="tokenlayer.tokenizer.mixture.config:MixtureConfig",
        extra="lp",
    ),
    System(
        slug="adt",
        room="tokenizer",
        title="words that a tokenizer cuts wrongly when they stand together, and questions about them",
        paper="Wang et al., Tokenization Matters! Degrading Large Language Models through Challenging Their "
        "Tokenization, 2024",
        year=2024,
        entry="tokenlayer.tokenizer.adt.mine:mine_traps",
        command="tokenizer traps",
        config="tokenlayer.tokenizer.adt.mine:AdtConfig",
    ),
    System(
        slug="pieces",
        room="transfer",
        title="rows as the mean of the source tokens that spell a new one",
        paper="Gee et al., Fast Vocabulary Transfer for Language Model Compression, EMNLP Industry 2022",
        year=2022,
        entry="tokenlayer.transfer.pieces:pieces",
        command="swap --init pieces",
        config="tokenlayer.transfer.pieces:PiecesConfig",
    ),
    System(
        slug="wechsel",
        room="transfer",
        title="rows as the mean of the source tokens that mean the same in aligned word vectors",
        paper="Minixhofer et al., WECHSEL: Effective initialization of subword embeddings for cross-lingual transfer "
        "of monolingual language models, NAACL 2022",
        year=2022,
        entry="tokenlayer.transfer.wechsel:wechsel",
        command="swap --init wechsel",
        config="tokenlayer.transfer.wechsel:WechselConfig",
        extra="vectors",
    ),
    System(
        slug="ktokeniser",
        room="transfer",
        title="pieces for types of domain terms, and a choice per word and sentence of which to use",
        paper="Hasan et al., Infusing clinical knowledge into tokenisers for language models, 2024",
        year=2024,
        entry="tokenlayer.transfer.ktokeniser:ktokeniser",
        command="transfer terms",
        config="tokenlayer.transfer.ktokeniser:KTokeniserConfig",
    ),
    System(
        slug="cw2v",
        room="transfer",
        title="rows as convex mixtures of source rows that word2vec learns on text in the new tokens",
        paper="Mundra et al., An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for "
        "Language Models, CoNLL 2024",
        year=2024,
        entry="tokenlayer.transfer.cw2v:cw2v",
        command="swap --init cw2v",
        config="tokenlayer.transfer.cw2v:Cw2vConfig",
    ),
    System(
        slug="zett",
        room="transfer",
        title="a hypernetwork, trained once for a model, that predicts the rows of any tokenizer",
        paper="Minixhofer et al., Zero-Shot Tokenizer Transfer, NeurIPS 2024",
        year=2024,
        entry="tokenlayer.transfer.zett.train:train_hypernet",
        command="transfer hypernet",
        config="tokenlayer.transfer.zett.config:ZettConfig",
    ),
    System(
        slug="dynamic",
        room="transfer",
        title="tokens merged by what is frequent in a batch, their rows predicted on the fly",
        paper="Feher, Vulić and Minixhofer, Retrofitting Large Language Models with Dynamic Tokenization, ACL 2025",
        year=2025,
        entry="tokenlayer.transfer.dynamic.model:DynamicModel",
        command="transfer dynamic",
        config="tokenlayer.transfer.dynamic.model:DynamicConfig",
    ),
    System(
        slug="lib",
        room="tokenizer",
        title="a ranked lexicon of subwords, words and multi-word chunks, learned online",
        paper="Yang, Rethinking Tokenization: Crafting Better Tokenizers for Large Language Models, 2024",
        year=2024,
        entry="tokenlayer.tokenizer.lib.learn:learn_lib",
        command="tokenizer lib",
        config="tokenlayer.tokenizer.lib.config:LibConfig",
    ),
    System(
        slug="qtok",
        room="tokenizer",
        title="vocabularies by kind, script and language of their entries, and what they share",
        paper="Chelombitko, Safronov and Komissarov, Qtok: A Comprehensive Framework for Evaluating Multilingual "
        "Tokenizer Quality in Large Language Models, 2024",
        year=2024,
        entry="tokenlayer.tokenizer.qtok.audit:qtok",
        command="tokenizer compare",
        config="tokenlayer.tokenizer.qtok.config:QtokConfig",
        extra="languages",
    ),
)


def find(slug: str) -> System:
    """Returns the system of that name.

    Raises:
        BadOption: no such system; names the nearest.
    """
    choose("the system", slug, [s.slug for s in SYSTEMS])
    return next(s for s in SYSTEMS if s.slug == slug)


def _load(address: str) -> Any:
    module, name = address.split(":")
    return getattr(import_module(module), name)
