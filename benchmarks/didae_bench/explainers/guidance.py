"""What DiME and FastDiME share: guidance of the reverse chain, tried with growing scales."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from didae_bench.explainers.chain import ChainConfig
from didae_bench.explainers.work import Work

Features = Callable[[Tensor], Tensor]
"""Takes images in [0, 1], gives features of shape (b, ...): the perceptual network."""


class GuidanceConfig(ChainConfig):
    """How the student guides the denoiser.

    Attributes
    ----------
    respacing, depth : int
        The chain, and τ, the step of it that images are noised to.
    scales : tuple of float
        Weights of the class loss, tried in this order until the image flips; the last attempt is
        kept if none does.
    distance : float
        Weight of the L1 distance between state and factual, both in [-1, 1].
    perceptual : float
        Weight of the perceptual distance; without a perceptual network there is none.
    """

    respacing: int = Field(default=200, ge=2, le=1000)
    depth: int = Field(default=60, ge=1)
    scales: tuple[float, ...] = Field(default=(8.0, 10.0, 15.0), min_length=1)
    distance: float = Field(default=0.05, ge=0)
    perceptual: float = Field(default=30.0, ge=0)


def clean_gradient(
    work: Work,
    x: Float[Tensor, "b c h w"],
    scale: float,
    perceptual: float,
    features: Features | None,
) -> Float[Tensor, "b c h w"]:
    """Differentiate class loss and perceptual distance at clean images."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        images = (x + 1) / 2
        loss = -scale * log_odds(work.logits(images), work.targets).sum()
        if features is not None:
            change = features(images) - features(work.images)
            loss = loss + perceptual * change.flatten(1).pow(2).mean(1).sum()
    return torch.autograd.grad(loss, x)[0]


def log_odds(logits: Float[Tensor, "b classes"], targets: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Give log p / (1 - p) of the target class."""
    own = logits.gather(1, targets[:, None])
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return own[:, 0] - others.logsumexp(1)


def until_flipped(
    work: Work, scales: tuple[float, ...], attempt: Callable[[Work, float], Tensor]
) -> Float[Tensor, "b c h w"]:
    """Try scales in order, each on the images that have not flipped yet."""
    made, left = torch.empty_like(work.images), torch.arange(len(work))
    for scale in scales:
        part = work[left]
        images = attempt(part, scale)
        made[left] = images
        left = left[~part.flipped(images).cpu()]
        if not len(left):
            break
    return made
