"""The smooth stand-in for the student that SCE follows."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from didae.config import Config
from didae.data.images import to_float
from didae.errors import DidaeError
from didae.students import StudentConfig, StudentLike, StudentNetwork, build_student, logits
from didae.training import Forward, TrainingConfig, train


class SmoothingConfig(Config):
    """How the stand-in is distilled (Bender et al. 2025, arXiv 2506.14698).

    Attributes
    ----------
    network : StudentConfig
        Shape of the stand-in; every activation is replaced by `LeakySoftplus`.
    mixup : int
        n of the Beta(n, n) from which shares of mixed images are drawn; 0 does not mix.
    label_noise : float
        Share of labels that are drawn at random.
    radius : float
        Largest L2 norm of the adversarial change, in [0, 1] pixels; 0 trains on clean images.
    attack_steps : int
        Steps of the attack.
    """

    network: StudentConfig = StudentConfig()
    mixup: int = Field(default=10, ge=0)
    label_noise: float = Field(default=0.05, ge=0, le=1)
    radius: float = Field(default=1.0, ge=0)
    attack_steps: int = Field(default=5, ge=1)


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
