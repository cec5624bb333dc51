"""COUT pixel by pixel, attribute counts, and correlation differences against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didae.errors import DidaeError
from didae_bench.metrics.transitions import attributes_changed, correlation_difference, cout


def _images(seed: int, count: int = 3, side: int = 5) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(values)


def _student(images: torch.Tensor) -> torch.Tensor:
    """A linear student of three classes whose weights differ at every pixel."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(3, images[0].numel(), generator=rng)
    return images.flatten(1) @ weights.T


def _slow_cout(x: np.ndarray, y: np.ndarray, source: int, target: int, steps: int) -> float:
    side = x.shape[-1]
    places = [(r, c) for r in range(side) for c in range(side)]
    size = {p: abs(y[:, p[0], p[1]].astype(int) - x[:, p[0], p[1]]).sum() for p in places}
    order = sorted(places, key=lambda place: -size[place])
    counts = [round(side * side * k / steps) for k in range(steps + 1)]
    heights = []
    for count in counts:
        image = x.copy()
        for r, c in order[:count]:
            image[:, r, c] = y[:, r, c]
        values = _student(torch.from_numpy(image)[None].float() / 255)[0].double().numpy()
        probability = np.exp(values) / np.exp(values).sum()
        heights.append(probability[target] - probability[source])
    return sum(
        (counts[k + 1] - counts[k]) / (side * side) * (heights[k] + heights[k + 1]) / 2
        for k in range(steps)
    )


@given(st.integers(0, 99), st.integers(1, 30))
@settings(max_examples=10)
def test_cout_is_its_area_pixel_by_pixel(seed: int, steps: int) -> None:
    factual, counterfactual = _images(seed), _images(seed + 1000)
    counterfactual[:, :, :2] = factual[:, :, :2]
    source, target = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    found = cout(_student, factual, counterfactual, source, target, steps)
    for i, value in enumerate(found.tolist()):
        pair = factual[i].numpy(), counterfactual[i].numpy()
        expected = _slow_cout(*pair, int(source[i]), int(target[i]), steps)
        assert value == pytest.approx(expected, abs=1e-5)
        assert -1 <= value <= 1
    swapped = cout(_student, factual, counterfactual, target, source, steps)
    assert torch.allclose(swapped, -found)
    order = torch.tensor([2, 0, 1])
    parts = (part[order] for part in (factual, counterfactual, source, target))
    assert torch.allclose(cout(_student, *parts, steps), found[order], atol=1e-6)


def _first_pixel(images: torch.Tensor) -> torch.Tensor:
    """A student that is sure, by one pixel alone."""
    bright = images[:, 0, 0, 0] > 0.5
    return 50.0 * torch.stack([~bright, bright], 1)


def test_cout_of_the_best_and_the_worst_counterfactual() -> None:
    factual = torch.zeros(1, 3, 10, 10, dtype=torch.uint8)
    source, target = torch.tensor([0]), torch.tensor([1])
    best = factual.clone()
    best[..., 0, 0] = 255
    worst = torch.full_like(factual, 255)
    worst[..., 0, 0] = 128
    assert cout(_first_pixel, factual, best, source, target, 100).item() == pytest.approx(0.99)
    assert cout(_first_pixel, factual, worst, source, target, 100).item() == pytest.approx(-0.99)
    assert cout(_first_pixel, factual, factual, source, target).item() == pytest.approx(-1)


def test_cout_refuses_what_is_no_pair() -> None:
    classes = torch.zeros(3, dtype=torch.long)
    for arguments in (
        (_images(0), _images(0)[:2], classes, classes),
        (_images(0), _images(0), classes, classes[:2]),
        (_images(0), _images(0), classes, classes, 0),
    ):
        with pytest.raises(DidaeError, match="pairs of images and at least one step"):
            cout(_student, *arguments)


@given(st.integers(0, 99), st.integers(1, 5))
def test_attributes_are_counted_one_by_one(seed: int, attributes: int) -> None:
    before, after = np.random.default_rng(seed).random((2, 4, attributes))
    found = attributes_changed(torch.from_numpy(before), torch.from_numpy(after))
    for count, b, a in zip(found.tolist(), before, after, strict=True):
        assert count == sum((x > 0.5) != (y > 0.5) for x, y in zip(b, a, strict=True))
    assert not attributes_changed(torch.from_numpy(before), torch.from_numpy(before)).any()


def test_a_perfect_edit_changes_one_attribute_and_not_none() -> None:
    before = torch.tensor([[0.0, 9.0, 3.0]])
    after = torch.tensor([[9.0, 9.0, 3.0]])
    assert attributes_changed(before, after, threshold=5.0).item() == 1


def test_correlation_difference_is_the_sum_over_attributes() -> None:
    rng = np.random.default_rng(0)
    data, before, after = rng.random((200, 4)), rng.random((60, 4)), rng.random((60, 4))
    data[:, 3] = data[:, 0]
    after[:, 2] = before[:, 2]
    found = correlation_difference(*map(torch.from_numpy, (data, before, after)), query=0)
    change = (after > 0.5).astype(float) - (before > 0.5)
    expected = 0.0
    for a in range(4):
        in_data = np.corrcoef(data[:, 0] > 0.5, data[:, a] > 0.5)[0, 1]
        in_change = 0.0 if a == 2 else np.corrcoef(change[:, 0], change[:, a])[0, 1]
        expected += abs(in_data - in_change)
    assert found == pytest.approx(expected)
    assert found > 0.5


def test_changes_that_go_together_as_in_the_data_are_no_difference() -> None:
    data = torch.tensor([[0.0, 0.0], [1.0, 1.0]] * 5)
    after = torch.tensor([[1.0, 1.0], [0.0, 0.0]] * 5)
    assert correlation_difference(data, data, after, 0) == pytest.approx(0, abs=1e-12)
    alone = torch.stack([after[:, 0], data[:, 1]], 1)
    assert correlation_difference(data, data, alone, 0) == pytest.approx(1)
