"""Choosing among repaired students by the average group accuracy on validation images."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from didae.repair.base import Labelled, judge


def validation_aga(student: nn.Module, validation: Labelled) -> float:
    """Measure the average accuracy of the groups that occur.

    Parameters
    ----------
    student : nn.Module
        The student.
    validation : Labelled
        Images with their spurious attribute.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DidaeError
        If the attributes are unknown.
    """
    return judge(student, validation).aga


def best(students: Iterable[nn.Module], validation: Labelled) -> nn.Module:
    """Keep the student with the best average group accuracy.

    Parameters
    ----------
    students : iterable of nn.Module
        At least one; may be made one by one.
    validation : Labelled
        Images with their spurious attribute.

    Returns
    -------
    nn.Module
        The first of the best.
    """
    return max(students, key=lambda student: validation_aga(student, validation))
