"""Realised against requested changes, on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae_bench.metrics.truth import (
    class_kept,
    explained,
    high_frequency,
    mean_change,
    realised,
    residue,
    spill,
    truth_distance,
)


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


def test_distance_and_residue_are_their_formulas() -> None:
    delivered, truth, factual = _images(0), _images(1), _images(2)
    distances, residues = (
        truth_distance(delivered, truth, factual),
        residue(delivered, truth, factual),
    )
    for i, (d, t, x) in enumerate(zip(*map(_rows, (delivered, truth, factual)), strict=True)):
        assert distances[i].item() == pytest.approx(np.linalg.norm(d - t) / np.linalg.norm(x - t))
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
    assert truth_distance(delivered, truth, factual) == pytest.approx(abs(1 - strength))


def test_extreme_cases_of_distance_and_residue() -> None:
    truth, factual = _images(5), _images(6)
    assert (truth_distance(truth, truth, factual) == 0).all()
    assert (truth_distance(factual, truth, factual) == 1).all()
    assert residue(factual, truth, factual).isnan().all()
    backwards = 2 * factual.double() - truth.double()
    assert (residue(backwards, truth, factual) == 1).all()
    order = torch.tensor([2, 0, 3, 1])
    delivered = _images(7)
    shuffled = residue(delivered[order], truth[order], factual[order])
    assert torch.equal(shuffled, residue(delivered, truth, factual)[order])


def _slow_high_share(change: np.ndarray, cutoff: float) -> float:
    """The discrete Fourier transform as a double sum."""
    rows, columns = change.shape[1:]
    high = total = 0.0
    for u in range(rows):
        for v in range(columns):
            row = min(u, rows - u) / rows
            column = min(v, columns - v) / columns
            wave = np.exp(
                -2j
                * np.pi
                * (u * np.arange(rows)[:, None] / rows + v * np.arange(columns)[None] / columns)
            )
            power = sum(abs((channel * wave).sum()) ** 2 for channel in change)
            total += power
            high += power * (math.hypot(row, column) > cutoff)
    return high / total


@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.4])
def test_high_frequency_is_its_double_sum(cutoff: float) -> None:
    delivered, factual = _images(8), _images(9)
    found = high_frequency(delivered, factual, cutoff)
    for value, d, x in zip(found.tolist(), delivered.numpy(), factual.numpy(), strict=True):
        assert value == pytest.approx(_slow_high_share(d.astype(float) - x.astype(float), cutoff))


def test_brightness_is_low_a_chequerboard_high_and_noise_between() -> None:
    factual = torch.zeros(1, 1, 64, 64)
    chequers = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1)[None, None]
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert high_frequency(factual + 9, factual).item() == 0
    assert high_frequency(factual + chequers, factual).item() == pytest.approx(1)
    assert high_frequency(noise, factual).item() == pytest.approx(1 - math.pi / 16, abs=0.02)
    assert high_frequency(factual, factual).isnan().all()


def test_spill_is_the_largest_move_of_a_factor_that_should_have_stayed() -> None:
    before = np.zeros((2, 3))
    after = np.array([[9.0, -2.0, 1.0], [9.0, 0.0, 4.0]])
    std = np.array([1.0, 4.0, 2.0])
    assert spill(before, after, std, 0).tolist() == [0.5, 2.0]
    assert spill(before, after, std, np.array([0, 2])).tolist() == [0.5, 9.0]
    assert spill(before, before, std, 0).tolist() == [0, 0]


def test_the_class_is_kept_on_its_side_of_the_boundary() -> None:
    before, after = np.array([1.0, 1.0, 6.0, 6.0]), np.array([4.9, 5.0, 5.0, 4.9])
    assert class_kept(before, after, 5.0).tolist() == [True, False, True, False]
