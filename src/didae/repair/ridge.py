"""Ridge regression from sums that add up: to weigh a part or leave it out costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def class_targets(labels: Tensor, classes: int) -> Tensor:
    """Give one target of ±1 for each class.

    Parameters
    ----------
    labels : Tensor, int64, shape (n,)
        Class of each image.
    classes : int
        How many.

    Returns
    -------
    Tensor, float64, shape (n, classes)
        1 for the image's own class, -1 for the others; on the CPU.
    """
    return 2 * nn.functional.one_hot(labels.cpu(), classes).double() - 1


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over a sample, in float64 on the CPU.

    Attributes
    ----------
    share : Tensor, shape ()
        Sum of the weights.
    z : Tensor, shape (d,)
        Of the embeddings.
    target : Tensor, shape (c,)
        Of the targets.
    zz : Tensor, shape (d, d)
        Of the products of embeddings with themselves.
    z_target : Tensor, shape (d, c)
        Of the products of embeddings with targets.
    """

    share: Tensor
    z: Tensor
    target: Tensor
    zz: Tensor
    z_target: Tensor

    @classmethod
    def of(cls, z: Tensor, target: Tensor, share: Tensor) -> Moments:
        """Sum over a sample.

        Parameters
        ----------
        z : Tensor, shape (n, d)
            Embeddings.
        target : Tensor, shape (n, c)
            Targets.
        share : Tensor, shape (n,)
            Weights.

        Returns
        -------
        Moments
            The sums.
        """
        z, target, share = (part.detach().cpu().double() for part in (z, target, share))
        weighed = z * share[:, None]
        return cls(share.sum(), weighed.sum(0), share @ target, weighed.T @ z, weighed.T @ target)

    @classmethod
    def of_forms(cls, forms: Tensor, labels: Tensor, classes: int) -> Moments:
        """Sum over forms of labelled images; the k forms of one image count 1 together.

        Parameters
        ----------
        forms : Tensor, shape (n, k, d)
            Embeddings of the image itself, or of k counterfactuals that keep its class.
        labels : Tensor, int64, shape (n,)
            Class of each image.
        classes : int
            How many.

        Returns
        -------
        Moments
            The sums.
        """
        count, k, _ = forms.shape
        target = class_targets(labels, classes).repeat_interleave(k, 0)
        return cls.of(forms.flatten(0, 1), target, target.new_full((count * k,), 1 / k))

    def __add__(self, other: Moments) -> Moments:
        pairs = zip(self._sums(), other._sums(), strict=True)
        return Moments(*(one + two for one, two in pairs))

    def __mul__(self, factor: float) -> Moments:
        return Moments(*(factor * one for one in self._sums()))

    def _sums(self) -> tuple[Tensor, ...]:
        return self.share, self.z, self.target, self.zz, self.z_target

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Fit the regression with intercept: (C + r s² I)⁻¹ Cov(z, t), C = Cov(z), s² = tr C / d.

        One scale s for all columns: a column that hardly varies, such as an activation that is
        almost always 0, would get an enormous weight if it were brought to spread 1.

        Parameters
        ----------
        ridge : float
            Penalty r on weights of z in units of its root mean square spread s.

        Returns
        -------
        weight : Tensor, float64, shape (c, d)
            Slopes.
        bias : Tensor, float64, shape (c,)
            Intercepts.
        """
        mean, middle = self.z / self.share, self.target / self.share
        covariance = self.zz / self.share - torch.outer(mean, mean)
        moment = self.z_target / self.share - torch.outer(mean, middle)
        spread = covariance.diagonal().mean()
        penalty = ridge * torch.where(spread > 0, spread, 1.0)
        covariance.diagonal().add_(penalty)
        weight = torch.linalg.solve(covariance, moment).T
        return weight, middle - weight @ mean
