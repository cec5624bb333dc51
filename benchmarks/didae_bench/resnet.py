"""The paper's student, ResNet-18, biased and repaired; needs torchvision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from didae.data.images import to_float
from didae.randomness import seeded
from didae.repair.base import Labelled, accuracies_of
from didae.repair.cfkd import CfkdConfig, cfkd
from didae.training import Forward, TrainingConfig, train
from didae_bench.cases import Case

BIASED = TrainingConfig(steps=200, batch_size=64, learning_rate=1e-3, ema_decay=0.98)
REPAIR = TrainingConfig(steps=600, batch_size=64, learning_rate=1e-3, ema_decay=0.98)


class ResNet18(nn.Module):
    """torchvision's network with random weights and two logits."""

    def __init__(self) -> None:
        from torchvision.models import resnet18  # pyright: ignore[reportMissingImports]

        super().__init__()
        self.network = resnet18(num_classes=2)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2"]:
        """Classify images."""
        return self.network((images * 4 - 2).contiguous(memory_format=torch.channels_last))


def resnet_figures(case: Case, test: Labelled) -> dict[str, float]:
    """Train a ResNet-18 on poisoned images, and repair it."""
    with seeded(case.seed):
        student = ResNet18()
    data = case.train

    def loss(forward: Forward, indices: Tensor, _: torch.Generator) -> Tensor:
        logits = forward(to_float(data.images[indices]))
        return nn.functional.cross_entropy(logits, data.labels[indices])

    training = BIASED.model_copy(update={"seed": case.seed})
    train(student, loss, len(data), training, description="training a ResNet-18")
    config = CfkdConfig(training=REPAIR.model_copy(update={"seed": case.seed}))
    repaired = cfkd(student, data, case.counterfactuals(), config)
    before, after = accuracies_of(student, test), accuracies_of(repaired, test)
    return {
        "resnet18_original_aga_098": before.aga,
        "cfkd_resnet18_aga_098": after.aga,
        "cfkd_resnet18_wga_098": after.wga,
    }
