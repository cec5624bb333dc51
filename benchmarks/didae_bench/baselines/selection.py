"""Choosing among repaired students by the average group accuracy on validation images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from didae.repair.base import Labelled, judge


def validation_aga(student: nn.Module, validation: Labelled) -> float:
    """Measure the average accuracy of the groups that occur."""
    return judge(student, validation).aga


def best(students: Iterable[nn.Module], validation: Labelled) -> nn.Module:
    """Keep the student with the best average group accuracy."""
    return max(students, key=lambda student: validation_aga(student, validation))
