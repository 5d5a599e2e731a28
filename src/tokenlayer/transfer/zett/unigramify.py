"""Unigram scores with which a tokenizer cuts text as it does now, whatever kind it is.

Tools that need token probabilities can then treat a BPE or a WordPiece as a Unigram. A linear program finds the
scores s:

    minimise    sum over pre-tokens of count * slack  +  prior_weight * sum over tokens of |s - log-prior|
    so that     s(true cut) + slack >= s(other cut) + margin      for every pre-token and its best other cuts

Paper: Minixhofer et al., "Zero-Shot Tokenizer Transfer", NeurIPS 2024 (the appendix on "Unigramifying"). Reference
implementation: bminixhofer/zett, `scripts/unigramify.sh`.

Differences from the paper:

- Constraints are generated: the program is solved with the competitors found so far, those that still win under its
  scores are added, and so on until (nearly) none is left. A pre-token that needs no slack then beats *every* other
  cut, not the first 16 alone.
- The text of every token counts as a pre-token, once (`own_text`): on text of another kind 99.3 % instead of 97.1 % of
  pre-tokens were then cut alike (GPT-2's tokenizer, fitted on help pages, tried on Wikipedia).
- HiGHS (through SciPy) instead of CPLEX.
- Log-priors are those of the sampler, count times bytes over the sum, with half a count for a token never seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlayer.core.byte_alphabet import from_alphabet
from tokenlayer.core.errors import BadOption, BadText, MissingExtra
from tokenlayer.core.pretokenizers import pre_tokenizer
from tokenlayer.core.tokenizer_json import components
from tokenlayer.core.vocab import Kind
from tokenlayer.models.tokenizer_edit import NEVER
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.zett.byte_level import to_byte_level
from tokenlayer.transfer.zett.segmentations import Lattice, k_best, lattice

Competitor = tuple[int, tuple[int, ...]]
"""A pre-token by its place, and a cut that is not its true one."""


@dataclass(frozen=True)
class UnigramifyConfig:
    """Defaults are the paper's."""

    margin: float = 1e-3
    """By how many nats the true cut must win."""
    prior_weight: float = 1e-3
    """Cost of one nat between a score and its log-prior, where a lost pre-token costs its count per nat (to 0.01)."""
    best: int = 16
    """Cuts of each pre-token that are looked at in a round."""
    own_text: bool = True
    """Fits the text of every token as a pre-token that occurs once, so that tokens that the texts lack work too."""
    pretokens: int = 1_000_000
    """Most frequent pre-tokens that are used."""
    rounds: int = 30
    """Most programs that are solved; fewer are needed as a rule."""
    enough: float = 1e-5
    """Stops when pre-tokens for which a new competitor wins are fewer than this share, by how often they occur."""

    def __post_init__(self) -> None:
        for name in ("margin", "prior_weight"):
            if not getattr(self, name) > 0:
                raise BadOption(f"{name} is {getattr(self, name)}, expected more than 0")
        for name, low in (("best", 2), ("pretokens", 1), ("rounds", 1), ("enough", 0)):
            if not getattr(self, name) >= low:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least {low}")


@dataclass(frozen=True, eq=False)
class Unigrammed:
    """A tokenizer as a Unigram.

    Attributes:
        tokenizer: the Unigram tokenizer, in the byte alphabet, with the ids of the original (and bytes after them).
        scores: its score per id, in nats.
        accuracy: share of the used pre-tokens, by how often they occur, that are cut as the original cuts them.
        accuracy_distinct: the same, each pre-token counted once.
        pretokens: how many distinct pre-tokens were used.
        rounds: programs that were solved.
        constraints: competitors in the last one.
        wrong: the most frequent pre-tokens that are cut otherwise: bytes, count, true ids, ids.
        warnings: what the byte alphabet made lossy.
    """

    tokenizer: LoadedTokenizer
    scores: NDArray[np.float64]
    accuracy: float
    accuracy_distinct: float
    pretokens: int
    rounds: int
    constraints: int
    wrong: tuple[tuple[bytes, int, tuple[int, ...], tuple[int, ...]], ...] = ()
    warnings: tuple[str, ...] = ()


