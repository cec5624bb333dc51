"""The network: every part takes part, the condition matters, images do not meet each other."""

from __future__ import annotations

import copy

import numpy as np
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
    built(X, T, built.condition(Z)).pow(2).sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_every_input_has_an_effect():
    built = network()
    condition = built.condition(Z)
    first = built(X, T, condition)
    assert first.shape == X.shape
    for other in (
        built(X, T, built.condition(Z + 0.1)),
        built(X, T + 0.1, condition),
        built(X + 0.1, T, condition),
    ):
        assert ((other - first).flatten(1).abs().amax(1) > 1e-4).all()


def test_the_condition_has_an_effect_after_one_step():
    with seeded(0):
        built = Network(TINY)
    optimiser = torch.optim.SGD(built.parameters(), lr=0.1)
    (built(X, T, built.condition(Z)) - X).pow(2).mean().backward()
    optimiser.step()
    assert (built(X, T, built.condition(Z)) - built(X, T, built.condition(-Z))).abs().max() > 1e-5


@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_changes_nothing(size: int):
    built = network()
    together = built(X, T, built.condition(Z))
    parts = [
        built(x, t, built.condition(z))
        for x, t, z in zip(X.split(size), T.split(size), Z.split(size), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), together, rtol=1e-5, atol=1e-5)


def reference(built: Network, x: np.ndarray, t: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Predict pixel by pixel in float64, as the network's description says; the U-Net as it is."""
    w = {name: value.detach().double().numpy() for name, value in built.state_dict().items()}
    config, drawn = built.config, np.empty_like(x)
    side, patch = config.image_size, config.patch
    line = np.linspace(-1, 1, side)
    frequencies = np.exp(np.linspace(0, np.log(1000), 32))

    def apply(name: str, value: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ value + w[f"{name}.bias"]

    def silu(value: np.ndarray) -> np.ndarray:
        return value / (1 + np.exp(-value))

    def patches(name: str, image: np.ndarray) -> np.ndarray:
        blocks = image.reshape(-1, side // patch, patch, side // patch, patch)
        product = np.einsum("ocij,cyixj->oyx", w[f"{name}.weight"], blocks)
        return product + w[f"{name}.bias"][:, None, None]

    unet = copy.deepcopy(built.unet).double()
    for image, time, code, out in zip(x, t, z, drawn, strict=True):
        canvas = np.empty((config.canvas, side, side))
        for row, column in np.ndindex(side, side):
            place = apply("canvas.place", np.array([line[row], line[column]]))
            h = np.maximum(place + apply("canvas.code", code), 0)
            for layer in range(2):
                scale, shift = np.split(apply(f"canvas.modulations.{layer}", code), 2)
                h = np.maximum((1 + scale) * apply(f"canvas.layers.{layer}", h) + shift, 0)
            canvas[:, row, column] = h
        angles = time * frequencies
        when = silu(apply("t_embedding.0", np.concatenate([np.sin(angles), np.cos(angles)])))
        condition = silu(apply("z_embedding", code) + apply("t_embedding.2", when))
        cells = patches("canvas_to_cells", canvas) + patches("image_to_cells", image)
        with torch.no_grad():
            seen = unet(torch.from_numpy(cells)[None], torch.from_numpy(condition)[None])
        seen, mapped = seen[0].numpy(), w["head.from_cells.weight"][:, :, 0, 0]
        scale, shift = np.split(apply("head.modulation", condition), 2)
        for row, column in np.ndindex(side, side):
            near = mapped @ seen[:, row // patch, column // patch] + w["head.from_cells.bias"]
            h = near.reshape(-1, patch, patch)[:, row % patch, column % patch]
            h = h + apply("canvas_to_pixels", canvas[:, row, column])
            h = h + apply("head.from_image", image[:, row, column])
            h = np.maximum(apply("head.hidden", np.maximum((1 + scale) * h + shift, 0)), 0)
            gain, offset = np.split(apply("head.output", h), 2)
            out[:, row, column] = gain * image[:, row, column] + offset
    return drawn


@pytest.mark.parametrize("cached", [1, 2**30])
def test_a_pixel_by_pixel_reference_agrees(cached: int, monkeypatch: pytest.MonkeyPatch):
    """With the batch in parts and as a whole; from images, and from none where they are 0."""
    monkeypatch.setattr("didae.decoders.network._CACHED", cached)
    built = network()
    assert len(built.condition(Z).canvas) == (8 if cached == 1 else 1)
    with torch.no_grad():
        for x, given in ((X, X), (torch.zeros_like(X), None)):
            expected = reference(built, x.double().numpy(), T.double().numpy(), Z.double().numpy())
            found = built(given, T, built.condition(Z)).double().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        one = built.condition(Z[:1])
        shared = built(X, T, one)
        torch.testing.assert_close(shared, built(X, T, built.condition(Z[:1].expand(8, -1))))


@pytest.mark.parametrize("change", [
    {"image_size": 24}, {"multipliers": (1,)}, {"multipliers": (1, 2, 2)}, {"patch": 2},
    {"channels": 1},
])  # fmt: skip
def test_other_shapes(change: dict):
    config = TINY.model_copy(update=change)
    built = Network(config)
    x = torch.rand(2, config.channels, config.image_size, config.image_size)
    assert built(x, T[:2], built.condition(Z[:2])).shape == x.shape


def test_no_images_are_drawn_as_none():
    built = network()
    assert built(X[:0], T[:0], built.condition(Z[:0])).shape == (0, 3, 16, 16)


def test_a_size_that_does_not_fit_is_one_line():
    config = TINY.model_copy(update={"image_size": 20})
    assert "no multiple of 8" in one_line(lambda: Network(config))
