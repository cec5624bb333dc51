"""PGD that ends where the student flips: the least that fools, image by image."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from didae_bench.explainers.pgd import PGD, PGDConfig

SHAPE = (3, 4, 4)
RANDOM = np.random.RandomState(0)
WEIGHT = RANDOM.randn(48)
IMAGES = np.rint(RANDOM.uniform(0.2, 0.8, (6, *SHAPE)) * 255).astype(np.uint8)
STEP, RADIUS, MOST = 3 / 255, 0.2, 12


class Linear(nn.Module):
    """Class 1 where w · (x - 1/2) > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(WEIGHT))

    def forward(self, images):
        value = (images.double() - 0.5).flatten(1) @ self.weight
        return torch.stack([-value, value], 1)


def score(image) -> float:
    return float(WEIGHT @ (np.rint(image * 255) / 255 - 0.5).reshape(-1))


def attack(image, target: int):
    """Attack one image of class 1 - target with numpy in float64; also the steps made."""
    low, high = np.clip(image - RADIUS, 0, 1), np.clip(image + RADIUS, 0, 1)
    way = np.sign(WEIGHT).reshape(SHAPE) * (1 if target else -1)
    for step in range(MOST):
        if (score(image) > 0) == bool(target):
            return image, step
        image = np.clip(image + STEP * way, low, high)
    return image, MOST


CLASSES = np.array([score(image / 255) > 0 for image in IMAGES]).astype(int)
# The last image is where it should be already.
TARGETS = np.append(1 - CLASSES[:-1], CLASSES[-1])


def explain(config: PGDConfig):
    pixels = torch.from_numpy(IMAGES)
    return PGD(config)(pixels, Linear(), torch.from_numpy(TARGETS), batch_size=6)


def test_each_image_stops_at_its_first_flip():
    config = PGDConfig(radius=RADIUS, step=STEP, iterations=MOST, stop=True)
    found = explain(config)
    expected = [attack(i / 255, t) for i, t in zip(IMAGES, TARGETS, strict=True)]
    for made, (image, _) in zip(found.images[:, 0].numpy(), expected, strict=True):
        assert np.abs(made.astype(int) - np.rint(image * 255)).max() <= 1
    steps = [step for _, step in expected]
    assert len(set(steps)) > 2
    assert found.student_backward_passes[:, 0].tolist() == steps
    # One look before every step, and the last one, after which it stops.
    looks = [2 * step + (step < MOST) for step in steps]
    assert found.student_nfe[:, 0].tolist() == looks


def test_what_is_there_already_is_left_alone():
    found = explain(PGDConfig(radius=RADIUS, step=STEP, iterations=MOST, stop=True))
    assert np.array_equal(found.images[-1, 0].numpy(), IMAGES[-1])


def test_without_stopping_it_goes_much_farther():
    stopped = explain(PGDConfig(radius=RADIUS, step=STEP, iterations=MOST, stop=True))
    whole = explain(PGDConfig(radius=RADIUS, step=STEP, iterations=MOST))
    factual = torch.from_numpy(IMAGES).double()
    near, far = (
        (found.images[:, 0].double() - factual).abs().mean((1, 2, 3)) for found in (stopped, whole)
    )
    assert (near < far).all()
    assert near.mean() < far.mean() / 2
    assert whole.student_backward_passes[:, 0].tolist() == [MOST] * len(IMAGES)
