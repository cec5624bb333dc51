"""DiDAE among the explainers: edits of z, and the controls that are edits too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from didae import editing
from didae.data.square import FACTORS
from didae.decoders.base import Decoder, SamplerConfig
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.students import Probe, margin
from didae_bench.explainers.base import METHODS, Explainer, Method, Parts, Work, ask
from didae_bench.square import FAITHFUL
from didae_bench.students import SPURIOUS, STRENGTH

ORDER = (SPURIOUS, *(k for k in range(len(FACTORS)) if k != SPURIOUS))
"""Directions in the order of DiDAE's attempts: the confounder first."""

DIFFUSION = SamplerConfig(method="euler", steps=20)
"""The decoder as a diffusion model; the default sampler is one step, a regression with residual."""

Edits = Callable[[Tensor, Tensor, Work], Tensor]
"""Takes z of shape (b, d), where the student says that it stands (b,), and the batch; gives z as
edited for each of a attempts, (b, a, d)."""


class Edit(Explainer):
    """Encode, ask, invert, edit z, decode: DiDAE and its controls, one edit for each attempt."""

    needs_gradients = False

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        probe: Probe,
        edits: Edits,
        once: bool = False,
        fidelity: float = 1.0,
    ) -> None:
        super().__init__(decoder)
        self.encoder, self.draws, self.probe = encoder, decoder, probe
        self.edits, self.once, self.fidelity = edits, once, fidelity

    def standing(self, z: Tensor, work: Work) -> Tensor:
        """Say how far from the boundary images stand: ask the student, once."""
        return self.probe.standing(z, margin(work.logits(work.images)))

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
            edited = self.edits(z, self.standing(z, work), work)
            edited = edited if self.once else edited[:, [attempt]]
            image = torch.arange(len(z)).repeat_interleave(edited.shape[1])
            code = self.draws.invert(work.images, z)[image]
            drawn = self.draws.decode(edited.flatten(0, 1), code, self.fidelity)
            self.drawn = drawn.unflatten(0, edited.shape[:2])
        finally:
            counting.remove()
        return self.drawn[:, attempt if self.once else 0]


def crossing(dictionary: Dictionary, probe: Probe, directions: Sequence[int]) -> Edits:
    """Cross the student's boundary along directions, within the range seen in data."""
    chosen = list(directions)
    atoms = dictionary.atoms[chosen]
    slope = atoms @ probe.between()[0]
    low, high = dictionary.code_low[chosen], dictionary.code_high[chosen]

    def edits(z: Tensor, stands: Tensor, _: Work) -> Tensor:
        change = editing.cross_boundary(stands, slope, STRENGTH)[0]
        change = editing.clamp(dictionary.encode(z)[:, chosen], change, low, high)
        return editing.apply(z, change, atoms)

    return edits


def straying(edits: Edits) -> Edits:
    """Go as far as edits do, but in a random direction."""

    def stray(z: Tensor, stands: Tensor, work: Work) -> Tensor:
        way = torch.stack([torch.randn(z.shape[1], generator=g) for g in work.generators])
        length = (edits(z, stands, work) - z[:, None]).norm(dim=2, keepdim=True)
        return z[:, None] + (way / way.norm(dim=1, keepdim=True))[:, None] * length

    return stray


def _crossing(
    directions: Sequence[int], sampler: SamplerConfig | None = None, once: bool = False
) -> Callable[[Parts], Explainer]:
    def build(parts: Parts) -> Explainer:
        own = parts.components
        decoder = own.decoder if sampler is None else own.sampling(sampler)
        edits = crossing(own.dictionary, parts.probe, directions)
        return Edit(own.encoder, decoder, parts.probe, edits, once)

    return build


def _controlled(edits: Callable[[Parts], Edits]) -> Callable[[Parts], Explainer]:
    return lambda p: Edit(p.components.encoder, p.components.decoder, p.probe, edits(p))


def _stray(parts: Parts) -> Edits:
    return straying(crossing(parts.components.dictionary, parts.probe, ORDER[:1]))


def _still(z: Tensor, _: Tensor, __: Work) -> Tensor:
    return z[:, None]


METHODS["didae"] = Method(
    "**DiDAE**, Algorithm 2", "didae", _crossing(ORDER[:2]), (200, 2), taught=True, timed=True
)
METHODS["faithful"] = Method("DiDAE, Heun 5", "didae", _crossing(ORDER[:1], FAITHFUL))
METHODS["diffusion"] = Method(
    "DiDAE, Euler 20 there and 20 back", "didae", _crossing(ORDER[:1], DIFFUSION)
)
METHODS["sweep"] = Method(
    "DiDAE, all four directions", "didae", _crossing(ORDER, once=True), (200, len(ORDER))
)
# The random direction gets all images that a seed has, as its limit is a few in a hundred.
METHODS["random"] = Method("control: random direction", "control", _controlled(_stray), (400, 1))
METHODS["noedit"] = Method(
    "control: no edit", "control", _controlled(lambda _: _still), taught=True
)
METHODS["truth"] = Method("control: true counterfactual", "control", None, taught=True)
