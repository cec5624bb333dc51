"""Directions of largest variance: right singular vectors of centred embeddings."""

from __future__ import annotations

from didae.dictionaries.checks import Array, Sample
from didae.dictionaries.leading import LeadingDictionary, leading_directions


class SVD(LeadingDictionary):
    """The directions of largest variance, found without supervision.

    Analysis and atoms are the first right singular vectors of the centred embeddings, in order of
    falling variance; the largest entry of each in absolute value is positive. Directions of nearly
    equal variance are not identified: see `didae.dictionaries.diagnostics.separation`.

    Parameters
    ----------
    directions
        How many directions to keep, at least 1.

    Raises
    ------
    DidaeError
        If `directions` is smaller than 1.
    """

    kind = "svd"

    def __init__(self, directions: int = 10) -> None:
        super().__init__(directions)

    def _directions(self, sample: Sample) -> tuple[Array, Array]:
        _, rows = leading_directions(sample, self.directions)
        return rows, rows
