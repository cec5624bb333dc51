"""Where two images differ: smooth maps in [0, 1] that are cut at a threshold."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even; give an odd number of pixels")
    return value


Side = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""Side of a neighbourhood that has a middle, in pixels."""


def dilated_change(
    before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], size: int
) -> Float[Tensor, "b 1 h w"]:
    """Map the change, spread to the neighbourhood (ACE, section 3.2; FastDiME, equation 6)."""
    change = _relative((before - after).abs().sum(1, keepdim=True))
    return functional.max_pool2d(change, size, stride=1, padding=size // 2)


def blurred_change(
    before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], size: int, sigma: float
) -> Float[Tensor, "b 1 h w"]:
    """Map the change, blurred (SCE)."""
    change = (before - after).abs().sum(1, keepdim=True)
    line = torch.arange(size, dtype=change.dtype, device=change.device) - size // 2
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for shape in ((1, 1, size, 1), (1, 1, 1, size)):
        change = functional.conv2d(
            change, kernel.reshape(shape), padding=(shape[2] // 2, shape[3] // 2)
        )
    return _relative(change.clamp(0, 1))


def _relative(change: Tensor) -> Tensor:
    largest = change.amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, change / largest.clamp_min(1e-12), change)
