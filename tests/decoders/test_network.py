"""The network: every part takes part, the condition matters, images do not meet each other."""

from __future__ import annotations

import pytest
import torch

from didae.decoders.network import Network, NetworkConfig
from didae.randomness import seeded
from failures import one_line

TINY = NetworkConfig(image_size=16, dim=5, canvas=8, head=8, width=8)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(8, 3, 16, 16, generator=GENERATOR)
Z = torch.randn(8, 5, generator=GENERATOR)
T = torch.linspace(0, 1, 8)


def network() -> Network:
    """Build a network none of whose weights is zero, as after training."""
    with seeded(0):
        built = Network(TINY)
        for parameter in built.parameters():
            if not parameter.detach().any():
                torch.nn.init.normal_(parameter, std=0.2)
    return built


def test_every_parameter_gets_a_gradient():
    built = network()
    built(X, T, built.draw(Z)).pow(2).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_every_input_has_an_effect():
    built = network()
    drawing = built.draw(Z)
    first = built(X, T, drawing)
    assert first.shape == X.shape
    for other in (
        built(X, T, built.draw(Z + 0.1)),
        built(X, T + 0.1, drawing),
        built(X + 0.1, T, drawing),
    ):
        assert ((other - first).flatten(1).abs().amax(1) > 1e-4).all()


def test_the_condition_has_an_effect_after_one_step():
    with seeded(0):
        built = Network(TINY)
    optimiser = torch.optim.SGD(built.parameters(), lr=0.1)
    (built(X, T, built.draw(Z)) - X).pow(2).mean().backward()
    optimiser.step()
    assert (built(X, T, built.draw(Z)) - built(X, T, built.draw(-Z))).abs().max() > 1e-5


@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_changes_nothing(size: int):
    built = network()
    together = built(X, T, built.draw(Z))
    parts = [
        built(x, t, built.draw(z))
        for x, t, z in zip(X.split(size), T.split(size), Z.split(size), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [
    {"image_size": 24}, {"multipliers": (1,)}, {"multipliers": (1, 2, 2)}, {"patch": 2},
    {"channels": 1},
])  # fmt: skip
def test_other_shapes(change: dict):
    config = TINY.model_copy(update=change)
    built = Network(config)
    x = torch.rand(2, config.channels, config.image_size, config.image_size)
    assert built(x, T[:2], built.draw(Z[:2])).shape == x.shape


def test_a_size_that_does_not_fit_is_one_line():
    config = TINY.model_copy(update={"image_size": 20})
    assert "no multiple of 8" in one_line(lambda: Network(config))
