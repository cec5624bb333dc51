"""Students of Square whose answers are known."""

from __future__ import annotations

import torch
from torch import Tensor


def background(images: Tensor) -> Tensor:
    """See nothing but the brightness of the corners, as a fully biased student does."""
    corners = torch.cat([images[:, :, :1].flatten(1), images[:, :, -1:].flatten(1)], 1)
    brightness = 20 * (corners.mean(1) - 0.5)
    return torch.stack([-brightness, brightness], 1)


def blind(images: Tensor) -> Tensor:
    """See nothing at all."""
    return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)
