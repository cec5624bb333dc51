"""What every encoder promises: frozen, independent of the batch, named by its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from didae.data.images import to_float
from didae.data.square import Square
from didae.encoders.base import Encoder, embed
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.encoders.module import ModuleEncoder
from didae.randomness import seeded
from failures import one_line, run_python

SQUARE = Square(32)


def factor_encoder() -> Encoder:
    with seeded(0):
        return FactorEncoder(FactorEncoderConfig(width=4, dim=6))


def module_encoder() -> Encoder:
    with seeded(1):
        module = nn.Sequential(
            nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(256, 6)
        )
    return ModuleEncoder(module, 6, "own", image_size=64)


ENCODERS = pytest.mark.parametrize("make", [factor_encoder, module_encoder])


@ENCODERS
def test_frozen_whatever_the_parent_does(make):
    encoder = make()
    parent = nn.Sequential(encoder, nn.Linear(6, 2))
    parent.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimiser = torch.optim.SGD(parent.parameters(), lr=1.0, weight_decay=0.1)
    parent(to_float(SQUARE.images(range(4)))).sum().backward()
    optimiser.step()
    embed(encoder, SQUARE, range(8))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@ENCODERS
def test_the_batch_changes_nothing(make):
    encoder = make()
    together = embed(encoder, SQUARE, range(8), batch_size=8)
    assert together.shape == (8, 6)
    assert together.dtype == torch.float32
    for size in (1, 3):
        parts = embed(encoder, SQUARE, np.arange(8), batch_size=size)
        torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-6)
    assert embed(encoder, SQUARE, []).shape == (0, 6)


@ENCODERS
def test_embeddings_can_be_learned_from(make):
    head = nn.Linear(6, 1)
    head(embed(make(), SQUARE, range(4))).sum().backward()
    assert head.weight.grad is not None


@ENCODERS
def test_the_fingerprint_is_the_weights(make):
    encoder, again = make(), make()
    first = encoder.fingerprint
    assert again.fingerprint == first
    for name, value in again.state_dict().items():
        bits = value[(0,) * value.ndim].reshape(1).view(torch.uint8)
        bits[0] ^= 1
        assert again.fingerprint != first, name
        bits[0] ^= 1
    assert again.fingerprint == first
    again.name = "other"
    assert again.fingerprint != first


def test_the_fingerprint_is_the_same_in_another_process():
    code = """
from didae.encoders.factors import FactorEncoder, FactorEncoderConfig
from didae.randomness import seeded
with seeded(0):
    print(FactorEncoder(FactorEncoderConfig(width=4, dim=6)).fingerprint)
"""
    assert run_python(code, hash_seed="7").stdout.strip() == factor_encoder().fingerprint


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


@ENCODERS
def test_other_images_are_refused(make):
    encoder = make()
    for shape in ((1, 3, 32, 32), (1, 1, 64, 64), (3, 64, 64)):
        assert "(b, 3, 64, 64)" in one_line(lambda shape=shape: encoder(torch.rand(shape)))
