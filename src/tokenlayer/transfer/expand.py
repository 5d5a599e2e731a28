"""New tokens for an existing BPE tokenizer: merges learned on your text, after all the merges it has.

The old merges stay in front and the old ids stay theirs, so text that the new merges do not touch is cut as before.
The new tokens have merges of their own in the tokenizer.json; they are not `added_tokens`, which cut a text before the
pre-tokenizer sees it.

Paper: Mundra et al., "An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for Language
Models", CoNLL 2024, section 4 (expansion, `drop_ascii`). Merges: Sennrich et al., ACL 2016.

Shapes: new ids follow the last old id, added tokens included, in the order of their merges.

Errors: `BadOption` for a number below 1; `BadTokenizer` for a model that is not BPE, or marks word ends; `BadText` for
no text, or text from which fewer tokens can be learned (it says how many).

Differences from the paper:
    - the paper trains a SentencePiece model of its own and appends its pieces; here training goes on from the old
      tokenizer's own cuts, which also works for byte-level BPE, where pieces cannot be appended;
    - `drop_ascii` lets one space lead a byte-level token (SentencePiece writes it `▁`, which the paper's rule keeps)
      and keeps out control characters as well;
    - a pair whose text is already a token is passed over, so each new token has exactly one merge.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import regex  # type: ignore[import-untyped]

from tokenlayer.core.byte_alphabet import to_alphabet
from tokenlayer.core.errors import BadOption, BadText, BadTokenizer
from tokenlayer.core.tokenizer_json import model_type, space_mark, token_family
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.data.cutter import Cutter
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.merges import Words, learn_merges

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXTS_AT_A_TIME = 1024
FAMILIES = ("byte-level", "sentencepiece")


@dataclass(frozen=True)
class ExpandConfig:
    """How tokens are learned."""

    drop_ascii: bool = True
    """New tokens hold no ASCII but one leading space, so that the cut of English text cannot change."""
    min_count: int = 2
    """A pair must occur this often to be merged."""
    longest_bytes: int | None = None
    """Longest new token."""
    coverage: float = 0.9995  # sentencepiece, character_coverage
    """For vocabularies of characters: share of the text's unknown characters that get a token of their own first."""

    def __post_init__(self) -> None:
        for name in ("min_count", "longest_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOption(f"{name} is {value}, expected at least 1")
        if not 0 <= self.coverage <= 1:
            raise BadOption(f"coverage is {self.coverage:g}, expected 0 to 1")


@dataclass(frozen=True, eq=False)
class Expansion:
    """A longer tokenizer and what it does to the text it was learned on.

    Attributes:
        tokenizer: the new tokenizer; ids below `first_id` are as they were.
        first_id: id of the first new token.
        characters: new tokens that are single characters without a merge (SentencePiece only).
        present: texts of pairs that were passed over because they are tokens already, most frequent first.
        unspelled: new tokens that their own text, alone, is not cut into; they occur inside longer text.
        unused: new tokens that the text is not cut into, being only steps to longer ones.
        lost: old tokens that their own text was cut into before and no longer is; nothing, unless a bug.
        tokens_before: tokens of the text in the old cut.
        tokens_after: tokens of the text in the new cut.
        changed: share of pre-tokens (as often as they occur) that are cut otherwise.
    """

    tokenizer: LoadedTokenizer
    first_id: int
    characters: tuple[int, ...]
    present: tuple[str, ...]
    unspelled: tuple[int, ...]
    unused: tuple[int, ...]
    lost: tuple[int, ...]
    tokens_before: int
    tokens_after: int
    changed: float

    @property
    def added(self) -> range:
        """Ids of the new tokens."""
        return range(self.first_id, len(self.tokenizer.vocab))


def expand(
    tokenizer: LoadedTokenizer,
    texts: Iterable[str],
    n_add: int,
    config: ExpandConfig | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Expansion:
    """Learns `n_add` further tokens on texts.

    Holds the distinct pre-tokens of the texts in memory (about 100 bytes a token of theirs).

    Args:
        tokenizer: a byte-level or SentencePiece BPE.
        texts: what to learn from, read once.
        n_add: how many tokens to add.
        config: see `ExpandConfig`.
        progress: called with tokens learned and tokens wanted.
        warn: takes one sentence for each thing that is unusual.

    Raises:
        BadOption: `n_add` is below 1.
        BadTokenizer: no BPE, or one that marks word ends.
        BadText: there is no text, or not enough for `n_add` tokens.
    """
    config = config or ExpandConfig()
    _check(tokenizer, n_add)
    counts = count_words(tokenizer, texts, warn)
    words, times = list(counts), list(counts.values())
    characters = _characters(tokenizer.vocab, counts, n_add, config)
    wider = _with_tokens(tokenizer, characters, [])
    before = Words(_cut(wider.backend, words), times)
    learner = _Learner(wider.vocab, config, wanted=n_add - len(characters))
    for _ in learn_merges(before, learner.propose, config.min_count):
        if progress is not None:
            progress(len(characters) + len(learner.merges), n_add)
        if not learner.open:
            break
    found = len(characters) + len(learner.merges)
    if found < n_add:
        raise BadText(
            f"only {found} of {n_add} tokens can be learned from {len(words)} distinct pre-tokens: no other pair "
            f"occurs {config.min_count} times" + (" without ASCII" if config.drop_ascii else ""),
            hint=f"give more text, or ask for at most {found}",
        )
    longer = _with_tokens(tokenizer, [*characters, *learner.names], learner.merges)
    return _described(tokenizer, longer, counts, len(characters), tuple(learner.present))


def _check(tokenizer: LoadedTokenizer, n_add: int) -> None:
    if n_add < 1:
        raise BadOption(f"n_add is {n_add}, expected at least 1", hint="how many tokens should be added?")
    kind, family = model_type(tokenizer.data), token_family(tokenizer.data)
    if kind != "BPE" or family not in FAMILIES:
        raise BadTokenizer(
            f"{tokenizer.where or 'the tokenizer'} is a {family} {kind}, only byte-level and SentencePiece BPE can be "
            "expanded",
            hint="learn a new tokenizer and swap it in: tokenlayer tokenizer learn, then tokenlayer swap",
        )
    marks = [tokenizer.data["model"].get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")]
    if any(marks):
        raise BadTokenizer(f"{tokenizer.where} marks words with {next(filter(None, marks))!r}, which is not supported")


def count_words(
    tokenizer: LoadedTokenizer, texts: Iterable[str], warn: Callable[[str], object] = warnings.warn
) -> Counter[str]:
    """Counts what the tokenizer's model gets to cut, in the form it gets it (`Ġthe`, `▁the`).

    A SentencePiece BPE gets whole texts where no pre-tokenizer cuts them; they are cut before each space mark, as its
    trainer does. Added tokens inside the texts are left out.

    Raises:
        BadText: there is no text.
    """
    try:
        cutter = Cutter(tokenizer.backend)
        added = {token["content"] for token in tokenizer.data.get("added_tokens") or ()}
    except BadOption as error:
        warn(f"added tokens are learned from like other text: {error.message}")
        cutter, added = Cutter(replace(tokenizer, data={**tokenizer.data, "added_tokens": []}).backend), set()
    mark = space_mark(tokenizer.data) if token_family(tokenizer.data) == "sentencepiece" else None
    split = regex.compile(f"{mark}?[^{mark}]+|{mark}+(?![^{mark}])|{mark}+").findall if mark else None
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = cutter(text)
        counts.update(pieces if split is None else [word for piece in pieces for word in split(piece)])
    for name in added:
        counts.pop(name, None)
    counts.pop("", None)
    if not counts:
        raise BadText("there is no text to learn from: all documents are empty", hint="check the sources")
    if token_family(tokenizer.data) != "byte-level" or " " not in "".join(cutter("a b")):
        return counts
    return Counter({to_alphabet(word.encode()): n for word, n in counts.items()})


def _characters(vocab: ByteVocab, counts: Mapping[str, int], n_add: int, config: ExpandConfig) -> list[str]:
    """Characters to add before merges can use them: a vocabulary of characters spells others by single bytes."""
    if vocab.family == "byte-level":
        return []
    seen: Counter[str] = Counter()
    for word, n in counts.items():
        for char in word:
            seen[char] += n
    unknown = Counter({char: n for char, n in seen.items() if vocab.find_name(char) is None})
    wanted = config.coverage * unknown.total()
    chosen: list[str] = []
    for char, n in sorted(unknown.items(), key=lambda entry: (-entry[1], entry[0])):
        if wanted <= 0 or len(chosen) == n_add or n < config.min_count:
            break
        if not (config.drop_ascii and char.isascii()):
            chosen.append(char)
        wanted -= n
    return chosen


@dataclass(eq=False)
class _Learner:
    """Says which pairs may become tokens, and keeps those that did."""

    vocab: ByteVocab
    config: ExpandConfig
    wanted: int
    names: list[str] = field(default_factory=list)
    merges: list[tuple[str, str]] = field(default_factory=list)
    present: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._name = list(self.vocab.names)
        self._data = list(self.vocab.tokens)
        self._usable = [kind is Kind.NORMAL for kind in self.vocab.kinds]
        self._known = set(self._name)

    @property
    def open(self) -> bool:
        """Whether more tokens are wanted."""
        return len(self.merges) < self.wanted

    def propose(self, left: int, right: int) -> int | None:
        """The id of the token that the pair makes, or None."""
        if not (self.open and self._usable[left] and self._usable[right]):
            return None
        name, data = self._name[left] + self._name[right], self._data[left] + self._data[right]
        if name in self._known or self.vocab.find(data) is not None:
            self.present.append(name)
            return None
        if self.config.drop_ascii and not _no_ascii(data):
            return None
        if self.config.longest_bytes is not None and len(data) > self.config.longest_bytes:
            return None
        self.names.append(name)
        self.merges.append((self._name[left], self._name[right]))
        self._known.add(name)
        self._name.append(name)
        self._data.append(data)
        self._usable.append(True)
        return len(self._name) - 1


def _no_ascii(data: bytes) -> bool:
    """Whether bytes, but for one leading space, are all part of characters above ASCII."""
    rest = data[1:] if data[:1] == b" " else data
    return bool(rest) and min(rest) >= 0x80


def _with_tokens(
    tokenizer: LoadedTokenizer, names: Sequence[str], merges: Sequence[tuple[str, str]]
) -> LoadedTokenizer:
    """The tokenizer with tokens after the last id and merges after the last merge.

    Added tokens go into the model's vocabulary too: the library numbers one that the model does not know by the count
    of tokens, whatever the file says.
    """
    if not names:
        return tokenizer
    data, size = tokenizer.data, len(tokenizer.vocab)
    model: dict[str, Any] = dict(data["model"])
    added = (token["content"] for token in data.get("added_tokens") or ())
    late = {name: tokenizer.vocab.find_name(name) for name in added}
    model["vocab"] = {**late, **model["vocab"], **{name: size + n for n, name in enumerate(names)}}
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] = [*model["merges"], *(f"{a} {b}" if as_text else [a, b] for a, b in merges)]
    return LoadedTokenizer({**data, "model": model}, tokenizer.config, tokenizer.roles, tokenizer.where)


def _cut(backend: "Tokenizer", words: list[str]) -> list[list[int]]:
    """Token ids of each word by the model alone."""
    from tokenizers import Tokenizer

    bare = Tokenizer(backend.model)
    return [e.ids for e in bare.encode_batch_fast(words, add_special_tokens=False)]


def _described(
    old: LoadedTokenizer, new: LoadedTokenizer, counts: Counter[str], characters: int, present: tuple[str, ...]
) -> Expansion:
    first, vocab = len(old.vocab), new.vocab
    words = list(counts)
    cuts = _cut(old.backend, words), _cut(new.backend, words)
    before, after, changed = 0, 0, 0
    uses = [0] * len(vocab)
    for a, b, times in zip(*cuts, counts.values(), strict=True):
        before, after, changed = before + times * len(a), after + times * len(b), changed + times * (a != b)
        for i in b:
            uses[i] += times
    names = list(vocab.names)
    alone = _cut(new.backend, names)
    was_alone = _cut(old.backend, names[:first])
    return Expansion(
        tokenizer=new,
        first_id=first,
        characters=tuple(range(first, first + characters)),
        present=present,
        unspelled=tuple(i for i in range(first, len(vocab)) if alone[i] != [i]),
        unused=tuple(i for i in range(first, len(vocab)) if not uses[i]),
        lost=tuple(i for i in range(first) if was_alone[i] == [i] != alone[i]),
        tokens_before=before,
        tokens_after=after,
        changed=changed / counts.total(),
    )


@dataclass(frozen=True)
class Recut:
    """Two cuts of the same texts.

    Attributes:
        texts: how many.
        changed: how many are cut otherwise.
        tokens_before: tokens of all in the first cut.
        tokens_after: tokens of all in the second cut.
        bytes: UTF-8 bytes of all.
    """

    texts: int
    changed: int
    tokens_before: int
    tokens_after: int
    bytes: int


def recut(old: LoadedTokenizer, new: LoadedTokenizer, texts: Iterable[str]) -> Recut:
    """Encodes texts with two tokenizers and counts what changed: English to see harm, the new language to see use."""
    total = Recut(0, 0, 0, 0, 0)
    for some in _batches(texts):
        cuts = [(a, b) for a, b in zip(old.encode_batch(some), new.encode_batch(some), strict=True)]
        total = Recut(
            total.texts + len(some),
            total.changed + sum(a != b for a, b in cuts),
            total.tokens_before + sum(len(a) for a, _ in cuts),
            total.tokens_after + sum(len(b) for _, b in cuts),
            total.bytes + sum(len(text.encode()) for text in some),
        )
    return total


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == TEXTS_AT_A_TIME:
            yield held
            held = []
    if held:
        yield held
