"""Distances between images against written-out references."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from didae import metrics as module
from didae.metrics import outputs, psnr


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
