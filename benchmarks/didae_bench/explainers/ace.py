"""ACE: an attack through the denoiser, then everything that need not change is put back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from didae.decoders.base import Decoder
from didae_bench.explainers.base import METHODS, Explainer, Method, Work
from didae_bench.explainers.diffusion import (
    Chain,
    ChainConfig,
    Side,
    dilated_change,
    require_denoiser,
)


class ACEConfig(ChainConfig):
    """Adversarial Counterfactual Explanations (Jeanneret, Simon & Jurie, CVPR 2023, section 3).

    The defaults are those of the authors' CelebA script. The DiDAE paper's authors run 100
    iterations with depth 15, dilation 17 and threshold .7. The loss is that of each image, where
    the original averages the first term over the batch and not the second.
    """

    # respacing, depth: The chain, and τ, the steps of it that the attack looks through (section
    # 3.1)
    respacing: int = Field(default=50, ge=2, le=1000)
    depth: int = Field(default=5, ge=1)
    iterations: int = Field(default=50, ge=0)  # Steps of the attack; all are made (section 3.1)
    # Length of a step of projected gradient descent in the largest norm, in [0, 1] pixels
    step: float = Field(default=1 / 255, gt=0)
    # λ_d, weight of the L1 distance (equation 3), in [0, 1] pixels
    distance: float = Field(default=1e-3, ge=0)
    # Side of the neighbourhood that a change spreads to in the mask, odd (section 3.2)
    dilation: Side = 15
    # Relative change below which the factual is put back (section 3.2)
    threshold: float = Field(default=0.15, ge=0, le=1)


class ACE(Explainer):
    """Adversarial counterfactuals of images that went through the denoiser.

    With τ = ``depth``, an image costs τ (iterations + 1) evaluations of the denoiser and
    τ · iterations backward passes, and one of each per iteration of the student.
    """

    def __init__(self, denoiser: Decoder, config: ACEConfig | None = None) -> None:
        super().__init__(require_denoiser(denoiser))
        self.denoiser, self.config = denoiser, config or ACEConfig()

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Attack, then repaint."""
        config, chain = self.config, Chain(self.denoiser, self.config)
        attacked = work.images
        for _ in range(config.iterations):
            gradient = attack_gradient(work, chain, attacked, config.distance)
            attacked = (attacked - config.step * gradient.sign()).clamp(0, 1)
        keep = dilated_change(work.images, attacked, config.dilation) < config.threshold
        return (chain.repainted(work, 2 * attacked - 1, keep) + 1) / 2


def attack_gradient(
    work: Work, chain: Chain, pixels: Float[Tensor, "b c h w"], distance: float
) -> Float[Tensor, "b c h w"]:
    """Differentiate the student's loss on filtered images, and the distance to the factual."""
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits = work.logits((chain.filtered(work, 2 * pixels - 1) + 1) / 2)
        loss = functional.cross_entropy(logits, work.targets, reduction="sum")
        loss = loss + distance * (pixels - work.images).abs().sum()
    return torch.autograd.grad(loss, pixels)[0]


AUTHORS = ACEConfig(depth=15, iterations=100, dilation=17, threshold=0.7)
"""ACE as the DiDAE paper's authors run it."""

METHODS["ace"] = Method(
    "ACE", "rival", lambda p: ACE(p.denoiser), (24, 2), (8, 1), ACEConfig(), True, True
)
METHODS["ace_authors"] = Method(
    "ACE, as the DiDAE authors run it",
    "rival",
    lambda p: ACE(p.denoiser, AUTHORS),
    (16, 1),
    (1, 1),
    AUTHORS,
)
