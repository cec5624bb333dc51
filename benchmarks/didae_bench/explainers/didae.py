"""DiDAE among the explainers: edits of z, and the controls that are edits too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from didae import editing
from didae.data.square import FACTORS
from didae.decoders.base import Decoder, SamplerConfig
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.students import Probe, margin
from didae_bench.explainers.base import METHODS, Explainer, Kind, Method, Parts, Work, ask
from didae_bench.square import FAITHFUL
from didae_bench.students import SPURIOUS, STRENGTH

ORDER = (SPURIOUS, *(k for k in range(len(FACTORS)) if k != SPURIOUS))
"""Directions in the order of DiDAE's attempts: the confounder first."""

DIFFUSION = SamplerConfig(method="euler", steps=20)
"""The decoder as a diffusion model; the default sampler is one step, a regression with residual."""

Edits = Callable[[Tensor, Work], Tensor]
"""Takes z of shape (b, d) and the batch; gives z as edited for each of a attempts, (b, a, d)."""


class Edit(Explainer):
    """Encode, invert, edit z, decode: DiDAE and its controls, one edit for each attempt."""

    needs_gradients = False

    def __init__(
        self, encoder: Encoder, decoder: Decoder, edits: Edits, once: bool = False
    ) -> None:
        super().__init__(decoder)
        self.encoder, self.draws, self.edits, self.once = encoder, decoder, edits, once

    def counterfactuals(self, work: Work) -> Float[Tensor, "b c h w"]:
        """Edit z and decode."""
        attempt = len(work.previous)
        if self.once and attempt:
            return work.drawing.count(self.drawn[:, attempt], work.rows)

        def evaluated(_: object, __: object, output: Tensor) -> None:
            # Of edits drawn together, each attempt counts its own.
            work.drawing.count(output[: len(work)], work.rows)

        counting = self.draws.network.register_forward_hook(evaluated)
        try:
            z = ask(self.encoder, work.images)
            edited = self.edits(z, work)
            edited = edited if self.once else edited[:, [attempt]]
            image = torch.arange(len(z)).repeat_interleave(edited.shape[1])
            code = self.draws.invert(work.images, z)[image]
            drawn = self.draws.decode(edited.flatten(0, 1), code)
            self.drawn = drawn.unflatten(0, edited.shape[:2])
        finally:
            counting.remove()
        return self.drawn[:, attempt if self.once else 0]


def crossing(
    dictionary: Dictionary, probe: Probe, directions: Sequence[int], strength: float = STRENGTH
) -> Edits:
    """Cross the student's boundary along directions, within the range seen in data."""
    chosen = list(directions)
    atoms = dictionary.atoms[chosen]
    slope = atoms @ probe.between()[0]
    low, high = dictionary.code_low[chosen], dictionary.code_high[chosen]

    def edits(z: Tensor, work: Work) -> Tensor:
        stands = probe.standing(z, margin(work.logits(work.images)))
        change = editing.cross_boundary(stands, slope, strength)[0]
        change = editing.clamp(dictionary.encode(z)[:, chosen], change, low, high)
        return editing.apply(z, change, atoms)

    return edits


def straying(edits: Edits) -> Edits:
    """Go as far as edits do, but in a random direction."""

    def stray(z: Tensor, work: Work) -> Tensor:
        way = torch.stack([torch.randn(z.shape[1], generator=g) for g in work.generators])
        length = (edits(z, work) - z[:, None]).norm(dim=2, keepdim=True)
        return z[:, None] + (way / way.norm(dim=1, keepdim=True))[:, None] * length

    return stray


def crossing_all(probe: Probe) -> Edits:
    """Cross the probe's boundary along its own weight: DiDAE without a dictionary, all at once.

    The global counterfactual of DiDAE (Bender & Morik 2026, arXiv 2601.21851, algorithm 2). It asks
    the student nothing, and leaves a factual as it is that the probe takes for the target already.
    """

    def edits(z: Tensor, work: Work) -> Tensor:
        edited = crossed(z, probe, work.targets, STRENGTH)
        return edited[:, None].expand(-1, len(work.previous) + 1, -1)

    return edits


def crossed(
    z: Float[Tensor, "b d"], probe: Probe, targets: Int[Tensor, " b"], strength: float
) -> Float[Tensor, "b d"]:
    """Move z along the probe's weight to the target's side, z' = z - f m(z) w / ‖w‖²."""
    stands, weight = probe.margin(z), probe.between()[0].to(z)
    wrong = (stands > 0) != (targets > 0)
    change = torch.where(wrong, -strength * stands, 0.0) / weight.dot(weight)
    return z + change[:, None] * weight


def _along(directions: Sequence[int], strength: float = STRENGTH) -> Callable[[Parts], Edits]:
    return lambda p: crossing(p.components.dictionary, p.probe, directions, strength)


def _register(
    name: str,
    title: str,
    kind: Kind,
    edits: Callable[[Parts], Edits],
    sampler: SamplerConfig | None = None,
    once: bool = False,
    **settings: Any,
) -> None:
    def build(p: Parts) -> Explainer:
        own = p.components
        return Edit(own.encoder, own.sampling(sampler), edits(p), once)

    METHODS[name] = Method(title, kind, build, **settings)


_FIRST = _along(ORDER[:1])
_TWICE: dict[str, Any] = {"plan": (200, 2), "taught": True, "timed": True}
_register("didae", "**DiDAE**, Algorithm 2", "didae", _along(ORDER[:2]), **_TWICE)
_register("faithful", "DiDAE, Heun 5", "didae", _FIRST, FAITHFUL)
_register("diffusion", "DiDAE, Euler 20 there and 20 back", "didae", _FIRST, DIFFUSION)
_EACH: dict[str, Any] = {"plan": (200, len(ORDER)), "once": True}
_register("sweep", "DiDAE, all four directions", "didae", _along(ORDER), **_EACH)
_register("gradient", "probe gradient", "other", lambda p: crossing_all(p.probe))
# The random direction gets all images that a seed has, as its limit is a few in a hundred.
_STRAY = "control: random direction"
_register("random", _STRAY, "control", lambda p: straying(_FIRST(p)), plan=(400, 1))
_register("noedit", "control: no edit", "control", _along(ORDER[:1], 0.0), taught=True)
METHODS["truth"] = Method("control: true counterfactual", "control", None, taught=True)
