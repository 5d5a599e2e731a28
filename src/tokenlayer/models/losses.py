"""Output head and log-probabilities in tiles: memory is bounded by the tile, not by the vocabulary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenlayer.core.errors import BadCheckpoint

TILE_BYTES = 64 * 1024 * 1024
"""Float32 logits that are held at a time."""


@dataclass(frozen=True, eq=False)
class Head:
    """A model's output head: `adjust(hidden @ weight.T + bias)`.

    Attributes:
        module: the linear layer, whose input can be captured; or one with rows and bias from outside.
        adjust: what the model does to logits afterwards (soft cap, scale).
        vocab: number of rows that belong to tokens; the rows after them are padding and get no probability.
    """

    module: Any
    adjust: Callable[[Tensor], Tensor]
    vocab: int

    def logits(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens vocab"]:
        """Logits of the tokens (not of padded rows) in float32."""
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        raw = nn.functional.linear(hidden, weight[: self.vocab], None if bias is None else bias[: self.vocab])
        return self.adjust(raw.float())


def head_of(model: nn.Module, vocab: int) -> Head:
    """Returns the output head of a Hugging Face model.

    Raises:
        BadCheckpoint: the model has none (an encoder without a language-model head).
    """
    module = model.get_output_embeddings()  # type: ignore[operator]
    if module is None:
        raise BadCheckpoint(
            f"{type(model).__name__} has no output head, so it gives no probabilities",
            hint="bits per byte need a causal or masked language model",
        )
    return Head(module, _adjustment(model.config), vocab)


def _adjustment(config: object) -> Callable[[Tensor], Tensor]:
    """Soft cap (Gemma 2), multiplied scale (Cohere) or divided scale (Granite) of the config."""
    text = getattr(config, "text_config", config)
    cap = getattr(text, "final_logit_softcapping", None)
    factor = getattr(text, "logit_scale", None) or 1.0
    factor /= getattr(text, "logits_scaling", None) or 1.0

    def adjust(logits: Tensor) -> Tensor:
        scaled = logits if factor == 1.0 else logits * factor
        return scaled if not cap else cap * torch.tanh(scaled / cap)

    return adjust


def model_inputs(
    model: Any, ids: Int[Tensor, "batch new"], real: Bool[Tensor, "batch seq"] | None = None, **more: Any
) -> dict[str, Any]:
    """What a Hugging Face model is called with; it keeps no keys and values unless `more` says so.

    Args:
        model: it is only asked whether it could keep them.
        ids: row numbers.
        real: which positions are no padding, those before `ids` included; None: all of them.
        more: further inputs of the model.
    """
    inputs = {"input_ids": ids, **more}
    if real is not None:
        inputs["attention_mask"] = real.long()
    if hasattr(model.config, "use_cache"):
        inputs.setdefault("use_cache", False)
    return inputs


@contextmanager
def captured_hidden(head: Head) -> Iterator[list[Tensor]]:
    """While open, the head stores what it is given instead of making logits over the vocabulary."""
    seen: list[Tensor] = []

    def capture(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden[..., :1]

    head.module.forward = capture
    try:
        yield seen
    finally:
        del head.module.forward  # the class's own is back


@dataclass(frozen=True, eq=False)
class TileScores:
    """For each position: log-probability of its target, and the likeliest first byte of the next token."""

    logprob_nats: Float[Tensor, " tokens"]
    next_byte: Int[Tensor, " tokens"]


def linear_scores(
    head: Head,
    hidden: Float[Tensor, "tokens dim"],
    targets: Int[Tensor, " tokens"],
    first_byte: Int[Tensor, " vocab"],
    tile_bytes: int = TILE_BYTES,
) -> TileScores:
    """Scores targets in tiles of at most `tile_bytes` of float32 logits.

    Args:
        head: the output head.
        hidden: inputs of the head.
        targets: token id to score at each position.
        first_byte: for each token the first byte that it adds to a text; 256 for tokens without text.
        tile_bytes: memory for logits at a time.

    Returns:
        Log-probabilities in nats, and for each position the byte with the largest summed probability
        (256: the text ends or a control token follows).
    """
    rows = max(1, tile_bytes // (4 * head.vocab))
    nats, byte = [], []
    for start in range(0, len(targets), rows):
        logits = head.logits(hidden[start : start + rows])
        logprob = torch.log_softmax(logits, dim=-1)
        nats.append(logprob.gather(1, targets[start : start + rows, None])[:, 0])
        mass = torch.zeros(len(logprob), 257, device=logprob.device)
        byte.append(mass.index_add_(1, first_byte, logprob.exp_()).argmax(dim=1))
    return TileScores(torch.cat(nats), torch.cat(byte))


def token_logprobs(
    head: Head, hidden: Float[Tensor, "tokens dim"], targets: Int[Tensor, " tokens"], tile_bytes: int = TILE_BYTES
) -> Float[Tensor, " tokens"]:
    """Log-probabilities of targets in nats, with a gradient; logits are made in tiles and again for the gradient.

    Args:
        head: the output head.
        hidden: inputs of the head.
        targets: token id at each position.
        tile_bytes: memory for float32 logits at a time; the gradient takes as much again.
    """
    from torch.utils.checkpoint import checkpoint

    def tile(some: Tensor, ids: Tensor) -> Tensor:
        logprob: Tensor = torch.log_softmax(head.logits(some), dim=-1)
        return logprob.gather(1, ids[:, None])[:, 0]

    rows = max(1, tile_bytes // (4 * head.vocab))
    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(tile, some, ids, use_reentrant=False) for some, ids in pairs])


def check_head(model: nn.Module, head: Head, ids: Int[Tensor, "1 tokens"]) -> None:
    """Compares our head with the model's own logits on a few tokens.

    Raises:
        BadCheckpoint: they differ, so the model does something to its logits that we do not know.
    """
    ids = ids[:, :8]
    own = model(input_ids=ids, use_cache=False).logits[0, :, : head.vocab].float()
    with captured_hidden(head) as seen:
        model(input_ids=ids, use_cache=False)
    ours = head.logits(seen[0][0])
    gap = float((ours - own).abs().max())
    if gap > 1e-3 * max(1.0, float(own.abs().max())):
        raise BadCheckpoint(
            f"{type(model).__name__} changes its logits after the head in a way that we do not know (off by {gap:.3g})",
            hint="swap without --eval and evaluate the folder with another tool",
        )
