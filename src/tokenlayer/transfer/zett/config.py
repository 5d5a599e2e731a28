"""How a hypernetwork is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenlayer.core.errors import BadOption, choose
from tokenlayer.transfer.zett.sampler import SamplerConfig

IDENTITY = ("own", "split")
PRESETS = ("paper", "small")


@dataclass(frozen=True)
class ZettConfig:
    """Defaults are the paper's for decoders of 1 to 8 billion parameters."""

    identity_steps: int = 10_000
    """Steps in which source tokens are shown and their own rows asked for; 0 leaves the stage out."""
    warmup_steps: int = 10_000
    """Steps after them in which the rate rises again from zero."""
    steps: int = 200_000
    """All steps, those two included."""
    identity_rate: float = 3e-4
    """Learning rate at the end of the identity steps, up to which it rises."""
    rate: float = 6e-5
    """Highest learning rate of the main stage; 4e-5 for XLM-R."""
    floor: float = 0.1
    """Share of it that the cosine ends at."""
    batch: int = 128
    """Texts of a step."""
    block: int = 128
    """Tokens of a text."""
    identity_tokens: int = 16_384
    """Source tokens of an identity step."""
    identity: str = "own"
    """own: each token as its own single piece. split: ours, mostly as two halves spelled each for itself."""
    aux_weight: float = 0.5
    """Weight of the distance to the source rows of tokens that are one piece."""
    clip: float = 0.1
    """Largest norm of the gradient."""
    rows_per_step: int = 0
    """Rows predicted in a step: those of the batch and others at random that stand for the rest. 0: all."""
    mask_rate: float = 0.15
    """Masked models: share of the tokens to predict."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How tokenizers are sampled."""

    def __post_init__(self) -> None:
        choose("identity", self.identity, IDENTITY)
        if not 0 <= self.identity_steps + self.warmup_steps <= self.steps:
            raise BadOption(
                f"identity_steps is {self.identity_steps} and warmup_steps {self.warmup_steps}, together more than "
                f"steps, which is {self.steps}",
                hint="steps counts all of them",
            )
        for name in ("steps", "batch", "identity_tokens"):
            if getattr(self, name) < 1:
                raise BadOption(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.block < 8:
            raise BadOption(f"block is {self.block}, expected at least 8 tokens")
        if not 0 < self.mask_rate < 1:
            raise BadOption(f"mask_rate is {self.mask_rate:g}, expected a share between 0 and 1")
        if self.aux_weight < 0 or self.clip < 0 or not 0 <= self.floor <= 1:
            raise BadOption("aux_weight and clip must be at least 0, floor a share from 0 to 1")

    @property
    def main_steps(self) -> int:
        """Steps with the language model."""
        return self.steps - self.identity_steps

    @staticmethod
    def preset(name: str) -> "ZettConfig":
        """The numbers by name: paper or small.

        Raises:
            BadOption: another name.
        """
        return {"paper": ZettConfig, "small": ZettConfig.small}[choose("preset", name, PRESETS)]()

    @staticmethod
    def chosen(preset: str, steps: int | None, changes: Mapping[str, Any]) -> "ZettConfig":
        """A preset with other steps (None: its own) and other fields; `vocab_size` is the sampler's."""
        found = ZettConfig.preset(preset)
        found = found if steps is None else found.scaled(steps)
        own = {name: value for name, value in changes.items() if name != "vocab_size"}
        sampled = {name: value for name, value in changes.items() if name == "vocab_size"}
        return replace(found, **own, sampler=replace(found.sampler, **sampled))

    @staticmethod
    def small() -> "ZettConfig":
        """For small models on a CPU: minutes instead of days (our own numbers)."""
        return ZettConfig(
            identity_steps=150,
            warmup_steps=100,
            steps=800,
            identity_rate=3e-3,
            rate=1e-3,
            batch=16,
            block=96,
            identity_tokens=2_048,
            clip=0.5,
            sampler=SamplerConfig(vocab_size=2_048, queue_texts=512, stride=1, noise_median=0.3 / 2_048),
        )

    def scaled(self, steps: int) -> "ZettConfig":
        """The same with so many steps in all; the identity steps and the warm-up keep their shares."""
        share = steps / self.steps
        identity, warmup = (round(share * one) for one in (self.identity_steps, self.warmup_steps))
        return replace(self, steps=steps, identity_steps=identity, warmup_steps=min(warmup, steps - identity))

    def without_noise(self) -> "ZettConfig":
        """The same, with tokenizers that differ only by the texts."""
        return replace(self, sampler=replace(self.sampler, noise=False))
