"""What kind of tokenizer to learn."""

from dataclasses import dataclass

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.core.pretokenizers import PRE_TOKENIZERS

KINDS = {"bpe": "BPE", "unigram": "Unigram", "wordpiece": "WordPiece"}
NORMALIZERS = ("none", "nfc", "nfkc", "lowercase")
TRAINERS = ("auto", "tokenizers", "gigabpe")
DEFAULT_SPECIAL = {
    "bpe": ("<|endoftext|>",),
    "unigram": ("<|endoftext|>",),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),  # the order of BERT's vocab.txt
}


@dataclass(frozen=True)
class LearnConfig:
    """How a tokenizer is learned. None means: as `like` has it, else the default of the kind.

    The defaults of bpe and unigram are byte-level, so that every text comes back as it was. Unigram over characters
    (`pre_tokenizer="metaspace"`) holds the 256 byte tokens but loses some spaces; WordPiece is BERT's and loses all
    white space and characters outside its vocabulary.

    Raises:
        BadOption: a value outside its range, or two that exclude each other.
    """

    kind: str | None = None
    """bpe, unigram or wordpiece; bpe if there is no `like`."""
    vocab_size: int = 32_768
    """All tokens, special ones and the 256 bytes included."""
    pre_tokenizer: str | None = None
    """A published one: gpt2, cl100k, llama3, qwen2, o200k, metaspace, bert ...; cl100k, for wordpiece bert."""
    normalizer: str | None = None
    """none, nfc, nfkc or lowercase; none, for wordpiece lowercase."""
    special_tokens: tuple[str, ...] | None = None
    """Control tokens, first in the vocabulary; with `like` they are added to its own."""
    min_frequency: int = 2
    """A merge must occur this often (bpe, wordpiece)."""
    byte_fallback: bool = True
    """Add the 256 byte tokens where characters are not spelled in bytes anyway (bpe, unigram)."""
    digits: bool = False
    """Cut digits one by one before the pre-tokenizer."""
    max_token_length: int | None = None
    """Longest token in characters of its written form, which are bytes for byte-level; Unigram has 16 by default."""
    trainer: str = "auto"
    """tokenizers, gigabpe, or auto: gigabpe where it is installed and gives the same merges."""
    chat_template: str | None = None
    """Jinja text to write beside the tokenizer; None keeps the one of `like`."""
    limit_bytes: int | None = None
    """Learn from a seeded sample of this many bytes."""
    seed: int = 0
    """Of the sample; training itself draws nothing."""

    def __post_init__(self) -> None:
        if self.kind is not None:
            choose("kind", self.kind, KINDS)
        if self.pre_tokenizer is not None:
            choose("pre-tokenizer", self.pre_tokenizer, PRE_TOKENIZERS)
        if self.normalizer is not None:
            choose("normalizer", self.normalizer, NORMALIZERS)
        choose("trainer", self.trainer, TRAINERS)
        for name in ("vocab_size", "min_frequency", "max_token_length", "limit_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadOption(f"{name} is {value}, expected at least 1")
        special = self.special_tokens or ()
        if len(set(special)) != len(special) or "" in special:
            raise BadOption(f"special_tokens {special} holds an empty or a repeated token")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind == "wordpiece" and self.pre_tokenizer not in (None, "bert", "whitespace"):
            raise BadOption(
                f"kind 'wordpiece' and pre_tokenizer {self.pre_tokenizer!r} do not go together",
                hint="WordPiece marks the inside of words with ##: use bert or whitespace, or kind bpe",
            )
        if self.trainer == "gigabpe" and self.kind not in (None, "bpe"):
            raise BadOption(
                f"trainer 'gigabpe' cannot learn kind {self.kind!r}", hint="leave the trainer out, or use kind bpe"
            )
