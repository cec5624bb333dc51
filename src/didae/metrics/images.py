"""Distances between images."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of 8-bit images.

    Parameters
    ----------
    first, second : Tensor, uint8, shape (b, c, h, w)
        Images.

    Returns
    -------
    Tensor, float64, shape (b,)
        ``10 log10(255² / mean squared error)`` in dB; infinite for equal images.
    """
    error = (first.double() - second.double()).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def leftover(delivered: Tensor, truth: Tensor, factual: Tensor) -> Tensor:
    """Share of the factual that still shines through a counterfactual: its ghost.

    The error of the delivered image is projected on the change that should have happened.

    Parameters
    ----------
    delivered, truth, factual : Tensor, uint8, shape (b, c, h, w)
        Counterfactual as made, as it should be, and the image it was made from.

    Returns
    -------
    Tensor, float64, shape (b,)
        0 where nothing of the factual is left, 1 where nothing was changed.
    """
    error = (delivered.double() - truth.double()).flatten(1)
    change = (factual.double() - truth.double()).flatten(1)
    return (error * change).sum(1) / change.pow(2).sum(1).clamp_min(1e-12)
