"""Distances between two images, by pixels and by the features of any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from didae.errors import DidaeError, require
from didae.runtime import AutoBatch, weights_like

Network = Callable[[Tensor], Tensor]
"""Takes float images in [0, 1] of shape (b, 3, h, w), gives one row per image."""

_FeatureMaps = Callable[[Tensor], "Tensor | Sequence[Tensor]"]
"""The same, for features of shape (b, d) or (b, d, h, w), of one layer or of several."""

_BATCH = 256


def psnr(first: UInt8[Tensor, "b c h w"], second: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each pair of 8-bit images."""
    error = (first.double() - second.double()).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def leftover(
    delivered: UInt8[Tensor, "b c h w"],
    truth: UInt8[Tensor, "b c h w"],
    factual: UInt8[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Share of the factual that still shines through a counterfactual: its ghost.

    The error of the delivered image is projected on the change that should have happened.
    """
    error = (delivered.double() - truth.double()).flatten(1)
    change = (factual.double() - truth.double()).flatten(1)
    return (error * change).sum(1) / change.pow(2).sum(1).clamp_min(1e-12)


def outputs(network: Network, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n ..."]:
    """Apply a network to 8-bit images, in batches, without gradients and in evaluation mode."""
    return AutoBatch(_BATCH).map(partial(_apply, network), images).cpu().double()


def ssim(first: UInt8[Tensor, "b c h w"], second: UInt8[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of each pair of images (Wang et al. 2004, eq. 13), by torchmetrics."""
    if min(first.shape[-2:]) < 11:
        raise DidaeError(
            f"SSIM: images of {tuple(first.shape[-2:])} pixels are smaller than its window of 11; "
            "use PSNR."
        )
    measures = require("torchmetrics.functional.image", "metrics", "SSIM")
    values = measures.structural_similarity_index_measure(
        first.double(), second.double(), data_range=255.0, reduction="none"
    )
    return cast("Tensor", values).reshape(len(first))


def perceptual_distance(
    first: UInt8[Tensor, "b 3 h w"], second: UInt8[Tensor, "b 3 h w"], network: _FeatureMaps
) -> Float[Tensor, " b"]:
    """LPIPS without learnt weights, in the features of any network.

    Zhang et al. 2018 (arXiv 1801.03924), eq. 1 with w = 1, their "baseline" form: at every place,
    the squared distance of the features scaled to unit length; its mean over places, summed over
    layers. It is not comparable between networks, nor with published LPIPS, which needs weights
    that have to be downloaded.
    """
    return AutoBatch(_BATCH).map(partial(_perceptual, network), first, second)


def feature_similarity(
    first: UInt8[Tensor, "b 3 h w"], second: UInt8[Tensor, "b 3 h w"], network: Network
) -> Float[Tensor, " b"]:
    """Cosine of the features of each pair of images.

    With SimSiam's ResNet-50 this is the S³ of ACE (arXiv 2303.09962), with VGGFace2's the face
    similarity FS, and the share above 0.5 is then the FVA. With another encoder the number is
    comparable only to numbers of the same encoder.
    """
    return torch.cosine_similarity(outputs(network, first), outputs(network, second))


@torch.no_grad()
def _apply(network: Callable[[Tensor], Any], images: Tensor) -> Any:
    pixels = images.float() / 255
    if isinstance(network, nn.Module):
        network.eval()
        pixels = pixels.to(weights_like(network, pixels).device)
    return network(pixels)


def _perceptual(network: _FeatureMaps, first: Tensor, second: Tensor) -> Tensor:
    """Apply eq. 1 of LPIPS to a batch; a vector of features is a map of one place."""
    layers = [_apply(network, images) for images in (first, second)]
    pairs = zip(*([maps] if isinstance(maps, Tensor) else maps for maps in layers), strict=True)
    distance = torch.zeros(len(first), dtype=torch.float64)
    for pair in pairs:
        a, b = (functional.normalize(maps.cpu().double(), dim=1) for maps in pair)
        distance += (a - b).square().sum(1).reshape(len(first), -1).mean(1)
    return distance