def unigramify(
    tokenizer: LoadedTokenizer,
    texts: Iterable[str],
    config: UnigramifyConfig | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Unigrammed:
    """Finds Unigram scores that reproduce a tokenizer on the pre-tokens of texts.

    A tokenizer without a pre-tokenizer (Llama 2, Mistral) gets GPT-2's: a Unigram over whole texts would have to be
    right everywhere at once.

    Args:
        tokenizer: any that `to_byte_level` takes.
        texts: where the pre-tokens come from.
        config: see `UnigramifyConfig`.
        progress: called with a step's name, the round, and the most rounds.

    Raises:
        MissingExtra: SciPy is not installed.
        BadText: the texts hold no pre-token.
        BadTokenizer: see `to_byte_level`.
    """
    _need_scipy()
    config = config or UnigramifyConfig()
    made = to_byte_level(tokenizer)
    base = with_pre_tokenizer(made.tokenizer)
    counts = count_pretokens(base, texts).most_common(config.pretokens)
    if not counts:
        raise BadText("the texts hold no pre-token", hint="give texts of the kind that the tokenizer is meant for")
    usable, seen = _usable(base, len(tokenizer.vocab) + len(made.added_bytes)), len(counts)
    if config.own_text:
        counts += _own_texts(base, usable, {word for word, _ in counts})
    job = _fit(base, counts, usable, config)
    scores, rounds, constraints = job.run(progress)
    final = as_unigram(base, scores, set(usable.values()))
    right = agrees(final, [word for word, _ in counts[:seen]], job.true[:seen])
    times = job.times[:seen]
    return Unigrammed(
        tokenizer=final,
        scores=scores,
        accuracy=float(times @ right / times.sum()),
        accuracy_distinct=float(right.mean()),
        pretokens=seen,
        rounds=rounds,
        constraints=constraints,
        wrong=_wrong(final, counts, job.true, right),
        warnings=made.warnings,
    )


def with_pre_tokenizer(tokenizer: LoadedTokenizer) -> LoadedTokenizer:
    """The byte-level tokenizer, with GPT-2's pre-tokenizer if it has none that cuts texts."""
    cuts = [
        part
        for part in components(tokenizer.data.get("pre_tokenizer"))
        if part["type"] not in ("Sequence", "ByteLevel") or part.get("use_regex", part["type"] != "Sequence")
    ]
    own = [part for part in cuts if not _isolates_bytes(part)]
    return tokenizer if own else replace(tokenizer, data={**tokenizer.data, "pre_tokenizer": pre_tokenizer("gpt2")})


def _isolates_bytes(part: Mapping[str, Any]) -> bool:
    """Whether a step is one that `to_byte_level` put behind the others."""
    return part["type"] == "Split" and "[\\s\\S]" in str(part.get("pattern", {}).get("Regex", ""))


def count_pretokens(tokenizer: LoadedTokenizer, texts: Iterable[str]) -> Counter[bytes]:
    """How often each pre-token of a byte-level tokenizer occurs in texts."""
    counts: Counter[str] = Counter()
    normaliser, cut = tokenizer.backend.normalizer, tokenizer.backend.pre_tokenizer
    for text in texts:
        seen = text if normaliser is None else normaliser.normalize_str(text)
        counts.update(part for part, _ in cut.pre_tokenize_str(seen))
    return Counter({from_alphabet(part): times for part, times in counts.items() if part})


def _usable(tokenizer: LoadedTokenizer, size: int) -> dict[bytes, int]:
    """Bytes -> id of the tokens that a text can be cut into."""
    vocab = tokenizer.vocab
    fixed = {token["content"] for token in tokenizer.data.get("added_tokens") or ()}
    ids = (i for i in vocab.text_ids() if i < size and vocab.kinds[i] is Kind.NORMAL and vocab.names[i] not in fixed)
    return {vocab.tokens[i]: i for i in sorted(ids, reverse=True)}


def _own_texts(tokenizer: LoadedTokenizer, usable: Mapping[bytes, int], seen: set[bytes]) -> list[tuple[bytes, int]]:
    """Tokens that are no pre-token of the texts and that the tokenizer cuts into themselves, once each."""
    left = [data for data in usable if data not in seen]
    spelled = tokenizer.vocab.spell_all(left)
    return [(data, 1) for data, ids in zip(left, spelled, strict=True) if ids == [usable[data]]]


def log_priors(
    counts: Iterable[tuple[bytes, int]], ids: Mapping[bytes, int], longest: int, size: int
) -> NDArray[np.float64]:
    """Log of count times bytes over their sum, of each token as a substring of the pre-tokens, shape `(size,)`.

    A token that does not occur counts half a time; ids that are no token of text get a score that rules them out.
    """
    seen = np.zeros(size)
    for word, times in counts:
        for end, tokens in enumerate(lattice(word, ids, longest), start=1):
            for start, i in tokens:
                seen[i] += times * (end - start)
    lengths = np.zeros(size)
    for data, i in ids.items():
        lengths[i] = len(data)
    weight = np.where(seen > 0, seen, lengths / 2)
    with np.errstate(divide="ignore"):
        return np.where(lengths > 0, np.log(weight) - np.log(weight.sum()), NEVER)


def _fit(
    tokenizer: LoadedTokenizer, counts: list[tuple[bytes, int]], usable: Mapping[bytes, int], config: UnigramifyConfig
) -> "_Fit":
    words, longest = [word for word, _ in counts], max(map(len, usable))
    return _Fit(
        true=[tuple(ids) for ids in tokenizer.vocab.spell_all(words)],
        times=np.array([times for _, times in counts], np.float64),
        places=[lattice(word, usable, longest) for word in words],
        prior=log_priors(counts, usable, longest, len(tokenizer.vocab)),
        config=config,
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Pre-tokens with their true cuts, and the search for scores.

    Attributes:
        true: the true cut of each pre-token.
        times: how often it occurs.
        places: its lattice.
        prior: log-prior per token id.
        config: see `UnigramifyConfig`.
    """

    true: list[tuple[int, ...]]
    times: NDArray[np.float64]
    places: list[Lattice]
    prior: NDArray[np.float64]
    config: UnigramifyConfig

    def run(self, progress: Callable[[str, int, int], None] | None) -> tuple[NDArray[np.float64], int, int]:
        """Scores, programs solved, constraints in the last one."""
        scores, known = self.prior, dict[Competitor, None]()
        for at in range(self.config.rounds):
            new = self.violated(scores)
            fresh = [one for one in new if one not in known]
            losing = self.times[sorted({place for place, _ in fresh})].sum()
            if losing <= self.config.enough * self.times.sum():
                return scores, at, len(known)
            known.update(dict.fromkeys(fresh))
            if progress is not None:
                progress(f"linear programs, {len(known):,} constraints", at + 1, self.config.rounds)
            scores = solve(self.prior, self.true, self.times, list(known), self.config)
        return scores, self.config.rounds, len(known)

    def violated(self, scores: NDArray[np.float64]) -> list[Competitor]:
        """Cuts that are not beaten by the margin, among the best of each pre-token."""
        plain, k = scores.tolist(), self.config.best
        found: list[Competitor] = []
        for at, (true, places) in enumerate(zip(self.true, self.places, strict=True)):
            if not true:
                continue
            needed = sum(plain[i] for i in true) - self.config.margin + TOLERANCE
            found += [(at, cut) for total, cut in k_best(places, plain, k) if total > needed and _differs(cut, true)]
        return found


def _differs(cut: tuple[int, ...], true: tuple[int, ...]) -> bool:
    """Whether scores can tell two cuts apart; the same tokens in another order always tie."""
    return cut != true and sorted(cut) != sorted(true)


TOLERANCE = 1e-6
"""By how much HiGHS may miss a constraint (its default is 1e-7 per row)."""


def solve(
    prior: NDArray[np.float64],
    true: list[tuple[int, ...]],
    times: NDArray[np.float64],
    competitors: list[Competitor],
    config: UnigramifyConfig,
) -> NDArray[np.float64]:
    """Solves the linear program over the tokens that competitors are about; all others keep their log-prior.

    Args:
        prior: log-prior per token id.
        true: the true cut of each pre-token.
        times: how often each pre-token occurs.
        competitors: pre-tokens by place, with a cut that must lose.
        config: margin and weights.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    differences = [_difference(true[at], cut) for at, cut in competitors]
    tokens = sorted({i for one in differences for i in one})
    words = sorted({at for at, _ in competitors})
    column, slack = {i: n for n, i in enumerate(tokens)}, {at: n for n, at in enumerate(words)}
    n = len(tokens)
    rows, columns, values = [], [], []
    for row, ((at, _), one) in enumerate(zip(competitors, differences, strict=True)):
        for i, times_more in one.items():  # -(more - less) on the upward and downward move of the token
            rows += [row, row]
            columns += [column[i], n + column[i]]
            values += [-float(times_more), float(times_more)]
        rows.append(row)
        columns.append(2 * n + slack[at])
        values.append(-1.0)
    matrix = coo_array((values, (rows, columns)), shape=(len(competitors), 2 * n + len(words))).tocsr()
    gap = np.array([sum(times_more * prior[i] for i, times_more in one.items()) for one in differences])
    cost = np.concatenate([np.full(2 * n, config.prior_weight), times[words]])
    found = linprog(cost, A_ub=matrix, b_ub=gap - config.margin, bounds=(0, None), method="highs")
    if found.x is None:
        raise BadText(f"the linear program was not solved: {found.message}", hint="use fewer pre-tokens")
    scores = prior.copy()
    scores[tokens] += found.x[:n] - found.x[n : 2 * n]
    return scores


def _difference(true: tuple[int, ...], cut: tuple[int, ...]) -> dict[int, int]:
    """How much more often each token occurs in the true cut."""
    more = Counter(true)
    more.subtract(cut)
    return {i: times for i, times in more.items() if times}


def as_unigram(tokenizer: LoadedTokenizer, scores: NDArray[np.float64], usable: set[int]) -> LoadedTokenizer:
    """The byte-level tokenizer with a Unigram model of these scores; ids stay."""
    vocab = tokenizer.vocab
    names = [name or f"<unused {i}>" for i, name in enumerate(vocab.names)]
    listed = [[name, float(scores[i]) if i in usable else NEVER] for i, name in enumerate(names)]
    model = {"type": "Unigram", "unk_id": vocab.roles.get("unk"), "vocab": listed, "byte_fallback": False}
    return replace(tokenizer, data={**tokenizer.data, "model": model}, roles=vocab.roles)


def accuracy(tokenizer: LoadedTokenizer, unigram: LoadedTokenizer, texts: Iterable[str]) -> tuple[float, int]:
    """On other texts: the share of pre-tokens, by how often they occur, that both cut alike, and how many there are.

    Args:
        tokenizer: what `unigramify` was given.
        unigram: what it made of it.
        texts: any texts.

    Raises:
        BadText: the texts hold no pre-token.
    """
    base = with_pre_tokenizer(to_byte_level(tokenizer).tokenizer)
    counts = count_pretokens(base, texts)
    if not counts:
        raise BadText("the texts hold no pre-token", hint="give texts of the kind that the tokenizer is meant for")
    true = [tuple(ids) for ids in base.vocab.spell_all(list(counts))]
    right, times = agrees(unigram, list(counts), true), np.array(list(counts.values()), np.float64)
    return float(times @ right / times.sum()), int(times.sum())


def agrees(tokenizer: LoadedTokenizer, words: list[bytes], true: list[tuple[int, ...]]) -> NDArray[np.bool_]:
    """Whether the tokenizer's model cuts each pre-token so."""
    found = tokenizer.vocab.spell_all(words)
    return np.array([tuple(ids) == wanted for ids, wanted in zip(found, true, strict=True)])


def _wrong(
    tokenizer: LoadedTokenizer, counts: list[tuple[bytes, int]], true: list[tuple[int, ...]], right: NDArray[np.bool_]
) -> tuple[tuple[bytes, int, tuple[int, ...], tuple[int, ...]], ...]:
    lost = np.flatnonzero(~right)[:20].tolist()
    found = tokenizer.vocab.spell_all([counts[at][0] for at in lost])
    return tuple((*counts[at], true[at], tuple(ids)) for at, ids in zip(lost, found, strict=True))


def _need_scipy() -> None:
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise MissingExtra("SciPy", "lp", "fitting Unigram scores") from error
