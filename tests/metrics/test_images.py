"""Distances between images against written-out references."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from didae.metrics.images import leftover, psnr


def _images(seed: int, count: int = 3) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, 3, 5, 4), dtype=np.uint8)
    return torch.from_numpy(values)


def test_psnr_equals_its_definition_image_by_image():
    first, second = _images(0), _images(1)
    for value, a, b in zip(psnr(first, second), first.numpy(), second.numpy(), strict=True):
        error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
        assert math.isclose(value.item(), 10 * math.log10(255**2 / error), rel_tol=1e-12)


def test_equal_images_are_infinitely_near():
    assert psnr(_images(0), _images(0)).isinf().all()


@given(st.floats(0, 1))
def test_leftover_is_the_share_of_the_factual_that_shines_through(share: float):
    truth, factual = _images(2).double(), _images(3).double()
    delivered = share * factual + (1 - share) * truth
    assert torch.allclose(leftover(delivered, truth, factual), torch.full((3,), share).double())


def test_leftover_ignores_errors_that_look_nothing_like_the_factual():
    truth = torch.zeros(1, 1, 2, 2)
    factual, delivered = truth.clone(), truth.clone()
    factual[..., 0, 0], delivered[..., 1, 1] = 100, 100
    assert leftover(delivered, truth, factual).item() == 0
