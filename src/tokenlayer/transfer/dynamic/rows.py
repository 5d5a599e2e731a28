"""Rows of byte strings that a model has no token for, as they turn up in a text."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from tokenlayer.core.errors import BadCheckpoint, BadOption, choose
from tokenlayer.core.seeds import torch_generator
from tokenlayer.core.vocab import ByteVocab
from tokenlayer.transfer.zett.decompose import Decomposer
from tokenlayer.transfer.zett.files import SavedHypernet, check_source
from tokenlayer.transfer.zett.network import Predicted, mean_of_pieces
from tokenlayer.transfer.zett.predict import Progress, language_number, predict

METHODS = ("hypernet", "fvt", "random")
MOST_PIECES = 1_000_000
"""Pieces of a byte string that are read where no network bounds them."""


class UnitRows:
    """Makes rows for byte strings.

    Args:
        vocab: the model's own tokens.
        table: their rows as a hypernetwork reads them, shape `(vocab, dim)`, for untied models `(vocab, 2 * dim)`
            with the output row behind the input row.
        tied: input and output rows are one table (or there are no output rows).
        method: hypernet, or one of two approximations: fvt, the mean of the pieces' rows; random, rows with mean
            and spread of the real ones, the same for the same bytes.
        hypernet: for the method of that name.
        language: for a hypernetwork with language vectors.
        device: where a hypernetwork runs.
        seed: of random rows.
        where: what errors call the hypernetwork.

    Attributes:
        longest: pieces of a byte string that are read; None: all.
        digest: tells apart rows of different models, networks and methods.

    Raises:
        BadOption: an unknown method, a missing hypernetwork, or a language that it lacks or needs.
        BadCheckpoint: the hypernetwork was trained for another model, or rows are not finite.
    """

    def __init__(
        self,
        vocab: ByteVocab,
        table: Tensor,
        *,
        tied: bool,
        method: str = "hypernet",
        hypernet: SavedHypernet | None = None,
        language: str = "",
        device: str = "cpu",
        seed: int = 0,
        where: str = "hypernetwork",
    ) -> None:
        self.vocab, self.table, self.tied = vocab, table[: len(vocab)].float(), tied
        self.method, self.language, self.device, self.seed = choose("method", method, METHODS), language, device, seed
        self.dim = table.shape[1] if tied else table.shape[1] // 2
        if not bool(torch.isfinite(self.table).all()):
            bad = int(torch.nonzero(~torch.isfinite(self.table).all(dim=1))[0])
            raise BadCheckpoint(f"row {bad} ({vocab.label(bad)}) of the model's table is not finite")
        self.network = None if hypernet is None or method != "hypernet" else hypernet.network
        if method == "hypernet":
            if hypernet is None:
                raise BadOption(
                    "rows of new units are predicted by a hypernetwork, and none was given",
                    hint="give one with --hypernet; --method fvt approximates its rows by the mean of the pieces' rows",
                )
            check_source(hypernet, vocab, dim=self.dim, tied=tied, where=where)
            language_number(hypernet.network, language)
        longest = None if self.network is None else self.network.config.longest
        self.longest = longest
        first = None if self.network is None else self.network.config.vocab_size
        self.decomposer = Decomposer(vocab, longest or MOST_PIECES, first)
        self.digest = self._digest()

    def __call__(self, tokens: Sequence[bytes], *, progress: Progress | None = None) -> Predicted:
        """Rows of some byte strings, none of them empty.

        Args:
            tokens: the byte strings.
            progress: called with tokens done and tokens in all.

        Returns:
            Rows in float32 on the CPU, in the order of the tokens; a byte string's rows do not depend on the others.
        """
        if not tokens:
            none = torch.zeros(0, self.dim)
            return Predicted(none, None if self.tied else none, None)
        pieces, _ = self.decomposer.pieces(tokens)
        if self.network is not None:
            rows = self.table[: self.network.config.vocab_size]
            return predict(self.network, pieces, rows, language=self.language, device=self.device, progress=progress)
        means = self.method == "fvt"
        made = mean_of_pieces(pieces, self.table, len(self.vocab)) if means else self._random(tokens)
        return Predicted(made[:, : self.dim], None if self.tied else made[:, self.dim :], None)

    def cut(self, tokens: Sequence[bytes]) -> list[int]:
        """Which tokens have more pieces than are read."""
        return self.decomposer.pieces(tokens)[1] if tokens else []

    def _random(self, tokens: Sequence[bytes]) -> Tensor:
        mean, spread, width = self.table.mean(dim=0), self.table.std(dim=0), self.table.shape[1]
        generators = [torch_generator(self.seed, "unit-rows", token.hex()) for token in tokens]
        return mean + spread * torch.stack([torch.randn(width, generator=one) for one in generators])

    def _digest(self) -> str:
        found = hashlib.blake2b(f"{self.method} {self.language} {self.tied} {self.seed}".encode(), digest_size=16)
        found.update(self.table.contiguous().numpy().tobytes())
        if self.network is not None:
            for name, value in sorted(self.network.state_dict().items()):
                found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()
