"""Deep feature reweighting, and choosing among repaired students. Needs group labels."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Float
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from didae.config import Config
from didae.errors import DidaeError
from didae.randomness import generator
from didae.repair.base import Labelled, accuracies_of, inputs_of, last_linear


def validation_aga(student: nn.Module, validation: Labelled) -> float:
    """Measure the average accuracy of the groups that occur."""
    return accuracies_of(student, validation).aga


def every_group_occurs(data: Labelled) -> bool:
    """Say whether each label occurs with each attribute: else a shortcut has no counter-example."""
    kinds = len(data.labels.unique()) * len(data.known_attributes.unique())
    return len(data.groups().unique()) == kinds


def best(students: Iterable[nn.Module], validation: Labelled) -> nn.Module:
    """Keep the student with the best average group accuracy."""
    return max(students, key=lambda student: validation_aga(student, validation))


class LastLayerConfig(Config):
    """How the last layer is refitted."""

    # Weights of the squared norm to try; validation AGA chooses
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    # Balanced subsets whose fits are averaged, as in the paper's ten
    subsets: int = Field(default=10, ge=1)
    steps: int = Field(default=100, ge=1)  # Iterations of L-BFGS at most


def reweight_last_layer(
    student: nn.Module,
    train_data: Labelled,
    validation: Labelled,
    config: LastLayerConfig,
    seed: int,
) -> nn.Module:
    """Refit the last layer so that every group counts the same (DFR, Kirichenko et al. 2023)."""
    groups = train_data.groups()
    if not every_group_occurs(train_data):
        raise DidaeError(
            "last layer: a group of label and attribute has no training image; "
            "no reweighting can help, use cfkd."
        )
    features = inputs_of(last_linear(student), student, train_data.images).double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    standard = (features - mean) / std

    def refitted(penalty: float) -> nn.Module:
        fits = [
            _logistic(
                standard[rows],
                train_data.labels[rows],
                last_linear(student).out_features,
                penalty,
                config.steps,
            )
            for rows in (_balanced(groups, seed, number) for number in range(config.subsets))
        ]
        weight = torch.stack([fit[0] for fit in fits]).mean(0) / std
        bias = torch.stack([fit[1] for fit in fits]).mean(0) - weight @ mean
        repaired = copy.deepcopy(student)
        layer = last_linear(repaired)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        return repaired

    return best((refitted(penalty) for penalty in config.penalties), validation)


def _balanced(groups: Tensor, seed: int, number: int) -> Tensor:
    """Draw as many rows of every group as the smallest has."""
    random = generator(seed, "balanced subset", number)
    smallest = int(groups.unique(return_counts=True)[1].min())
    rows: list[Tensor] = []
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        rows.append(members[torch.randperm(len(members), generator=random)[:smallest]])
    return torch.cat(rows)


def _logistic(
    features: Float[Tensor, "n d"], labels: Tensor, classes: int, penalty: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Fit a penalised logistic regression to float64 features."""
    # Of two classes scikit-learn fits the difference, on which the penalty weighs half.
    strength = (2 if classes == 2 else 1) / (penalty * len(labels))
    model = LogisticRegression(C=strength, max_iter=steps).fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if classes == 2:
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
