"""The respaced DDPM chain: coefficients and closed formulas, no network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from didae.decoders.sampling import DIFFUSION_STEPS, signal_level


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
