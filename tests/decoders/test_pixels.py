"""Pixels in the order of cells, batches in parts, and the floor's gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from didae.decoders.network import _by_cell, _by_place, _maximum, _parts, _patches

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(3, 5, 8, 8, generator=GENERATOR, dtype=torch.float64)


def test_pixels_of_a_cell_lie_together():
    ordered = _by_cell(IMAGES, 4)
    assert ordered.shape == (3, 64, 5)
    assert torch.equal(ordered[1, 16:32], IMAGES[1, :, :4, 4:].flatten(1).T)
    assert torch.equal(_by_place(ordered, 4), IMAGES)


def test_one_product_is_a_convolution_of_patches():
    convolution = nn.Conv2d(5, 7, 4, stride=4).double()
    cells = _by_cell(IMAGES, 4).reshape(3, 4, -1) @ _patches(convolution).T + convolution.bias
    expected = convolution(IMAGES).flatten(2).transpose(1, 2)
    torch.testing.assert_close(cells, expected)


@pytest.mark.parametrize("own", [True, False])
def test_the_floor_has_the_gradient_of_a_maximum(own: bool):
    shape = (3, 6, 4) if own else (6, 4)
    h = torch.randn(shape, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    floor = torch.randn(3, 1, 4, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    expected = torch.maximum(h, floor)
    found = _maximum(1 * h, floor)
    assert torch.equal(found, expected)
    assert (found == floor).any()
    assert (found > floor).any()
    assert torch.autograd.gradcheck(lambda h, floor: _maximum(1 * h, floor), (h, floor))
    with torch.no_grad():
        assert torch.equal(_maximum(h.clone(), floor), expected)


def test_parts_fill_the_caches_and_cover_the_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    small, large = torch.zeros(64 * 64, 32), torch.zeros(512 * 512, 32)
    assert _parts(5, small) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert _parts(2, large) == [slice(0, 1), slice(1, 2)]
    assert _parts(5, large.to("meta")) == [slice(0, 5)]
    assert _parts(0, small) == [slice(0, 2)]
