"""Accuracies by group of label and spurious attribute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from didae.errors import DidaeError

Group = tuple[int, int]

_Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class GroupAccuracies:
    """How well a student does in every group (label, attribute) that occurs.

    ``aga`` counts each group once, ``mean`` each image; ``weighted_mean`` weighs groups as the
    training set does (the average accuracy of WILDS). ``wga`` is of the worst group, with its
    Wilson 95 % interval, which ignores that it was chosen as the worst.
    """

    accuracies: dict[Group, float]
    counts: dict[Group, int]
    aga: float
    wga: float
    wga_group: Group
    wga_n: int
    wga_low: float
    wga_high: float
    mean: float
    weighted_mean: float | None

    def to_json(self) -> dict[str, object]:
        """Give plain values."""
        values = dict(vars(self))
        for name in ("accuracies", "counts"):
            values[name] = {f"{a},{b}": value for (a, b), value in values[name].items()}
        return {**values, "wga_group": list(self.wga_group)}


def group_accuracies(
    predictions: ArrayLike,
    labels: ArrayLike,
    attributes: ArrayLike,
    training_counts: Mapping[Group, int] | None = None,
) -> GroupAccuracies:
    """Measure a student's accuracy in every group.

    Parameters
    ----------
    predictions, labels, attributes : array_like of int, shape (n,)
        Predicted class, true class and spurious attribute of each image.
    training_counts : mapping, optional
        Images of each group in the training set, for the weighted mean.

    Returns
    -------
    GroupAccuracies
        Accuracies, their means and the worst.

    Raises
    ------
    DidaeError
        If there are no images, the lengths differ, or a group with training images has none here.
    """
    columns = [np.asarray(values) for values in (predictions, labels, attributes)]
    shapes = [column.shape for column in columns]
    if len(set(shapes)) > 1 or columns[0].ndim != 1 or not len(columns[0]):
        raise DidaeError(
            f"groups: predictions, labels and attributes have shapes {shapes}; "
            "give three lists of the same images, at least one."
        )
    right = columns[0] == columns[1]
    groups = np.stack(columns[1:], axis=1)
    accuracies: dict[Group, float] = {}
    counts: dict[Group, int] = {}
    for label, attribute in np.unique(groups, axis=0).tolist():
        members = right[(groups == (label, attribute)).all(1)]
        accuracies[label, attribute] = float(members.mean())
        counts[label, attribute] = len(members)
    worst = min(accuracies, key=accuracies.__getitem__)
    low, high = wilson(accuracies[worst], counts[worst])
    return GroupAccuracies(
        accuracies=accuracies,
        counts=counts,
        aga=float(np.mean(list(accuracies.values()))),
        wga=accuracies[worst],
        wga_group=worst,
        wga_n=counts[worst],
        wga_low=low,
        wga_high=high,
        mean=float(right.mean()),
        weighted_mean=None if training_counts is None else _weighted(accuracies, training_counts),
    )


def wilson(share: float, n: int, z: float = _Z95) -> tuple[float, float]:
    """Give the Wilson score interval of a share (Wilson 1927, eq. 4)."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding may leave the interval by an ulp where the share is 0 or 1.
    return max(0.0, centre - half), min(1.0, centre + half)


def gain(before: float, after: float) -> float:
    """Give the share of the error that a repair removed: (after - before) / (1 - before).

    This is the Gain of the DiDAE paper (arXiv 2601.21851, Table 1), of two AGAs.
    """
    if before == 1:
        return 0.0 if after == 1 else -math.inf
    return (after - before) / (1 - before)


def _weighted(accuracies: Mapping[Group, float], training: Mapping[Group, int]) -> float:
    missing = [group for group, n in training.items() if n and group not in accuracies]
    if missing:
        raise DidaeError(
            f"groups: group {missing[0]} has training images and no others; "
            "leave training_counts out or add images of it."
        )
    weights: NDArray[np.float64] = np.array([training.get(group, 0) for group in accuracies], float)
    if not weights.sum():
        raise DidaeError("groups: training_counts holds no images; leave it out.")
    return float(weights @ np.array(list(accuracies.values())) / weights.sum())
