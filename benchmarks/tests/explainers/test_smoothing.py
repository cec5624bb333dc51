"""The smooth stand-in of SCE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from didae.data.images import to_float
from didae.errors import DidaeError
from didae.randomness import generator
from didae.students import StudentConfig, logits
from didae.training import TrainingConfig
from didae_bench.explainers.sce import (
    LeakySoftplus,
    SmoothingConfig,
    _balanced,
    _beta,
    _disturbed,
    fit_smooth_student,
    worst_nearby,
)
from explainers.world import SHAPE, SIZE, World, draw

SHORT = TrainingConfig(steps=3, batch_size=4)


def test_the_activation_is_smooth_and_never_flat():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    y = LeakySoftplus()(x)
    slow = [(max(v, 0.1 * v) + np.log1p(np.exp(10 * v)) / 10) / 2 for v in x.detach().numpy()]
    np.testing.assert_allclose(y.detach().numpy(), slow, rtol=1e-8)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.min() >= 0.05


def test_it_imitates_the_student_with_smooth_activations(world: World):
    images, _ = draw(200, seed=7)
    asked, guide = (logits(model, images).argmax(1) for model in (world.student, world.guide))
    assert (asked == guide).double().mean() > 0.9
    kinds = [type(module) for module in world.guide.modules()]
    assert LeakySoftplus in kinds
    assert nn.ReLU not in kinds
    assert not any(parameter.requires_grad for parameter in world.guide.parameters())


def test_the_attack_stays_in_the_ball_and_raises_the_loss(world: World):
    images = to_float(world.images)
    target = nn.functional.one_hot(1 - world.targets, 2).float()

    def loss(x):
        return nn.functional.cross_entropy(world.student(x), target)

    moved = worst_nearby(world.student, images, target, radius=0.5, steps=4)
    assert (moved - images).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert loss(moved) > 2 * loss(images)


def test_every_class_is_equally_frequent():
    labels = torch.tensor([0, 0, 0, 0, 0, 2, 2])
    rows = _balanced(labels)
    assert labels[rows].bincount().tolist() == [5, 0, 5]
    assert set(rows.tolist()) == set(range(7))


def test_shares_of_mixed_images_follow_the_beta_distribution():
    for n in (1, 10):
        values = _beta(20000, n, generator(0, n)).double()
        assert values.mean().item() == pytest.approx(0.5, abs=0.01)
        assert values.var().item() == pytest.approx(1 / (4 * (2 * n + 1)), rel=0.05)


def test_some_labels_are_drawn_at_random():
    target = torch.eye(4)[torch.zeros(20000).long()]
    noisy = _disturbed(target, 0.2, generator(0, "labels"))
    assert torch.equal(noisy.sum(1), torch.ones(20000))
    # A quarter of the drawn ones are right by chance.
    assert noisy[:, 0].mean().item() == pytest.approx(1 - 0.2 * 0.75, abs=0.01)
    assert torch.equal(_disturbed(target, 0.0, generator(0, "labels")), target)


def test_a_finished_training_is_read_again_and_every_setting_counts(world: World, tmp_path: Path):
    images, _ = draw(20, seed=0)
    config = SmoothingConfig(network=SHAPE, attack_steps=1)
    first = fit_smooth_student(world.student, images, config, SHORT, tmp_path)
    again = fit_smooth_student(world.student, images, config, SHORT, tmp_path)
    pixels = to_float(images)
    assert torch.equal(first(pixels), again(pixels))
    for change in ({"radius": 0.0}, {"mixup": 0}, {"label_noise": 1.0}):
        other = fit_smooth_student(world.student, images, config.model_copy(update=change), SHORT)
        assert not torch.equal(first(pixels), other(pixels)), change


def test_what_cannot_be_distilled_is_refused(world: World):
    images, _ = draw(20, seed=0)
    three = StudentConfig(image_size=SIZE, classes=3)
    with pytest.raises(DidaeError, match="2 classes"):
        fit_smooth_student(world.student, images, SmoothingConfig(network=three), SHORT)
    dark = torch.zeros(5, 3, SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(DidaeError, match="on all 5 images"):
        fit_smooth_student(world.student, dark, SmoothingConfig(network=SHAPE), SHORT)
