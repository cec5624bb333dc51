"""The probe: a student's margin as a linear function of z_sem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from didae.errors import DidaeError
from didae.storage import load_component, save_component


@dataclass(frozen=True, eq=False)
class Probe:
    """A student, distilled to one direction of z_sem and a threshold.

    Attributes
    ----------
    weight : Tensor, float32, shape (d,)
        Change of the margin per unit of z.
    bias : float
        Margin at z = 0.
    encoder_fingerprint : str
        Which encoder gave z; empty if unknown.
    pair : tuple of int
        Classes (a, b) of the student whose margin it is.
    """

    weight: Tensor
    bias: float
    encoder_fingerprint: str = ""
    pair: tuple[int, int] = (0, 1)

    def margin(self, z: Tensor) -> Tensor:
        """Predict the student's margin.

        Parameters
        ----------
        z : Tensor, float, shape (..., d)
            z_sem.

        Returns
        -------
        Tensor, float, shape (...)
            w · z + b.
        """
        return z @ self.weight.to(z) + self.bias

    def standing(self, z: Tensor, margins: Tensor) -> Tensor:
        """Say how far from the boundary images stand, on the side where the student sees them.

        Crossing the boundary from the other side would lead away from it.

        Parameters
        ----------
        z : Tensor, float, shape (n, d)
            z_sem.
        margins : Tensor, float, shape (n,)
            The student's margins on the same images.

        Returns
        -------
        Tensor, float, shape (n,)
            The probe's margin, or the student's where the two are on different sides.
        """
        own = self.margin(z)
        return torch.where((own > 0) == (margins > 0), own, margins)

    def save(self, folder: str | Path) -> None:
        """Write the probe.

        Parameters
        ----------
        folder : str or Path
            Gets ``config.json`` and ``model.safetensors``.
        """
        config = {
            "bias": self.bias,
            "encoder_fingerprint": self.encoder_fingerprint,
            "pair": list(self.pair),
        }
        save_component(folder, "probe", config, {"weight": self.weight})

    @classmethod
    def load(cls, folder: str | Path) -> Probe:
        """Read a probe.

        Parameters
        ----------
        folder : str or Path
            What `save` wrote.

        Returns
        -------
        Probe
            The probe, on the CPU.

        Raises
        ------
        DidaeError
            If the folder holds no intact probe.
        """
        config, tensors = load_component(folder, "probe")
        try:
            first, second = config.get("pair", (0, 1))
            own = str(config["encoder_fingerprint"])
            return cls(tensors["weight"], float(config["bias"]), own, (int(first), int(second)))
        except (KeyError, TypeError, ValueError) as error:
            raise DidaeError(f"{folder} is damaged ({error}); fit the probe again.") from error


def fit_probe(
    z: Tensor,
    margins: Tensor,
    ridge: float = 1e-4,
    encoder_fingerprint: str = "",
    pair: tuple[int, int] = (0, 1),
) -> Probe:
    """Distil a student to a probe by ridge least squares with intercept.

    With s = (z - mean) / std per coordinate, it minimises
    mean (s · v + c - margin)² + ridge ‖v‖² in float64, so that scaling z changes nothing.
    This is the distillation of Bender & Morik (arXiv 2601.21851), Algorithm 2, in closed form and
    with an intercept. Fit it on broad unlabelled images: on a student's own poisoned training set
    correlated factors share the blame.

    Parameters
    ----------
    z : Tensor, float, shape (n, d)
        z_sem of broad images.
    margins : Tensor, float, shape (n,)
        The student's margins on them.
    ridge : float
        Strength of the penalty, positive.
    encoder_fingerprint : str
        Which encoder gave z.
    pair : tuple of int
        Classes that the margins compare.

    Returns
    -------
    Probe
        The probe.

    Raises
    ------
    DidaeError
        If the shapes do not fit, values are not finite, or the student has the same margin
        everywhere.
    """
    sample, target = _pair(z, margins)
    if ridge <= 0:
        raise DidaeError(f"probe: ridge is {ridge}; give a positive number.")
    if bool((target == target[0]).all()):
        raise DidaeError("probe: the student has the same margin on all images; give broader ones.")
    mean, std = sample.mean(0), sample.std(0, correction=0)
    # A coordinate that never moves tells nothing; its weight is to be 0 and not 0 / 0.
    scale = torch.where(std > 1e-12 * sample.abs().amax(0), std, torch.inf)
    standard = (sample - mean) / scale
    penalty = ridge * torch.eye(sample.shape[1], dtype=torch.float64)
    covariance = standard.T @ (target - target.mean()) / len(sample)
    weight = torch.linalg.solve(standard.T @ standard / len(sample) + penalty, covariance) / scale
    # float() first: the stored weight and the intercept must belong to each other.
    stored = weight.float()
    bias = float(target.mean() - mean @ stored.double())
    return Probe(stored, bias, encoder_fingerprint, pair)


def agreement(probe: Probe, z: Tensor, margins: Tensor) -> float:
    """Measure how often probe and student are on the same side, on held-out images.

    Parameters
    ----------
    probe : Probe
        The probe.
    z : Tensor, float, shape (n, d)
        z_sem of images the probe was not fitted on.
    margins : Tensor, float, shape (n,)
        The student's margins on them.

    Returns
    -------
    float
        Share of equal signs, in [0, 1]; a margin of 0 counts as class 0, as in the student's
        arg max.

    Raises
    ------
    DidaeError
        If the shapes do not fit or values are not finite.
    """
    sample, target = _pair(z, margins)
    return float(((probe.margin(sample) > 0) == (target > 0)).double().mean())


def _pair(z: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
    if z.ndim != 2 or len(z) == 0 or margins.shape != z.shape[:1]:
        raise DidaeError(
            f"probe: z has shape {tuple(z.shape)} and margins {tuple(margins.shape)}; "
            "give (n, d) and (n,) of the same images, at least one."
        )
    sample, target = z.detach().cpu().double(), margins.detach().cpu().double()
    if not bool(sample.isfinite().all() and target.isfinite().all()):
        raise DidaeError("probe: z or margins are not finite; leave those images out.")
    return sample, target
