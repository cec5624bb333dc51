"""Realised against requested changes, on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae_bench.metrics.truth import class_kept, explained, mean_change, realised, residue


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


def _images(seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (4, 3, 8, 6), dtype=np.uint8)
    return torch.from_numpy(values)


def _rows(images: torch.Tensor) -> np.ndarray:
    return images.numpy().astype(np.float64).reshape(len(images), -1)


def test_residue_is_its_formula() -> None:
    delivered, truth, factual = _images(0), _images(1), _images(2)
    residues = residue(delivered, truth, factual)
    for i, (d, t, x) in enumerate(zip(*map(_rows, (delivered, truth, factual)), strict=True)):
        change, wanted = d - x, t - x
        along = max(0.0, change @ wanted / (wanted @ wanted)) * wanted
        off = change - along
        expected = 1.0 if not along.any() else (off @ off) / (change @ change)
        assert residues[i].item() == pytest.approx(expected)
        assert 0 <= residues[i] <= 1


@given(st.floats(0.01, 2))
def test_the_right_change_at_any_strength_leaves_no_residue(strength: float) -> None:
    truth, factual = _images(3).double(), _images(4).double()
    delivered = factual + strength * (truth - factual)
    assert residue(delivered, truth, factual) == pytest.approx(0, abs=1e-9)


def test_extreme_cases_of_residue() -> None:
    truth, factual = _images(5), _images(6)
    assert residue(factual, truth, factual).isnan().all()
    backwards = 2 * factual.double() - truth.double()
    assert (residue(backwards, truth, factual) == 1).all()
    order = torch.tensor([2, 0, 3, 1])
    delivered = _images(7)
    shuffled = residue(delivered[order], truth[order], factual[order])
    assert torch.equal(shuffled, residue(delivered, truth, factual)[order])


def test_the_class_is_kept_on_its_side_of_the_boundary() -> None:
    before, after = np.array([1.0, 1.0, 6.0, 6.0]), np.array([4.9, 5.0, 5.0, 4.9])
    assert class_kept(before, after, 5.0).tolist() == [True, False, True, False]
