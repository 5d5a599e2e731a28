"""Generates text with a model's own vocabulary or with a very large one, over kept keys and values.

Paper: Feher, Vulić, Minixhofer, "Retrofitting (Large) Language Models with Dynamic Tokenization", 2024, the section on
generation (versions 1 and 2 only). Reference: DariusFeher/dynamic-tokenization.

Each step: the last hidden state after the final norm, the likeliest tokens (see `index`) with their true logits, then
repetition penalty, end bias, temperature, top-k and min-p, and the drawn token's input row goes in.

Two strings of tokens may spell one text, so stop strings are looked for in the bytes, and ids only end a text where
they are the end tokens' own.

Differences from the paper:
    - rows themselves are indexed, not rows of length one, whose nearest are not the likeliest tokens;
    - keys and values of earlier positions are kept (the reference reads the whole text again for each token), prompts
      of several lengths are padded on the left, positions count real tokens;
    - no penalty and temperature 0 are the defaults; the paper's settings are `GenerateConfig.paper`;
    - the share of the probability that could be drawn is told where all logits were computed.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenlayer.core.errors import BadOption, BadText
from tokenlayer.core.seeds import torch_generator
from tokenlayer.models.loading import most_positions
from tokenlayer.models.losses import Head
from tokenlayer.models.outside_rows import OutsideRows
from tokenlayer.transfer.dynamic.big_vocab import BigVocab
from tokenlayer.transfer.dynamic.index import Found, rescored


@dataclass(frozen=True)
class GenerateConfig:
    """How tokens are drawn."""

    max_new_tokens: int = 64
    """Tokens at most, the end token included."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_k: int = 10
    """Draw from that many; 0: from all candidates."""
    min_p: float = 0.1
    """Tokens with less than this share of the likeliest one's probability are not drawn; 0: all are."""
    repetition_penalty: float = 1.0
    """Divides logits above 0, and multiplies those below, of tokens that were there before."""
    eos_bias: float = 0.0
    """Added to the logits of the end tokens."""
    candidates: int = 20
    """Tokens that are looked at in each step; penalties cannot bring in others, but for the end tokens."""
    stop: tuple[str, ...] = ()
    """Texts at which the text ends; they are cut off. A control token's name stands for its id too."""
    seed: int = 0
    """Of the draws; each prompt of a batch has its own."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "candidates"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.temperature < 0 or self.top_k < 0:
            raise BadOption(f"temperature is {self.temperature:g} and top_k is {self.top_k}, expected at least 0")
        if self.top_k > self.candidates:
            raise BadOption(f"top_k is {self.top_k}, expected at most candidates, which is {self.candidates}")
        if not 0 <= self.min_p <= 1:
            raise BadOption(f"min_p is {self.min_p:g}, expected a share from 0 to 1")
        if self.repetition_penalty <= 0:
            raise BadOption(f"repetition_penalty is {self.repetition_penalty:g}, expected above 0")
        if "" in self.stop:
            raise BadOption("a stop string is empty")

    @staticmethod
    def paper(temperature: float = 0.7) -> "GenerateConfig":
        """The reference's settings but for the temperature, which it chooses by task."""
        return GenerateConfig(temperature=temperature, repetition_penalty=1.1)


@dataclass(eq=False)
class PrefillState:
    """A model that has read some prompts: where generation goes on.

    Attributes:
        past: keys and values, a cache of transformers; generation changes it, so a state serves once.
        hidden: what the head is given at the last position of each prompt, after the final norm.
        position: of the token that comes next, which is the number of real positions so far.
        mask: which positions in `past` are real; padding is on the left.
        seen: for each prompt ids that the repetition penalty counts as there before; may be empty.
    """

    past: Any
    hidden: Float[Tensor, "batch dim"]
    position: Int[Tensor, " batch"]
    mask: Bool[Tensor, "batch seq"]
    seen: tuple[tuple[int, ...], ...] = ()


@dataclass(eq=False)
class Generated:
    """What was generated after a prompt.

    Attributes:
        ids: token ids, the end token included.
        data: their bytes up to a stop string.
        finish: `"end"` (an end token), `"stop"` (a stop string) or `"length"`.
        logprobs_nats: of each token, under all tokens at temperature 1 before penalties; None where an index looked
            at some tokens only: their total is not that of all.
        kept: for each token the share of the probability, at this temperature and before penalties, of the tokens
            that could be drawn; None without drawing, and where it is unknown because of an index.
    """

    ids: list[int] = field(default_factory=list)
    data: bytes = b""
    finish: str = "length"
    logprobs_nats: list[float] | None = None
    kept: list[float] | None = None

    @property
    def text(self) -> str:
        """The bytes as text; what is no UTF-8, such as a character that was begun, is replaced."""
        return self.data.decode("utf-8", "replace")


