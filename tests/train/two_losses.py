"""A small objective with two losses of different counts; as a script, one process of several that train it."""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from tokenlayer.train.config import TrainConfig
from tokenlayer.train.draws import uniform
from tokenlayer.train.engine import train
from tokenlayer.train.objective import LossParts, Objective, ParameterGroup, Phase, Schedule, decay_groups

ROWS, LENGTH, WIDTH = 7, 6, 8
"""Samples of a step, their longest length, numbers of a vector."""


class TwoLosses(Objective):
    """Two networks: one guesses hidden places (few), the other says which were hidden (all real ones)."""

    def __init__(self, micro=2, dropout=0.0, phases=None, weight=50.0):
        draw = torch.Generator().manual_seed(5)
        self.table = nn.Embedding(20, WIDTH)
        self.guess = nn.ModuleDict({"table": self.table, "out": nn.Linear(WIDTH, 20), "drop": nn.Dropout(dropout)})
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.LayerNorm(WIDTH)) for _ in range(2)]
        self.judge = nn.ModuleDict({"table": self.table, "blocks": nn.ModuleList(blocks), "out": nn.Linear(WIDTH, 1)})
        for module in (self.guess, self.judge):
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3
        self.phases = phases or [Phase("both", 5, Schedule(0.03, "cosine", 2, 0.1))]
        self.micro, self.weight = micro, weight

    def modules(self):
        return {"guess": self.guess, "judge": self.judge}

    def parameter_groups(self, phase):
        if phase.name == "guess":
            return decay_groups({"guess": self.guess})
        everything = {name: p for group in decay_groups(self.modules()) for name, p in group.parameters.items()}
        return [ParameterGroup(everything)]

    def micro_batches(self, phase, step, shard):
        draw = torch.Generator().manual_seed(100 + step)
        numbers = torch.arange(ROWS) + step * ROWS
        ids = torch.randint(1, 20, (ROWS, LENGTH), generator=draw)
        lengths = torch.randint(2, LENGTH + 1, (ROWS,), generator=draw)
        mine = torch.arange(ROWS)[shard.rank :: shard.ranks]
        for some in mine.split(self.micro):
            yield numbers[some], ids[some], torch.arange(LENGTH) < lengths[some][:, None]

    def corrupt(self, phase, batch, seed):
        numbers, ids, real = batch
        hidden = (uniform(seed, "hide", numbers, LENGTH)[:, 0] < 0.3) & real
        return ids, real, hidden

    def counts(self, phase, batch):
        _, real, hidden = batch
        return {"guess": float(hidden.sum())} | ({} if phase.name == "guess" else {"judge": float(real.sum())})

    def losses(self, phase, batch):
        ids, real, hidden = batch
        seen = self.guess["drop"](self.table(ids.masked_fill(hidden, 0)))
        guessed = self.guess["out"](seen)[hidden]
        loss = nn.functional.cross_entropy(guessed, ids[hidden], reduction="sum")
        parts = {"guess": LossParts(loss, int(hidden.sum()))}
        if phase.name != "guess":
            x = self.table(torch.where(hidden, (ids + 1) % 20, ids))
            for block in self.judge["blocks"]:
                x = block(x)
            found = self.judge["out"](x)[..., 0][real]
            wrong = nn.functional.binary_cross_entropy_with_logits(found, hidden[real].float(), reduction="sum")
            parts["judge"] = LossParts(wrong, int(real.sum()), self.weight)
        return parts

    def tokens(self, batch):
        return int(batch[1].sum())

    def flops(self, batch):
        return 6.0 * 500 * self.tokens(batch)

    def weights(self):
        """Every parameter by name, whole."""
        from tokenlayer.train.processes import whole

        groups = decay_groups(self.modules())
        return {n: whole(p.detach()).clone() for group in groups for n, p in group.parameters.items()}


def main(out: Path, state: Path | None) -> None:
    """Trains, and writes losses and weights."""
    objective = TwoLosses()
    main_process = os.environ.get("RANK", "0") == "0"
    if not main_process:
        nn.init.zeros_(objective.table.weight)  # the first process decides
    config = TrainConfig(weight_decay=0.1, clip=0.5, save_seconds=0.0)
    trained = train(objective, config, state=state)
    weights = objective.weights()
    if main_process:
        torch.save({"losses": trained.losses, "tokens": trained.tokens, "weights": weights}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
