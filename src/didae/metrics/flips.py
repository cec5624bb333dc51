"""Whether counterfactuals flip the student and others agree, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics.groups import wilson
from didae.randomness import generator

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
    drawn = _resample(sums, seed)
    low, high = drawn.quantile(torch.tensor([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).double()).tolist()
    return Estimate(value, low, high, n)


def mean(
    values: Shaped[Tensor, " m"], images: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Average over the rows where a value is defined.

    The mean of the differences of two methods on the same rows gives their paired comparison.
    """
    defined = ~values.isnan()
    return ratio(values.where(defined, torch.zeros_like(values)), defined, images, seed)


def _resample(sums: Tensor, seed: int) -> Tensor:
    """Draw the ratio of `_RESAMPLES` resamples, those without any denominator left out."""
    # scipy.stats.bootstrap gives no interval at all once one resample has nothing to divide by.
    rng = generator(seed, "bootstrap")
    n = len(sums)
    at_once = max(1, _DRAWS // n)
    totals = torch.cat(
        [
            sums[torch.randint(n, (min(at_once, _RESAMPLES - done), n), generator=rng)].sum(1)
            for done in range(0, _RESAMPLES, at_once)
        ]
    )
    totals = totals[totals[:, 1] > 0]
    return totals[:, 0] / totals[:, 1]


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
    _check(student, surrogates, target)
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


def _check(student: Tensor, surrogates: Tensor, target: Tensor) -> None:
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
