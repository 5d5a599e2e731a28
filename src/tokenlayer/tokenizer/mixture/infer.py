"""Shares of languages, code or other kinds of text in a tokenizer's training data, from the order of its merges.

At every step a BPE trainer merges the pair that is most frequent in its text. Given samples of the kinds of text that
may be in it, a linear program finds the shares under which each merge really was the most frequent, or nearly so.

Paper: Hayase et al., "Data Mixture Inference: What do BPE Tokenizers Reveal about their Training Data?", NeurIPS 2024,
sections 2 and 3. Reference implementation: alisawuffles/tokenizer-attack.

Shapes: in go a tokenizer and, for each category, counts of distinct pre-tokens; out comes one share for each category,
and a slack for each merge and each pair.

Errors: `BadTokenizer` for a tokenizer without BPE merges; `BadText` for a category without text or without any of the
merges; `BadOption` for a bad number; `MissingExtra` without scipy.

Differences from the paper:
    - rows are found by range minima over all stretches of equal counts at once, not by walking over the merges with
      a queue, and up to 4,000 are added a round instead of 100; the optimum is the same;
    - counts go into the program in millionths of a sample's pairs, so that late merges weigh more than the solver's
      tolerance;
    - a merge is missing when no sample has it at its turn; the released code also drops the merge whose pair happened
      to get number 0;
    - HiGHS solves the program, not Gurobi;
    - ranges of the shares near the optimum and bootstrap intervals are new.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import numpy_generator
from tokenlayer.data.counts import PretokenCounts
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.tokenizer.mixture.competition import Competition
from tokenlayer.tokenizer.mixture.config import MixtureConfig
from tokenlayer.tokenizer.mixture.counting import Cut, byte_total, count_texts, cut_of, model_words
from tokenlayer.tokenizer.mixture.program import Solution, Tell, solve
from tokenlayer.tokenizer.mixture.replay import Transcript, replay
from tokenlayer.tokenizer.mixture.rules import MergeRules, read_rules

Sample = PretokenCounts | Path | Iterable[str]
"""Counts, a file of saved counts (read when its turn comes), or texts."""
Shares = Float64[np.ndarray, " categories"]
EARLY = 100
"""A category with none of this many first merges is worth a word."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """What the merges say.

    Attributes:
        categories: their names.
        unit: what the shares are of.
        shares: for each category, sum to 1.
        pair_shares: the same in pairs, as the program has them.
        ranges: least and largest share near the optimum, or None.
        draws: shares of each bootstrap draw.
        solution: the program's answer.
        merges: merges that competed.
        missing: merges that no sample has at their turn.
        baseline: shares by the category in which each merge is most frequent (TC in the paper).
        sample_bytes: size of each sample.
        notes: what was unusual.
        seconds: step -> time.
    """

    categories: tuple[str, ...]
    unit: str
    shares: Shares
    pair_shares: Shares
    ranges: Float64[np.ndarray, "categories 2"] | None
    draws: Float64[np.ndarray, "draws categories"]
    solution: Solution | None
    merges: int
    missing: tuple[str, ...]
    baseline: Shares
    sample_bytes: tuple[int, ...]
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """Returns category -> share."""
        return dict(zip(self.categories, self.shares.tolist(), strict=True))

    def interval(self, level: float = 0.9) -> Float64[np.ndarray, "categories 2"] | None:
        """Returns the middle `level` of the bootstrap draws of each category, or None without draws."""
        if not len(self.draws):
            return None
        found: Float64[np.ndarray, "categories 2"] = np.quantile(
            self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0
        ).T
        return found


def infer_mixture(
    tokenizer: LoadedTokenizer,
    samples: Mapping[str, Sample],
    config: MixtureConfig | None = None,
    *,
    cut: Cut | None = None,
    tell: Tell | None = None,
) -> Mixture:
    """Finds the shares of the categories in a tokenizer's training data.

    Args:
        tokenizer: a BPE tokenizer.
        samples: category -> its text; counts must have been made with the same `cut`.
        config: see `MixtureConfig`.
        cut: how texts become pre-tokens; None reads it from the tokenizer.
        tell: called with (what is done, steps done, steps in all or 0).

    Returns:
        Shares with all that is needed to judge them.

    Raises:
        BadTokenizer: no BPE merges.
        BadText: a category has no text, or none of the merges.
        BadOption: no category, or the merges to look at are none.
        MissingExtra: scipy is not installed.
    """
    config = config or MixtureConfig()
    if not samples:
        raise BadOption("no category was given", hint="give a sample of each kind of text that you suspect")
    rules, notes = _rules(tokenizer, config)
    cut = cut or cut_of(tokenizer, config.pre_tokenizer)
    began = time.perf_counter()
    found = _Samples(samples, cut, rules, config.parts)
    transcripts, sizes = found.replayed(None, tell)
    counted = time.perf_counter()
    competition = Competition(transcripts, rules, first_merge=config.first_merge)
    notes += [cut.note] * bool(cut.note) + _weak(competition)
    solution = solve(competition, config, tell=tell) if len(samples) > 1 else None
    solved = time.perf_counter()
    alpha = np.ones(1) if solution is None else solution.shares
    units = _units(config.unit, transcripts, sizes)
    return Mixture(
        categories=tuple(samples),
        unit=config.unit,
        shares=_converted(alpha, units),
        pair_shares=alpha,
        ranges=None if solution is None or solution.ranges is None else _range_shares(solution.ranges, alpha, units),
        draws=_bootstrap(found, rules, config, tell) if len(samples) > 1 else np.empty((0, 1)),
        solution=solution,
        merges=int(competition.competes.sum()),
        missing=tuple(rules.label(int(at)) for at in competition.missing if at >= config.first_merge),
        baseline=_by_token(competition, transcripts, sizes),
        sample_bytes=sizes,
        notes=tuple(notes),
        seconds={"count and replay": counted - began, "solve": solved - counted},
    )


def _rules(tokenizer: LoadedTokenizer, config: MixtureConfig) -> tuple[MergeRules, list[str]]:
    rules = read_rules(tokenizer, drop_space_runs=config.drop_space_runs)
    notes = list(rules.notes)
    if len(rules) < config.merges and config.merges != MixtureConfig().merges:
        notes.append(f"{config.merges} merges were asked for, the tokenizer has {len(rules)}")
    if config.first_merge >= len(rules):
        raise BadOption(
            f"first_merge is {config.first_merge}, the tokenizer has {len(rules)} merges",
            hint="leave first_merge out to look at all of them",
        )
    return rules.first(config.merges), notes


class _Samples:
    """The samples, counted when their turn comes and kept only where that is cheap."""

    def __init__(self, samples: Mapping[str, Sample], cut: Cut, rules: MergeRules, parts: int) -> None:
        self.cut, self.rules = cut, rules
        self.samples = {
            name: one if isinstance(one, PretokenCounts | Path) else count_texts(one, cut, parts=parts)
            for name, one in samples.items()
        }

    def replayed(
        self, times: Mapping[str, list[int]] | None, tell: Tell | None
    ) -> tuple[dict[str, Transcript], tuple[int, ...]]:
        """Transcript and bytes of each category, each part taken `times` times."""
        found: dict[str, Transcript] = {}
        sizes = []
        for n, (name, one) in enumerate(self.samples.items()):
            counts = PretokenCounts.load(one) if isinstance(one, Path) else one
            taken = None if times is None else times[name]
            words = model_words(counts, self.cut, taken)
            if not words:
                raise BadText(f"category {name!r} has no text", hint="give some text for each category")
            found[name] = replay(words, self.rules)
            sizes.append(byte_total(counts, taken))
            if tell is not None and times is None:
                tell("replay", n + 1, len(self.samples))
        return found, tuple(sizes)

    def parts(self) -> dict[str, list[str]]:
        """The parts of each category that hold text."""
        counts = {n: PretokenCounts.load(s) if isinstance(s, Path) else s for n, s in self.samples.items()}
        return {name: [p for p, found in one.counts.items() if found] for name, one in counts.items()}


def _weak(competition: Competition) -> list[str]:
    """Refuses categories that no merge speaks of, and notes those that the first merges pass by."""
    notes = []
    for i, name in enumerate(competition.categories):
        counts = competition.merge_counts[:, i]
        if not counts[competition.competes].any():
            raise BadText(
                f"category {name!r} has none of the {int(competition.competes.sum())} merges that compete",
                hint="the tokenizer was not trained on text like it: leave the category out, or give more of its text",
            )
        if not counts[competition.competes][:EARLY].any():
            notes.append(f"category {name!r} has none of the first {EARLY} merges: its share rests on later ones")
    return notes


def _units(unit: str, transcripts: Mapping[str, Transcript], sizes: tuple[int, ...]) -> Shares:
    """How much of the unit there is in one pair of each category."""
    pairs = np.array([float(max(t.total, 1)) for t in transcripts.values()])
    amounts = {"bytes": sizes, "pairs": pairs, "tokens": [t.tokens for t in transcripts.values()]}
    found: Shares = np.array(amounts[unit], np.float64) / pairs
    return found


def _converted(alpha: Shares, units: Shares) -> Shares:
    found: Shares = alpha * units / (alpha @ units)
    return found


def _range_shares(
    ranges: Float64[np.ndarray, "categories 2"], alpha: Shares, units: Shares
) -> Float64[np.ndarray, "categories 2"]:
    """Ranges in another unit, the other categories in the proportions that they have at the optimum."""
    rest = np.maximum(1 - alpha, 1e-12)
    others = (alpha @ units - alpha * units) / rest
    others = np.where(others > 0, others, units.mean())
    mine = ranges * units[:, None]
    found: Float64[np.ndarray, "categories 2"] = mine / (mine + (1 - ranges) * others[:, None])
    return found


def _bootstrap(
    found: _Samples, rules: MergeRules, config: MixtureConfig, tell: Tell | None
) -> Float64[np.ndarray, "draws categories"]:
    """Shares for samples that are drawn again, with replacement, from their parts."""
    if not config.bootstrap:
        return np.empty((0, len(found.samples)))
    draw = numpy_generator(config.seed, "mixture", "bootstrap")
    parts = found.parts()
    quick = MixtureConfig(**{**config.__dict__, "range_slack": 0.0, "bootstrap": 0})
    draws = []
    for n in range(config.bootstrap):
        times = {}
        for name, full in parts.items():
            times[name] = [0] * config.parts
            for part, many in zip(full, draw.multinomial(len(full), [1 / len(full)] * len(full)), strict=True):
                times[name][int(part)] = int(many)
        transcripts, sizes = found.replayed(times, None)
        competition = Competition(transcripts, rules, first_merge=config.first_merge)
        draws.append(_converted(solve(competition, quick).shares, _units(config.unit, transcripts, sizes)))
        if tell is not None:
            tell("bootstrap", n + 1, config.bootstrap)
    return np.array(draws)


def _by_token(competition: Competition, transcripts: Mapping[str, Transcript], sizes: tuple[int, ...]) -> Shares:
    """The paper's baseline TC: each token belongs to the category that makes it most often for its bytes."""
    per_byte = np.array([t.total for t in transcripts.values()]) / np.array(sizes)
    owner = np.argmax(competition.merge_counts[competition.competes] * per_byte, axis=1)
    found: Shares = np.bincount(owner, minlength=len(per_byte)) / len(owner)
    return found
