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
    """Give the sign that makes the largest entry of every row in absolute value positive."""
    sizes = np.abs(rows)
    largest = np.argmax(sizes >= (1 - _TIE) * sizes.max(1, keepdims=True), axis=1, keepdims=True)
    return np.sign(np.take_along_axis(rows, largest, axis=1))


def principal_directions(centred: Array) -> tuple[Array, Array]:
    """Find the principal directions of centred samples."""
    # The triangular factor has the same values and right vectors without the (n, r) left vectors.
    triangle = np.linalg.qr(centred, mode="r")
    _, spread, rows = np.linalg.svd(triangle, full_matrices=False)
    return spread, rows * signs(rows)


def leading_directions(sample: Sample, count: int) -> tuple[Array, Array]:
    """Find the directions of largest variance, refusing more than there are."""
    sample.require_size(count)
    spread, rows = principal_directions(sample.centred)
    rank = int((spread > sample.noise).sum())
    if rank < count:
        raise DidaeError(f"embeddings vary in {rank} directions only: ask for at most {rank}")
    return spread[:count], rows[:count]


class LeadingDictionary(Dictionary):
    """A dictionary that is found in the leading directions of variance, without supervision."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        if directions < 1:
            raise DidaeError(f"directions must be at least 1, not {directions}")
        self.directions = directions

    def options(self) -> dict[str, Any]:
        """Give the constructor's arguments."""
        return {"directions": self.directions}
