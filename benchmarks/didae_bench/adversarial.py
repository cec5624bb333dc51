"""`didae bench adversarial`: what metrics and funnel say of counterfactuals made to deceive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from didae.data.images import to_float, to_uint8
from didae.decoders.base import Decoder, StochasticCode
from didae.decoders.sampling import euler, flow_times
from didae.metrics import outputs
from didae.runtime import progress
from didae.students import margin
from didae_bench.explainers.pgd import PGD, PGDConfig
from didae_bench.figures import Figures, Measurement, Targets, register
from didae_bench.students import SPURIOUS, Audit, SquareBench, StudentCase, decode

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
    moved = start.clone()
    for part in torch.arange(len(start)).split(CHUNK):
        moving = part
        for _ in range(steps):
            perturbation = moved[moving].requires_grad_()
            with torch.enable_grad():
                images = draw(perturbation, moving)
                (gradient,) = torch.autograd.grad(score(images, moving).sum(), perturbation)
            if done is not None:
                unfinished = ~done(images.detach(), moving)
                moving, gradient = moving[unfinished], gradient[unfinished]
            if not len(moving):
                break
            step = 2.5 * radius[moving] / steps
            ascended = moved[moving] + _scaled(gradient, step / _norm(gradient).clamp_min(1e-12))
            far = (radius[moving] / _norm(ascended).clamp_min(1e-12)).clamp_max(1)
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


STEPS = 10  # of an attack through the decoder
PIXELS = PGDConfig(radius=128 / 255, step=4 / 255, iterations=40, stop=True)
"""Most images flip long before they reach the radius, and their attack ends there."""
ADAPTIVE_STEPS = 25  # of an attack on several networks at once
ADAPTIVE_RADIUS = 32 / 255  # of its change, root mean square

KINDS = (
    *("alg2", "truth", "random"),
    *("z_full", "z_half", "z_quarter", "z_through", "noise"),
    *("pixels", "pixels_encoder", "pixels_judges"),
)

TARGETS: Targets = {
    "adversarial_flip_random": (None, 0.02),
    "adversarial_na_pixels": (None, 0.10),
    "adversarial_na_truth": (0.95, None),
    "adversarial_nafr_alg2": (0.95, None),
    "adversarial_confirmed_pixels": (None, 0.02),
}


@register("adversarial", "Adversarial counterfactuals on Square")
def bench_adversarial(quick: bool, folder: Path) -> Figures:
    """Attack the student in every variant, and look at what metrics and funnel make of it."""
    n = 40 if quick else 100
    settings = [n, STEPS, PIXELS.model_dump(), ADAPTIVE_STEPS, ADAPTIVE_RADIUS]
    bench = SquareBench(folder, "adversarial.json", after=settings)
    audit = Audit.make(bench.square, bench.square.splits["test"][:n], bench.components)
    seeds = range(2 if quick else 4)
    cases = [StudentCase.make(audit, bench.recipe, seed, folder) for seed in seeds]
    for kind in progress(KINDS, "attacks"):
        for case in cases:
            run = partial(Attacks(case).measure, kind)
            bench.measure(kind, case.seed, run, f"adversarial_{{}}_{kind}")
    return bench.figures(TARGETS, n)


@dataclass(frozen=True, eq=False)
class Attacks:
    """Makes counterfactuals of every kind for one student."""

    case: StudentCase

    def measure(self, kind: str) -> Measurement:
        """Make one kind of counterfactual and judge it."""
        images, z = self.deliver(kind)
        return self.case.judge(images, z)

    def deliver(self, kind: str) -> tuple[Tensor, Tensor]:
        """Make counterfactuals of one kind."""
        audit, decoder = self.case.audit, self.case.audit.components.decoder
        if kind == "alg2":
            return self.case.made, audit.z + self.case.edit
        if kind.startswith("z_") or kind == "random":
            z = audit.z + (self.case.stray if kind == "random" else self._attacked(kind))
            return decode(decoder, z, audit.code), z
        if kind == "noise":
            code = StochasticCode(audit.code.noise + self._noise(), audit.code.residual)
            return decode(decoder, audit.z, code), audit.z
        images = self.case.truth if kind == "truth" else self._pixels(kind)
        return images, outputs(audit.components.encoder, images).float()

    def _attacked(self, kind: str) -> Tensor:
        """Attack z within the length of Algorithm 2's edit, or a share of it."""
        audit, decoder = self.case.audit, self.case.audit.components.decoder
        length = self.case.edit.norm(dim=1)

        def draw(step: Tensor, rows: Tensor) -> Tensor:
            return drawing(decoder, audit.z[rows] + step, audit.code[rows])

        share = {"z_half": 0.5, "z_quarter": 0.25}.get(kind, 1.0)
        done = None if kind == "z_through" else self._flipped
        start = torch.zeros_like(audit.z)
        return attack(draw, self._odds, start, share * length, STEPS, done)

    def _noise(self) -> Tensor:
        """Attack x_T within the length of Gaussian noise."""
        audit, noise = self.case.audit, self.case.audit.code.noise

        def draw(step: Tensor, rows: Tensor) -> Tensor:
            code = audit.code[rows]
            changed = StochasticCode(code.noise + step, code.residual)
            return drawing(audit.components.decoder, audit.z[rows], changed)

        radius = torch.full((len(noise),), noise[0].numel() ** 0.5)
        return attack(draw, self._odds, torch.zeros_like(noise), radius, STEPS, self._flipped)

    def _pixels(self, kind: str) -> Tensor:
        """Attack the pixels: of the student alone, of the encoder too, of the surrogates too."""
        audit = self.case.audit
        if kind == "pixels":
            given = audit.images, self.case.student, self.case.targets, self.case.seed, audit.ids
            return PGD(PIXELS)(*given).images[:, 0]
        networks = (
            self.case.student,
            *(self.case.surrogates if kind == "pixels_judges" else ()),
        )
        dictionary, pixels = audit.components.dictionary, to_float(audit.images)
        wanted = dictionary.encode(audit.z).clone()
        wanted[:, SPURIOUS] += self.case.change

        def draw(step: Tensor, rows: Tensor) -> Tensor:
            return (pixels[rows] + step).clamp(0, 1)

        def score(images: Tensor, rows: Tensor) -> Tensor:
            codes = dictionary.encode(audit.components.encoder(images))
            off = ((codes - wanted[rows]) / dictionary.code_std).square().sum(1)
            # A margin of 1 is enough; beyond it only the encoder is still to be deceived.
            return sum((self._odds(images, rows, n).clamp_max(1) for n in networks), -off)

        radius = torch.full((len(pixels),), ADAPTIVE_RADIUS * pixels[0].numel() ** 0.5)
        step = attack(draw, score, torch.zeros_like(pixels), radius, ADAPTIVE_STEPS)
        return to_uint8(draw(step, torch.arange(len(pixels))))

    def _odds(
        self, images: Tensor, rows: Tensor, network: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Give the log-odds of the targets."""
        return margin((network or self.case.student)(images)) * (2 * self.case.targets[rows] - 1)

    @torch.no_grad()
    def _flipped(self, images: Tensor, rows: Tensor) -> Tensor:
        """Say which students flip on the images as they would be delivered."""
        return self._odds(to_float(to_uint8(images)), rows) > 0
