"""The probe: a student's margins as linear functions of z_sem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from didae.errors import DidaeError
from didae.storage import Component
from didae.students.base import LinearHead, margin

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Probe(Component):
    """A student, distilled to one linear read-out of z_sem for each class.

    The read-outs tell the margin of each class against class 0, whose own is zero. The margin
    between any two classes is the difference of two read-outs.

    Attributes
    ----------
    weight : Tensor, float32, shape (classes, d)
        Change of each class's margin per unit of z.
    bias : Tensor, float64, shape (classes,)
        Each class's margin at z = 0.
    encoder_fingerprint : str
        Which encoder gave z; empty if unknown.
    """

    part = "probe"
    weight: Tensor
    bias: Tensor
    encoder_fingerprint: str = ""

    @classmethod
    def of_margin(cls, weight: Tensor, bias: float, encoder_fingerprint: str = "") -> Self:
        """Make the probe of a student of two classes from its margin.

        Parameters
        ----------
        weight : Tensor, float32, shape (d,)
            Change of the margin of class 1 per unit of z.
        bias : float
            The margin at z = 0.
        encoder_fingerprint : str
            Which encoder gave z.
        """
        both = torch.tensor([0, bias], dtype=torch.float64)
        return cls(torch.stack([torch.zeros_like(weight), weight]), both, encoder_fingerprint)

    def between(self, pair: tuple[int, int] | None = None) -> tuple[Tensor, float]:
        """Give weight, (d,), and bias of the margin between two classes.

        Parameters
        ----------
        pair : tuple of int, optional
            Classes (a, b), as for `didae.students.margin`.
        """
        return margin(self.weight.T, pair), float(margin(self.bias[None], pair))

    def margin(self, z: Tensor, pair: tuple[int, int] | None = None) -> Tensor:
        """Predict the student's margin between two classes, w · z + b.

        Parameters
        ----------
        z : Tensor, float, shape (..., d)
            z_sem.
        pair : tuple of int, optional
            Classes (a, b), as for `didae.students.margin`.
        """
        weight, bias = self.between(pair)
        return z @ weight.to(z) + bias

    def standing(self, z: Tensor, margins: Tensor, pair: tuple[int, int] | None = None) -> Tensor:
        """Say how far from the boundary images stand, on the side where the student sees them.

        It is the probe's margin, or the student's where the two are on different sides: crossing
        the boundary from the other side would lead away from it.

        Parameters
        ----------
        z : Tensor, float, shape (n, d)
            z_sem.
        margins : Tensor, float, shape (n,)
            The student's margins on the same images, between the same classes.
        pair : tuple of int, optional
            Classes (a, b), as for `didae.students.margin`.
        """
        own = self.margin(z, pair)
        return torch.where((own > 0) == (margins > 0), own, margins)

    @override
    def _saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config = {"bias": self.bias.tolist(), "encoder_fingerprint": self.encoder_fingerprint}
        return config, {"weight": self.weight}

    @classmethod
    @override
    def _restored(cls, config: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Self:
        weight, bias, own = tensors["weight"], config["bias"], config["encoder_fingerprint"]
        if weight.ndim == 1:  # As written before there were more than two classes.
            if tuple(config.get("pair", (0, 1))) != (0, 1):
                raise ValueError("it knows two of the classes only")
            return cls.of_margin(weight, float(bias), str(own))
        biases = torch.tensor(bias, dtype=torch.float64)
        if weight.ndim != 2 or biases.shape != weight.shape[:1]:
            raise ValueError(f"weight {tuple(weight.shape)}, bias {tuple(biases.shape)}")
        return cls(weight, biases, str(own))


def fit_probe(
    z: Tensor, margins: Tensor, ridge: float = 1e-4, encoder_fingerprint: str = ""
) -> Probe:
    """Distil a student to a probe by ridge least squares with intercept.

    With s = (z - mean) / std per coordinate, it minimises
    mean (s · v + c - margin)² + ridge ‖v‖² for each class in float64, so that scaling z changes
    nothing. The fit is linear in the margins: the difference of two read-outs is the fit of the
    margin between their classes.
    This is the distillation of Bender & Morik (arXiv 2601.21851), Algorithm 2, in closed form and
    with an intercept. Fit it on broad unlabelled images: on a student's own poisoned training set
    correlated factors share the blame.

    Parameters
    ----------
    z : Tensor, float, shape (n, d)
        z_sem of broad images.
    margins : Tensor, float, shape (n,) or (n, classes - 1)
        The student's margins on them: of class 1, or of each class, against class 0, as
        `didae.students.margins_of` gives them.
    ridge : float
        Strength of the penalty, positive.
    encoder_fingerprint : str
        Which encoder gave z.

    Raises
    ------
    DidaeError
        If the shapes do not fit, values are not finite, or the student has the same margins
        everywhere.
    """
    sample, target = _pair(z, margins)
    if ridge <= 0:
        raise DidaeError(f"probe: ridge is {ridge}; give a positive number.")
    if bool((target == target[:1]).all()):
        raise DidaeError("probe: the student has the same margin on all images; give broader ones.")
    mean, std = sample.mean(0), sample.std(0, correction=0)
    # A coordinate that never moves tells nothing; its weight is to be 0 and not 0 / 0.
    scale = torch.where(std > 1e-12 * sample.abs().amax(0), std, torch.inf)
    standard = (sample - mean) / scale
    few, rest = len(sample) < sample.shape[1], target - target.mean(0)
    # Of few images the dual form has fewer equations: v = sᵀ (s sᵀ / n + ridge)⁻¹ margin / n.
    gram = (standard @ standard.T if few else standard.T @ standard) / len(sample)
    gram += ridge * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram, (rest if few else standard.T @ rest) / len(sample))
    # float() first: the stored weight and the intercept must belong to each other.
    weight = ((standard.T @ solution if few else solution) / scale[:, None]).float()
    bias = target.mean(0) - torch.stack([mean @ column for column in weight.T.double()])
    # The read-out of class 0 is zero.
    first = functional.pad(weight.T, (0, 0, 1, 0)), functional.pad(bias, (1, 0))
    return Probe(*first, encoder_fingerprint)


def probe_of(head: LinearHead) -> Probe:
    """Give the probe of a student that is linear in z_sem: it is exact, nothing is fitted."""
    weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    return Probe(weight - weight[:1], (bias - bias[:1]).double(), head.encoder.fingerprint)


def agreement(probe: Probe, z: Float[Tensor, "n d"], margins: Float[Tensor, " n"]) -> float:
    """Measure how often probe and student predict the same class, on held-out images."""
    sample, target = _pair(z, margins)
    own = sample @ probe.weight.T.to(sample) + probe.bias.to(sample)
    said = functional.pad(target, (1, 0)).argmax(1)
    return float((own.argmax(1) == said).double().mean())


def _pair(z: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
    if z.ndim != 2 or len(z) == 0 or margins.ndim not in (1, 2) or len(margins) != len(z):
        raise DidaeError(
            f"probe: z has shape {tuple(z.shape)} and margins {tuple(margins.shape)}; "
            "give (n, d) and (n,) or (n, classes - 1) of the same images, at least one."
        )
    sample, target = z.detach().cpu().double(), margins.detach().cpu().double()
    if not bool(sample.isfinite().all() and target.isfinite().all()):
        raise DidaeError("probe: z or margins are not finite; leave those images out.")
    return sample, target.reshape(len(z), -1)
