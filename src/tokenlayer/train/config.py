"""How a run is stepped, whatever it trains."""

from dataclasses import dataclass

from tokenlayer.core.errors import BadOption, choose

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """How every phase is stepped."""

    seed: int = 0
    """For what a step draws."""
    weight_decay: float = 0.0
    """Of AdamW, for parameter groups that name none."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    precision: str = "float32"
    """float32, or bfloat16: matrix products in bfloat16 (autocast), weights, sums and the optimiser in float32."""
    device: str = "cpu"
    """Where networks stand; with several processes each takes its own."""
    log_every: int = 10
    """Steps between two rows of numbers; the last step of a phase has one too."""
    save_seconds: float = 300.0
    """Between two savings of the state."""
    keep: int = 2
    """How many states stay."""

    def __post_init__(self) -> None:
        choose("precision", self.precision, PRECISIONS)
        if self.clip < 0 or self.weight_decay < 0:
            raise BadOption(f"clip is {self.clip:g} and weight_decay {self.weight_decay:g}, expected at least 0")
        if self.log_every < 1 or self.keep < 1:
            raise BadOption(f"log_every is {self.log_every} and keep {self.keep}, expected at least 1")


NEUTRAL = {"device", "log_every", "save_seconds", "keep"}
"""Settings that may change when a run goes on."""
