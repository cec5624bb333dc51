"""Realised against requested changes, on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from didae.metrics.truth import explained, mean_change, realised


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 1.2])
def test_realised_finds_the_slope_of_an_exact_line(slope: float):
    requested = np.random.default_rng(0).normal(size=200)
    noise = 1e-9 * np.random.default_rng(1).normal(size=200)
    found = realised(requested, slope * requested + noise)
    assert found.slope == pytest.approx(slope, abs=1e-6)
    assert (found.r2 > 0.999) == (slope > 0)


def test_an_unrelated_change_is_not_realised():
    rng = np.random.default_rng(2)
    found = realised(rng.normal(size=2000), rng.normal(size=2000))
    assert abs(found.slope) < 0.1
    assert found.r2 < 0.01


def test_mean_change_is_in_standard_deviations():
    before, after = np.zeros((2, 2)), np.array([[1.0, 0.0], [-3.0, 0.0]])
    assert mean_change(before, after, np.array([2.0, 1.0])).tolist() == [1.0, 0.0]


def test_explained_is_one_for_the_truth_and_zero_for_the_mean():
    target = np.random.default_rng(3).normal(size=(50, 2))
    assert explained(target, target).tolist() == [1.0, 1.0]
    assert explained(np.broadcast_to(target.mean(0), target.shape), target) == pytest.approx(0)
