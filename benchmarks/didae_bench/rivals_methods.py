"""What `didae bench rivals` compares: edits of z, the rivals, and how many images each gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from didae import editing
from didae.data.square import FACTORS
from didae.decoders.base import Decoder, SamplerConfig
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.explainer import Components
from didae.students import Probe, StudentLike, margin
from didae.training import TrainingConfig
from didae_bench.cases import SPURIOUS
from didae_bench.explainers import (
    ACE,
    PGD,
    SCE,
    ACEConfig,
    DiME,
    DiMEConfig,
    Explainer,
    FastDiME,
    FastDiMEConfig,
    PGDConfig,
    ProbeGradient,
    SCEConfig,
)
from didae_bench.explainers.work import Work, ask
from didae_bench.square import FAITHFUL, STRENGTH

ORDER = (SPURIOUS, *(k for k in range(len(FACTORS)) if k != SPURIOUS))
"""Directions in the order of DiDAE's attempts: the confounder first."""

PGD_TO_FLIP = PGDConfig(radius=1, step=1 / 255, iterations=255, stop=True)
"""The least that fools: the usual radius of 8/255 flips one student in ten on Square."""

ACE_AUTHORS = ACEConfig(depth=15, iterations=100, dilation=17, threshold=0.7)
"""ACE as the DiDAE paper's authors run it."""

DIFFUSION = SamplerConfig(method="euler", steps=20)
"""The decoder as a diffusion model; the default sampler is one step, a regression with residual."""

CONFIGS = (ACEConfig(), ACE_AUTHORS, DiMEConfig(), FastDiMEConfig(), SCEConfig(), PGD_TO_FLIP)

GUIDE = TrainingConfig(steps=300, batch_size=32, learning_rate=1e-3, ema_decay=0.98)
"""Training of SCE's stand-in; its authors train theirs for 10 000 steps."""

NAMES = {
    "didae": "**DiDAE**, Algorithm 2",
    "faithful": "DiDAE, Heun 5",
    "diffusion": "DiDAE, Euler 20 there and 20 back",
    "sweep": "DiDAE, all four directions",
    "ace": "ACE",
    "ace_authors": "ACE, as the DiDAE authors run it",
    "dime": "DiME",
    "fastdime": "FastDiME",
    "sce": "SCE",
    "gradient": "probe gradient",
    "pgd": "control: PGD, stopped where it flips",
    "random": "control: random direction",
    "noedit": "control: no edit",
    "truth": "control: true counterfactual",
}
"""Methods in the order of the table."""

RIVALS = ("ace", "ace_authors", "dime", "fastdime", "sce")

FULL = {
    "didae": (200, 2),
    "faithful": (200, 1),
    "diffusion": (200, 1),
    "sweep": (200, len(ORDER)),
    "gradient": (200, 1),
    "pgd": (200, 1),
    "random": (400, 1),
    "noedit": (200, 1),
    "truth": (200, 1),
    "fastdime": (32, 2),
    "ace": (24, 2),
    "sce": (16, 2),
    "dime": (16, 1),
    "ace_authors": (16, 1),
}
"""Images of every seed and attempts at each, the cheap methods first; the random direction gets all
images that a seed has, as its limit is a few in a hundred."""

QUICK = {
    **{name: (80, attempts) for name, (_, attempts) in FULL.items()},
    "fastdime": (8, 1),
    "ace": (8, 1),
    "sce": (4, 1),
    "dime": (2, 1),
    "ace_authors": (1, 1),
}

Edits = Callable[[Tensor, Tensor, Work], Tensor]
"""Takes z of shape (b, d), where the student says that it stands (b,), and the batch; gives z as
edited for each of a attempts, (b, a, d)."""


class Edit(Explainer):
    """Encode, ask, invert, edit z, decode: DiDAE and its controls, one edit for each attempt."""

    needs_gradients = False

    def __init__(
        self, encoder: Encoder, decoder: Decoder, probe: Probe, edits: Edits, once: bool = False
    ) -> None:
        super().__init__(decoder)
        self.encoder, self.draws, self.probe = encoder, decoder, probe
        self.edits, self.once = edits, once

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
            asked = margin(work.logits(work.images))
            edited = self.edits(z, self.probe.standing(z, asked), work)
            edited = edited if self.once else edited[:, [attempt]]
            image = torch.arange(len(z)).repeat_interleave(edited.shape[1])
            code = self.draws.invert(work.images, z)[image]
            drawn = self.draws.decode(edited.flatten(0, 1), code)
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


@dataclass(frozen=True, eq=False)
class Methods:
    """What the methods of one seed are built from."""

    components: Components
    probe: Probe
    denoiser: Decoder
    guide: Callable[[], StudentLike]

    def build(self, method: str) -> Explainer:
        """Give a method."""
        parts = self.components
        crosses = partial(crossing, parts.dictionary, self.probe)

        def edit(edits: Edits, decoder: Decoder = parts.decoder, once: bool = False) -> Explainer:
            return Edit(parts.encoder, decoder, self.probe, edits, once)

        made: dict[str, Callable[[], Explainer]] = {
            "didae": lambda: edit(crosses(ORDER[:2])),
            "faithful": lambda: edit(crosses(ORDER[:1]), parts.sampling(FAITHFUL)),
            "diffusion": lambda: edit(crosses(ORDER[:1]), parts.sampling(DIFFUSION)),
            "sweep": lambda: edit(crosses(ORDER), once=True),
            "gradient": lambda: ProbeGradient(parts.encoder, parts.decoder, self.probe),
            "pgd": lambda: PGD(PGD_TO_FLIP),
            "random": lambda: edit(straying(crosses(ORDER[:1]))),
            "noedit": lambda: edit(lambda z, _, __: z[:, None]),
            "ace": lambda: ACE(self.denoiser),
            "ace_authors": lambda: ACE(self.denoiser, ACE_AUTHORS),
            "dime": lambda: DiME(self.denoiser),
            "fastdime": lambda: FastDiME(self.denoiser),
            "sce": lambda: SCE(self.denoiser, self.guide()),
        }
        return made[method]()
