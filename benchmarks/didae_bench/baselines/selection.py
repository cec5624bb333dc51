"""Choosing among repaired students by the average group accuracy on validation images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from didae.repair.base import Labelled, accuracies_of


def validation_aga(student: nn.Module, validation: Labelled) -> float:
    """Measure the average accuracy of the groups that occur."""
    return accuracies_of(student, validation).aga


def best(students: Iterable[nn.Module], validation: Labelled) -> nn.Module:
    """Keep the student with the best average group accuracy."""
    return max(students, key=lambda student: validation_aga(student, validation))


def every_group_occurs(data: Labelled) -> bool:
    """Say whether each label occurs with each attribute: else a shortcut has no counter-example."""
    kinds = len(data.labels.unique()) * len(data.known_attributes().unique())
    return len(data.groups().unique()) == kinds
