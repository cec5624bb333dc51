"""A teacher that is wrong now and then."""

from functools import cache

import numpy as np
import pytest

from didae.data.square import Square
from didae.errors import DidaeError
from didae.teachers import Oracle, Pairs, square_classes
from didae_bench.heads import NoisyOracle


def flipped(n):
    """Give true counterfactual pairs of Square along its background."""
    square, rows = Square(200, seed=3), np.arange(n)
    factors = square.factors[rows].copy()
    factors[:, 1] = 255 - factors[:, 1]
    return Pairs(1, "background", square.images(rows), square.render(rows, factors))


def test_swapped_verdicts_come_at_their_rate_and_again():
    pairs, oracle = flipped(3), Oracle(cache(square_classes))
    votes = [NoisyOracle(oracle, 0.2, seed).judge(pairs) for seed in range(300)]
    assert votes[:20] == [NoisyOracle(oracle, 0.2, seed).judge(pairs) for seed in range(20)]
    assert np.mean([vote == "causal" for vote in votes]) == pytest.approx(0.2, abs=0.06)
    assert NoisyOracle(oracle, 1, 0).judge(flipped(1)) == "unclear"


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_error_rate_is_a_share(rate):
    with pytest.raises(DidaeError, match="give a share"):
        NoisyOracle(Oracle(square_classes), rate, 0)
