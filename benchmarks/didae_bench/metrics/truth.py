"""Distances to the truth, and between codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from didae.errors import DidaeError
from didae.metrics import ratio

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Realised:
    """How far one factor followed its edit."""

    slope: float
    r2: float


def realised(requested: NDArray[Any], change: NDArray[Any]) -> Realised:
    """Compare the requested change of a factor with the one read off the images."""
    asked, got = np.asarray(requested, np.float64), np.asarray(change, np.float64)
    slope = float((asked * got).sum() / (asked**2).sum())
    return Realised(slope, float(np.corrcoef(asked, got)[0, 1] ** 2))


def mean_change(before: NDArray[Any], after: NDArray[Any], std: NDArray[Any]) -> Array:
    """Mean absolute change of every factor, in its standard deviation."""
    return (np.abs(np.asarray(after) - before) / std).mean(0)


def explained(predicted: NDArray[Any], target: NDArray[Any]) -> Array:
    """R² of each column: one minus residual over total sum of squares."""
    residual = ((np.asarray(predicted, np.float64) - target) ** 2).sum(0)
    total = ((target - np.mean(target, axis=0)) ** 2).sum(0)
    return 1 - residual / total


def residue(
    delivered: UInt8[Tensor, "b c h w"],
    truth: UInt8[Tensor, "b c h w"],
    factual: UInt8[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Share of a change that is not the change that should have happened.

    What an attack adds is almost orthogonal to the true change; what an edit does too weakly or
    too strongly is not, and does not count here.
    """
    change, wanted = _difference(delivered, factual), _difference(truth, factual)
    cosine = (change * wanted).sum(1) / (change.norm(dim=1) * wanted.norm(dim=1))
    return 1 - cosine.clamp(0, 1) ** 2


def class_kept(
    before: NDArray[Any], after: NDArray[Any], boundary: float
) -> Bool[NDArray[np.bool_], " n"]:
    """Say whether a factor stayed on its side of the class boundary."""
    return (np.asarray(before) >= boundary) == (np.asarray(after) >= boundary)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() - second.double()).flatten(1)


def latent_sparsity(change: Float[Tensor, "m k"]) -> Float[Tensor, " m"]:
    """Tell how nearly only one of the codes changes.

    SCE's understandability (arXiv 2506.14698): ``1 - (sum - max) / ((k - 1) max)`` of the absolute
    changes. It is averaged over the counterfactuals that the surrogates confirm, so a method with
    few of them is judged on few: report it beside the NAFR and its n.
    """
    if change.ndim != 2 or change.shape[1] < 2:
        raise DidaeError(
            f"latent sparsity: changes have shape {tuple(change.shape)}; "
            "give (counterfactuals, codes) with at least two codes."
        )
    size = change.double().abs()
    largest = size.amax(1)
    return 1 - (size.sum(1) - largest) / ((change.shape[1] - 1) * largest)


def latent_diversity(changes: Float[Tensor, "a m k"]) -> Float[Tensor, " m"]:
    """Tell how different the attempts at one image are.

    SCE's sufficiency (arXiv 2506.14698): one minus the mean absolute cosine of the changes of two
    attempts; of all pairs where there are more than two.
    """
    if changes.ndim != 3 or len(changes) < 2:
        raise DidaeError(
            f"latent diversity: changes have shape {tuple(changes.shape)}; "
            "give (attempts, counterfactuals, codes) with at least two attempts."
        )
    unit = changes.double() / changes.double().norm(dim=2, keepdim=True)
    pairs = [(first * second).sum(1).abs() for first, second in combinations(unit, 2)]
    # Rounding may carry a cosine an ulp above 1.
    return (1 - torch.stack(pairs).mean(0)).clamp(0, 1)


def leftover(
    delivered: UInt8[Tensor, "b c h w"],
    truth: UInt8[Tensor, "b c h w"],
    factual: UInt8[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Share of the factual that still shines through a counterfactual: its ghost.

    The error of the delivered image is projected on the change that should have happened.
    """
    error, change = _difference(delivered, truth), _difference(factual, truth)
    return (error * change).sum(1) / change.pow(2).sum(1).clamp_min(1e-12)


def feedback_accuracy(called_true: Bool[Tensor, " m"], right_before: Bool[Tensor, " m"]) -> float:
    """Share of the counterfactuals that the teacher calls true (CFKD, arXiv 2510.17524).

    A counterfactual is true where the teacher, too, sees the target class in it. Only images that
    the student classified rightly are counted.
    """
    return ratio(called_true & right_before, right_before).value


def unbiasedness(
    group_accuracies: Sequence[float],
    feedback: float,
    rule: Literal["symmetric", "ratio"] = "symmetric",
) -> float:
    """Compare how often explanations show the bias with how biased the student is.

    With r_actual = 1 - feedback accuracy of the surrogate-confirmed counterfactuals and
    r_dominant = 1 - mean of the two lowest group accuracies, the DiDAE authors' later code computes
    ``exp(-abs(log(r_actual / r_dominant)))`` and their earlier code, behind the figures of the SCE
    paper, the plain ratio, which may exceed 1.
    """
    if len(group_accuracies) < 2:
        raise DidaeError("unbiasedness: it compares groups; give at least two group accuracies.")
    if math.isnan(feedback):
        return math.nan
    actual, dominant = 1 - feedback, 1 - sum(sorted(group_accuracies)[:2]) / 2
    if rule == "ratio":
        return actual / dominant if dominant else (1.0 if actual == 0 else math.inf)
    larger = max(actual, dominant)
    return min(actual, dominant) / larger if larger else 1.0
