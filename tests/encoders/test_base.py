"""What encoders share: refused images, embeddings that are no numbers, names of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.encoder import SQUARE, EncoderContract
from didae.data.images import to_float
from didae.encoders.base import Encoder, ModuleEncoder, embed
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.randomness import seeded
from failures import one_line, run_python


class TestFactorEncoder(EncoderContract):
    dim = 6

    def make(self) -> Encoder:
        with seeded(0):
            return FactorEncoder(FactorEncoderConfig(width=4, dim=6))


class TestModuleEncoder(EncoderContract):
    dim = 6

    def make(self) -> Encoder:
        with seeded(1):
            module = nn.Sequential(
                nn.Conv2d(3, 4, 8, 8),
                nn.BatchNorm2d(4),
                nn.Dropout(),
                nn.Flatten(),
                nn.Linear(256, 6),
            )
        return ModuleEncoder(module, 6, "own", image_size=64)


def test_the_fingerprint_is_the_same_in_another_process():
    code = """
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.randomness import seeded
with seeded(0):
    print(FactorEncoder(FactorEncoderConfig(width=4, dim=6)).fingerprint)
"""
    own = TestFactorEncoder().make().fingerprint
    assert run_python(code, hash_seed="7").stdout.strip() == own


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_names_the_image(bad: float):
    class Broken(nn.Module):
        def forward(self, images):
            means = images.mean((2, 3))
            broken = (images == to_float(SQUARE.images([5]))).flatten(1).all(1)
            return torch.where(broken[:, None], bad, means)

    encoder = ModuleEncoder(Broken(), 3, "broken")
    assert "00000005 is not finite" in one_line(lambda: embed(encoder, SQUARE, range(8), 3))
    assert embed(encoder, SQUARE, [4, 6]).isfinite().all()


@pytest.mark.parametrize("contract", [TestFactorEncoder, TestModuleEncoder])
def test_other_images_are_refused(contract: type[EncoderContract]):
    encoder = contract().make()
    for shape in ((1, 3, 32, 32), (1, 1, 64, 64), (3, 64, 64)):
        assert "(b, 3, 64, 64)" in one_line(lambda shape=shape: encoder(torch.rand(shape)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_asked_in_it(dtype: torch.dtype):
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    expected = embed(ModuleEncoder(module, 4, "own", image_size=64), SQUARE, range(3))
    encoder = ModuleEncoder(module.to(dtype), 4, "own", image_size=64)
    z = embed(encoder, SQUARE, range(3))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, expected, rtol=0.05, atol=0.05)
    image = to_float(SQUARE.images([0])).requires_grad_()
    assert encoder(image).dtype == torch.float32
    encoder(image).sum().backward()
    assert image.grad is not None


def test_images_of_bytes_are_refused():
    encoder = TestModuleEncoder().make()
    assert "images are uint8" in one_line(lambda: encoder(SQUARE.images([0])))
