"""Directions that vary independently of one another: FastICA on the main directions of variance."""

from __future__ import annotations

import logging

import numpy as np

from didae.dictionaries.checks import Array, Sample
from didae.dictionaries.leading import LeadingDictionary, leading_directions, signs

_ITERATIONS = 1000
_TOLERANCE = 1e-12

logger = logging.getLogger(__name__)


def independent_rotation(white: Array) -> tuple[Array, bool]:
    """Rotate white data until its columns are as independent as a rotation can make them.

    Notes
    -----
    The fixed-point iteration for white data with the contrast log cosh, W ← E[tanh(W y) yᵀ] -
    diag(E[1 - tanh²(W y)]) W, and symmetric decorrelation, W ← (W Wᵀ)^-½ W (Hyvärinen, Fast and
    robust fixed-point algorithms for independent component analysis, 1999).
    """
    rotation = np.eye(white.shape[1])
    for _ in range(_ITERATIONS):
        bent = np.tanh(white @ rotation.T)
        step = bent.T @ white / len(white) - (1 - bent**2).mean(0)[:, None] * rotation
        left, _, right = np.linalg.svd(step)
        after = left @ right
        change = np.abs(np.abs((after * rotation).sum(1)) - 1).max()
        rotation = after
        if change <= _TOLERANCE:
            return rotation, True
    return rotation, False


class ICA(LeadingDictionary):
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

    Raises
    ------
    DidaeError
        If `directions` is smaller than 1.
    """

    kind = "ica"

    def __init__(self, directions: int = 10) -> None:
        super().__init__(directions)

    def _directions(self, sample: Sample) -> tuple[Array, Array]:
        spread, rows = leading_directions(sample, self.directions)
        deviation = spread[:, None] / np.sqrt(len(sample.centred))
        rotation, converged = independent_rotation(sample.centred @ (rows / deviation).T)
        if not converged:
            logger.warning(
                "ICA: %d independent directions cannot be told apart in these embeddings; "
                "fewer may do better",
                self.directions,
            )
        analysis, atoms = rotation @ (rows / deviation), rotation @ (rows * deviation)
        length = np.linalg.norm(atoms, axis=1, keepdims=True)
        order, scale = np.argsort(-length[:, 0], kind="stable"), length * signs(atoms)
        return (analysis * scale)[order], (atoms / scale)[order]
