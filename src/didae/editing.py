"""Edits in closed form: pure functions of tensors that know no network.

A change is the amount by which one code moves, for each image and direction; `apply` turns it into
embeddings. The functions take any floating dtype and treat every image on its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SMALLEST_SLOPE = 1e-6


def reflect(codes: Float[Tensor, "b k"], strength: float = 1.0) -> Float[Tensor, "b k"]:
    """Mirror every code at the mean (Algorithm 1: c → -c, z' = z - 2 c ω).

    Parameters
    ----------
    codes
        Codes, shape (b, k).
    strength
        0 changes nothing, ½ moves to the mean, 1 is the reflection.

    Returns
    -------
    Tensor
        Change of each code, -2·strength·codes, shape (b, k).
    """
    return -2 * strength * codes


def cross_boundary(
    margin: Float[Tensor, " b"], slope: Float[Tensor, "*b k"], strength: float = 2.0
) -> tuple[Float[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Move along each direction until the probe's margin is (1 - strength) times what it was.

    This is the component-wise step of Algorithm 2, with the sign of the slope kept.

    Parameters
    ----------
    margin
        The probe's margin w·z + b of each image, shape (b,).
    slope
        Change of the margin for one unit of code, w·ω, shape (k,), or (b, k) where images have
        margins between different classes.
    strength
        1 reaches the boundary, 2 mirrors the margin.

    Returns
    -------
    tuple of Tensor
        Change of each code, -strength·margin/slope, shape (b, k), and whether it is feasible, bool
        of shape (b, k). Infeasible changes are 0: margin, slope or change is not finite, or
        ``|slope|`` is at most 1e-6 of the larger of 1 and the steepest slope.
    """
    slope = slope.nan_to_num(0, 0, 0)
    steep = slope.abs() > _SMALLEST_SLOPE * slope.abs().amax(-1, keepdim=True).clamp_min(1)
    divisor = torch.where(steep, slope, torch.ones_like(slope))
    change = -strength * margin[:, None] / divisor
    feasible = steep & change.isfinite()
    return torch.where(feasible, change, torch.zeros_like(change)), feasible


def cross_jointly(
    margin: Float[Tensor, " b"],
    slope: Float[Tensor, " k"],
    spread: Float[Tensor, " k"],
    strength: float = 2.0,
) -> Float[Tensor, "b k"]:
    """Move along all directions together until the margin is (1 - strength) times what it was.

    Of all such changes, -strength · margin · slope·σ² / Σ (slope·σ)², this is the shortest where
    each code is measured in its spread σ. The slopes are not all 0.
    """
    share = slope * spread**2 / (slope * spread).pow(2).sum()
    return -strength * margin[:, None] * share


def clamp(
    codes: Float[Tensor, "b k"],
    change: Float[Tensor, "b k"],
    low: Float[Tensor, " k"],
    high: Float[Tensor, " k"],
) -> Float[Tensor, "b k"]:
    """Shorten changes so that the new codes stay in the range seen in data.

    Parameters
    ----------
    codes
        Codes before the edit, shape (b, k).
    change
        Wanted change of each code, shape (b, k).
    low, high
        Range of each code, low ≤ high, shape (k,).

    Returns
    -------
    Tensor
        Change with low ≤ codes + change ≤ high, shape (b, k). A code outside the range may move
        towards it and through it, never farther out; no change stays no change.
    """
    down = torch.minimum(low, codes) - codes
    up = torch.maximum(high, codes) - codes
    return change.clamp(down, up)


def apply(
    z: Float[Tensor, "b d"], change: Float[Tensor, "b k"], atoms: Float[Tensor, "k d"]
) -> Float[Tensor, "b k d"]:
    """Edit every image along every direction, z' = z + change·ω, in one operation."""
    return torch.addcmul(z[:, None, :], change[:, :, None], atoms)


def amplification(asked: Tensor, seen: Tensor, most: float = 2.0) -> Tensor:
    """Say how many times more to ask for where less was drawn: clamp(asked / seen, 1, most).

    ``most`` where the code did not move or moved the wrong way, 1 where nothing was asked.
    """
    share = seen / asked
    return torch.where(share > 0, 1 / share, most).clamp(1, most).where(asked != 0, 1)
