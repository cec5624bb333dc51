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


def ledoit_wolf(centred: Array) -> float:
    """Estimate how far the sample covariance should move towards a multiple of the identity.

    Parameters
    ----------
    centred
        Samples with mean 0, shape (n, d).

    Returns
    -------
    float
        Weight of the identity, in [0, 1]: the sampling error of the covariance over its distance
        from the identity (Ledoit and Wolf, A well-conditioned estimator for large-dimensional
        covariance matrices, 2004).
    """
    samples, width = centred.shape
    covariance = centred.T @ centred / samples
    size = np.square(covariance).sum()
    distance = float(size - np.trace(covariance) ** 2 / width)
    fourth = np.square(np.square(centred).sum(1)).mean()
    error = float(fourth - size) / samples
    return min(1.0, max(0.0, error / distance)) if distance > 0 else 0.0


def _whitening(centred: Array, shrinkage: float) -> tuple[Array, Array]:
    """Give C^-½ and C^½ of the shrunk covariance C."""
    covariance = centred.T @ centred / len(centred)
    variances, axes = np.linalg.eigh(covariance)
    scales = np.sqrt((1 - shrinkage) * variances.clip(0) + shrinkage * variances.mean())
    return (axes / scales) @ axes.T, (axes * scales) @ axes.T


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
        Weight in (0, 1] of the identity in C; None estimates it after Ledoit and Wolf, at least
        1e-6.

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
        shrinkage = self.shrinkage or max(ledoit_wolf(sample.centred), _SMALLEST_SHRINKAGE)
        narrow, widen = _whitening(sample.centred, shrinkage)
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
