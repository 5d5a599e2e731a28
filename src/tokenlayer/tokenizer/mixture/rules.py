"""A tokenizer's merges as they were learned: one for each token, in order, with the symbols they start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.tokenizer_json import model_type
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.tokenizer_files import LoadedTokenizer

SPACES = " \t\r\n▁ĠĉĊč"
"""White space as itself, SentencePiece's mark, and the byte alphabet's space, tab, line feed, carriage return."""


@dataclass(frozen=True, eq=False)
class MergeRules:
    """Merges with one result each.

    Attributes:
        left: token id of the left part, for each merge.
        right: the same for the right part.
        result: the same for what they make.
        rank: place of the merge in the tokenizer's list.
        names: for each token id its string in the file.
        notes: what was unusual about the list, one sentence each.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    result: tuple[int, ...]
    rank: tuple[int, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    prefix: str = ""
    suffix: str = ""
    _ids: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.left)

    def label(self, at: int) -> str:
        """Returns a merge for people: `Ġt + he`."""
        return f"{self.names[self.left[at]]} + {self.names[self.right[at]]}"

    def symbols(self, pretoken: str) -> list[int]:
        """Returns the token ids of a pre-token's characters, -1 where a character has none: nothing merges across."""
        found, last = self._ids.get, len(pretoken) - 1
        if not self.prefix and not self.suffix:
            return [found(c, -1) for c in pretoken]
        marked = (
            (self.prefix if at else "") + c + (self.suffix if at == last else "") for at, c in enumerate(pretoken)
        )
        return [found(c, -1) for c in marked]

    def first(self, many: int) -> "MergeRules":
        """Returns the first `many` merges."""
        parts = (self.left[:many], self.right[:many], self.result[:many], self.rank[:many])
        return MergeRules(*parts, self.names, self.notes, self.prefix, self.suffix, self._ids)


def read_rules(tokenizer: LoadedTokenizer, *, drop_space_runs: bool = False) -> MergeRules:
    """Reads the merges of a BPE tokenizer and keeps, for each token, the one that made it.

    Lists that were made from a vocabulary (SentencePiece, tiktoken) hold every split of a token.

    Args:
        tokenizer: any BPE tokenizer.
        drop_space_runs: leave out merges whose result is a run of one white-space character.

    Raises:
        BadTokenizer: not BPE, no merges, or a merge whose result is no token.
    """
    kind = model_type(tokenizer.data)
    if kind != "BPE":
        raise BadTokenizer(
            f"{tokenizer.where} is a {kind} tokenizer, mixture inference needs BPE merges",
            hint="the order of a BPE's merges is what tells; Unigram and WordPiece files have none",
        )
    model, vocab = tokenizer.data["model"], tokenizer.vocab
    if not vocab.merges:
        raise BadTokenizer(f"{tokenizer.where} has no merges", hint="give the tokenizer.json of a trained BPE")
    prefix, suffix = (model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    ids: dict[str, int] = dict(model["vocab"])
    listed = _listed(vocab, ids, prefix, tokenizer.where)
    notes: list[str] = []
    kept = _one_for_each(listed)
    if len(kept) < len(listed):
        notes.append(f"{len(listed)} merges make {len(kept)} tokens; of several for one token the one in use was kept")
    if drop_space_runs:
        runs = [m for m in kept if _is_run(vocab.names[m[2]])]
        kept = [m for m in kept if not _is_run(vocab.names[m[2]])]
        notes.append(f"{len(runs)} merges that make runs of white space were left out")
    if not kept:
        raise BadTokenizer(f"{tokenizer.where} has no merges left", hint="leave drop_space_runs out")
    left, right, result, rank = (tuple(column) for column in zip(*kept, strict=True))
    return MergeRules(left, right, result, rank, vocab.names, tuple(notes), prefix, suffix, ids)


Listed = tuple[int, int, int, int]
"""Left, right, result, rank."""


def _listed(vocab: ByteVocab, ids: Mapping[str, int], prefix: str, where: str) -> list[Listed]:
    found: list[Listed] = []
    for rank, (left, right) in enumerate(vocab.merges):
        made = vocab.names[left] + vocab.names[right].removeprefix(prefix)
        if made not in ids:
            raise BadTokenizer(
                f"{where}: merge {rank} ({vocab.names[left]!r}, {vocab.names[right]!r}) makes {made!r}, "
                "which is not in the vocabulary",
                hint="is the file whole? re-save the tokenizer with the `tokenizers` library",
            )
        found.append((left, right, ids[made], rank))
    return found


def _one_for_each(listed: Sequence[Listed]) -> list[Listed]:
    """For each token the merge that a text meets: the one whose parts' merges come first, compared rank by rank."""
    groups: dict[int, list[Listed]] = {}
    for merge in listed:
        groups.setdefault(merge[2], []).append(merge)
    if len(groups) == len(listed):
        return list(listed)
    last = {token: group[-1][3] for token, group in groups.items()}
    needed: dict[int, tuple[int, ...]] = {}
    kept: list[Listed] = []
    for token in sorted(groups, key=lambda one: last[one]):
        costs = [(_needed(m, needed, groups), m) for m in _without_mirrors(groups[token])]
        formed = [(cost, m) for cost, m in costs if cost is not None]
        if not formed:
            continue  # a part that nothing has made by now: no text reaches it
        cost, merge = min(formed)
        needed[token] = tuple(sorted((*cost, last[token])))
        kept.append(merge)
    return kept


def _needed(
    merge: Listed, needed: Mapping[int, tuple[int, ...]], groups: Mapping[int, object]
) -> tuple[int, ...] | None:
    """Ranks of all merges below the parts, ascending; None when a part comes later."""
    ranks: list[int] = []
    for part in merge[:2]:
        if part not in groups:
            continue  # a character
        if part not in needed:
            return None
        ranks += needed[part]
    return tuple(sorted(ranks))


def _without_mirrors(group: Sequence[Listed]) -> list[Listed]:
    """Of `a + aa` and `aa + a` only the one whose left part is made later: the longer one."""
    pairs = {(m[0], m[1]) for m in group}
    return [m for m in group if not (m[0] < m[1] and (m[1], m[0]) in pairs)]


def _is_run(name: str) -> bool:
    return len(name) > 1 and len(set(name)) == 1 and name[0] in SPACES
