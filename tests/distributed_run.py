"""A training shared among processes; each writes what it ends with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from didae.randomness import seeded
from didae.storage import save_tensors
from didae.training import TrainingConfig, train

EXAMPLES = 12
DATA = torch.linspace(-1, 1, 2 * EXAMPLES).reshape(EXAMPLES, 2)
CONFIG = TrainingConfig(steps=7, batch_size=6, checkpoint_every=3, ema_decay=0.5, device="cpu")


def model() -> nn.Module:
    with seeded(3):
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))


def loss(network: nn.Module, indices: Tensor, generator: torch.Generator) -> Tensor:
    del generator  # every process has its own, so that noise would tell the two runs apart
    return (network(DATA[indices]) - DATA[indices].flip(1)).pow(2).mean()


def trained(folder: Path | None, distributed: bool) -> dict[str, Tensor]:
    network = model()
    config = CONFIG.model_copy(update={"distributed": distributed})
    history = train(network, loss, EXAMPLES, config, folder)
    return {**network.state_dict(), "history": torch.tensor(history, dtype=torch.float64)}


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    home = Path(sys.argv[1])
    save_tensors(home / f"rank-{os.environ['RANK']}.safetensors", trained(home / "run", True))
