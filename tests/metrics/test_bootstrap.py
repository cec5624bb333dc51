"""Ratios of sums and their intervals, against scipy's bootstrap and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from didae.errors import DidaeError
from didae.metrics import Estimate, mean, ratio, wilson


def test_the_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    below = rng.random(120) < 0.6
    above = below & (rng.random(120) < 0.7)
    found = ratio(torch.from_numpy(above), torch.from_numpy(below))

    def share(rows: np.ndarray, axis: int) -> np.ndarray:
        return above[rows].sum(axis) / below[rows].sum(axis)

    expected = bootstrap(
        (np.arange(120),), share, method="percentile", vectorized=True, n_resamples=20000
    ).confidence_interval
    assert found.value == above.sum() / below.sum()
    assert found.n == below.sum()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.011)


ROWS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@given(ROWS)
@settings(max_examples=20)
def test_it_is_the_written_out_share_and_lies_in_its_interval(
    rows: list[tuple[bool, bool]],
) -> None:
    below = [b for _, b in rows]
    above = [a and b for a, b in rows]
    found = ratio(torch.tensor(above), torch.tensor(below))
    if not any(below):
        assert math.isnan(found.value)
        assert found.to_json() == {"value": None, "low": None, "high": None, "n": 0}
        return
    assert found.value == sum(above) / sum(below)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == sum(below)


def test_the_order_of_the_rows_does_not_move_the_figure() -> None:
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there, back = mean(values), mean(values.flip(0))
    assert there.value == pytest.approx(back.value)
    assert there.low == pytest.approx(back.low, abs=0.05)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = torch.arange(40.0)
    assert mean(values, seed=3) == mean(values, seed=3)
    assert mean(values, seed=3) != mean(values, seed=4)


def test_attempts_at_one_image_are_drawn_together() -> None:
    flips = torch.arange(20) % 2 == 0
    once = ratio(flips, torch.ones_like(flips))
    four = flips.repeat_interleave(4)
    images = [f"image {i // 4}" for i in range(80)]
    together = ratio(four, torch.ones_like(four), images)
    apart = ratio(four, torch.ones_like(four))
    assert together.n == once.n == 20
    assert (together.low, together.high) == (once.low, once.high)
    # Rows taken as independent would claim twice the certainty.
    assert apart.high - apart.low < 0.6 * (once.high - once.low)


def test_a_share_without_exceptions_is_not_certain() -> None:
    flips = torch.ones(30, dtype=torch.bool)
    found = ratio(flips, flips)
    assert (found.low, found.high) == wilson(1.0, 30)
    assert found.low < 0.9


def test_undefined_values_are_left_out_of_a_mean() -> None:
    found = mean(torch.tensor([1.0, math.nan, 3.0]))
    assert (found.value, found.n) == (2, 2)
    assert math.isnan(mean(torch.tensor([math.nan])).value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    draws = [mean(torch.from_numpy(rng.random(100) < 0.4), seed=i) for i in range(60)]
    covered = sum(found.low <= 0.4 <= found.high for found in draws) / len(draws)
    assert 0.88 <= covered <= 1


def test_differences_of_two_methods_are_paired() -> None:
    hard = torch.arange(100) % 2 == 0
    first, second = hard.clone(), hard.clone()
    first[1:11:2] = True
    paired = mean(first.double() - second.double())
    assert paired.value == pytest.approx(0.05)
    assert paired.low > 0


@pytest.mark.parametrize("values", [[1.0, math.inf], [1.0, -math.inf]])
def test_what_cannot_be_averaged_is_refused(values: list[float]) -> None:
    with pytest.raises(DidaeError, match="not finite"):
        mean(torch.tensor(values))


def test_lengths_have_to_agree() -> None:
    with pytest.raises(DidaeError, match=r"lengths \[2, 3\]"):
        ratio(torch.ones(3), torch.ones(2))
    with pytest.raises(DidaeError, match=r"lengths \[1, 3\]"):
        mean(torch.ones(3), images=["one"])


def test_an_estimate_is_plain_in_json() -> None:
    assert Estimate(0.5, 0.25, 0.75, 4).to_json() == {
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "n": 4,
    }
