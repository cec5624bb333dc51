"""Networks in closed form, and batches of work for explainers that are called directly."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig
from didae.decoders.network import NetworkConfig
from didae.randomness import generator
from didae_bench.explainers.base import Tally, Work
from didae_bench.explainers.diffusion import NO_ENCODER
from explainers.reference import toy_logits, toy_noise

SHAPE = (3, 4, 4)
SEED = 5
RANDOM = np.random.RandomState(0)
WEIGHTS = RANDOM.randn(2, 48) / 4
IMAGES = RANDOM.uniform(0.1, 0.9, (3, *SHAPE))
# The student does not say so yet.
TARGETS = [int(toy_logits(image, WEIGHTS).argmin()) for image in IMAGES]


class ToyNetwork(nn.Module):
    def condition(self, z):
        return z

    def forward(self, x, t, _):
        return toy_noise(x, t[:, None, None, None])


class ToyStudent(nn.Module):
    def __init__(self, weights=WEIGHTS):
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights))

    def forward(self, images):
        return 3 * torch.tanh((images - 0.5).flatten(1) @ self.weights.T.to(images))


def toy_denoiser() -> Decoder:
    network = NetworkConfig(image_size=4, dim=1, canvas=4, head=8, width=8, multipliers=(1,))
    sampler = SamplerConfig(method="ddim", steps=2)
    config = DecoderConfig(network=network, objective="noise", sampler=sampler)
    denoiser = Decoder(config, NO_ENCODER).double().requires_grad_(False)
    denoiser.network = ToyNetwork()
    return denoiser


def make_work(images=IMAGES, targets=TARGETS, student=None, keys=None, attempt=0, previous=()):
    count = len(images)
    return Work(
        images=torch.as_tensor(images),
        targets=torch.as_tensor(targets),
        student=student or ToyStudent(),
        generators=tuple(generator(SEED, key, attempt) for key in keys or map(str, range(count))),
        drawing=Tally(count),
        asking=Tally(count),
        rows=torch.arange(count),
        previous=tuple(torch.as_tensor(earlier) for earlier in previous),
    )
