"""Directions that follow known factors: orthogonal Procrustes in whitened space."""

from __future__ import annotations

from typing import Any

import numpy as np

from didae.dictionaries.base import Dictionary
from didae.dictionaries.checks import (
    Array,
    Sample,
    direction_names,
    require_rank,
    standardised_factors,
)
from didae.errors import DidaeError

# Bounds the condition of the whitening where Ledoit and Wolf see next to no sampling error.
_SMALLEST_SHRINKAGE = 1e-6

_STRONGER = (0.01, 0.03, 0.1, 0.3)
_WORTHWHILE = 0.01
_FOLDS = 5
_FEWEST = 50
"""Fewer images tell nothing about shrinkage when a fifth of them is left out."""


def ledoit_wolf(centred: Array) -> float:
    """Estimate how far the sample covariance should move towards a multiple of the identity."""
    samples, width = centred.shape
    covariance = centred.T @ centred / samples
    size = np.square(covariance).sum()
    distance = float(size - np.trace(covariance) ** 2 / width)
    fourth = np.square(np.square(centred).sum(1)).mean()
    error = float(fourth - size) / samples
    return min(1.0, max(0.0, error / distance)) if distance > 0 else 0.0


def _axes(centred: Array) -> tuple[Array, Array]:
    """Give variances and axes of the sample covariance."""
    return np.linalg.eigh(centred.T @ centred / len(centred))


def _scales(variances: Array, shrinkage: float) -> Array:
    """Give the spread along each axis by the shrunk covariance C."""
    return np.sqrt((1 - shrinkage) * variances.clip(0) + shrinkage * variances.mean())


def suited_shrinkage(centred: Array, factors: Array) -> float:
    """Choose how far to shrink the covariance, so that codes follow factors of unseen images.

    Ledoit and Wolf's estimate is the best for the covariance, not for what is read through its
    inverse: with few images for many dimensions, directions of little variance carry noise that a
    read-out amplifies.
    """
    own = max(ledoit_wolf(centred), _SMALLEST_SHRINKAGE)
    grid = (own, *(value for value in _STRONGER if value > own))
    if len(centred) < _FEWEST:
        return own
    fold = np.random.RandomState(0).permutation(len(centred)) % _FOLDS
    agreement = np.zeros(len(grid))
    for number in range(_FOLDS):
        known, asked = fold != number, fold == number
        mean = centred[known].mean(0)
        variances, axes = _axes(centred[known] - mean)
        seen, unseen = (centred[known] - mean) @ axes, (centred[asked] - mean) @ axes
        cross = factors[known].T @ seen
        for place, shrinkage in enumerate(grid):
            scales = _scales(variances, shrinkage)
            left, _, right = np.linalg.svd(cross / scales, full_matrices=False)
            codes = (unseen / scales) @ (left @ right).T
            agreement[place] += _correlation(codes, factors[asked]) / _FOLDS
    best = int(agreement.argmax())
    return grid[best] if agreement[best] > agreement[0] + _WORTHWHILE else own


def _correlation(first: Array, second: Array) -> float:
    """Give the mean correlation of columns; a column that does not vary agrees with nothing."""
    first, second = first - first.mean(0), second - second.mean(0)
    lengths = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    products = (first * second).sum(0)
    return float(np.divide(products, lengths, where=lengths > 0, out=0 * lengths).mean())


class Procrustes(Dictionary):
    """One direction for each factor, such that larger codes mean larger factors.

    With standardised factors Y and whitened embeddings Z C^-½, the rows W = U Vᵀ of the singular
    value decomposition U S Vᵀ = Yᵀ Z C^-½ are the orthonormal directions nearest to the factors.
    Mapped back, analysis = W C^-½ and atoms = W C^½, rescaled to atoms of unit length. The codes of
    different factors are uncorrelated in the fitting data, so that factors which go together there
    end up mixed: fit on images in which they vary freely.

    Parameters
    ----------
    whiten
        False gives the paper's plain form, C = I, with analysis = atoms = W (Schönemann, 1966).
    shrinkage
        Weight in (0, 1] of the identity in C; None chooses it as `suited_shrinkage` does.

    Raises
    ------
    DidaeError
        If `shrinkage` lies outside (0, 1].
    """

    kind = "procrustes"

    def __init__(self, whiten: bool = True, shrinkage: float | None = None) -> None:
        super().__init__()
        if shrinkage is not None and not 0 < shrinkage <= 1:
            raise DidaeError(f"shrinkage must lie in (0, 1], not {shrinkage}")
        self.whiten = whiten
        self.shrinkage = shrinkage

    def options(self) -> dict[str, Any]:
        """Give the constructor's arguments.

        Returns
        -------
        dict
            `whiten` and `shrinkage`.
        """
        return {"whiten": self.whiten, "shrinkage": self.shrinkage}

    def _directions(self, sample: Sample) -> tuple[Array, Array]:
        labels, names = _labels(sample)
        if not self.whiten:
            rows = _nearest_orthonormal(labels.T @ sample.centred, names)
            return rows, rows
        shrinkage = self.shrinkage or suited_shrinkage(sample.centred, labels)
        variances, axes = _axes(sample.centred)
        scales = _scales(variances, shrinkage)
        narrow, widen = (axes / scales) @ axes.T, (axes * scales) @ axes.T
        rows = _nearest_orthonormal(labels.T @ sample.centred @ narrow, names)
        atoms = rows @ widen
        lengths = np.linalg.norm(atoms, axis=1, keepdims=True)
        return lengths * (rows @ narrow), atoms / lengths


def _labels(sample: Sample) -> tuple[Array, tuple[str, ...]]:
    """Give the standardised factors and their names."""
    factors = sample.factors
    if factors is None or factors.ndim != 2 or factors.shape[1] == 0:
        shape = "none" if factors is None else f"shape {tuple(factors.shape)}"
        raise DidaeError(
            f"Procrustes needs factors of shape (n, f), one numeric column for each, not {shape}"
        )
    samples, count = factors.shape
    names = direction_names(sample.names, count)
    sample.require_size(count)
    if samples != len(sample.centred):
        raise DidaeError(
            f"{len(sample.centred)} embeddings but {samples} rows of factors: "
            "give one row for each image"
        )
    return standardised_factors(factors, names), names


def _nearest_orthonormal(cross: Array, names: tuple[str, ...]) -> Array:
    """Give the orthonormal rows W that maximise tr(W crossᵀ)."""
    require_rank(cross.T, names, "cannot be told apart in the embeddings: leave one out")
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    return left @ right
