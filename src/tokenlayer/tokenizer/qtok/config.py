"""Settings of an audit of vocabularies."""

from dataclasses import dataclass

from tokenlayer.core.errors import BadOption, choose

SCRIPT_RULES = ("property", "name")


@dataclass(frozen=True)
class QtokConfig:
    """Defaults are the paper's where it has a number; see the differences in `tokenlayer.tokenizer.qtok.audit`."""

    compat: bool = False
    """Classify the strings that the reference implementation makes of a file, by its rules, mistakes included."""
    scripts: str = "property"
    """Where the script of a character comes from: `property` (Unicode's Script) or `name` (first word of its name)."""
    languages: bool = True
    """Say which natural languages Latin and Cyrillic entries may belong to (extra `languages`)."""
    fold_scripts_percent: float = 1.0
    """Scripts that have at most this share everywhere become `Other`."""
    fold_languages_percent: float = 0.5
    """The same for languages."""
    same_from: float = 0.95
    """Vocabularies with a larger Jaccard index, on average, are called the same tokenizer."""
    renyi_order: float = 2.5
    """Order of the Rényi efficiency of a text; ours, after Zouhar et al. 2023."""
    examples: int = 4
    """Entries that a table shows of each kind."""

    def __post_init__(self) -> None:
        choose("scripts", self.scripts, SCRIPT_RULES)
        if not 0 < self.same_from <= 1:
            raise BadOption(f"same_from is {self.same_from}, expected a share above 0, at most 1", hint="0.95")
        if self.renyi_order <= 0 or self.renyi_order == 1:
            raise BadOption(f"renyi_order is {self.renyi_order}, expected above 0 and not 1", hint="2.5")
