"""Ridge regression from sums that add up: to weigh a part or leave it out costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def class_targets(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, "n classes"]:
    """Give one target of ±1 for each class."""
    return 2 * nn.functional.one_hot(labels.cpu(), classes).double() - 1


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over a sample, in float64 on the CPU."""

    share: Tensor
    z: Float[Tensor, " d"]
    target: Float[Tensor, " c"]
    zz: Float[Tensor, "d d"]
    z_target: Float[Tensor, "d c"]

    @classmethod
    def of(
        cls, z: Float[Tensor, "n d"], target: Float[Tensor, "n c"], share: Float[Tensor, " n"]
    ) -> Moments:
        """Sum over a sample."""
        z, target, share = (part.detach().cpu().double() for part in (z, target, share))
        weighed = z * share[:, None]
        return cls(share.sum(), weighed.sum(0), share @ target, weighed.T @ z, weighed.T @ target)

    @classmethod
    def of_forms(
        cls, forms: Float[Tensor, "n k d"], labels: Int[Tensor, " n"], classes: int
    ) -> Moments:
        """Sum over forms of labelled images; the k forms of one image count 1 together."""
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
        """
        mean, middle = self.z / self.share, self.target / self.share
        covariance = self.zz / self.share - torch.outer(mean, mean)
        moment = self.z_target / self.share - torch.outer(mean, middle)
        spread = covariance.diagonal().mean()
        penalty = ridge * torch.where(spread > 0, spread, 1.0)
        covariance.diagonal().add_(penalty)
        weight = torch.linalg.solve(covariance, moment).T
        return weight, middle - weight @ mean
