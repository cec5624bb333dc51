"""Subsets in which a confounder agrees with the label as often as one chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from didae.errors import DidaeError


def quota_subset(
    label: ArrayLike, confounder: ArrayLike, size: int, correlation: float
) -> NDArray[np.int64]:
    """Draw a subset in which label and confounder are equal in a given share of the rows.

    The rows are gone through in order and the first of each cell (label, confounder) are taken
    until its quota is full: `size * correlation / 2` each for (0, 0) and (1, 1),
    `size * (1 - correlation) / 2` each for (0, 1) and (1, 0). So .5 is unpoisoned, .98 and .02 are
    490/10/10/490 and 10/490/490/10 of 1000 rows, and 1 leaves no exception. This is how the
    poisoned sets of the DiDAE paper (arXiv 2601.21851) are made.

    Parameters
    ----------
    label
        0 or 1 per row, shape (n,).
    confounder
        0 or 1 per row, shape (n,).
    size
        Number of rows to draw.
    correlation
        Share of the drawn rows in which label and confounder are equal, in [0, 1].

    Returns
    -------
    ndarray of int64
        Row numbers in ascending order, shape (size,).

    Raises
    ------
    DidaeError
        If the quotas are not whole numbers, a cell has too few rows (named, with how many are
        needed and there), or an argument is out of range.
    """
    labels, confounders = _binary("label", label), _binary("confounder", confounder)
    if len(labels) != len(confounders):
        raise DidaeError(
            f"label has {len(labels)} rows, confounder {len(confounders)}; they must be equal"
        )
    if size < 1 or not 0 <= correlation <= 1:
        raise DidaeError(
            f"size must be positive and correlation in [0, 1], got {size} and {correlation}"
        )
    chosen: list[NDArray[np.int64]] = []
    problems: list[str] = []
    for cell in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = correlation if cell[0] == cell[1] else 1 - correlation
        quota = size * share / 2
        needed = round(quota)
        rows = np.flatnonzero((labels == cell[0]) & (confounders == cell[1]))
        if not math.isclose(quota, needed, abs_tol=1e-6):
            problems.append(f"cell {cell} would need {quota:g} rows, which is no whole number")
        elif len(rows) < needed:
            problems.append(f"cell {cell} needs {needed} rows, {len(rows)} are available")
        chosen.append(rows[:needed].astype(np.int64))
    if problems:
        raise DidaeError(
            f"cannot draw {size} rows (label, confounder) at correlation {correlation:g}: "
            + "; ".join(problems)
        )
    return np.sort(np.concatenate(chosen))


def split_by_group(
    indices: ArrayLike, groups: ArrayLike, fractions: Sequence[float]
) -> tuple[NDArray[np.int64], ...]:
    """Split rows into parts that hold the same share of every group.

    Within each group the order is kept: its first rows go to the first part, and so on. A bound
    between two parts that falls inside a row is rounded down.

    Parameters
    ----------
    indices
        Row numbers, shape (n,).
    groups
        The group of each entry of `indices`, for example `label + 2 * confounder`, shape (n,).
    fractions
        Share of each part, positive, with sum 1; for example (.8, .2) for train and validation.

    Returns
    -------
    tuple of ndarray of int64
        One array of row numbers per part, each in the order of `indices`.

    Raises
    ------
    DidaeError
        If the lengths differ or the fractions do not add up to 1.
    """
    rows, names = np.asarray(indices, dtype=np.int64), np.asarray(groups)
    if rows.ndim != 1 or rows.shape != names.shape:
        raise DidaeError(
            "indices and groups must be two lists of equal length, "
            f"got shapes {rows.shape} and {names.shape}"
        )
    if min(fractions, default=0) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise DidaeError(f"fractions must be positive and add up to 1, got {list(fractions)}")
    cumulative = np.concatenate([[0.0], np.cumsum(fractions)[:-1], [1.0]])
    part = np.empty(len(rows), dtype=np.int64)
    for group in np.unique(names):
        members = np.flatnonzero(names == group)
        # The small term undoes binary fractions such as .8 + .1 = .8999...
        bounds = np.floor(cumulative * len(members) + 1e-6).astype(np.int64)
        for number, (start, stop) in enumerate(pairwise(bounds)):
            part[members[start:stop]] = number
    return tuple(rows[part == number] for number in range(len(fractions)))


def _binary(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DidaeError(f"{name} must be one list of 0 and 1, got shape {array.shape}")
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise DidaeError(f"{name} must be 0 or 1, got {array[wrong[0]]} in row {wrong[0]}")
    return array
