"""What an edit asked for against what happened, where every factor can be read off the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Realised:
    """How far one factor followed its edit.

    Attributes
    ----------
    slope : float
        Least-squares slope through the origin of realised on requested change; 1 is ideal.
    r2 : float
        Squared correlation of requested and realised change.
    """

    slope: float
    r2: float


def realised(requested: NDArray[Any], change: NDArray[Any]) -> Realised:
    """Compare the requested change of a factor with the one read off the images.

    Parameters
    ----------
    requested, change : ndarray, shape (n,)
        In the same units.

    Returns
    -------
    Realised
        Slope and R².
    """
    asked, got = np.asarray(requested, np.float64), np.asarray(change, np.float64)
    slope = float((asked * got).sum() / (asked**2).sum())
    return Realised(slope, float(np.corrcoef(asked, got)[0, 1] ** 2))


def mean_change(before: NDArray[Any], after: NDArray[Any], std: NDArray[Any]) -> Array:
    """Mean absolute change of every factor, in its standard deviation.

    Parameters
    ----------
    before, after : ndarray, shape (n, f)
        Factors read off the images.
    std : ndarray, shape (f,)
        Standard deviation of each factor.

    Returns
    -------
    ndarray of float64, shape (f,)
        One row of the disentanglement matrix.
    """
    return (np.abs(np.asarray(after) - before) / std).mean(0)


def explained(predicted: NDArray[Any], target: NDArray[Any]) -> Array:
    """R² of each column: one minus residual over total sum of squares.

    Parameters
    ----------
    predicted, target : ndarray, shape (n, f)
        Predictions and truth.

    Returns
    -------
    ndarray of float64, shape (f,)
        R², at most 1.
    """
    residual = ((np.asarray(predicted, np.float64) - target) ** 2).sum(0)
    total = ((target - np.mean(target, axis=0)) ** 2).sum(0)
    return 1 - residual / total
