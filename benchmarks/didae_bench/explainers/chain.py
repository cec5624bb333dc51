"""The denoiser as the explainers use it: asked without z_sem, step by step, on the bill."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from didae.config import Config
from didae.decoders.base import Decoder
from didae_bench.explainers.schedule import respaced
from didae_bench.explainers.work import Work


class ChainConfig(Config):
    """Which part of the diffusion an explainer walks.

    Attributes
    ----------
    respacing : int
        Steps that the 1000 of the diffusion are reduced to.
    depth : int
        τ: images are noised to this step of the chain, counted from 1, and denoised from there.
    """

    respacing: int = Field(default=50, ge=2, le=1000)
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
