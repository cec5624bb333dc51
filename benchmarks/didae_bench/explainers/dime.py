"""DiME and FastDiME: denoising under guidance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from didae.decoders.base import Decoder
from didae_bench.explainers.base import METHODS, Explainer, Method, Work
from didae_bench.explainers.diffusion import (
    Chain,
    ChainConfig,
    Side,
    dilated_change,
    require_denoiser,
)

Features = Callable[[Tensor], Tensor]
"""Takes images in [0, 1], gives features of shape (b, ...): the perceptual network."""


class GuidanceConfig(ChainConfig):
    """How the student guides the denoiser."""

    # respacing, depth: The chain, and τ, the step of it that images are noised to
    respacing: int = Field(default=200, ge=2, le=1000)
    depth: int = Field(default=60, ge=1)
    # Weights of the class loss, tried in this order until the image flips; the last attempt is kept
    # if none does
    scales: tuple[float, ...] = Field(default=(8.0, 10.0, 15.0), min_length=1)
    # Weight of the L1 distance between state and factual, both in [-1, 1]
    distance: float = Field(default=0.05, ge=0)
    # Weight of the perceptual distance; without a perceptual network there is none
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


class Guided(Explainer):
    """Walks the guided chain with every scale until the student flips."""

    usual: GuidanceConfig

    def __init__(
        self,
        denoiser: Decoder,
        config: GuidanceConfig | None = None,
        features: Features | None = None,
    ) -> None:
        super().__init__(require_denoiser(denoiser))
        self.denoiser, self.config, self.features = denoiser, config or self.usual, features

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Try scales in order until the student flips."""
        chain = Chain(self.denoiser, self.config)
        return until_flipped(work, self.config.scales, lambda w, scale: self.walk(w, chain, scale))

    @abstractmethod
    def walk(self, work: Work, chain: Chain, scale: float) -> Tensor:
        """Walk the chain once."""


class DiMEConfig(GuidanceConfig):
    """Diffusion Models for Counterfactual Explanations (Jeanneret et al., ACCV 2022, section 3).

    The defaults are those of the paper's CelebA experiments (section 4.1 and the authors' script).
    The paper's perceptual network is VGG-19 up to layer 18; any other may be given.
    """


class DiME(Guided):
    """Guide the reverse chain by the student's gradient at an image denoised from every state.

    With τ = ``depth``, every scale that is tried costs τ (τ + 1) / 2 evaluations of the denoiser
    and no backward pass through it, τ + 1 evaluations and τ backward passes of the student.
    """

    usual = DiMEConfig()

    def walk(self, work: Work, chain: Chain, scale: float) -> Tensor:
        """Walk the chain once."""
        config, schedule, clean = self.config, chain.schedule, work.x
        z = chain.noised(work, clean, config.depth - 1)
        for i in reversed(range(config.depth)):
            gradient = clean_gradient(work, clean, scale, config.perceptual, self.features)
            # A change of z is 1/√ᾱ as large in the clean image (the chain rule of equation 7).
            gradient = gradient / math.sqrt(schedule.levels[i])
            gradient = gradient + config.distance * (z - work.x).sign()
            _, mean = chain.estimate(work, z, i)
            z = chain.sampled(work, mean - schedule.variance(i) * gradient, i)
            clean = chain.denoised(work, z, i)
        return ((z + 1) / 2).clamp(0, 1)


class FastDiMEConfig(GuidanceConfig):
    """Fast Diffusion-Based Counterfactuals (Weng, Pegios et al., ECCV 2024, section 3).

    The defaults are those of the authors' CelebA script; guidance as in DiME.
    """

    warmup: int = Field(default=30, ge=0)  # Steps before the mask is used
    # Side of the neighbourhood that a change spreads to in the mask, odd (equation 6)
    dilation: Side = 5
    # Relative change below which the factual is put back (equations 6 to 8)
    threshold: float = Field(default=0.15, ge=0, le=1)


class FastDiME(Guided):
    """Guide the reverse chain by the student's gradient at the image estimated in every step.

    With τ = ``depth``, every scale that is tried costs τ evaluations of the denoiser and no
    backward pass through it, τ + 1 evaluations and τ backward passes of the student.
    """

    config: FastDiMEConfig
    usual = FastDiMEConfig()

    def walk(self, work: Work, chain: Chain, scale: float) -> Tensor:
        """Walk the chain once."""
        config, factual = self.config, work.x
        clean, z = factual, chain.noised(work, factual, config.depth - 1)
        for i in reversed(range(config.depth)):
            gradient = clean_gradient(work, clean, scale, config.perceptual, self.features)
            gradient = gradient + config.distance * (z - factual).sign()
            clean, mean = chain.estimate(work, z, i)
            z = chain.sampled(work, mean - chain.schedule.variance(i) * gradient, i)
            if config.depth - i > config.warmup:
                keep = dilated_change(factual, clean, config.dilation) < config.threshold
                clean = torch.where(keep, factual, clean)
                # The factual with the noise of the step that z has come to, none at the end.
                z = torch.where(keep, chain.noised(work, factual, i - 1) if i else factual, z)
        return ((z + 1) / 2).clamp(0, 1)


METHODS["dime"] = Method(
    "DiME", "rival", lambda p: DiME(p.denoiser), (16, 1), (2, 1), DiMEConfig(), True, True
)
METHODS["fastdime"] = Method(
    "FastDiME",
    "rival",
    lambda p: FastDiME(p.denoiser),
    (32, 2),
    (8, 1),
    FastDiMEConfig(),
    taught=True,
    timed=True,
)
