"""The denoiser of the explainers: a decoder of DiDAE's shape that knows no z_sem."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from didae.data.images import to_float
from didae.data.square import Square
from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.training import noise_loss
from didae.errors import DidaeError
from didae.randomness import seeded
from didae.training import Forward, TrainingConfig, train

NO_ENCODER = "none"
"""Stands where a decoder names the encoder whose z_sem it was trained on."""

SQUARE_TRAINING = TrainingConfig(steps=14000, batch_size=16, learning_rate=2e-3, weight_decay=0)
"""As long as the Square recipe trains the decoder of DiDAE."""


def fit_denoiser(
    images: UInt8[Tensor, "n 3 h w"],
    network: NetworkConfig,
    training: TrainingConfig,
    folder: Path | None = None,
) -> Decoder:
    """Train a denoiser: the decoder's network, with z = 0 for every image.

    It predicts ε on the linear schedule of 1000 steps (Ho et al. 2020), has the decoder's number of
    parameters, and costs what the decoder costs. Save it with `Decoder.save`.
    """
    sampler = SamplerConfig(method="ddim", steps=20)
    config = DecoderConfig(network=network, objective="noise", sampler=sampler)
    with seeded(training.seed):
        denoiser = require_denoiser(Decoder(config, NO_ENCODER))

    def loss(forward: Forward, indices: Tensor, generator: torch.Generator) -> Tensor:
        nothing = torch.zeros(len(indices), network.dim)
        return noise_loss(forward, to_float(images[indices]) * 2 - 1, nothing, generator)

    train(denoiser, loss, len(images), training, folder, "training the denoiser")
    return denoiser.eval().requires_grad_(False)


def require_denoiser(decoder: Decoder) -> Decoder:
    """Refuse a decoder that explainers cannot ask without z_sem."""
    if decoder.config.objective != "noise" or decoder.encoder_fingerprint != NO_ENCODER:
        raise DidaeError(
            f"denoiser: this decoder predicts {decoder.config.objective} and was trained with "
            f"encoder {decoder.encoder_fingerprint or '(unknown)'}; train one with fit_denoiser."
        )
    if decoder.config.network.channels != 3:
        raise DidaeError(
            "denoiser: its network draws in grey, explainers change colours; train one with "
            "network.channels 3."
        )
    return decoder


def fit_square_denoiser(
    folder: Path, training: TrainingConfig = SQUARE_TRAINING, size: int = 16_000, seed: int = 0
) -> Decoder:
    """Train the denoiser of Square on the pool of the Square recipe; what is there is kept."""
    if not (folder / "config.json").exists():
        square = Square(size, seed)
        images = square.images(square.splits["train"])
        checkpoints = folder.with_name(f"{folder.name}.training")
        fit_denoiser(images, NetworkConfig(), training, checkpoints).save(folder)
    return require_denoiser(Decoder.load(folder))
