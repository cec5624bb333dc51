"""A small world with one factor that counts: the brightness of a patch on a plain background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from didae.decoders.base import Decoder
from didae.decoders.network import NetworkConfig
from didae.randomness import generator
from didae.students import StudentConfig, StudentNetwork, logits, train_student
from didae.training import TrainingConfig
from didae_bench.explainers.diffusion import fit_denoiser
from didae_bench.explainers.sce import SmoothingConfig, fit_smooth_student

SIZE = 16
NETWORK = NetworkConfig(
    image_size=SIZE, dim=2, canvas=4, head=8, width=8, multipliers=(1,), patch=4
)
SHAPE = StudentConfig(image_size=SIZE, width=6)
DENOISER = TrainingConfig(
    steps=300, batch_size=16, learning_rate=1e-2, weight_decay=0, ema_decay=0.97
)
STUDENT = TrainingConfig(steps=150, batch_size=32, learning_rate=5e-3, ema_decay=0.9)
GUIDE = TrainingConfig(steps=120, batch_size=16, learning_rate=5e-3, ema_decay=0.9)


@dataclass(frozen=True)
class World:
    student: StudentNetwork
    denoiser: Decoder
    guide: StudentNetwork
    images: Tensor
    targets: Tensor


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and the brightness of their patches, in [0, 1]."""
    source = generator(seed, "world")
    patch, background = torch.rand(2, count, generator=source)
    images = (50 + 155 * background)[:, None, None, None].expand(count, 3, SIZE, SIZE).clone()
    images[:, :, 5:11, 5:11] = (30 + 195 * patch)[:, None, None, None]
    noise = 6 * torch.randn(images.shape, generator=source)
    return (images + noise).clamp(0, 255).to(torch.uint8), patch


def make_world() -> World:
    images, patch = draw(400, seed=0)
    student = train_student(images, (patch > 0.5).long(), SHAPE, STUDENT)
    smoothing = SmoothingConfig(network=SHAPE, radius=0.3, attack_steps=2)
    chosen, patch = draw(40, seed=1)
    # Not the ones that noise alone may flip.
    chosen = chosen[(patch - 0.5).abs() > 0.2][:12]
    return World(
        student=student,
        denoiser=fit_denoiser(images, NETWORK, DENOISER),
        guide=fit_smooth_student(student, images, smoothing, GUIDE),
        images=chosen,
        targets=1 - logits(student, chosen).argmax(1),
    )
