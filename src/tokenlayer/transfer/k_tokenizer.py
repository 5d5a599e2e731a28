"""The tokenizer object of K-Tokeniser: a `PreTrainedTokenizerFast` whose backend chooses between cuts.

No tokenizer.json can express the choice, so the backend is wrapped: the `tokenizers` library cuts the text into words
and each word by the base and by every typed vocabulary, we choose, and the library does the rest (special tokens,
pairs, truncation, overflow, padding, offsets, decoding) on real `Encoding` objects. A word is cut by all vocabularies
once and remembered: a text then costs its normaliser, its pre-tokenizer and one look-up a word (`_quick`). Texts that
hold an added token such as `[MASK]`, and words whose letters change in number when lower-cased, take the longer way
over the base's own encoding, with the same result.

The tokenizer.json of a saved folder holds all tokens, so that any loader can decode; loaded with `AutoTokenizer` it
cuts by longest match over all of them, without any choice. Load it with `KTokenizer.from_pretrained(folder)`.

Errors: `BadTokenizer` for a base that is not WordPiece, or a folder without `k_tokeniser.json`; `BadText` for a text
with a lone surrogate.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from tokenizers import Encoding, PreTokenizedString, Token, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from tokenlayer.core.errors import BadText, BadTokenizer
from tokenlayer.transfer.arbitration import BASE, CHOICES_FILE, Choices, Explanation, WordChoice, shortening

MOST_WORDS = 500_000
"""Words that are remembered; then all are forgotten."""
LONGEST_KEPT = 100
"""Longer words are not remembered."""

Piece = tuple[str, int, int]
"""A token's name, and the characters of the text that it stands for."""
Cuts = tuple[list[Token], list[Token]]
"""Tokens of a word by the base, and as chosen."""
Words = list[tuple[int, str, int, list[Piece]]]
"""Words of a text: number, text, first character, base pieces with places in the text."""


class KTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """A tokenizer that chooses per word, then per text, between typed pieces and those of its base.

    Made by `ktokeniser`, or from a tokenizer.json whose vocabulary holds the base's tokens and all typed pieces and the
    `Choices`: `KTokenizer(tokenizer_file=..., choices=...)`. Each text of a call (each half of a pair) is one sentence
    to the sentence rule. A pre-split text (`is_split_into_words`) gets the words of the base's own pre-tokenizer inside
    each given word.

    Raises:
        BadTokenizer: there is no `Choices`, or the tokenizer is not WordPiece.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"tokenizer_file": "tokenizer.json", "choices_file": CHOICES_FILE}
    model_input_names: ClassVar[list[str]] = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self, *args: Any, choices: Choices | None = None, choices_file: str | None = None, **kwargs: Any
    ) -> None:
        if choices is None:
            if choices_file is None:
                raise BadTokenizer(
                    f"the folder has no {CHOICES_FILE}, so it is not a K-Tokeniser",
                    hint="make one: tokenlayer transfer terms MODEL --terms drug=FILE --out DIR",
                )
            choices = Choices.from_json(Path(choices_file).read_text(encoding="utf-8"), choices_file)
        super().__init__(*args, **kwargs)
        self._tokenizer: Any = Arbiter(self._tokenizer, choices)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Leaves the files to `__init__`: nothing is converted."""
        return kwargs

    @property
    def choices(self) -> Choices:
        """What the choice between cuts is made from."""
        return cast(Choices, self._tokenizer.choices)

    def explain(self, text: str) -> Explanation:
        """Says for each word of a text the candidates, their scores and the choice."""
        return cast(Explanation, self._tokenizer.explain(text))

    def _save_pretrained(
        self,
        save_directory: str | Path,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        saved = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        file = Path(save_directory, (f"{filename_prefix}-" if filename_prefix else "") + CHOICES_FILE)
        file.write_text(self.choices.to_json(), encoding="utf-8")
        return (*saved, str(file))


class Arbiter:
    """Stands where a `tokenizers.Tokenizer` would; whatever does not encode is passed on to it.

    Args:
        whole: the backend whose vocabulary holds all tokens.
        choices: see `Choices`.

    Raises:
        BadTokenizer: the backend is not WordPiece.
    """

    _OWN = frozenset({"_whole", "choices", "_cutters", "_made_of", "_ids", "_known", "_tokens", "_added"})

    def __init__(self, whole: Tokenizer, choices: Choices) -> None:
        kind = type(whole.model).__name__
        if kind != "WordPiece":
            raise BadTokenizer(
                f"the base tokenizer is {kind}, expected WordPiece",
                hint="BPE and Unigram have no marks that tell first from later pieces; use `expand` for BPE",
            )
        self._whole = whole
        self.choices = choices
        self._made_of: Any = None
        self._cutters: dict[str, Tokenizer] = {}
        self._ids: dict[str, int] = {}
        self._known: dict[str, tuple[str, list[str], list[Piece]]] = {}
        self._tokens: dict[tuple[str, str], Cuts | None] = {}
        self._added: re.Pattern[str] | None = None

    def __getattr__(self, name: str) -> Any:
        if name in Arbiter._OWN:
            raise AttributeError(name)
        return getattr(self._whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Arbiter._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._whole, name, value)

    def __reduce__(self) -> tuple[type["Arbiter"], tuple[Tokenizer, Choices]]:
        return Arbiter, (self._whole, self.choices)

    def encode(
        self, sequence: Any, pair: Any = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Encoding:
        """Encodes one text or pair."""
        item = sequence if pair is None else (sequence, pair)
        return self.encode_batch([item], add_special_tokens, is_pretokenized)[0]

    def encode_batch(
        self, input: Sequence[Any], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[Encoding]:
        """Encodes texts or pairs; padded and truncated as the backend is set."""
        self._prepare()
        done = []
        for item in input:
            made = [
                self._quick(sequence, is_pretokenized, half) or self._thorough(sequence, is_pretokenized, half)
                for half, sequence in enumerate(_halves(item, is_pretokenized))
            ]
            done.append(self._whole.post_process(made[0], made[1] if len(made) > 1 else None, add_special_tokens))
        return _padded(done, self._whole.padding)

    def encode_batch_fast(
        self, input: Sequence[Any], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[Encoding]:
        """The same as `encode_batch`: offsets cost next to nothing here."""
        return self.encode_batch(input, add_special_tokens, is_pretokenized)

    def explain(self, text: str) -> Explanation:
        """See `KTokenizer.explain`."""
        self._prepare()
        words = self._words(text, pretokenized=False)
        shown = tuple(self._explained(word, start) for _, word, start, _ in words)
        cut = [self._cut(word, start, pieces) for _, word, start, pieces in words]
        before, after = sum(len(pieces) for *_, pieces in words), sum(map(len, cut))
        kept = self.choices.keeps(before, after)
        pieces = cut if kept else [pieces for *_, pieces in words]
        return Explanation(
            shown, shortening(before, after), kept, tuple(name for word in pieces for name, _, _ in word)
        )

    def _prepare(self) -> None:
        """Makes the backends of the base and of each type, again when tokens were added or settings changed."""
        added = tuple(sorted((i, token.content) for i, token in self._whole.get_added_tokens_decoder().items()))
        now = added, self._whole.encode_special_tokens
        if now == self._made_of:
            return
        data = json.loads(self._whole.to_str())
        new = {piece for pieces in self.choices.pieces.values() for piece in pieces}
        self._cutters = {
            kind: self._cutter(data, new - set(own), typed=True) for kind, own in self.choices.pieces.items()
        }
        self._cutters[BASE] = self._cutter(data, new, typed=False)
        self._ids = self._whole.get_vocab()
        self._known, self._tokens = {}, {}
        self._added = _pattern(self._whole)
        self._made_of = now

    def _cutter(self, data: dict[str, Any], without: set[str], *, typed: bool) -> Tokenizer:
        vocab = {name: i for name, i in data["model"]["vocab"].items() if name not in without}
        made = Tokenizer.from_str(json.dumps({**data, "model": {**data["model"], "vocab": vocab}}))
        made.no_truncation()
        made.no_padding()
        made.encode_special_tokens = self._whole.encode_special_tokens
        if typed and self.choices.lower_for_lookup:
            steps = [made.normalizer] if made.normalizer is not None else []
            made.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()])
        return made

    def _quick(self, sequence: Any, pretokenized: bool, half: int) -> Encoding | None:
        """Encodes a sequence by look-up, or None if that is not safe."""
        texts = sequence if pretokenized else [sequence]
        parts: list[PreTokenizedString] = []
        cuts: list[Cuts] = []
        for text in texts:
            if self._added is None or self._added.search(text):
                return None
            parts.append(self._pre_tokens(text))
            for word, (start, end), _ in parts[-1].get_splits(offset_referential="original", offset_type="char"):
                key = word, text[start:end]
                cut = self._tokens[key] if key in self._tokens else self._remember(key)
                if cut is None:
                    return None
                cuts.append(cut)
        kept = self.choices.keeps(sum(len(base) for base, _ in cuts), sum(len(chosen) for _, chosen in cuts))
        tokens = iter([cut[kept] for cut in cuts])
        for part in parts:
            part.tokenize(lambda _: next(tokens))
        if not pretokenized:
            return parts[0].to_encoding(type_id=half)
        made = [part.to_encoding(type_id=half, word_idx=at) for at, part in enumerate(parts)]
        return Encoding.merge(made, growing_offsets=False)

    def _pre_tokens(self, text: str) -> PreTokenizedString:
        base = self._cutters[BASE]
        try:
            made = PreTokenizedString(text)
        except UnicodeEncodeError as error:
            raise BadText(
                f"the text holds half a character, {text[error.start]!r} at place {error.start}",
                hint="text.encode('utf-8', 'replace').decode() puts a question mark there",
            ) from None
        if base.normalizer is not None:
            made.normalize(base.normalizer.normalize)
        if base.pre_tokenizer is not None:
            base.pre_tokenizer.pre_tokenize(made)
        return made

    def _remember(self, key: tuple[str, str]) -> Cuts | None:
        """Tokens of a normalised word that stands in a text as the other; None where their places would be lost."""
        if len(self._tokens) >= MOST_WORDS:
            self._tokens.clear()
        word, original = key
        base = self._cutters[BASE].model.tokenize(word)
        kind, alone, pieces = self._cut_alone(original)
        found: Cuts | None = base, base
        if kind != BASE and [token.value for token in base] == alone:
            lower = normalizers.Lowercase().normalize_str(word) if self.choices.lower_for_lookup else word
            chosen = self._cutters[kind].model.tokenize(lower)
            same = [token.value for token in chosen] == [name for name, _, _ in pieces]
            found = (base, chosen) if same and len(lower.encode()) == len(word.encode()) else None
        if len(original) <= LONGEST_KEPT:
            self._tokens[key] = found
        return found

    def _thorough(self, sequence: Any, pretokenized: bool, half: int) -> Encoding:
        """Encodes a sequence from the base's own encoding of it."""
        return self._encoding(self._choose(self._words(sequence, pretokenized=pretokenized)), half)

    def _words(self, sequence: Any, *, pretokenized: bool) -> Words:
        """The words of a sequence by the base tokenizer."""
        base = self._cutters[BASE]
        if not pretokenized:
            return list(_grouped(sequence, base.encode(sequence, add_special_tokens=False)))
        cut = base.encode_batch(sequence, add_special_tokens=False)
        return [(at, *word[1:]) for at, text in enumerate(sequence) for word in _grouped(text, cut[at])]

    def _choose(self, words: Words) -> Iterator[tuple[int, Piece]]:
        """Numbered pieces of a sentence after both choices."""
        chosen = [self._cut(word, start, pieces) for _, word, start, pieces in words]
        kept = self.choices.keeps(sum(len(pieces) for *_, pieces in words), sum(map(len, chosen)))
        for (at, _, _, base), pieces in zip(words, chosen, strict=True):
            for piece in pieces if kept else base:
                yield at, piece

    def _cut(self, word: str, start: int, base: list[Piece]) -> list[Piece]:
        """The chosen pieces of a word that stands at `start`.

        A word that the base cuts otherwise here than alone (a normaliser that looks around) keeps its cut.
        """
        known = self._known.get(word)
        if known is None:
            if len(self._known) >= MOST_WORDS:
                self._known.clear()
            known = self._cut_alone(word)
            if len(word) <= LONGEST_KEPT:
                self._known[word] = known
        _, alone, pieces = known
        if [name for name, _, _ in base] != alone:
            return base
        return [(name, start + begin, start + end) for name, begin, end in pieces]

    def _cut_alone(self, word: str) -> tuple[str, list[str], list[Piece]]:
        """Whose candidate a word takes, its base pieces, and the chosen ones with their places in it."""
        cuts = {kind: cutter.encode(word, add_special_tokens=False) for kind, cutter in self._cutters.items()}
        kind = self.choices.choose(self._candidates(cuts), upper=word.isupper())
        chosen = cuts[kind]
        pieces = [(name, *place) for name, place in zip(chosen.tokens, chosen.offsets, strict=True)]
        return kind, cuts[BASE].tokens, pieces

    def _candidates(self, cuts: dict[str, Encoding]) -> dict[str, tuple[str, ...] | None]:
        unknown = self._whole.model.unk_token
        return {kind: None if unknown in cut.tokens else tuple(cut.tokens) for kind, cut in cuts.items()}

    def _explained(self, word: str, start: int) -> WordChoice:
        cuts = {kind: cutter.encode(word, add_special_tokens=False) for kind, cutter in self._cutters.items()}
        candidates = self._candidates(cuts)
        scores = {kind: None if cut is None else self.choices.score(cut) for kind, cut in candidates.items()}
        chosen = self.choices.choose(candidates, upper=word.isupper())
        return WordChoice(word, start, start + len(word), candidates, scores, chosen)

    def _encoding(self, pieces: Iterator[tuple[int, Piece]], half: int) -> Encoding:
        """The library's own object for a cut of ours."""
        words, names, offsets = [], [], []
        for at, (name, start, end) in pieces:
            words.append(at)
            names.append(name)
            offsets.append((start, end))
        size = len(names)
        state = {
            "ids": [self._ids[name] for name in names],
            "type_ids": [half] * size,
            "tokens": names,
            "words": words,
            "offsets": offsets,
            "special_tokens_mask": [0] * size,
            "attention_mask": [1] * size,
            "overflowing": [],
            "sequence_ranges": {},
        }
        made = Encoding()
        made.__setstate__(json.dumps(state).encode())
        return made


def _pattern(whole: Tokenizer) -> re.Pattern[str] | None:
    """Finds added tokens in a text; None if some are looked for in the normalised text."""
    added = whole.get_added_tokens_decoder().values()
    if any(token.normalized for token in added):
        return None
    return re.compile("|".join(re.escape(token.content) for token in added) or "(?!)")


def _halves(item: Any, pretokenized: bool) -> list[Any]:
    """A text, or the two of a pair."""
    if isinstance(item, str):
        return [item]
    single = pretokenized and (not item or isinstance(item[0], str))
    return [item] if single else list(item)


def _grouped(text: str, cut: Encoding) -> Iterator[tuple[int, str, int, list[Piece]]]:
    """The words of a text with their pieces."""
    names, places, words = cut.tokens, cut.offsets, cut.word_ids
    at = 0
    while at < len(names):
        end = at + 1
        while end < len(names) and words[end] == words[at]:
            end += 1
        start = places[at][0]
        pieces = [(name, *place) for name, place in zip(names[at:end], places[at:end], strict=True)]
        yield words[at] or 0, text[start : places[end - 1][1]], start, pieces
        at = end


def _padded(encodings: list[Encoding], padding: dict[str, Any] | None) -> list[Encoding]:
    """Pads to the longest of a batch, as the library does only inside its own `encode_batch`."""
    if padding is None or padding["length"] is not None or not encodings:
        return encodings
    longest = max(map(len, encodings))
    kept = {key: padding[key] for key in ("direction", "pad_id", "pad_type_id", "pad_token")}
    for one in encodings:
        one.pad(longest, **kept)
    return encodings
