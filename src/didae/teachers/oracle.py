"""Teachers that know the truth, or know it most of the time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from didae.data.square import FACTOR_MEAN, read_factors
from didae.errors import DidaeError
from didae.randomness import generator
from didae.teachers.base import Pairs
from didae.teachers.verdicts import Verdict

FEWEST = 3
"""Pairs below which a direction stays unclear."""


class Oracle:
    """Calls a direction causal where most of its counterfactuals are truly of another class.

    This is the oracle teacher of CFKD with one verdict per direction instead of one per image.

    Parameters
    ----------
    classify : callable
        uint8 images (n, 3, h, w) to their true classes, int64 of shape (n,); -1 where an image
        shows no class.
    error_rate : float
        Share of pairs about which it is mistaken, in [0, 1].
    seed : int
        Of the mistakes.

    Raises
    ------
    DidaeError
        If the error rate is no share.
    """

    name = "oracle"

    def __init__(
        self, classify: Callable[[Tensor], Tensor], error_rate: float = 0.0, seed: int = 0
    ) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.classify, self.error_rate, self.seed = classify, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction by the majority of its pairs.

        Parameters
        ----------
        pairs : Pairs
            What it does to images.

        Returns
        -------
        str
            unclear below three pairs or on a tie; broken where most counterfactuals show no class.
        """
        if len(pairs.factuals) < FEWEST:
            return "unclear"
        before, after = self.classify(pairs.factuals), self.classify(pairs.counterfactuals)
        if int((after < 0).sum()) * 2 > len(after):
            return "broken"
        random = generator(self.seed, "oracle", pairs.direction)
        mistaken = torch.rand(len(after), generator=random) < self.error_rate
        usable = (before >= 0) & (after >= 0)
        votes = ((before != after) ^ mistaken)[usable]
        changed = int(votes.sum())
        if 2 * changed == len(votes):
            return "unclear"
        return "causal" if 2 * changed > len(votes) else "spurious"


class NoisyOracle:
    """Swaps causal and spurious of another teacher now and then.

    Parameters
    ----------
    teacher : Oracle
        Who judges.
    error_rate : float
        How often its verdict is swapped, in [0, 1].
    seed : int
        Of the swaps; one draw per direction.

    Raises
    ------
    DidaeError
        If the error rate is no share.
    """

    name = "noisy oracle"

    def __init__(self, teacher: Oracle, error_rate: float, seed: int) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.teacher, self.error_rate, self.seed = teacher, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction, wrongly at times.

        Parameters
        ----------
        pairs : Pairs
            What it does to images.

        Returns
        -------
        str
            unclear and broken are never swapped.
        """
        swaps: dict[Verdict, Verdict] = {"causal": "spurious", "spurious": "causal"}
        verdict = self.teacher.judge(pairs)
        draw = torch.rand(1, generator=generator(self.seed, "noisy oracle", pairs.direction))
        return swaps.get(verdict, verdict) if draw.item() < self.error_rate else verdict


def square_classes(images: Tensor) -> Tensor:
    """Read the true class off images of Square.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, 3, 64, 64)
        Images with a square.

    Returns
    -------
    Tensor, int64, shape (n,)
        1 where the foreground is in the upper half of its range.
    """
    return torch.from_numpy(read_factors(images)[:, 0] > FACTOR_MEAN[0]).long()
