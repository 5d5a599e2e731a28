"""How much vocabularies share, and which are one tokenizer under several names."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from tokenlayer.core.vocab import show
from tokenlayer.tokenizer.qtok.classify import Entry


def text_sets(vocabularies: Mapping[str, Sequence[Entry]]) -> dict[str, set[bytes]]:
    """The bytes that each vocabulary has entries for; control tokens and holes have none."""
    return {label: {e.data for e in entries if e.is_text} for label, entries in vocabularies.items()}


def jaccard(one: set[bytes], other: set[bytes]) -> float:
    """Shared over all; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def jaccard_matrix(sets: Mapping[str, set[bytes]]) -> list[list[float]]:
    """The Jaccard index of each pair, in order."""
    index = {(a, b): jaccard(sets[a], sets[b]) for a, b in combinations(sets, 2)}
    return [[1.0 if a == b else index.get((a, b), index.get((b, a), 0.0)) for b in sets] for a in sets]


def families(labels: Sequence[str], matrix: Sequence[Sequence[float]], same_from: float) -> list[list[str]]:
    """Average-linkage clustering: groups are joined while their mean Jaccard index is above `same_from`.

    Returns:
        Groups in the order of their first label. Takes time that grows with the cube of the number of labels.
    """
    groups = [[i] for i in range(len(labels))]
    while len(groups) > 1:
        pairs = combinations(range(len(groups)), 2)
        best, a, b = max(((_linkage(groups[a], groups[b], matrix), -a, -b) for a, b in pairs))
        if best <= same_from:
            break
        groups[-a] = sorted(groups[-a] + groups.pop(-b))
    return [[labels[i] for i in group] for group in sorted(groups)]


def _linkage(one: Sequence[int], other: Sequence[int], matrix: Sequence[Sequence[float]]) -> float:
    return sum(matrix[i][j] for i in one for j in other) / (len(one) * len(other))


def only_in(sets: Mapping[str, set[bytes]], label: str, most: int) -> tuple[int, list[str]]:
    """How many entries no other vocabulary has, and the first few of the longest."""
    others: set[bytes] = set().union(*(one for name, one in sets.items() if name != label))
    own = sets[label] - others
    return len(own), [show(data) for data in sorted(own, key=lambda d: (-len(d), d))[:most]]
