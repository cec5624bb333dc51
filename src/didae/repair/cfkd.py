"""Counterfactual knowledge distillation: fine-tune a student on judged counterfactuals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from didae.config import Config
from didae.data.images import to_float
from didae.repair.base import Labelled
from didae.repair.layers import last_linear
from didae.students.base import logits
from didae.training import Forward, TrainingConfig, train

CALM = 0.2
"""Median margin that an over-confident student starts its repair with."""


class CfkdConfig(Config):
    """How a student learns from counterfactuals.

    Attributes
    ----------
    share : float
        Share of counterfactuals in every batch; the rest are original images, as in CFKD's mixing
        ratio of one half.
    scope : {"all", "last"}
        Weights to fine-tune: the whole network, or its last linear layer only.
    training : TrainingConfig
        Length and learning rate; ``batch_size`` counts originals and counterfactuals together.
    """

    share: float = Field(default=0.5, gt=0, lt=1)
    scope: Literal["all", "last"] = "all"
    training: TrainingConfig = TrainingConfig(
        steps=800, batch_size=64, learning_rate=1e-3, ema_decay=0.98
    )


def cfkd(
    student: nn.Module,
    train_data: Labelled,
    counterfactuals: Labelled,
    config: CfkdConfig,
    folder: Path | None = None,
) -> nn.Module:
    """Fine-tune a copy of a student on original images mixed with counterfactuals."""
    repaired = copy.deepcopy(student)
    if any(value.is_floating_point() and value.itemsize < 4 for value in repaired.parameters()):
        repaired.float()  # Half precision cannot hold small steps.
    if not len(counterfactuals):
        return repaired.eval()
    trainable = {name: value.requires_grad for name, value in repaired.named_parameters()}
    if config.scope == "last":
        repaired.requires_grad_(False)
        last_linear(repaired).requires_grad_(True)
    _calm(repaired, train_data)
    extra = max(1, round(config.share * config.training.batch_size))
    batch = config.training.model_copy(
        update={"batch_size": max(1, config.training.batch_size - extra)}
    )

    def loss(forward: Forward, indices: Tensor, random: torch.Generator) -> Tensor:
        chosen = torch.randint(len(counterfactuals), (extra,), generator=random)
        images = torch.cat([train_data.images[indices], counterfactuals.images[chosen]])
        labels = torch.cat([train_data.labels[indices], counterfactuals.labels[chosen]])
        return nn.functional.cross_entropy(forward(to_float(images)), labels)

    train(repaired, loss, len(train_data), batch, folder, "repairing the student")
    for name, value in repaired.named_parameters():
        value.requires_grad_(trainable[name])
    return repaired


def _calm(student: nn.Module, data: Labelled) -> None:
    """Shrink the logits of an over-confident student; its predictions stay the same.

    A biased student with margins of 60 meets its first counterfactuals with a loss of as much, and
    the steps that follow destroy all of its features.
    """
    first, second = logits(student, data.images).topk(2).values.unbind(1)
    margin = float((first - second).median())
    if margin > CALM:
        head = last_linear(student)
        with torch.no_grad():
            head.weight.mul_(CALM / margin)
            if head.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                head.bias.mul_(CALM / margin)
