"""Distances between two images by pixels, and what a network says of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from didae.runtime import AutoBatch, weights_like

_Network = Callable[[Tensor], Tensor]
"""Takes float images in [0, 1] of shape (b, 3, h, w), gives one row per image."""

_BATCH = 256


def psnr(first: UInt8[Tensor, "b c h w"], second: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each pair of 8-bit images."""
    error = (first.double() - second.double()).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def outputs(network: _Network, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
    """Apply a network to 8-bit images, in batches, without gradients and in evaluation mode."""
    return AutoBatch(_BATCH).map(partial(_apply, network), images).cpu().double()


@torch.no_grad()
def _apply(network: Callable[[Tensor], Any], images: Tensor) -> Any:
    pixels = images.float() / 255
    if isinstance(network, nn.Module):
        network.eval()
        pixels = pixels.to(weights_like(network, pixels).device)
    return network(pixels)
