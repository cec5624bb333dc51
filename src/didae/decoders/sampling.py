"""Samplers: pure functions that carry images between data (t = 0) and noise (t = 1).

A *denoiser* is any function ``(x_t, t) -> prediction``; all times of a batch are equal, so `t` is
a Python float. Inversion and decoding are the same function with the times reversed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

_Denoiser = Callable[[Tensor, float], Tensor]
_Integrator = Callable[[_Denoiser, Tensor, Sequence[float]], Tensor]

DIFFUSION_STEPS = 1000


def flow_times(steps: int) -> list[float]:
    """Give the times of a rectified flow, denser where the image forms."""
    return [(i / steps) ** 2 for i in range(steps + 1)]


def euler(
    velocity: _Denoiser, x: Float[Tensor, "b c h w"], times: Sequence[float]
) -> Float[Tensor, "b c h w"]:
    """Integrate ``dx = v dt`` by Euler's method, one evaluation a step."""
    for now, after in pairwise(times):
        x = x + (after - now) * velocity(x, now)
    return x


def heun(
    velocity: _Denoiser, x: Float[Tensor, "b c h w"], times: Sequence[float]
) -> Float[Tensor, "b c h w"]:
    """Integrate by Heun's method; the step that touches t = 1 is an Euler step.

    Two evaluations a step but one for the last stretch of noise, where the flow is nearly
    straight: 2 N - 1 in all (after Karras et al. 2022, algorithm 1).
    """
    for now, after in pairwise(times):
        slope = velocity(x, now)
        if max(now, after) < 1:
            guess = x + (after - now) * slope
            slope = (slope + velocity(guess, after)) / 2
        x = x + (after - now) * slope
    return x


def invert(
    integrate: _Integrator,
    velocity: _Denoiser,
    x: Float[Tensor, "b c h w"],
    times: Sequence[float],
    corrections: int,
) -> Float[Tensor, "b c h w"]:
    """Find the state from which an integrator decodes an image, step by step.

    Integrating towards the noise does not undo the integration back, since every step takes its
    slope from its own beginning. The state y that a decoding step carries to x is a fixed point of
    ``y + x - step(y)``, and the step towards the noise a first guess at it (as for diffusion models
    by Pan et al. 2023, arXiv 2309.04907, and Garibi et al. 2024, arXiv 2403.14602).
    """
    for now, after in pairwise(times):
        guess = integrate(velocity, x, (now, after))
        for _ in range(corrections):
            guess = guess + x - integrate(velocity, guess, (after, now))
        x = guess
    return x


@lru_cache(maxsize=1)
def _signal_levels() -> list[float]:
    """Give ᾱ of the linear schedule (β from 1e-4 to .02, 1000 steps), in double precision."""
    betas = torch.linspace(1e-4, 0.02, DIFFUSION_STEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).tolist()


def signal_level(t: Tensor) -> Tensor:
    """Give ᾱ at the diffusion steps ``round(1000 t) - 1``."""
    levels = torch.tensor(_signal_levels(), dtype=t.dtype, device=t.device)
    return levels[(t * DIFFUSION_STEPS).round().long() - 1]


def ddim_times(steps: int) -> list[float]:
    """Give evenly spaced times of the 1000-step diffusion."""
    return [(i * DIFFUSION_STEPS // steps + 1) / DIFFUSION_STEPS for i in range(steps)]


def ddim(
    noise: _Denoiser,
    x: Float[Tensor, "b c h w"],
    times: Sequence[float],
    invert: bool,
    clip: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Run deterministic DDIM (Song et al. 2021, equation 12, η = 0) in either direction.

    Inversion ends at pure noise (ᾱ = 0 after the last step), decoding at the image (ᾱ = 1).
    """
    levels = [_signal_levels()[round(t * DIFFUSION_STEPS) - 1] for t in times]
    order = range(len(times)) if invert else range(len(times) - 1, -1, -1)
    for i in order:
        level = levels[i]
        if invert:
            after = levels[i + 1] if i + 1 < len(levels) else 0.0
        else:
            after = levels[i - 1] if i else 1.0
        epsilon = noise(x, times[i])
        image = (x - math.sqrt(1 - level) * epsilon) / math.sqrt(level)
        if clip:
            image = image.clamp(-1, 1)
            epsilon = (x - math.sqrt(level) * image) / math.sqrt(1 - level)
        x = math.sqrt(after) * image + math.sqrt(1 - after) * epsilon
    return x
