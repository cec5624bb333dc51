"""Preprocessing as tensor operations against Pillow, and what a pretrained network must give."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from didae.data.images import to_float
from didae.encoders.pretrained import Preprocessing, _PretrainedEncoder, quiet
from didae.errors import reason
from failures import one_line

COLOURS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NETWORK = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


def noise(height: int, width: int) -> np.ndarray:
    """The hardest image to resize alike: every pixel black or white."""
    rng = np.random.default_rng(height * width)
    return (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)


def own(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    images = to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())
    return preprocessing.apply(images)[0].permute(1, 2, 0).numpy()


def with_pillow(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """torchvision's Resize, CenterCrop, ToTensor and Normalize, spelt out in float64."""
    image = Image.fromarray(pixels)
    p, (width, height) = preprocessing, image.size
    short = min(width, height)
    size = [p.resize if p.squash else int(p.resize * side / short) for side in (width, height)]
    if image.size != tuple(size):
        resample = getattr(Image.Resampling, p.interpolation.upper())
        image = image.resize(tuple(size), resample)
    left, top = (round((side - p.side) / 2) for side in size)
    image = image.crop((left, top, left + p.side, top + p.side))
    return (np.asarray(image) / 255 - np.array(p.mean)) / np.array(p.std)


@pytest.mark.parametrize("shape", [(48, 48), (48, 71), (90, 48)])
def test_without_resizing_only_rounding_differs(shape: tuple[int, int]):
    preprocessing = Preprocessing(side=41, resize=48, **COLOURS)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = with_pillow(pixels, preprocessing)
    np.testing.assert_allclose(own(pixels, preprocessing), expected, rtol=0, atol=5e-7)
    moved = Preprocessing(side=41, resize=48, mean=(0.485, 0.456, 0.407), std=COLOURS["std"])
    assert np.abs(own(pixels, moved) - expected).max() > 1e-3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (100, 100), (32, 60), (130, 70), (47, 49)])
def test_resizing_differs_from_pillow_by_its_8_bits(shape, squash: bool, interpolation: str):
    if squash and shape[0] > shape[1]:
        # From Pillow 13 on such an image has its columns resized first.
        shape = shape[::-1]
    preprocessing = Preprocessing(
        side=48, resize=55, squash=squash, interpolation=interpolation, **COLOURS
    )
    pixels = noise(*shape)
    grey_levels = 255 * np.array(preprocessing.std)
    difference = own(pixels, preprocessing) - with_pillow(pixels, preprocessing)
    assert np.abs(difference * grey_levels).max() < 1.25
    assert np.abs(difference * grey_levels).mean() < 0.35


def test_what_would_not_do():
    """Neither without antialiasing nor clamping at the end only is near enough to Pillow."""
    preprocessing = Preprocessing(side=48, resize=48, mean=(0, 0, 0), std=(1, 1, 1))
    for shape, antialias, most in (((100, 100), False, 20), ((32, 32), True, 5)):
        pixels = noise(*shape)
        images = to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous())
        at_once = functional.interpolate(images, (48, 48), mode="bicubic", antialias=antialias)
        other = at_once.clamp(0, 1)[0].permute(1, 2, 0).numpy()
        assert 255 * np.abs(other - with_pillow(pixels, preprocessing)).max() > most


def test_preprocessing_is_differentiable():
    preprocessing = Preprocessing(side=6, resize=7, **COLOURS)
    generator = torch.Generator().manual_seed(0)
    images = (
        0.4 + 0.2 * torch.rand(1, 3, 9, 9, generator=generator, dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(preprocessing.apply, images)


def test_the_fingerprint_knows_the_preprocessing():
    first = Preprocessing(side=8, resize=8, **COLOURS)
    encoders = [
        _PretrainedEncoder(NETWORK, preprocessing, "own", "MIT")
        for preprocessing in (
            first,
            first.model_copy(update={"resize": 9}),
            first.model_copy(update={"interpolation": "bilinear"}),
            first.model_copy(update={"mean": (0.485, 0.456, 0.4061)}),
        )
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    assert encoders[0].fingerprint == _PretrainedEncoder(NETWORK, first, "own", "x").fingerprint
    assert (encoders[0].dim, encoders[0].license, encoders[0].image_size) == (12, "MIT", None)


@pytest.mark.parametrize(("network", "found"), [
    (nn.Identity(), "shape (1, 3, 8, 8)"),
    (nn.Linear(9, 2), "8 x 8 pixels"),
    (nn.LSTM(8, 4), "8 x 8 pixels"),
])  # fmt: skip
def test_networks_that_give_no_vector(network: nn.Module, found: str):
    preprocessing = Preprocessing(side=8, resize=8, **COLOURS)
    message = one_line(lambda: _PretrainedEncoder(network, preprocessing, "own", "MIT"))
    assert "encoder own" in message
    assert found in message


def test_reasons_are_one_short_line():
    assert reason(ValueError("a\n  b")) == "a b"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 999))) == 200


def test_quiet_is_quiet_inside_only(caplog: pytest.LogCaptureFixture):
    with quiet("a network", "go on"):
        logging.getLogger("library").error("inside")
    logging.getLogger("library").error("after")
    assert [record.message for record in caplog.records] == ["after"]
