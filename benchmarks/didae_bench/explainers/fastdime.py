"""FastDiME: DiME whose guide looks at one-step estimates, with a mask of what may change."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from didae.decoders.base import Decoder
from didae_bench.explainers.base import Explainer
from didae_bench.explainers.chain import Chain
from didae_bench.explainers.denoiser import require_denoiser
from didae_bench.explainers.guidance import Features, GuidanceConfig, clean_gradient, until_flipped
from didae_bench.explainers.masks import Side, dilated_change
from didae_bench.explainers.work import Work


class FastDiMEConfig(GuidanceConfig):
    """Fast Diffusion-Based Counterfactuals (Weng, Pegios et al., ECCV 2024, section 3).

    The defaults are those of the authors' CelebA script; guidance as in DiME.

    Attributes
    ----------
    respacing, depth, scales, distance, perceptual
        As in `GuidanceConfig`.
    warmup : int
        Steps before the mask is used.
    dilation : int
        Side of the neighbourhood that a change spreads to in the mask, odd (equation 6).
    threshold : float
        Relative change below which the factual is put back (equations 6 to 8).
    """

    warmup: int = Field(default=30, ge=0)
    dilation: Side = 5
    threshold: float = Field(default=0.15, ge=0, le=1)


class FastDiME(Explainer):
    """Guide the reverse chain by the student's gradient at the image estimated in every step.

    With τ = ``depth``, every scale that is tried costs τ evaluations of the denoiser and no
    backward pass through it, τ + 1 evaluations and τ backward passes of the student.
    """

    def __init__(
        self,
        denoiser: Decoder,
        config: FastDiMEConfig | None = None,
        features: Features | None = None,
    ) -> None:
        super().__init__(require_denoiser(denoiser))
        self.denoiser, self.config, self.features = denoiser, config or FastDiMEConfig(), features

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Walk the guided chain with every scale until the student flips."""
        chain = Chain(self.denoiser, self.config)
        return until_flipped(
            work, self.config.scales, lambda part, scale: self._walk(part, chain, scale)
        )

    def _walk(self, work: Work, chain: Chain, scale: float) -> Tensor:
        config, factual = self.config, work.x
        clean, z = factual, chain.noised(work, factual, config.depth - 1)
        for i in reversed(range(config.depth)):
            gradient = clean_gradient(work, clean, scale, config.perceptual, self.features)
            gradient = gradient + config.distance * (z - factual).sign()
            clean, mean = chain.estimate(work, z, i)
            z = chain.sampled(work, mean - chain.schedule.variance(i) * gradient, i)
            if config.depth - i > config.warmup:
                keep = dilated_change(factual, clean, config.dilation) < config.threshold
                clean = torch.where(keep, factual, clean)
                # The factual with the noise of the step that z has come to, none at the end.
                z = torch.where(keep, chain.noised(work, factual, i - 1) if i else factual, z)
        return ((z + 1) / 2).clamp(0, 1)
