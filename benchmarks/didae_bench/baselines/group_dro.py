"""Group DRO: fine-tuning on the worst group's loss. Needs group labels."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float
from didae.errors import DidaeError
from didae.repair.base import Labelled
from didae.training import Forward, TrainingConfig, train
from didae_bench.baselines.dfr import best, every_group_occurs


class GroupDROConfig(Config):
    """How group DRO fine-tunes."""

    step_size: float = Field(default=0.01, gt=0)  # Of the groups' weights, η_q of Algorithm 1
    adjustment: float = Field(default=1.0, ge=0)  # C of the generalisation adjustment C/√n_g
    learning_rates: tuple[float, ...] = (1e-4, 1e-3)  # To try; validation AGA chooses
    # Length and weight decay; a batch holds the same number of images of every group
    training: TrainingConfig = TrainingConfig(
        steps=600, batch_size=64, weight_decay=0.1, ema_decay=0.98
    )


class GroupWeights:
    """The weights q of the groups, raised where the loss is high."""

    def __init__(self, counts: Tensor, config: GroupDROConfig) -> None:
        self.q = torch.full((len(counts),), 1 / len(counts))
        self.adjustment = config.adjustment / counts.float().sqrt()
        self.step_size = config.step_size

    def __call__(self, losses: Float[Tensor, " g"]) -> Tensor:
        """Update the weights and weigh the losses (Sagawa et al. 2020, Algorithm 1)."""
        raised = self.q * (self.step_size * (losses.detach() + self.adjustment)).exp()
        self.q = raised / raised.sum()
        return (self.q * losses).sum()


def group_dro(
    student: nn.Module,
    train_data: Labelled,
    validation: Labelled,
    config: GroupDROConfig,
    seed: int,
) -> nn.Module:
    """Fine-tune a copy of a student on the worst group."""
    if not every_group_occurs(train_data):
        raise DidaeError(
            "group DRO: a group of label and attribute has no training image; use cfkd."
        )
    names, group, counts = train_data.groups().unique(return_inverse=True, return_counts=True)
    members = [(group == number).nonzero()[:, 0] for number in range(len(names))]
    share = max(1, config.training.batch_size // len(names))

    def tuned(learning_rate: float) -> nn.Module:
        repaired, weigh = copy.deepcopy(student), GroupWeights(counts, config)

        def loss(forward: Forward, _: Tensor, random: torch.Generator) -> Tensor:
            rows = [m[torch.randint(len(m), (share,), generator=random)] for m in members]
            chosen = torch.cat(rows)
            losses = nn.functional.cross_entropy(
                forward(to_float(train_data.images[chosen])),
                train_data.labels[chosen],
                reduction="none",
            )
            return weigh(losses.reshape(len(members), share).mean(1))

        training = config.training.model_copy(update={"learning_rate": learning_rate, "seed": seed})
        train(repaired, loss, len(train_data), training, description="group DRO")
        return repaired

    return best((tuned(rate) for rate in config.learning_rates), validation)
