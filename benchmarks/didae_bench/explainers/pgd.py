"""PGD: the plain attack in pixels, a control that every metric should tell from the rest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from didae.config import Config
from didae_bench.explainers.base import METHODS, Explainer, Method, Work


class PGDConfig(Config):
    """Projected gradient descent (Madry et al., ICLR 2018, section 2.1), targeted.

    The defaults are those of the paper's CIFAR-10 evaluation.
    """

    radius: float = Field(default=8 / 255, ge=0)  # ε, largest change of a pixel, in [0, 1] pixels
    step: float = Field(default=2 / 255, ge=0)  # Length of a step in the same norm
    iterations: int = Field(default=20, ge=0)  # Most steps
    # Start at the factual and end each image's attack where the student, asked for the 8-bit image,
    # first flips: the least that fools it, for one more evaluation of it a step. Otherwise all
    # steps are made from a random start, as in the paper
    stop: bool = False


class PGD(Explainer):
    """Adversarial examples: the student's gradient, and nothing that keeps images natural.

    Costs nothing but one evaluation and one backward pass of the student per iteration, and with
    ``stop`` a second evaluation.
    """

    def __init__(self, config: PGDConfig | None = None) -> None:
        super().__init__(None)
        self.config = config or PGDConfig()

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Attack within the radius."""
        config = self.config
        low = (work.images - config.radius).clamp(0, 1)
        high = (work.images + config.radius).clamp(0, 1)
        attacked = work.images.clone()
        if not config.stop:
            # erf(noise / √2) is uniform in [-1, 1].
            start = torch.erf(work.noise() / 2**0.5) * config.radius
            attacked = (attacked + start).clamp(0, 1)
        left = torch.arange(len(work))
        for _ in range(config.iterations):
            if config.stop:
                left = left[~work[left].flipped(attacked[left]).cpu()]
            if not len(left):
                break
            moved = self._step(work[left], attacked[left])
            attacked[left] = moved.clamp(low[left], high[left])
        return attacked

    def _step(self, work: Work, attacked: Tensor) -> Tensor:
        """Descend the student's loss by one step."""
        attacked = attacked.detach().requires_grad_()
        with torch.enable_grad():
            loss = functional.cross_entropy(work.logits(attacked), work.targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        return attacked.detach() - self.config.step * gradient.sign()


TO_FLIP = PGDConfig(radius=1, step=1 / 255, iterations=255, stop=True)
"""The least that fools: the usual radius of 8/255 flips one student in ten on Square."""

METHODS["pgd"] = Method(
    "control: PGD, stopped where it flips",
    "control",
    lambda _: PGD(TO_FLIP),
    settings=TO_FLIP,
    taught=True,
)
