"""Tokens as the source pieces that spell them: what the hypernetwork reads.

A WordPiece tells the beginning of a word from its middle by the space in front, and most tokenizers give the first word
of a text none. Where the source reads capitals as small letters, the capital itself tells: `The` is spelled as ` the`
is, `the` as `##the` (ours; the paper has no such source).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenlayer.core.byte_alphabet import CHAR_OF_BYTE
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.blocks.ragged import Packed

MOST_KEPT = 1_000_000
"""Spellings that are remembered at most."""


@dataclass(eq=False)
class Decomposer:
    """Spells byte strings with the model of a source vocabulary, without its pre-tokenizer.

    Attributes:
        source: the source vocabulary.
        longest: pieces that are kept of a token.
        first_extra: id of the first byte that no source token stands for; None: the vocabulary size.
    """

    source: ByteVocab
    longest: int
    first_extra: int | None = None
    _known: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    _extra: dict[int, int] = field(default_factory=dict)
    _uncased: bool = False

    def __post_init__(self) -> None:
        first = len(self.source) if self.first_extra is None else self.first_extra
        missing = set(self.source.missing_bytes())
        in_order = [byte for byte in CHAR_OF_BYTE if byte in missing]  # of the published networks
        self._extra = {byte: first + n for n, byte in enumerate(in_order)}
        self._uncased = self.source.family == "wordpiece" and self.source.spell(b" A") == self.source.spell(b" a")

    @property
    def extra(self) -> int:
        """Bytes that no source token stands for; their pieces have the ids from `first_extra` on."""
        return len(self._extra)

    def spell(self, tokens: Sequence[bytes]) -> list[tuple[int, ...]]:
        """All pieces of each token, uncut; at least one for a token that is not empty.

        What the source's model cannot spell (broken characters, for most that are not byte-level) is spelled by
        its bytes.
        """
        new = [token for token in dict.fromkeys(tokens) if token not in self._known]
        if len(self._known) + len(new) > MOST_KEPT:
            self._known.clear()
            new = list(dict.fromkeys(tokens))
        for token, ids in zip(new, self.source.spell_all([self._shown(token) for token in new]), strict=True):
            self._known[token] = tuple(ids) if ids else tuple(self._byte(b) for b in token)
        return [self._known[token] for token in tokens]

    def pieces(self, tokens: Sequence[bytes]) -> tuple[Packed, list[int]]:
        """Pieces as the network takes them, and which tokens were cut.

        Args:
            tokens: none of them empty.
        """
        spelled = self.spell(tokens)
        cut = [at for at, ids in enumerate(spelled) if len(ids) > self.longest]
        return Packed.of_lists([ids[: self.longest] for ids in spelled]), cut

    def _shown(self, token: bytes) -> bytes:
        """The token as it stands in a text: with a space in front where a capital says that a word begins."""
        return b" " + token if self._uncased and token.decode("utf-8", "ignore")[:1].isupper() else token

    def _byte(self, byte: int) -> int:
        found = self.source.find(bytes([byte]))
        return self._extra[byte] if found is None else found
