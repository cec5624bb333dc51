"""SCE: gradients of a smooth stand-in, filtered by the denoiser; each attempt at another place."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from didae.config import Config
from didae.data.images import to_float
from didae.decoders.base import Decoder
from didae.errors import DidaeError
from didae.students import StudentConfig, StudentLike, StudentNetwork, build_student, logits
from didae.training import Forward, TrainingConfig, train
from didae_bench.explainers.base import METHODS, Explainer, Method, Work
from didae_bench.explainers.diffusion import (
    Chain,
    ChainConfig,
    Side,
    blurred_change,
    require_denoiser,
)


class SmoothingConfig(Config):
    """How the stand-in is distilled (Bender et al. 2025, arXiv 2506.14698)."""

    # Shape of the stand-in; every activation is replaced by `LeakySoftplus`
    network: StudentConfig = StudentConfig()
    # n of the Beta(n, n) from which shares of mixed images are drawn; 0 does not mix
    mixup: int = Field(default=10, ge=0)
    label_noise: float = Field(default=0.05, ge=0, le=1)  # Share of labels that are drawn at random
    # Largest L2 norm of the adversarial change, in [0, 1] pixels; 0 trains on clean images
    radius: float = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=5, ge=1)  # Steps of the attack


class LeakySoftplus(nn.Module):
    """Mean of a leaky ReLU (slope .1) and a softplus (β = 10): smooth, and never flat."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        return (functional.leaky_relu(x, 0.1) + functional.softplus(x, beta=10)) / 2


def fit_smooth_student(
    student: StudentLike,
    images: UInt8[Tensor, "n 3 size size"],
    config: SmoothingConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> StudentNetwork:
    """Distil a student to a network with smooth gradients.

    It learns the student's predictions, every class equally often, on mixed images with a few wrong
    labels, each moved to where the loss is largest nearby.
    """
    values = logits(student, images)
    if values.shape[1] != config.network.classes:
        raise DidaeError(
            f"smooth student: the student has {values.shape[1]} classes, "
            f"the stand-in {config.network.classes}; make them equal."
        )
    labels = values.argmax(1)
    rows = _balanced(labels)
    classes = functional.one_hot(labels, config.network.classes).float()
    network = build_student(config.network, training.seed)
    _smooth(network)

    def loss(forward: Forward, indices: Tensor, generator: torch.Generator) -> Tensor:
        chosen = rows[indices]
        x, target = to_float(images[chosen]), classes[chosen]
        target = _disturbed(target, config.label_noise, generator)
        if config.mixup:
            share = _beta(len(x), config.mixup, generator)
            other = torch.randperm(len(x), generator=generator)
            x = x.lerp(x[other], share[:, None, None, None])
            target = target.lerp(target[other], share[:, None])
        if config.radius:
            x = worst_nearby(forward, x, target, config.radius, config.attack_steps)
        return functional.cross_entropy(forward(x), target)

    train(network, loss, len(rows), training, folder, "training the smooth student")
    return network.requires_grad_(False)


def worst_nearby(
    forward: Forward,
    images: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b classes"],
    radius: float,
    steps: int,
) -> Float[Tensor, "b c h w"]:
    """Find images within an L2 ball where the loss is larger (PGD, Madry et al. 2018)."""
    moved = images
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = functional.cross_entropy(forward(moved), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        ahead = moved.detach() + 2.5 * radius / steps * gradient / _norm(gradient)
        change = ahead - images
        moved = (images + change * (radius / _norm(change)).clamp(max=1)).clamp(0, 1)
    return moved.detach()


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def _smooth(module: nn.Module) -> None:
    """Replace every activation in place."""
    for name, child in module.named_children():
        if isinstance(child, (nn.ReLU, nn.SiLU, nn.GELU)):
            setattr(module, name, LeakySoftplus())
        else:
            _smooth(child)


def _balanced(labels: Tensor) -> Tensor:
    """Give rows in which every class that occurs is equally frequent."""
    kinds = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    if len(kinds) < 2:
        raise DidaeError(
            f"smooth student: the student predicts class {int(labels[0])} on all "
            f"{len(labels)} images; give broader ones."
        )
    most = max(len(rows) for rows in kinds)
    return torch.cat([rows.repeat(-(-most // len(rows)))[:most] for rows in kinds])


def _disturbed(target: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw some labels at random, uniformly over all classes."""
    count, classes = target.shape
    drawn = torch.randint(classes, (count,), generator=generator)
    wrong = torch.rand(count, generator=generator) < share
    return torch.where(wrong[:, None], functional.one_hot(drawn, classes).float(), target)


def _beta(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw from Beta(n, n): the middle one of 2 n - 1 uniform numbers."""
    return torch.rand(count, 2 * n - 1, generator=generator).kthvalue(n, dim=1).values


FLIPPED = 0.5
"""Confidence in the target from which a state counts as flipped."""


class SCEConfig(ChainConfig):
    """Smooth Counterfactual Explorer (Bender et al. 2025, arXiv 2506.14698).

    The defaults are the authors' for images of 64 pixels. For 128 pixels they take 50 steps,
    sparsity .0005, learning rate 300, momentum .9, no limit of the step, threshold .15, blur 13.
    """

    # respacing, depth: The chain, and τ, the steps of it that gradients are filtered through
    respacing: int = Field(default=66, ge=2, le=1000)
    depth: int = Field(default=19, ge=1)
    steps: int = Field(default=100, ge=1)  # Most gradient steps
    # learning_rate, momentum: Of gradient descent with momentum, in [0, 1] pixels
    learning_rate: float = Field(default=500.0, ge=0)
    momentum: float = Field(default=0.999, ge=0, lt=1)
    # What one gradient, before momentum, may move a pixel at most
    largest_step: float = Field(default=0.1, gt=0)
    # Weight of the mean absolute change; halved with every attempt
    sparsity: float = Field(default=0.01, ge=0)
    temperature: float = Field(default=3.0, gt=0)  # Divides all logits
    # Relative change below which the factual is put back; halved with every attempt
    threshold: float = Field(default=0.3, ge=0, le=1)
    blur: Side = 3  # Side of the Gaussian kernel in the mask of the change, odd
    sigma: float = Field(default=2.0, gt=0)  # Its standard deviation in pixels
    # Confidence at which an image is done; None for one minus the factual's own confidence in the
    # target, as sure of the target as the student was of the source
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


METHODS["sce"] = Method(
    "SCE", "rival", lambda p: SCE(p.denoiser, p.guide()), (16, 2), (4, 1), SCEConfig(), True, True
)
