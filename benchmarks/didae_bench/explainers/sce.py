"""SCE: gradients of a smooth stand-in, filtered by the denoiser; each attempt at another place."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from didae.decoders.base import Decoder
from didae.students.base import StudentLike
from didae_bench.explainers.base import Explainer
from didae_bench.explainers.chain import Chain, ChainConfig
from didae_bench.explainers.denoiser import require_denoiser
from didae_bench.explainers.masks import Side, blurred_change
from didae_bench.explainers.work import Work

FLIPPED = 0.5
"""Confidence in the target from which a state counts as flipped."""


class SCEConfig(ChainConfig):
    """Smooth Counterfactual Explorer (Bender et al. 2025, arXiv 2506.14698).

    The defaults are the authors' for images of 64 pixels. For 128 pixels they take 50 steps,
    sparsity .0005, learning rate 300, momentum .9, no limit of the step, threshold .15, blur 13.

    Attributes
    ----------
    respacing, depth : int
        The chain, and τ, the steps of it that gradients are filtered through.
    steps : int
        Most gradient steps.
    learning_rate, momentum : float
        Of gradient descent with momentum, in [0, 1] pixels.
    largest_step : float
        What one gradient, before momentum, may move a pixel at most.
    sparsity : float
        Weight of the mean absolute change; halved with every attempt.
    temperature : float
        Divides all logits.
    threshold : float
        Relative change below which the factual is put back; halved with every attempt.
    blur : int
        Side of the Gaussian kernel in the mask of the change, odd.
    sigma : float
        Its standard deviation in pixels.
    goal : float or None
        Confidence at which an image is done; None for one minus the factual's own confidence in
        the target, as sure of the target as the student was of the source.
    """

    respacing: int = Field(default=66, ge=2, le=1000)
    depth: int = Field(default=19, ge=1)
    steps: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=500.0, ge=0)
    momentum: float = Field(default=0.999, ge=0, lt=1)
    largest_step: float = Field(default=0.1, gt=0)
    sparsity: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=3.0, gt=0)
    threshold: float = Field(default=0.3, ge=0, le=1)
    blur: Side = 3
    sigma: float = Field(default=2.0, gt=0)
    goal: float | None = Field(default=None, ge=0, le=1)


class SCE(Explainer):
    """Gradient descent on images, with a smooth guide, a filter, sparsity and other places.

    An image that takes s steps, r of which end with the factual being put back, costs τ (s + r)
    evaluations of the denoiser and τ s backward passes; of student and guide together
    1 + 2 s + r evaluations (one more per earlier attempt) and s backward passes.
    """

    def __init__(
        self, denoiser: Decoder, guide: StudentLike, config: SCEConfig | None = None
    ) -> None:
        super().__init__(require_denoiser(denoiser))
        self.denoiser, self.guide, self.config = denoiser, guide, config or SCEConfig()

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Descend until the student is as sure of the target as it was of the source."""
        config, chain = self.config, Chain(self.denoiser, self.config)
        free = self._free(work)
        goal = 1 - work.confidence(work.images, config.temperature)
        if config.goal is not None:
            goal = torch.full_like(goal, config.goal)
        state, velocity = work.images.clone(), torch.zeros_like(work.images)
        best, surest = work.images.clone(), torch.zeros_like(goal)
        left = torch.arange(len(work))
        for step in range(config.steps):
            part = work[left]
            gradient = self._gradient(part, chain, state[left]) * free[left]
            velocity[left] = config.momentum * velocity[left] + gradient
            moved = (state[left] - config.learning_rate * velocity[left]).clamp(0, 1)
            sure = part.confidence(moved, config.temperature)
            ready = (sure >= FLIPPED) | (step == config.steps - 1)
            if bool(ready.any()):
                chosen = part[ready]
                moved[ready] = self._sparse(chosen, chain, moved[ready], free[left][ready])
                sure[ready] = chosen.confidence(moved[ready], config.temperature)
            state[left] = moved
            better = (ready & (sure >= surest[left])).cpu()
            best[left[better]], surest[left[better]] = moved[better], sure[better]
            left = left[~(ready & (sure >= goal[left])).cpu()]
            if not len(left):
                break
        return best

    def _free(self, work: Work) -> Tensor:
        """Say where an image may change: where no earlier counterfactual that flipped did."""
        free = torch.ones_like(work.images[:, :1], dtype=torch.bool)
        for attempt in work.previous:
            changed = (attempt != work.images).any(1, keepdim=True)
            free &= ~(changed & work.flipped(attempt)[:, None, None, None])
        return free

    def _gradient(self, work: Work, chain: Chain, pixels: Tensor) -> Tensor:
        """Differentiate the guide's loss on filtered images, and shorten what is too long."""
        config = self.config
        sparsity = config.sparsity * 0.5 ** len(work.previous)
        pixels = pixels.detach().requires_grad_()
        with torch.enable_grad():
            logits = work.logits((chain.filtered(work, 2 * pixels - 1) + 1) / 2, self.guide)
            loss = functional.cross_entropy(
                logits / config.temperature, work.targets, reduction="sum"
            )
            change = (pixels - work.images).abs().flatten(1).mean(1).sum()
            loss = loss + sparsity * change
        (gradient,) = torch.autograd.grad(loss, pixels)
        reach = config.learning_rate * gradient.abs().amax((1, 2, 3), keepdim=True)
        return gradient * (config.largest_step / reach.clamp_min(1e-12)).clamp(max=1)

    def _sparse(self, work: Work, chain: Chain, pixels: Tensor, free: Tensor) -> Tensor:
        """Put the factual back where little changed, and where nothing may."""
        config = self.config
        change = blurred_change(work.images, pixels, config.blur, config.sigma)
        keep = (change < config.threshold * 0.5 ** len(work.previous)) | ~free
        repainted = (chain.repainted(work, 2 * pixels - 1, keep) + 1) / 2
        # Exactly the factual, not its way to [-1, 1] and back: later attempts compare.
        return torch.where(keep, work.images, repainted).clamp(0, 1)
