"""What `didae bench rivals` compares: edits of z, the rivals, and how many images each gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didae import editing
from didae.benchmarks.cases import SPURIOUS
from didae.benchmarks.square import FAITHFUL, STRENGTH
from didae.counterfactuals import Components
from didae.data.square import FACTORS
from didae.decoders.base import Decoder
from didae.dictionaries import Dictionary
from didae.encoders.base import Encoder
from didae.explainers import (
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
from didae.explainers.work import Work, ask
from didae.students import Probe, StudentLike, margin
from didae.training import TrainingConfig

ORDER = (SPURIOUS, *(k for k in range(len(FACTORS)) if k != SPURIOUS))
"""Directions in the order of DiDAE's attempts: the confounder first."""

PGD_TO_FLIP = PGDConfig(radius=1, step=1 / 255, iterations=255, stop=True)
"""The least that fools: the usual radius of 8/255 flips one student in ten on Square."""

ACE_AUTHORS = ACEConfig(depth=15, iterations=100, dilation=17, threshold=0.7)
"""ACE as the DiDAE paper's authors run it."""

CONFIGS = (ACEConfig(), ACE_AUTHORS, DiMEConfig(), FastDiMEConfig(), SCEConfig(), PGD_TO_FLIP)

GUIDE = TrainingConfig(steps=300, batch_size=32, learning_rate=1e-3, ema_decay=0.98)
"""Training of SCE's stand-in; its authors train theirs for 10 000 steps."""

NAMES = {
    "didae": "**DiDAE**, Algorithm 2",
    "faithful": "DiDAE, Heun 5",
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
    "sweep": (200, len(ORDER)),
    "gradient": (200, 1),
    "pgd": (200, 1),
    "random": (200, 1),
    "noedit": (200, 1),
    "truth": (200, 1),
    "fastdime": (32, 2),
    "ace": (24, 2),
    "sce": (16, 2),
    "dime": (16, 1),
    "ace_authors": (4, 1),
}
"""Images of every seed and attempts at each, the cheap methods first."""

QUICK = {
    **{name: (80, attempts) for name, (_, attempts) in FULL.items()},
    "fastdime": (8, 1),
    "ace": (8, 1),
    "sce": (4, 1),
    "dime": (2, 1),
    "ace_authors": (1, 1),
}

Step = Callable[[Tensor, Work], Tensor]
"""Takes z of shape (b, d) and the batch, gives edited z."""


class Edit(Explainer):
    """Encode, invert, edit z, decode: DiDAE and its controls, one step for each attempt.

    Parameters
    ----------
    encoder : Encoder
        Φ.
    decoder : Decoder
        D_θ, trained on z of Φ.
    steps : sequence of callable
        Edits of z, one for each attempt.
    once : bool
        Encode and invert in the first attempt only.
    """

    needs_gradients = False

    def __init__(
        self, encoder: Encoder, decoder: Decoder, steps: Sequence[Step], once: bool = False
    ) -> None:
        super().__init__(decoder)
        self.encoder, self.draws, self.steps, self.once = encoder, decoder, steps, once

    def counterfactuals(self, work: Work) -> Tensor:
        """Edit z and decode.

        Parameters
        ----------
        work : Work
            The batch.

        Returns
        -------
        Tensor, float, shape (b, c, h, w)
            Images in [0, 1].
        """

        def evaluated(_: object, __: object, output: Tensor) -> None:
            work.drawing.count(output, work.rows)

        counting = self.draws.network.register_forward_hook(evaluated)
        try:
            if not (self.once and work.previous):
                z = ask(self.encoder, work.images)
                self.inverted = z, self.draws.invert(work.images, z)
            z, code = self.inverted
            return self.draws.decode(self.steps[len(work.previous)](z, work), code)
        finally:
            counting.remove()


def crossing(dictionary: Dictionary, probe: Probe, direction: int) -> Step:
    """Cross the student's boundary along one direction, within the range seen in data.

    Parameters
    ----------
    dictionary : Dictionary
        Directions, and the range of their codes.
    probe : Probe
        How the student's margin changes with z.
    direction : int
        Which.

    Returns
    -------
    callable
        The edit.
    """
    one = slice(direction, direction + 1)
    slope = (dictionary.atoms @ probe.weight)[one]
    low, high = dictionary.code_low[one], dictionary.code_high[one]

    def step(z: Tensor, work: Work) -> Tensor:
        margins = probe.standing(z, margin(work.logits(work.images), probe.pair))
        change, _ = editing.cross_boundary(margins, slope, STRENGTH)
        change = editing.clamp(dictionary.encode(z)[:, one], change, low, high)
        return z + change * dictionary.atoms[direction]

    return step


def straying(step: Step) -> Step:
    """Go as far as a step does, but in a random direction.

    Parameters
    ----------
    step : callable
        An edit.

    Returns
    -------
    callable
        Its control.
    """

    def stray(z: Tensor, work: Work) -> Tensor:
        way = torch.stack([torch.randn(z.shape[1], generator=g) for g in work.generators])
        length = (step(z, work) - z).norm(dim=1, keepdim=True)
        return z + way / way.norm(dim=1, keepdim=True) * length

    return stray


@dataclass(frozen=True, eq=False)
class Methods:
    """What the methods of one seed are built from.

    Attributes
    ----------
    components : Components
        Encoder, dictionary and decoder; nothing else of them is used.
    probe : Probe
        The seed's.
    denoiser : Decoder
        Of the rivals.
    guide : callable
        Gives SCE's stand-in for the student, trained when it is first asked for.
    """

    components: Components
    probe: Probe
    denoiser: Decoder
    guide: Callable[[], StudentLike]

    def build(self, method: str) -> Explainer:
        """Give a method.

        Parameters
        ----------
        method : str
            One of `NAMES` but ``truth``.

        Returns
        -------
        Explainer
            With the defaults of its paper.
        """
        parts = self.components
        directions = [crossing(parts.dictionary, self.probe, k) for k in ORDER]
        first = directions[0]

        def edit(*steps: Step, once: bool = False) -> Explainer:
            return Edit(parts.encoder, parts.decoder, steps, once)

        made: dict[str, Callable[[], Explainer]] = {
            "didae": lambda: edit(*directions),
            "faithful": lambda: Edit(parts.encoder, parts.sampling(FAITHFUL), (first,)),
            "sweep": lambda: edit(*directions, once=True),
            "gradient": lambda: ProbeGradient(parts.encoder, parts.decoder, self.probe),
            "pgd": lambda: PGD(PGD_TO_FLIP),
            "random": lambda: edit(straying(first)),
            "noedit": lambda: edit(lambda z, _: z),
            "ace": lambda: ACE(self.denoiser),
            "ace_authors": lambda: ACE(self.denoiser, ACE_AUTHORS),
            "dime": lambda: DiME(self.denoiser),
            "fastdime": lambda: FastDiME(self.denoiser),
            "sce": lambda: SCE(self.denoiser, self.guide()),
        }
        return made[method]()
