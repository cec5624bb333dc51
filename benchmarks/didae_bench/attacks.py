"""Counterfactuals made adversarial on purpose: gradient ascent on a score within an L2 ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from didae.decoders.base import Decoder, StochasticCode
from didae.decoders.sampling import euler, flow_times

CHUNK = 32

Draw = Callable[[Tensor, Tensor], Tensor]
"""Perturbation (b, ...) and the rows (b,) it is of -> float images in [0, 1], with gradients."""

Score = Callable[[Tensor, Tensor], Tensor]
"""Images and their rows -> what to maximise, (b,)."""

Done = Callable[[Tensor, Tensor], Tensor]
"""Images and their rows -> which are good enough to stop, bool (b,)."""


def attack(
    draw: Draw,
    score: Score,
    start: Float[Tensor, "n ..."],
    radius: Float[Tensor, " n"],
    steps: int,
    done: Done | None = None,
) -> Float[Tensor, "n ..."]:
    """Follow the gradient, scaled to unit length, and stay in the ball (PGD in L2).

    A step is 2.5 radius / steps long, as is usual (Madry et al. 2018), so the surface is reached.
    """
    parts = torch.arange(len(start)).split(CHUNK)
    return torch.cat([_ascend(draw, score, start, radius, steps, done, part) for part in parts])


def _ascend(
    draw: Draw,
    score: Score,
    start: Tensor,
    radius: Tensor,
    steps: int,
    done: Done | None,
    rows: Tensor,
) -> Tensor:
    moved, length = start[rows].clone(), radius[rows]
    moving = torch.arange(len(rows))
    for _ in range(steps):
        perturbation = moved[moving].requires_grad_()
        with torch.enable_grad():
            images = draw(perturbation, rows[moving])
            (gradient,) = torch.autograd.grad(score(images, rows[moving]).sum(), perturbation)
        if done is not None:
            unfinished = ~done(images.detach(), rows[moving])
            moving, gradient = moving[unfinished], gradient[unfinished]
        if not len(moving):
            break
        step = 2.5 * length[moving] / steps
        ascended = moved[moving] + _scaled(gradient, step / _norm(gradient).clamp_min(1e-12))
        far = (length[moving] / _norm(ascended).clamp_min(1e-12)).clamp_max(1)
        moved[moving] = _scaled(ascended, far)
    return moved


def drawing(
    decoder: Decoder, z: Float[Tensor, "b d"], code: StochasticCode
) -> Float[Tensor, "b 3 h w"]:
    """Decode as `Decoder.decode` does with a flow and Euler's method, but with gradients."""
    drawn = decoder.condition(z)

    def velocity(x: Tensor, time: float) -> Tensor:
        return decoder.network(x, x.new_full((len(x),), time), drawn)

    times = flow_times(decoder.sampler.steps)[::-1]
    return ((euler(velocity, code.noise, times) + code.residual + 1) / 2).clamp(0, 1)


def _norm(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _scaled(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply every row by its own factor."""
    return values * factor.view(-1, *[1] * (values.ndim - 1))
