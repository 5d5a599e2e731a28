"""Any tokenizer rewritten in the byte alphabet of GPT-2: all 256 bytes have a token, and texts keep their ids.

Paper: Minixhofer et al., "Zero-Shot Tokenizer Transfer", NeurIPS 2024; reference implementation bminixhofer/zett,
`zett/tokenizer_converters.py`. One network can then read the tokens of every tokenizer, and nothing is unknown.

    SentencePiece   marks become spaces; <0x0A> becomes its byte, unless another token is that byte
    WordPiece       ##ing becomes ing, the becomes " the"; every pre-token gets a space in front
    Unigram         scores stay; bytes get -1e5, so that they are used only where nothing else fits
    BPE             merges are rewritten; merges that build a character from its bytes go in front of them

Ids do not change: tokens are renamed in place, new ones are appended. Special tokens are never renamed.

Differences from the reference:

- A character that a BPE lacks is cut off from the text and into bytes before merging. Otherwise the merges of other
  characters with the same first bytes would take hold of it, and its ids would not be those of byte fallback.
- Pre-tokenizer and normaliser stay the tokenizer's own, as far as they are not about the space mark.
- A literal space mark in a text is a character of its own, not a space. A text that spells the name of a control or
  fallback token of a Unigram (`<s>`, `<0x0A>`) is text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenlayer.core.byte_alphabet import CHAR_OF_BYTE, to_alphabet
from tokenlayer.core.errors import BadTokenizer
from tokenlayer.core.tokenizer_json import components, model_type, space_mark, token_family
from tokenlayer.core.vocab import ByteVocab, Kind
from tokenlayer.models.tokenizer_edit import NEVER
from tokenlayer.models.tokenizer_files import LoadedTokenizer
from tokenlayer.transfer.zett import byte_merges

BYTE_SCORE = -1e5
"""Unigram score of a byte (tokenizer_converters.py); a cut into real tokens always has a better sum."""

LONGEST_RUN = 15
"""Repeats in the white space tokens of `consistent_whitespace`."""

SPACES = b" \n\t"


@dataclass(frozen=True, eq=False)
class ByteLevelTokenizer:
    """A tokenizer in the byte alphabet, and what had to be done to it.

    Attributes:
        tokenizer: the rewritten tokenizer; ids below the old size mean what they meant.
        added_bytes: the bytes (0 to 255) that had no token and got one, ascending.
        added_pieces: tokens that only serve to build characters from bytes; no text is ever cut into them.
        merges_added: merges in front of the real ones, that build characters.
        merges_lost: merges of tokens that no text can reach any more.
        duplicates: token id -> id of the token that stands for the same bytes and that texts are cut into.
        renamed: tokens that `consistent_whitespace` took out of use.
        warnings: what is lossy or could not be kept, one sentence each.
    """

    tokenizer: LoadedTokenizer
    added_bytes: tuple[int, ...] = ()
    added_pieces: int = 0
    merges_added: int = 0
    merges_lost: int = 0
    duplicates: Mapping[int, int] | None = None
    renamed: int = 0
    warnings: tuple[str, ...] = ()


def to_byte_level(tokenizer: LoadedTokenizer, *, consistent_whitespace: bool = False) -> ByteLevelTokenizer:
    """Rewrites a tokenizer in the byte alphabet.

    Texts in which the tokenizer knows every character keep their ids, as do those that it spells with byte fallback;
    what it called unknown is spelled in bytes.

    Args:
        tokenizer: byte-level BPE, SentencePiece BPE, Unigram or WordPiece.
        consistent_whitespace: take tokens with several of space, newline and tab out of use unless they are one such
            character followed by 1 to 15 times one such, and add all of the latter. Changes ids of texts.

    Raises:
        BadTokenizer: a model that is not one of these (WordLevel, or BPE with marks at the ends of words).
    """
    kind, family = model_type(tokenizer.data), token_family(tokenizer.data)
    suffix = tokenizer.data["model"].get("end_of_word_suffix")
    if kind == "WordLevel" or suffix:
        what = f"a BPE whose words end in {suffix!r}" if suffix else "a WordLevel tokenizer"
        raise BadTokenizer(
            f"{tokenizer.where or 'the tokenizer'} is {what}, which cannot be written in bytes",
            hint="byte-level BPE, SentencePiece BPE, Unigram and WordPiece can",
        )
    draft = _Draft(tokenizer, kind)
    if family != "byte-level":
        draft.rename()
    draft.add_bytes()
    lost = draft.rewrite_merges() if kind == "BPE" else 0
    built = draft.build_characters() if kind == "BPE" and family != "byte-level" else (0, 0)
    renamed = draft.regular_whitespace() if consistent_whitespace else 0
    data = draft.data() if family == "byte-level" else _with_stages(draft.data(), kind, tokenizer.data, draft.known())
    notes = [*draft.notes(built[0]), *_stage_warnings(tokenizer.data, kind, family)]
    made = _loaded(tokenizer, data, draft, notes)
    warnings = (*made.vocab.lossy, *notes)
    return ByteLevelTokenizer(
        made, tuple(draft.added), built[0], built[1], lost, dict(draft.duplicates), renamed, warnings
    )


class _Draft:
    """The vocabulary under its new names."""

    def __init__(self, tokenizer: LoadedTokenizer, kind: str) -> None:
        self.model: dict[str, Any] = dict(tokenizer.data["model"])
        self.vocab, self.kind, self.source = tokenizer.vocab, kind, tokenizer.data
        self.mark = space_mark(tokenizer.data) or ""
        self.fixed = {token["content"] for token in tokenizer.data.get("added_tokens") or ()}
        self.names = list(self.vocab.names)
        self.scores = self._scores()
        self.merges: list[tuple[str, str]] = []
        self.duplicates: dict[int, int] = {}
        self.added: list[int] = []

    def _scores(self) -> list[float]:
        if self.kind != "Unigram":
            return [0.0] * len(self.names)
        listed = [float(score) for _, score in self.model["vocab"]]
        scores = listed + [NEVER] * (len(self.names) - len(listed))
        return [NEVER if kind is Kind.CONTROL else s for kind, s in zip(self.vocab.kinds, scores, strict=True)]

    def rename(self) -> None:
        """Writes every token of text in the byte alphabet; of several with the same bytes one keeps the text."""
        owners: dict[bytes, int] = {}
        for i in sorted(self.vocab.text_ids(), key=self._rank):
            if self.names[i] in self.fixed:
                continue
            data = self._bytes(i)
            if self.vocab.kinds[i] is Kind.BYTE:
                self.scores[i] = BYTE_SCORE
            owner = owners.setdefault(data, i)
            if owner != i:
                self.duplicates[i] = owner
            self.names[i] = to_alphabet(data) if owner == i else f"{self.names[i]} (as {owner})"

    def _rank(self, i: int) -> tuple[bool, bool, int]:
        """Which of two tokens with the same bytes texts are cut into: no byte fallback, no literal space, the first."""
        return self.vocab.kinds[i] is Kind.BYTE, bool(self.mark) and " " in self.names[i], i

    def _bytes(self, i: int) -> bytes:
        """The bytes of a token; in a WordPiece every token without prefix begins with a space, signs too."""
        data, name = self.vocab.tokens[i], self.names[i]
        prefix = self.model.get("continuing_subword_prefix") or "" if self.kind == "WordPiece" else ""
        starts = self.kind == "WordPiece" and not (prefix and name.startswith(prefix) and name != prefix)
        return b" " + data if starts and not data.startswith(b" ") else data

    def add_bytes(self) -> None:
        """Appends a token for each byte that has none."""
        have = set(self.names) - self.fixed
        self.added = [b for b in range(256) if CHAR_OF_BYTE[b] not in have]
        self.append((CHAR_OF_BYTE[b] for b in self.added), BYTE_SCORE)

    def append(self, names: Iterable[str], score: float) -> None:
        """Appends tokens after the last id."""
        for name in names:
            self.names.append(name)
            self.scores.append(score)

    def rewrite_merges(self) -> int:
        """Merges under the new names; those that no longer make a token are left out and counted."""
        have, pairs = set(self.names), self.vocab.merges
        kept = [(self.names[a], self.names[b]) for a, b in pairs]
        self.merges = [(a, b) for a, b in kept if a + b in have]
        return len(pairs) - len(self.merges)

    def build_characters(self) -> tuple[int, int]:
        """Puts the merges that build characters in front; returns how many tokens and merges were added."""
        pieces, merges = byte_merges.character_merges(self.known())
        new = [name for name in pieces if name not in set(self.names)]
        self.append(new, BYTE_SCORE)
        self.merges = [*merges, *self.merges]
        return len(new), len(merges)

    def known(self) -> list[str]:
        """The characters beyond ASCII that have a token of their own."""
        size = len(self.vocab)
        texts = (self.vocab.tokens[i].decode("utf-8", "ignore") for i in self.vocab.text_ids() if i < size)
        return sorted({text for text in texts if len(text) == 1 and ord(text) > 127})

    def regular_whitespace(self) -> int:
        """Makes white space tokens those that sampled vocabularies have; returns how many went out of use."""
        runs = white_runs()
        names = {to_alphabet(run) for run in runs}
        wild = [i for i, name in enumerate(self.names) if _wild(name) and name not in names | self.fixed]
        gone = {self.names[i] for i in wild}
        for i in wild:
            self.names[i], self.scores[i] = f"<unused {i}>", NEVER
        self.merges = [(a, b) for a, b in self.merges if not {a, b, a + b} & gone]
        have = set(self.names)
        self.append([name for run in runs if (name := to_alphabet(run)) not in have], 0.0)
        if self.kind == "BPE":
            have_merges = set(self.merges)
            self.merges += [pair for pair in byte_merges.run_merges(names) if pair not in have_merges]
        if self.kind == "Unigram":
            self.scores = [0.0 if name in names else s for name, s in zip(self.names, self.scores, strict=True)]
        return len(wild)

    def data(self) -> dict[str, Any]:
        """The tokenizer.json, its stages as they were."""
        model = self.model
        if self.kind == "Unigram":
            model["vocab"] = [[name, score] for name, score in zip(self.names, self.scores, strict=True)]
        else:
            listed = set(self.source["model"]["vocab"].values())
            longer = len(self.names) > len(self.vocab)  # added tokens need an entry only if others come after them
            model["vocab"] = {name: i for i, name in enumerate(self.names) if name and (longer or i in listed)}
        if self.kind == "BPE":
            model["merges"] = [[a, b] for a, b in self.merges]
        return {**self.source, "model": model}

    def notes(self, pieces: int) -> list[str]:
        """What was appended, and what happened to tokens with the same bytes, one sentence each."""
        said = []
        if self.added:
            said.append(f"{len(self.added)} of the 256 bytes had no token and got one")
        if pieces:
            said.append(f"{pieces} tokens were appended that only build characters; no text is cut into them")
        if self.duplicates:
            shown = ", ".join(self.vocab.label(i) for i in list(self.duplicates)[:3])
            said.append(
                f"{len(self.duplicates)} tokens stand for the bytes of another one and are out of use, such as {shown}"
            )
        return said


def white_runs() -> list[bytes]:
    """The white space tokens of sampled vocabularies: one of space, newline, tab, then 1 to 15 times one of them."""
    return [bytes([c2]) + bytes([c1]) * n for c2 in SPACES for c1 in SPACES for n in range(1, LONGEST_RUN + 1)]


def _wild(name: str) -> bool:
    return sum(name.count(CHAR_OF_BYTE[b]) for b in SPACES) > 1


def _with_stages(data: dict[str, Any], kind: str, old: Mapping[str, Any], known: list[str]) -> dict[str, Any]:
    """The stages around the rewritten model: marks become spaces, the text becomes bytes before the model."""
    mark, model = space_mark(old), dict(data["model"])
    normaliser, steps = _unmarked(old.get("normalizer"), mark), _steps(_unmarked(old.get("pre_tokenizer"), mark))
    if _spaces_become_marks(old.get("normalizer"), mark):
        steps = [step for step in steps if step.get("pattern") != {"String": " "} or _splits_mark(old, mark)]
    steps.append(
        {"type": "ByteLevel", "add_prefix_space": kind == "WordPiece", "trim_offsets": True, "use_regex": False}
    )
    if "byte_fallback" in model:
        model["byte_fallback"] = False
    if kind == "WordPiece":
        model["continuing_subword_prefix"] = ""
        longest = 4 * int(model.get("max_input_chars_per_word", 100)) + 1
        model["max_input_chars_per_word"] = longest
        steps.append(byte_merges.isolate(f"[\\s\\S]{{1,{longest}}}"))  # longer words were unknown
    if kind == "BPE":
        steps.append(byte_merges.isolate(byte_merges.known_runs(known)))
    before = {"type": "Sequence", "pretokenizers": steps}
    decoder: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if kind == "WordPiece" or _strips(old):
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        decoder = {"type": "Sequence", "decoders": [decoder, strip]}
    return {**data, "normalizer": normaliser, "pre_tokenizer": before, "decoder": decoder, "model": model}


def _unmarked(part: Any, mark: str | None) -> Any:
    """A stage with spaces for marks; a step that then replaces spaces by spaces is gone."""
    if not isinstance(part, dict) or mark is None:
        return part
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            inner = [step for one in part[key] if (step := _unmarked(one, mark)) is not None]
            return {**part, key: inner} if inner else None
    new = {key: value.replace(mark, " ") if isinstance(value, str) else value for key, value in part.items()}
    if isinstance(part.get("pattern"), dict):
        new["pattern"] = {key: value.replace(mark, " ") for key, value in part["pattern"].items()}
    if new.get("type") == "Replace" and new.get("pattern") == {"String": " "} and new.get("content") == " ":
        return None
    return new


def _steps(part: Any) -> list[dict[str, Any]]:
    if not isinstance(part, dict):
        return []
    return list(part["pretokenizers"]) if part.get("type") == "Sequence" else [part]


def _spaces_become_marks(normaliser: Any, mark: str | None) -> bool:
    """Whether the pre-tokenizer sees marks instead of spaces."""
    return mark is not None and any(
        part.get("type") == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == mark
        for part in components(normaliser)
    )


def _splits_mark(old: Mapping[str, Any], mark: str | None) -> bool:
    return any(part.get("pattern") == {"String": mark} for part in components(old.get("pre_tokenizer")))


def _strips(old: Mapping[str, Any]) -> bool:
    """Whether decoding takes a leading space away."""
    stages = list(components(old.get("decoder")))
    return any(
        (part.get("type") == "Strip" and part.get("start"))
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in stages
    )


def _stage_warnings(old: Mapping[str, Any], kind: str, family: str) -> list[str]:
    """What the conversion cannot vouch for."""
    said = []
    if kind == "WordPiece" and family != "byte-level":
        said.append("white space between words is not kept: each word has one space in front")
    if _spaces_become_marks(old.get("normalizer"), space_mark(old)):
        sees = [
            p["type"] for p in _steps(old.get("pre_tokenizer")) if p["type"] not in ("Metaspace", "Split", "Digits")
        ]
        said += [f"the pre-tokenizer {name} sees spaces now where it saw marks, and may cut otherwise" for name in sees]
    return said


def _loaded(tokenizer: LoadedTokenizer, data: dict[str, Any], draft: _Draft, notes: list[str]) -> LoadedTokenizer:
    """The new tokenizer; its vocabulary knows the bytes of tokens that are out of use, too."""
    made = replace(tokenizer, data=data, roles=tokenizer.vocab.roles, warnings=(*tokenizer.warnings, *notes))
    if draft.duplicates:
        made.__dict__["vocab"] = _with_duplicates(made.vocab, draft)
    return made


def _with_duplicates(vocab: ByteVocab, draft: _Draft) -> ByteVocab:
    tokens, kinds = list(vocab.tokens), list(vocab.kinds)
    for i, owner in draft.duplicates.items():
        tokens[i], kinds[i] = tokens[owner], Kind.BYTE
    return replace(vocab, tokens=tuple(tokens), kinds=tuple(kinds))
