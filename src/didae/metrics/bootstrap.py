"""Figures that are ratios of sums over images, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics.groups import wilson
from didae.randomness import generator

LEVEL = 0.95
RESAMPLES = 2000

_DRAWS = 500_000  # images drawn at once: 8 MB of their sums


@dataclass(frozen=True)
class Estimate:
    """A figure and how far the choice of images may have moved it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Give plain values."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}


def ratio(
    numerator: Bool[Tensor, " m"],
    denominator: Bool[Tensor, " m"],
    images: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Divide one sum by another, and resample the images (Efron 1979; percentile interval).

    Rows of one image are drawn together: they are not independent. Where every row of a share
    agrees, so does every resample, and the interval would be a point; the Wilson interval of the
    number of images is given then.
    """
    lengths = {len(numerator), len(denominator), len(numerator if images is None else images)}
    columns = (
        torch.stack([numerator.double(), denominator.double()], 1) if len(lengths) == 1 else None
    )
    if columns is None or not columns.isfinite().all():
        raise DidaeError(
            f"interval: rows of lengths {sorted(lengths)}, or values that are not finite; "
            "give one finite number per counterfactual."
        )
    sums = columns if images is None else _per_image(columns, images)
    n = int((sums[:, 1] > 0).sum())
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0)
    total = sums.sum(0)
    value = float(total[0] / total[1])
    share = (
        numerator.dtype == denominator.dtype == torch.bool and not (numerator & ~denominator).any()
    )
    if share and value in (0.0, 1.0):
        return Estimate(value, *wilson(value, n), n)
    drawn = _resample(sums, seed)
    low, high = drawn.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]).double()).tolist()
    return Estimate(value, low, high, n)


def mean(
    values: Bool[Tensor, " m"], images: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Average over the rows where a value is defined.

    The mean of the differences of two methods on the same rows gives their paired comparison.
    """
    defined = ~values.isnan()
    return ratio(values.where(defined, torch.zeros_like(values)), defined, images, seed)


def _per_image(columns: Tensor, images: Sequence[Hashable]) -> Tensor:
    """Sum the rows of each image; images in order of first appearance."""
    place = {image: i for i, image in enumerate(dict.fromkeys(images))}
    index = torch.tensor([place[image] for image in images])
    return columns.new_zeros(len(place), 2).index_add_(0, index, columns)


def _resample(sums: Tensor, seed: int) -> Tensor:
    """Draw the ratio of `RESAMPLES` resamples, those without any denominator left out."""
    # scipy.stats.bootstrap gives no interval at all once one resample has nothing to divide by.
    rng = generator(seed, "bootstrap")
    n = len(sums)
    at_once = max(1, _DRAWS // n)
    totals = torch.cat(
        [
            sums[torch.randint(n, (min(at_once, RESAMPLES - done), n), generator=rng)].sum(1)
            for done in range(0, RESAMPLES, at_once)
        ]
    )
    totals = totals[totals[:, 1] > 0]
    return totals[:, 0] / totals[:, 1]
