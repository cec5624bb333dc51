"""The leading directions of variance and their signs: what dictionaries without labels share."""

from __future__ import annotations

from typing import Any

import numpy as np

from didae.dictionaries.base import Dictionary
from didae.dictionaries.checks import Array, Sample
from didae.errors import DidaeError

# Entries this near to the largest count as equally large, so that rounding never chooses the sign.
_TIE = 1e-6


def signs(rows: Array) -> Array:
    """Give the sign that makes the largest entry of every row in absolute value positive.

    Parameters
    ----------
    rows
        Directions, shape (k, d).

    Returns
    -------
    ndarray of float64, shape (k, 1)
        1 or -1, after the first of the largest entries where several tie.
    """
    sizes = np.abs(rows)
    largest = np.argmax(sizes >= (1 - _TIE) * sizes.max(1, keepdims=True), axis=1, keepdims=True)
    return np.sign(np.take_along_axis(rows, largest, axis=1))


def principal_directions(centred: Array) -> tuple[Array, Array]:
    """Find the principal directions of centred samples.

    Parameters
    ----------
    centred
        Samples with mean 0, shape (n, d).

    Returns
    -------
    tuple of ndarray of float64
        Singular values, falling, of shape (r,), and right singular vectors as rows, of shape
        (r, d), r = min(n, d), with the `signs` that make their largest entries positive.
    """
    # The triangular factor has the same values and right vectors without the (n, r) left vectors.
    triangle = np.linalg.qr(centred, mode="r")
    _, spread, rows = np.linalg.svd(triangle, full_matrices=False)
    return spread, rows * signs(rows)


def leading_directions(sample: Sample, count: int) -> tuple[Array, Array]:
    """Find the directions of largest variance, refusing more than there are.

    Parameters
    ----------
    sample
        What a dictionary is fitted to.
    count
        How many, k.

    Returns
    -------
    tuple of ndarray of float64
        Singular values, of shape (k,), and directions, of shape (k, d), as `principal_directions`
        gives them.

    Raises
    ------
    DidaeError
        If there are too few embeddings, or they vary in fewer directions.
    """
    sample.require_size(count)
    spread, rows = principal_directions(sample.centred)
    rank = int((spread > sample.noise).sum())
    if rank < count:
        raise DidaeError(f"embeddings vary in {rank} directions only: ask for at most {rank}")
    return spread[:count], rows[:count]


class LeadingDictionary(Dictionary):
    """A dictionary that is found in the leading directions of variance, without supervision.

    Parameters
    ----------
    directions
        How many directions to find, at least 1.

    Raises
    ------
    DidaeError
        If `directions` is smaller than 1.
    """

    def __init__(self, directions: int) -> None:
        super().__init__()
        if directions < 1:
            raise DidaeError(f"directions must be at least 1, not {directions}")
        self.directions = directions

    def options(self) -> dict[str, Any]:
        """Give the constructor's arguments.

        Returns
        -------
        dict
            `directions`.
        """
        return {"directions": self.directions}
