"""Metrics as functions of tensors: accuracies by group, flips with intervals, pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from didae.errors import DidaeError
from didae.randomness import generator
from didae.runtime import AutoBatch, weights_like

Group = tuple[int, int]

_Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class GroupAccuracies:
    """How well a student does in every group (label, attribute) that occurs.

    ``aga`` counts each group once, ``mean`` each image; ``weighted_mean`` weighs groups as the
    training set does (the average accuracy of WILDS). ``wga`` is of the worst group, with its
    Wilson 95 % interval, which ignores that it was chosen as the worst.
    """

    accuracies: dict[Group, float]
    counts: dict[Group, int]
    aga: float
    wga: float
    wga_group: Group
    wga_n: int
    wga_low: float
    wga_high: float
    mean: float
    weighted_mean: float | None

    def to_json(self) -> dict[str, object]:
        """Give plain values."""
        values = dict(vars(self))
        for name in ("accuracies", "counts"):
            values[name] = {f"{a},{b}": value for (a, b), value in values[name].items()}
        return {**values, "wga_group": list(self.wga_group)}


def group_accuracies(
    predictions: ArrayLike,
    labels: ArrayLike,
    attributes: ArrayLike,
    training_counts: Mapping[Group, int] | None = None,
) -> GroupAccuracies:
    """Measure a student's accuracy in every group.

    Parameters
    ----------
    predictions, labels, attributes : array_like of int, shape (n,)
        Predicted class, true class and spurious attribute of each image.
    training_counts : mapping, optional
        Images of each group in the training set, for the weighted mean.

    Returns
    -------
    GroupAccuracies
        Accuracies, their means and the worst.

    Raises
    ------
    DidaeError
        If there are no images, the lengths differ, or a group with training images has none here.
    """
    columns = [np.asarray(values) for values in (predictions, labels, attributes)]
    shapes = [column.shape for column in columns]
    if len(set(shapes)) > 1 or columns[0].ndim != 1 or not len(columns[0]):
        raise DidaeError(
            f"groups: predictions, labels and attributes have shapes {shapes}; "
            "give three lists of the same images, at least one."
        )
    right = columns[0] == columns[1]
    groups = np.stack(columns[1:], axis=1)
    accuracies: dict[Group, float] = {}
    counts: dict[Group, int] = {}
    for label, attribute in np.unique(groups, axis=0).tolist():
        members = right[(groups == (label, attribute)).all(1)]
        accuracies[label, attribute] = float(members.mean())
        counts[label, attribute] = len(members)
    worst = min(accuracies, key=accuracies.__getitem__)
    low, high = wilson(accuracies[worst], counts[worst])
    return GroupAccuracies(
        accuracies=accuracies,
        counts=counts,
        aga=float(np.mean(list(accuracies.values()))),
        wga=accuracies[worst],
        wga_group=worst,
        wga_n=counts[worst],
        wga_low=low,
        wga_high=high,
        mean=float(right.mean()),
        weighted_mean=None if training_counts is None else _weighted(accuracies, training_counts),
    )


def wilson(share: float, n: int, z: float = _Z95) -> tuple[float, float]:
    """Give the Wilson score interval of a share (Wilson 1927, eq. 4)."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding may leave the interval by an ulp where the share is 0 or 1.
    return max(0.0, centre - half), min(1.0, centre + half)


def gain(before: float, after: float) -> float:
    """Give the share of the error that a repair removed: (after - before) / (1 - before).

    This is the Gain of the DiDAE paper (arXiv 2601.21851, Table 1), of two AGAs.
    """
    if before == 1:
        return 0.0 if after == 1 else -math.inf
    return (after - before) / (1 - before)


def _weighted(accuracies: Mapping[Group, float], training: Mapping[Group, int]) -> float:
    missing = [group for group, n in training.items() if n and group not in accuracies]
    if missing:
        raise DidaeError(
            f"groups: group {missing[0]} has training images and no others; "
            "leave training_counts out or add images of it."
        )
    weights: NDArray[np.float64] = np.array([training.get(group, 0) for group in accuracies], float)
    if not weights.sum():
        raise DidaeError("groups: training_counts holds no images; leave it out.")
    return float(weights @ np.array(list(accuracies.values())) / weights.sum())


_LEVEL = 0.95
_RESAMPLES = 2000

_DRAWS = 500_000  # images drawn at once: 8 MB of their sums


@dataclass(frozen=True)
class Estimate:
    """A figure of n images and its 95 % bootstrap interval; NaN where no image bears on it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Give plain values."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}


def ratio(
    numerator: Shaped[Tensor, " m"],
    denominator: Shaped[Tensor, " m"],
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
    sums = columns
    if images is not None:
        place = {image: i for i, image in enumerate(dict.fromkeys(images))}
        index = torch.tensor([place[image] for image in images])
        sums = columns.new_zeros(len(place), 2).index_add_(0, index, columns)
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
    # scipy.stats.bootstrap gives no interval at all once one resample has nothing to divide by.
    rng, rows = generator(seed, "bootstrap"), len(sums)
    at_once = max(1, _DRAWS // rows)
    totals = torch.cat(
        [
            sums[torch.randint(rows, (min(at_once, _RESAMPLES - done), rows), generator=rng)].sum(1)
            for done in range(0, _RESAMPLES, at_once)
        ]
    )
    totals = totals[totals[:, 1] > 0]
    ends = torch.tensor([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).double()
    low, high = (totals[:, 0] / totals[:, 1]).quantile(ends).tolist()
    return Estimate(value, low, high, n)


def mean(
    values: Shaped[Tensor, " m"], images: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Average over the rows where a value is defined.

    The mean of the differences of two methods on the same rows gives their paired comparison.
    """
    defined = ~values.isnan()
    return ratio(values.where(defined, torch.zeros_like(values)), defined, images, seed)