def generate(
    model: OutsideRows, vocab: BigVocab, prompt: Sequence[int], config: GenerateConfig | None = None
) -> Generated:
    """Generates after one prompt.

    Args:
        model: a decoder.
        vocab: what to choose from: `BigVocab.of_model` for its own vocabulary.
        prompt: ids in that vocabulary, in which the model's own tokens have their own ids.
        config: see `GenerateConfig`.

    Raises:
        BadText: the prompt is empty.
        BadOption: prompt and new tokens are more than the model can read.
        VocabMismatch: the vocabulary was built for another model.
        BadCheckpoint: the model keeps no keys and values.
    """
    return generate_batch(model, vocab, [prompt], config)[0]


def generate_batch(
    model: OutsideRows, vocab: BigVocab, prompts: Sequence[Sequence[int]], config: GenerateConfig | None = None
) -> list[Generated]:
    """Generates after several prompts at once; arguments and errors as for `generate`."""
    config = config or GenerateConfig()
    return decode(model, vocab, prefill(model, vocab, prompts), config)


@torch.no_grad()
def prefill(model: OutsideRows, vocab: BigVocab, prompts: Sequence[Sequence[int]]) -> PrefillState:
    """Reads prompts, padded on the left.

    Args:
        model: a decoder.
        vocab: of the ids.
        prompts: ids of each.

    Raises:
        BadText: a prompt is empty, or an id is outside the vocabulary.
        VocabMismatch: the vocabulary was built for another model.
    """
    if not prompts or not all(prompts):
        raise BadText("a prompt has no tokens", hint="begin it with the start token of the model")
    _check_ids(vocab, prompts)
    device = model.table.device
    vocab = vocab.to(device, model.table.dtype)
    vocab.check_model(model)
    longest = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask = torch.arange(longest, device=device) >= (longest - lengths)[:, None]
    more = positions(model.model, (mask.long().cumsum(1) - 1).clamp(min=0))
    hidden, past = model.cached(ids, mask, vocab.rows, **more)
    return PrefillState(past, hidden[:, -1], lengths, mask, tuple(map(tuple, prompts)))


@torch.no_grad()
def read_states(
    model: OutsideRows, vocab: BigVocab, texts: Sequence[Sequence[int]], *, window: int = 512
) -> Float[Tensor, "states dim"]:
    """What the head is given at each position of some texts: what an index of kind `screen` is built for.

    Args:
        model: a decoder.
        vocab: of the ids.
        texts: ids of each, best cut as generation would cut them (`LongestPrefix`); empty ones are passed over.
        window: ids that are read at a time.

    Returns:
        States in float32 on the CPU, in the order of the positions.

    Raises:
        BadText: there is none, or an id is outside the vocabulary.
        VocabMismatch: the vocabulary was built for another model.
    """
    _check_ids(vocab, texts)
    vocab = vocab.to(model.table.device, model.table.dtype)
    vocab.check_model(model)
    found = []
    for text in texts:
        for start in range(0, len(text), window):
            ids = torch.tensor([text[start : start + window]], device=model.table.device)
            hidden = model.hidden(ids, torch.ones_like(ids, dtype=torch.bool), vocab.rows)
            found.append(hidden[0].float().cpu())
    if not found:
        raise BadText("there is no text to read", hint="give some that is like what shall be generated")
    return torch.cat(found)


def positions(model: Any, numbers: Int[Tensor, "batch new"]) -> dict[str, Tensor]:
    """Position ids as a further input, for models that take them (those with ALiBi count by the mask)."""
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return {"position_ids": numbers} if takes else {}


@torch.no_grad()
def decode(
    model: OutsideRows, vocab: BigVocab, state: PrefillState, config: GenerateConfig | None = None
) -> list[Generated]:
    """Generates from where a model has read to.

    Args:
        model: a decoder.
        vocab: what to choose from.
        state: what `prefill` returned, or a model that has read something else; it serves once.
        config: see `GenerateConfig`.

    Returns:
        One result for each prompt; each is what the prompt alone would give (up to rounding).

    Raises:
        BadOption: the positions are more than the model can read.
        VocabMismatch: the vocabulary was built for another model.
    """
    config = config or GenerateConfig()
    _check_room(model, int(state.position.max()), config)
    vocab = vocab.to(model.table.device, model.table.dtype)
    vocab.check_model(model)
    head = vocab.head(model)
    texts = [_Text(vocab, config, n, seen) for n, seen in enumerate(state.seen or [()] * len(state.hidden))]
    past, hidden, position, mask = state.past, state.hidden, state.position, state.mask
    for step in range(config.max_new_tokens):
        found = _candidates(vocab, head, hidden, config)
        chosen = [text.choose(found, n) for n, text in enumerate(texts)]
        if all(text.done for text in texts) or step + 1 == config.max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ids = torch.tensor(chosen, device=mask.device)[:, None]
        states, past = model.cached(ids, mask, vocab.rows, past, **positions(model.model, position[:, None]))
        hidden, position = states[:, -1], position + 1
    return [text.result for text in texts]


