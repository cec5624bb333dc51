"""The denoiser as explainers use it: its training, the chain of its steps, and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor
from torch.nn import functional

from didae.config import Config
from didae.data.images import to_float
from didae.data.square import Square
from didae.decoders.base import Decoder, DecoderConfig, SamplerConfig
from didae.decoders.network import NetworkConfig
from didae.decoders.sampling import DIFFUSION_STEPS, signal_level
from didae.decoders.training import noise_loss
from didae.errors import DidaeError
from didae.randomness import seeded
from didae.training import Forward, TrainingConfig, train
from didae_bench.explainers.base import Work


@dataclass(frozen=True)
class Schedule:
    """Some steps of the 1000-step linear diffusion, as a shorter chain of their own.

    Step 0 is next to the image. A chain that skips steps has the noise of both: β of its step i is
    1 - ᾱ_i / ᾱ_{i-1} (Nichol & Dhariwal 2021, section 4).
    """

    times: tuple[float, ...]
    levels: tuple[float, ...]

    def noised(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], i: int
    ) -> Float[Tensor, "b c h w"]:
        """Noise images to step i: √ᾱ_i x + √(1 - ᾱ_i) ε (Ho et al. 2020, equation 4)."""
        level = self.levels[i]
        return math.sqrt(level) * x + math.sqrt(1 - level) * noise

    def image(
        self, z: Float[Tensor, "b c h w"], epsilon: Float[Tensor, "b c h w"], i: int
    ) -> Float[Tensor, "b c h w"]:
        """Estimate the image from the predicted noise, (z - √(1 - ᾱ_i) ε) / √ᾱ_i, clipped."""
        level = self.levels[i]
        return ((z - math.sqrt(1 - level) * epsilon) / math.sqrt(level)).clamp(-1, 1)

    def mean(
        self, z: Float[Tensor, "b c h w"], image: Float[Tensor, "b c h w"], i: int
    ) -> Float[Tensor, "b c h w"]:
        """Give the mean of the posterior q(z_{i-1} | z_i, x̂_0) (Ho et al. 2020, equation 7)."""
        before, beta = self._before(i), self._beta(i)
        left = 1 - self.levels[i]
        of_image = math.sqrt(before) * beta / left
        of_state = math.sqrt(1 - beta) * (1 - before) / left
        return of_image * image + of_state * z

    def variance(self, i: int) -> float:
        """Give the variance of that posterior."""
        i = max(i, 1)
        return self._beta(i) * (1 - self._before(i)) / (1 - self.levels[i])

    def _before(self, i: int) -> float:
        return self.levels[i - 1] if i else 1.0

    def _beta(self, i: int) -> float:
        return 1 - self.levels[i] / self._before(i)


def respaced(count: int) -> Schedule:
    """Choose evenly spaced steps of the diffusion, the first and the last among them."""
    last = DIFFUSION_STEPS - 1
    steps = [round(i * last / (count - 1)) for i in range(count)]
    times = torch.tensor([(step + 1) / DIFFUSION_STEPS for step in steps], dtype=torch.float64)
    return Schedule(tuple(times.tolist()), tuple(signal_level(times).tolist()))


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


class ChainConfig(Config):
    """Which part of the diffusion an explainer walks."""

    # Steps that the 1000 of the diffusion are reduced to
    respacing: int = Field(default=50, ge=2, le=1000)
    # τ: images are noised to this step of the chain, counted from 1, and denoised from there
    depth: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ChainConfig:
        if self.depth > self.respacing:
            raise ValueError(
                f"depth {self.depth} is beyond the {self.respacing} steps of the chain"
            )
        return self


class Chain:
    """Ancestral sampling with a denoiser, differentiable and counted.

    States are in [-1, 1] plus noise. The variance is the posterior's, since an ε-prediction has
    none of its own.
    """

    def __init__(self, denoiser: Decoder, config: ChainConfig) -> None:
        self.depth, self.schedule = config.depth, respaced(config.respacing)
        self.network = denoiser.network
        # The same z for every image at every step: drawn once, it costs next to nothing.
        with torch.no_grad():
            self.condition = denoiser.condition(torch.zeros_like(denoiser.z_mean)[None])

    def noised(self, work: Work, x: Float[Tensor, "b c h w"], i: int) -> Float[Tensor, "b c h w"]:
        """Noise images to step i with fresh noise."""
        return self.schedule.noised(x, work.noise(), i)

    def estimate(self, work: Work, z: Float[Tensor, "b c h w"], i: int) -> tuple[Tensor, Tensor]:
        """Evaluate the denoiser at step i."""
        time = z.new_full((len(z),), self.schedule.times[i])
        epsilon = work.drawing.count(self.network(z, time, self.condition), work.rows)
        image = self.schedule.image(z, epsilon, i)
        return image, self.schedule.mean(z, image, i)

    def sampled(
        self, work: Work, mean: Float[Tensor, "b c h w"], i: int
    ) -> Float[Tensor, "b c h w"]:
        """Go to step i - 1: the mean and fresh noise, none in the last step."""
        return mean + math.sqrt(self.schedule.variance(i)) * work.noise() if i else mean

    def denoised(
        self, work: Work, z: Float[Tensor, "b c h w"], steps: int
    ) -> Float[Tensor, "b c h w"]:
        """Denoise without guidance, all the way."""
        for i in reversed(range(steps)):
            _, mean = self.estimate(work, z, i)
            z = self.sampled(work, mean, i)
        return z

    def filtered(self, work: Work, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Noise images to the chain's depth and denoise them: F_τ of ACE, τ evaluations."""
        return self.denoised(work, self.noised(work, x, self.depth - 1), self.depth)

    def repainted(
        self, work: Work, x: Float[Tensor, "b c h w"], keep: Bool[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Redraw images where they may change, and put the factual back elsewhere; τ evaluations.

        RePaint (Lugmayr et al. 2022, algorithm 1, without its jumps), started from the noised
        images instead of from pure noise.
        """
        z = self.noised(work, x, self.depth - 1)
        for i in reversed(range(self.depth)):
            z = torch.where(keep, self.noised(work, work.x, i), z)
            _, mean = self.estimate(work, z, i)
            z = self.sampled(work, mean, i)
        return torch.where(keep, work.x, z)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"{value} is even; give an odd number of pixels")
    return value


Side = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""Side of a neighbourhood that has a middle, in pixels."""


def dilated_change(
    before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], size: int
) -> Float[Tensor, "b 1 h w"]:
    """Map the change, spread to the neighbourhood (ACE, section 3.2; FastDiME, equation 6)."""
    change = _relative((before - after).abs().sum(1, keepdim=True))
    return functional.max_pool2d(change, size, stride=1, padding=size // 2)


def blurred_change(
    before: Float[Tensor, "b c h w"], after: Float[Tensor, "b c h w"], size: int, sigma: float
) -> Float[Tensor, "b 1 h w"]:
    """Map the change, blurred (SCE)."""
    change = (before - after).abs().sum(1, keepdim=True)
    line = torch.arange(size, dtype=change.dtype, device=change.device) - size // 2
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for shape in ((1, 1, size, 1), (1, 1, 1, size)):
        change = functional.conv2d(
            change, kernel.reshape(shape), padding=(shape[2] // 2, shape[3] // 2)
        )
    return _relative(change.clamp(0, 1))


def _relative(change: Tensor) -> Tensor:
    largest = change.amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, change / largest.clamp_min(1e-12), change)
