"""Hypernetworks with random weights for tiny models."""

from pathlib import Path

from tokenlayer.core.vocab import ByteVocab
from tokenlayer.models.checkpoint import open_checkpoint
from tokenlayer.models.tokenizer_files import load_tokenizer
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import SavedHypernet, save_hypernet
from tokenlayer.transfer.zett.network import Hypernet, HypernetConfig


def drawn_hypernet(vocab: ByteVocab, dim: int, *, tied: bool, longest: int = 7) -> SavedHypernet:
    """A hypernetwork with random weights that are far from zero."""
    extra = Decomposer(vocab, longest).extra
    shape = HypernetConfig(dim, tied, len(vocab), hidden=8, inner=12, layers=1, heads=2, longest=longest, extra=extra)
    return SavedHypernet(Hypernet(shape, seed=3).eval())


def hypernet_folder(folder: Path, model: Path) -> Path:
    """A folder with one for a tiny model."""
    tokenizer, rows = load_tokenizer(model), open_checkpoint(model).rows
    folder.mkdir()
    network = drawn_hypernet(tokenizer.vocab, rows.dim, tied=not rows.output).network
    save_hypernet(folder, network, tokenizer, {}, dtype="float32")
    return folder
