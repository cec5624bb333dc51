"""Teachers that know the truth, or know it most of the time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int, UInt8
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
    """

    name = "oracle"

    def __init__(
        self, classify: Callable[[Tensor], Tensor], error_rate: float = 0.0, seed: int = 0
    ) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.classify, self.error_rate, self.seed = classify, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction by the majority of its pairs."""
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
    """Swaps causal and spurious of another teacher now and then."""

    name = "noisy oracle"

    def __init__(self, teacher: Oracle, error_rate: float, seed: int) -> None:
        if not 0 <= error_rate <= 1:
            raise DidaeError(f"oracle: the error rate is {error_rate}; give a share in [0, 1].")
        self.teacher, self.error_rate, self.seed = teacher, error_rate, seed

    def judge(self, pairs: Pairs) -> Verdict:
        """Judge a direction, wrongly at times."""
        swaps: dict[Verdict, Verdict] = {"causal": "spurious", "spurious": "causal"}
        verdict = self.teacher.judge(pairs)
        draw = torch.rand(1, generator=generator(self.seed, "noisy oracle", pairs.direction))
        return swaps.get(verdict, verdict) if draw.item() < self.error_rate else verdict


def square_classes(images: UInt8[Tensor, "n 3 64 64"]) -> Int[Tensor, " n"]:
    """Read the true class off images of Square."""
    return torch.from_numpy(read_factors(images)[:, 0] > FACTOR_MEAN[0]).long()