def _candidates(vocab: BigVocab, head: Head, hidden: Tensor, config: GenerateConfig) -> Found:
    """The likeliest tokens; with a bias of the end also the end tokens, which it may bring in."""
    found = vocab.search.find(head, hidden, config.candidates, temperature=config.temperature or 1.0)
    if not config.eos_bias or not vocab.ends:
        return found
    ends = torch.tensor(vocab.ends, device=hidden.device).expand(len(hidden), -1)
    scores = rescored(head, hidden, ends)
    scores = scores.masked_fill((ends[:, :, None] == found.ids[:, None]).any(dim=2), -torch.inf)  # is there already
    return replace(found, ids=torch.cat([found.ids, ends], 1), logits=torch.cat([found.logits, scores], 1))


class _Text:
    """One text that is being generated."""

    def __init__(self, vocab: BigVocab, config: GenerateConfig, number: int, seen: Sequence[int]) -> None:
        self.vocab, self.config, self.done = vocab, config, False
        self.seen = set(seen)
        self.result = Generated()
        self.draw = torch_generator(config.seed, "generate", number)
        self.stops = [stop.encode() for stop in config.stop]
        named = (vocab.vocab.find_name(stop) for stop in config.stop)
        control = set(vocab.vocab.control_ids())
        self.stop_ids = {i for i in named if i in control}

    def choose(self, found: Found, at: int) -> int:
        """The next token; once the text is done, any."""
        if self.done:
            return self.result.ids[-1]
        there = torch.isfinite(found.logits[at])
        ids, raw = found.ids[at][there].cpu(), found.logits[at][there].cpu()
        logits = self._penalised(ids, raw)
        if self.config.temperature == 0:
            place = min(range(len(ids)), key=lambda n: (-float(logits[n]), int(ids[n])))
        else:
            places = self._drawable(logits)
            weights = (logits[places] / self.config.temperature).softmax(dim=0)
            place = int(places[torch.multinomial(weights, 1, generator=self.draw)])
            if found.tempered_nats is not None:
                mass = (raw[places] / self.config.temperature).logsumexp(0) - found.tempered_nats[at].cpu()
                self.result.kept = [*(self.result.kept or []), math.exp(min(0.0, float(mass)))]
        if found.total_nats is not None:
            nats = float(raw[place] - found.total_nats[at].cpu())
            self.result.logprobs_nats = [*(self.result.logprobs_nats or []), nats]
        return self._add(int(ids[place]))

    def _penalised(self, ids: Tensor, logits: Tensor) -> Tensor:
        config = self.config
        if config.repetition_penalty != 1:
            before = torch.tensor([i in self.seen for i in ids.tolist()])
            factor = torch.where(logits > 0, 1 / config.repetition_penalty, config.repetition_penalty)
            logits = torch.where(before, logits * factor, logits)
        if config.eos_bias:
            ends = torch.tensor([i in self.vocab.ends for i in ids.tolist()])
            logits = torch.where(ends, logits + config.eos_bias, logits)
        return logits

    def _drawable(self, logits: Tensor) -> Tensor:
        """Places of the tokens that top-k and min-p leave."""
        config = self.config
        places = logits.argsort(descending=True, stable=True)[: config.top_k or None]
        if config.min_p:
            least = logits.max() + config.temperature * math.log(config.min_p)
            places = places[logits[places] >= least]
        return places

    def _add(self, token: int) -> int:
        result, data = self.result, self.vocab.vocab.tokens[token]
        result.ids.append(token)
        result.data += data
        self.seen.add(token)
        if token in self.vocab.ends or token in self.stop_ids:
            result.finish, self.done = ("end" if token in self.vocab.ends else "stop"), True
        cut = self._stopped(len(data))
        if cut is not None:
            result.data, result.finish, self.done = result.data[:cut], "stop", True
        return token

    def _stopped(self, new: int) -> int | None:
        """Where the first stop string begins that ends within the last `new` bytes."""
        data = self.result.data
        found = [data.find(stop, max(0, len(data) - new - len(stop) + 1)) for stop in self.stops]
        return min((at for at in found if at >= 0), default=None)


def _check_ids(vocab: BigVocab, prompts: Sequence[Sequence[int]]) -> None:
    for n, prompt in enumerate(prompts):
        bad = [i for i in prompt if not 0 <= i < len(vocab)]
        if bad:
            raise BadText(f"id {bad[0]} of prompt {n} is outside the vocabulary of {len(vocab):,} tokens")


def _check_room(model: OutsideRows, read: int, config: GenerateConfig) -> None:
    most = most_positions(model.model)
    if most is not None and read + config.max_new_tokens > most:
        raise BadOption(
            f"a prompt of {read} positions and max_new_tokens {config.max_new_tokens} are more than the {most} "
            "positions of the model",
            hint=f"set max_new_tokens to at most {max(0, most - read)}, or give a shorter prompt",
        )
