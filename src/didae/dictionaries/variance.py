"""Directions found without supervision: those of largest variance, and independent ones in them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from didae.dictionaries.base import Array, Dictionary, Matrix, register, require_size
from didae.errors import DidaeError

# Entries this near to the largest count as equally large, so that rounding never chooses the sign.
_TIE = 1e-6
_ITERATIONS, _TOLERANCE = 1000, 1e-12

_logger = logging.getLogger(__name__)


class _Leading(Dictionary):
    """A dictionary in the leading directions of variance, without supervision."""

    def __init__(self, directions: int = 10) -> None:
        super().__init__(directions=directions)
        if directions < 1:
            raise DidaeError(f"directions must be at least 1, not {directions}")
        self.directions = directions

    def _leading(self, centred: Array, noise: float) -> tuple[Array, Array]:
        """Give the largest singular values, (k,), and directions, (k, d): not more than vary."""
        require_size(centred, noise, self.directions)
        sizes, rows = principal_directions(centred)
        rank = int((sizes > noise).sum())
        if rank < self.directions:
            raise DidaeError(f"embeddings vary in {rank} directions only: ask for at most {rank}")
        return sizes[: self.directions], rows[: self.directions]


@register("svd")
class SVD(_Leading):
    """The directions of largest variance, found without supervision.

    Analysis and atoms are the first right singular vectors of the centred embeddings, in order of
    falling variance; the largest entry of each in absolute value is positive. Directions of nearly
    equal variance are not identified: see `didae.dictionaries.diagnostics.separation`.

    Parameters
    ----------
    directions
        How many directions to keep, at least 1.
    """

    @override
    def _directions(
        self, centred: Array, noise: float, factors: Matrix | None, names: Sequence[str] | None
    ) -> tuple[Array, Array]:
        _, rows = self._leading(centred, noise)
        return rows, rows


@register("ica")
class ICA(_Leading):
    """Directions whose codes are independent, found without supervision.

    The leading directions of variance say in which subspace the data lies, and are arbitrary within
    it where variances are alike; independence of the codes fixes them there (Comon, Independent
    component analysis, 1994), as long as at most one of them is Gaussian. Ask for as many
    directions as stand out of the spectrum: directions of noise hide the others. They are sorted by
    falling variance; the largest entry of each atom in absolute value is positive.

    Parameters
    ----------
    directions
        How many directions to find, at least 1.
    """

    @override
    def _directions(
        self, centred: Array, noise: float, factors: Matrix | None, names: Sequence[str] | None
    ) -> tuple[Array, Array]:
        sizes, rows = self._leading(centred, noise)
        deviation = sizes[:, None] / np.sqrt(len(centred))
        rotation, converged = _independent_rotation(centred @ (rows / deviation).T)
        if not converged:
            _logger.warning(
                "ICA: %d independent directions cannot be told apart in these embeddings; "
                "fewer may do better",
                self.directions,
            )
        analysis, atoms = rotation @ (rows / deviation), rotation @ (rows * deviation)
        length = np.linalg.norm(atoms, axis=1, keepdims=True)
        order, scale = np.argsort(-length[:, 0], kind="stable"), length * _signs(atoms)
        return (analysis * scale)[order], (atoms / scale)[order]


def _independent_rotation(white: Array) -> tuple[Array, bool]:
    """Rotate white data (n, k) until its columns ``white @ W.T`` are as independent as they can be.

    FastICA with the contrast log cosh and symmetric decorrelation (Hyvärinen 1999). It starts at
    the identity, so that the same data give the same W. Says also whether the steps came to rest.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    settings: dict[str, Any] = {"whiten": False, "tol": _TOLERANCE, "max_iter": _ITERATIONS}
    ica = FastICA(w_init=np.eye(white.shape[1]), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ica.fit(white)
    return np.asarray(ica.components_, np.float64), bool(ica.n_iter_ < _ITERATIONS)


def principal_directions(centred: Array) -> tuple[Array, Array]:
    """Find the principal directions of samples with mean 0, shape (n, d).

    Gives falling singular values, (r,), and right singular vectors as rows, (r, d), r = min(n, d),
    whose largest entries are positive.
    """
    # The triangular factor has the same values and right vectors without the (n, r) left vectors.
    triangle = np.linalg.qr(centred, mode="r")
    _, sizes, rows = np.linalg.svd(triangle, full_matrices=False)
    return sizes, rows * _signs(rows)


def _signs(rows: Array) -> Array:
    """Give the sign (k, 1) that makes the largest entry of a row positive, the first of ties."""
    sizes = np.abs(rows)
    largest = np.argmax(sizes >= (1 - _TIE) * sizes.max(1, keepdims=True), axis=1, keepdims=True)
    return np.sign(np.take_along_axis(rows, largest, axis=1))
