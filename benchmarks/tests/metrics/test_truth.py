"""Realised against requested changes, on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae_bench.metrics.truth import (
    class_kept,
    explained,
    feedback_accuracy,
    leftover,
    mean_change,
    realised,
    residue,
    unbiasedness,
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


@given(st.floats(0, 1))
def test_leftover_is_the_share_of_the_factual_that_shines_through(share: float):
    truth, factual = torch.rand(2, 3, 3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    delivered = share * factual + (1 - share) * truth
    assert torch.allclose(leftover(delivered, truth, factual), torch.full((3,), share).double())


def test_leftover_ignores_errors_that_look_nothing_like_the_factual():
    truth = torch.zeros(1, 1, 2, 2)
    factual, delivered = truth.clone(), truth.clone()
    factual[..., 0, 0], delivered[..., 1, 1] = 100, 100
    assert leftover(delivered, truth, factual).item() == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
@settings(max_examples=20)
def test_feedback_accuracy_counts_what_the_student_knew(rows: list[tuple[bool, bool]]) -> None:
    true, right = (torch.tensor(column) for column in zip(*rows, strict=True))
    counted = [t for t, r in rows if r]
    found = feedback_accuracy(true, right)
    expected = sum(counted) / len(counted) if counted else math.nan
    assert found == pytest.approx(expected, nan_ok=True)


@given(
    st.lists(st.floats(0, 0.99), min_size=2, max_size=6),
    st.floats(0, 0.99),
)
def test_unbiasedness_is_its_formula_by_both_rules(groups: list[float], feedback: float) -> None:
    lowest = sorted(groups)
    actual, dominant = 1 - feedback, 1 - (lowest[0] + lowest[1]) / 2
    expected = math.exp(-abs(math.log(actual / dominant)))
    found = unbiasedness(groups, feedback)
    assert found == pytest.approx(expected)
    assert 0 <= found <= 1
    assert unbiasedness(groups[::-1], feedback) == found
    assert unbiasedness(groups, feedback, "ratio") == pytest.approx(actual / dominant)


def test_unbiasedness_at_its_edges() -> None:
    assert unbiasedness([1, 1, 1], 1.0) == unbiasedness([1, 1], 1.0, "ratio") == 1
    assert unbiasedness([1, 1], 0.5) == 0
    assert unbiasedness([1, 1], 0.5, "ratio") == math.inf
    assert unbiasedness([0.5, 0.5], 1.0) == 0
    assert unbiasedness([0.9, 0.5, 0.5], 0.46, "ratio") == pytest.approx(1.08)
    assert math.isnan(unbiasedness([0.5, 0.5], math.nan))
    with pytest.raises(DidaeError, match="two group accuracies"):
        unbiasedness([0.5], 0.5)
