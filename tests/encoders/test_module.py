"""Any module is an encoder, and what does not fit is refused when it is wrapped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from didae.encoders.base import ModuleEncoder
from failures import one_line

FLAT = nn.Flatten()


class Pair(nn.Module):
    def forward(self, images):
        return images, images


def test_the_preprocessing_travels_with_the_encoder():
    encoder = ModuleEncoder(FLAT, 12, "flat", image_size=2, preprocess=lambda images: 2 * images)
    images = torch.rand(3, 3, 2, 2)
    assert torch.equal(encoder(images), 2 * images.flatten(1))
    assert encoder.license == "unknown"


def test_the_module_itself_is_frozen():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2))
    ModuleEncoder(module, 2, "own")
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(("module", "found"), [
    (nn.Identity(), "shape (1, 3, 2, 2)"), (FLAT, "shape (1, 12)"),
    (nn.Flatten(0), "shape (12,)"), (Pair(), "a tuple"),
])  # fmt: skip
def test_a_module_of_another_shape_is_refused(module: nn.Module, found: str):
    message = one_line(lambda: ModuleEncoder(module, 5, "own", image_size=2))
    assert "encoder own" in message
    assert found in message
    # Without a size nothing is known before the first image.
    encoder = ModuleEncoder(module, 5, "own")
    assert found in one_line(lambda: encoder(torch.rand(1, 3, 2, 2)))


def test_any_size_where_none_is_given():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = ModuleEncoder(pool, 3, "pool")
    assert encoder(torch.rand(2, 3, 5, 5)).shape == (2, 3)
    assert encoder(torch.rand(1, 3, 9, 9)).shape == (1, 3)
    assert "(b, 3, h, w)" in one_line(lambda: encoder(torch.rand(3, 9, 9)))
