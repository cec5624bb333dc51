"""DiME: guided diffusion whose guide looks at fully denoised images."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from didae.decoders.base import Decoder
from didae_bench.explainers.base import Explainer
from didae_bench.explainers.chain import Chain
from didae_bench.explainers.denoiser import require_denoiser
from didae_bench.explainers.guidance import Features, GuidanceConfig, clean_gradient, until_flipped
from didae_bench.explainers.work import Work


class DiMEConfig(GuidanceConfig):
    """Diffusion Models for Counterfactual Explanations (Jeanneret et al., ACCV 2022, section 3).

    The defaults are those of the paper's CelebA experiments (section 4.1 and the authors' script).
    The paper's perceptual network is VGG-19 up to layer 18; any other may be given.
    """


class DiME(Explainer):
    """Guide the reverse chain by the student's gradient at an image denoised from every state.

    With τ = ``depth``, every scale that is tried costs τ (τ + 1) / 2 evaluations of the denoiser
    and no backward pass through it, τ + 1 evaluations and τ backward passes of the student.
    """

    def __init__(
        self,
        denoiser: Decoder,
        config: DiMEConfig | None = None,
        features: Features | None = None,
    ) -> None:
        super().__init__(require_denoiser(denoiser))
        self.denoiser, self.config, self.features = denoiser, config or DiMEConfig(), features

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Walk the guided chain with every scale until the student flips."""
        chain = Chain(self.denoiser, self.config)
        return until_flipped(
            work, self.config.scales, lambda part, scale: self._walk(part, chain, scale)
        )

    def _walk(self, work: Work, chain: Chain, scale: float) -> Tensor:
        config, schedule, clean = self.config, chain.schedule, work.x
        z = chain.noised(work, clean, config.depth - 1)
        for i in reversed(range(config.depth)):
            gradient = clean_gradient(work, clean, scale, config.perceptual, self.features)
            # A change of z is 1/√ᾱ as large in the clean image (the chain rule of equation 7).
            gradient = gradient / math.sqrt(schedule.levels[i])
            gradient = gradient + config.distance * (z - work.x).sign()
            _, mean = chain.estimate(work, z, i)
            z = chain.sampled(work, mean - schedule.variance(i) * gradient, i)
            clean = chain.denoised(work, z, i)
        return ((z + 1) / 2).clamp(0, 1)