_Agree = Literal["every", "majority"]
_Rule = Literal["both", "alone"]

_DEFINITIONS: dict[_Rule, dict[str, str | int]] = {
    "both": {
        "nafr_version": 2,
        "flips": "a model flips where softmax(logits)[target] > 0.5 on the counterfactual",
        "nafr": "(1/m) sum of [student flips and surrogates flip]",
        "na": "sum of [student flips and surrogates flip] / sum of [student flips]",
    },
    "alone": {
        "nafr_version": 1,
        "flips": "the student flips where softmax(logits)[target] >= 0.51 on the counterfactual, "
        "a surrogate where logits[target] > 0.5",
        "nafr": "(1/m) sum of [surrogates flip]",
        "na": "sum of [surrogates flip] / sum of [student flips]",
    },
}
"""What the figures mean, written into every output.

``both`` is eq. 5 (NAFR) and eq. 1 (NA) of GDCE-I and what the DiDAE authors' code computes since
September 2026 (they divide by at least 200). ``alone`` is what it computed in April 2026, for the
first version of the DiDAE paper (arXiv 2601.21851): the student need not flip, the surrogate's raw
logit is compared, and NA can exceed 1.
"""


@dataclass(frozen=True)
class FlipRates:
    """Flip rates of m counterfactuals: of all, of those that surrogates confirm, and their share.

    ``flip_rate`` and ``nafr`` are shares of all m, ``na`` is the share of the student's flips; how
    many of the surrogates had to ``agree``, and by which ``rule`` of `_DEFINITIONS`.
    """

    flip_rate: Estimate
    nafr: Estimate
    na: Estimate
    m: int
    surrogates: int
    agree: _Agree
    rule: _Rule

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        figures = {key: getattr(self, key).to_json() for key in ("flip_rate", "nafr", "na")}
        return {**vars(self), **figures, "definition": dict(_DEFINITIONS[self.rule])}


def flip_rates(
    student: Float[Tensor, "m classes"],
    surrogates: Float[Tensor, "s m classes"],
    target: Int[Tensor, " m"],
    images: Sequence[Hashable] | None = None,
    agree: _Agree = "every",
    rule: _Rule = "both",
    seed: int = 0,
) -> FlipRates:
    """Count flips of the student, and those that independent surrogates confirm.

    Failed counterfactuals belong in: give the logits of the factual for them.
    """
    flips, confirmed = flags(student, surrogates, target, agree, rule)
    everything = torch.ones_like(flips)
    return FlipRates(
        flip_rate=ratio(flips, everything, images, seed),
        nafr=ratio(confirmed, everything, images, seed),
        na=ratio(confirmed, flips, images, seed),
        m=len(flips),
        surrogates=len(surrogates),
        agree=agree,
        rule=rule,
    )


def flags(
    student: Float[Tensor, "m classes"],
    surrogates: Float[Tensor, "s m classes"],
    target: Int[Tensor, " m"],
    agree: _Agree = "every",
    rule: _Rule = "both",
) -> tuple[Tensor, Tensor]:
    """Say of every counterfactual whether it flips and whether the flip is non-adversarial."""
    shapes = tuple(student.shape), tuple(surrogates.shape), tuple(target.shape)
    fit = student.ndim == 2 and surrogates.shape[1:] == student.shape and len(surrogates) > 0
    if not fit or not student.numel() or target.shape != student.shape[:1]:
        raise DidaeError(
            f"flips: student, surrogates and target have shapes {shapes}; "
            "give (m, classes), (surrogates, m, classes) and (m,) with at least one of each."
        )
    if int(target.min()) < 0 or int(target.max()) >= student.shape[1]:
        raise DidaeError(f"flips: a target is outside 0..{student.shape[1] - 1}; give classes.")
    if not (student.isfinite().all() and surrogates.isfinite().all()):
        raise DidaeError("flips: a logit is not finite; give the factual's where an edit failed.")
    of_target = target[:, None]
    probability = student.double().softmax(1).gather(1, of_target)[:, 0]
    if rule == "both":
        flips = probability > 0.5
        votes = surrogates.double().softmax(2)
    else:
        flips = probability >= 0.51
        votes = surrogates
    votes = votes.gather(2, of_target.expand(len(surrogates), -1, -1))[..., 0] > 0.5
    confirmed = votes.all(0) if agree == "every" else 2 * votes.sum(0) > len(votes)
    return flips, confirmed & flips if rule == "both" else confirmed


_BATCH = 256


def psnr(first: UInt8[Tensor, "b c h w"], second: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each pair of 8-bit images."""
    error = (first.double() - second.double()).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


@torch.no_grad()
def outputs(
    network: Callable[[Tensor], Any], images: UInt8[Tensor, "n 3 h w"]
) -> Float[Tensor, "n ..."]:
    """Apply a network of images in [0, 1] to 8-bit ones, in batches and evaluation mode."""
    if isinstance(network, nn.Module):
        network.eval()

    def apply(images: Tensor) -> Any:
        pixels = images.float() / 255
        return network(pixels.to(weights_like(network, pixels).device))

    return AutoBatch(_BATCH).map(apply, images).cpu().double()
