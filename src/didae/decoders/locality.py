"""Where an edit acts: what two codes ask for differently, drawn along the edges of the image.

Noise that hides the texture of an image leaves its outlines visible. What a decoder foresees then
for the edited z_sem less what it foresees for the factual one says where the edit acts (DiffEdit,
Couairon et al. 2023, arXiv 2210.11427, section 3.2). A guided filter (He et al. 2013, equation 19,
with colours) moves its blurred rim to the edges of the image.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TIMES: Final = (0.5, 0.7)
"""Of the noise: less hides too little, more hides the outlines. This and the numbers below were
chosen on validation images of the leaves (`didae bench leaves`)."""

_STRONG, _HALF, _RIM = 0.9, 0.5, 0.15
"""An edit acts fully where the difference is above half of what it is on a tenth of the pixels, by
this much, and not at all where it is below by as much."""

_FAINT: Final = 0.02
"""Difference, of images in [-1, 1], that counts as strong at least: none is not made much of."""

_WINDOWS, _SMOOTH = 8, 0.003
"""Windows of the filter along a side, and the variance of colours in [0, 1] below which it sees no
edge."""


def locate(
    difference: Float[Tensor, "b c h w"], images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Turn differences of what is foreseen into the share in [0, 1] of an edit by pixel."""
    size = difference.abs().mean(1, keepdim=True)
    strong = size.flatten(1).quantile(_STRONG, dim=1).clamp_min(_FAINT)
    share = (size / strong[:, None, None, None]).clamp_max(1.2)
    share = guided_filter(share, images, images.shape[-1] // _WINDOWS, _SMOOTH)
    return ((share - _HALF) / (2 * _RIM) + 0.5).clamp(0, 1)


def guided_filter(
    values: Float[Tensor, "b 1 h w"], guide: Float[Tensor, "b c h w"], radius: int, smooth: float
) -> Float[Tensor, "b 1 h w"]:
    """Smooth values, but not across edges of a guide: in each window they are linear in it."""

    def mean(maps: Tensor) -> Tensor:
        padded = functional.pad(maps, (radius,) * 4, mode="replicate")
        return functional.avg_pool2d(padded, 2 * radius + 1, stride=1)

    colours = guide.shape[1]
    centre, middle = mean(guide), mean(values)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    spread = mean(products) - (centre[:, :, None] * centre[:, None]).flatten(1, 2)
    spread = spread.unflatten(1, (colours, colours)).permute(0, 3, 4, 1, 2)
    spread = spread + smooth * torch.eye(colours, device=guide.device)
    together = (mean(guide * values) - centre * middle).permute(0, 2, 3, 1)
    slope = torch.linalg.solve(spread, together[..., None])[..., 0].permute(0, 3, 1, 2)
    offset = middle - (slope * centre).sum(1, keepdim=True)
    return (mean(slope) * guide).sum(1, keepdim=True) + mean(offset)
