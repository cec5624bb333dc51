"""Distances between images against written-out references."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import nn

from didae.errors import DidaeError
from didae.metrics import images as module
from didae.metrics.images import (
    feature_similarity,
    leftover,
    outputs,
    perceptual_distance,
    psnr,
    ssim,
)


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


def _pictures(seed: int, count: int = 3, side: int = 14) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(values)


class _Layers(nn.Module):
    """Two feature maps of a small random network with a batch norm, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 4, 3, stride=2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=rng)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        one = self.norm(self.first(images)).relu()
        return [one, self.second(one)]


class _Vector(_Layers):
    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(images)[1].mean((2, 3))


def test_ssim_is_its_formula_with_a_gaussian_window() -> None:
    first, second = _pictures(0), _pictures(1)
    second[1] = (first[1].double() * 0.8 + 20).to(torch.uint8)

    def smooth(channel: np.ndarray) -> np.ndarray:
        return gaussian_filter(channel, 1.5, mode="mirror", radius=5)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for value, a, b in zip(ssim(first, second), first.numpy(), second.numpy(), strict=True):
        maps = []
        for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
            mx, my = smooth(x), smooth(y)
            vx, vy, vxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
            above = (2 * mx * my + c1) * (2 * vxy + c2)
            maps.append(above / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
        assert value.item() == pytest.approx(np.mean(maps), abs=1e-9)


def test_ssim_is_symmetric_and_one_only_for_equal_images() -> None:
    first, second = _pictures(2), _pictures(3)
    assert torch.allclose(ssim(first, second), ssim(second, first))
    assert (ssim(first, second) < 0.5).all()
    assert torch.allclose(ssim(first, first), torch.ones(3).double())
    assert ssim(first[:1], second[:1]).shape == (1,)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(DidaeError, match=r"images of \(5, 4\) pixels"):
        ssim(_images(0), _images(1))


def test_without_torchmetrics_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(DidaeError, match=r"pip install 'didae\[metrics\]'"):
        ssim(_pictures(0), _pictures(1))


def test_perceptual_distance_is_lpips_without_weights_place_by_place() -> None:
    first, second = _pictures(4), _pictures(5)
    network = _Layers().eval()
    found = perceptual_distance(first, second, network)
    with torch.no_grad():
        maps = [[m.double().numpy() for m in network(x.float() / 255)] for x in (first, second)]
    for i, value in enumerate(found.tolist()):
        expected = 0.0
        for a, b in zip(*maps, strict=True):
            places = [
                np.sum(
                    (
                        a[i, :, r, c] / max(np.linalg.norm(a[i, :, r, c]), 1e-12)
                        - b[i, :, r, c] / max(np.linalg.norm(b[i, :, r, c]), 1e-12)
                    )
                    ** 2
                )
                for r in range(a.shape[2])
                for c in range(a.shape[3])
            ]
            expected += np.mean(places)
        assert value == pytest.approx(expected, rel=1e-6)
        assert 0 < value <= 8


def test_an_encoder_is_one_layer_of_one_place() -> None:
    first, second = _pictures(6), _pictures(7)
    cosine = feature_similarity(first, second, _Vector())
    assert torch.allclose(perceptual_distance(first, second, _Vector()), 2 - 2 * cosine)
    assert (perceptual_distance(first, first, _Layers()) == 0).all()


def test_feature_similarity_is_the_cosine() -> None:
    first, second = _pictures(8), _pictures(9)
    with torch.no_grad():
        a, b = (_Vector().eval()(x.float() / 255).double().numpy() for x in (first, second))
    for i, value in enumerate(feature_similarity(first, second, _Vector()).tolist()):
        norms = np.linalg.norm(a[i]) * np.linalg.norm(b[i])
        assert value == pytest.approx(a[i] @ b[i] / norms, rel=1e-5)
    assert torch.allclose(feature_similarity(first, first, _Vector()), torch.ones(3).double())


@given(st.integers(1, 7))
@settings(max_examples=5)
def test_neither_batches_nor_order_change_what_a_network_says(size: int) -> None:
    images, network = _pictures(10, count=7), _Vector()
    whole = outputs(network, images)
    usual, module._BATCH = module._BATCH, size
    try:
        assert torch.allclose(outputs(network, images), whole, atol=1e-5)
        assert torch.allclose(outputs(network, images.flip(0)), whole.flip(0), atol=1e-5)
    finally:
        module._BATCH = usual
    assert not network.training
    assert not whole.requires_grad
