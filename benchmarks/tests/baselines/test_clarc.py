from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from didae.repair.base import Labelled
from didae.students import StudentConfig, build_student
from didae.training import TrainingConfig
from didae_bench.baselines.clarc import (
    Compensation,
    PenaltyConfig,
    ProjectionConfig,
    artifact_direction,
    gradient_penalty,
    penalise_artifact,
    project_artifact,
    stages,
    trunk,
)

SHORT = TrainingConfig(steps=3, batch_size=8, learning_rate=1e-2, ema_decay=0)


def coloured(seed: int) -> Labelled:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (24, 3, 16, 16), generator=random)
    attributes = torch.arange(24) // 2 % 2
    pixels[:, 0] += 180 * attributes[:, None, None]
    return Labelled(pixels.to(torch.uint8), torch.arange(24) % 2, attributes)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    def only(place: int) -> None:
        monkeypatch.setattr("didae_bench.baselines.clarc.stages", lambda _: (place,))

    return only


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(
    ("method", "config"),
    [
        (project_artifact, ProjectionConfig(strengths=(1.0,), search=SHORT, training=SHORT)),
        (penalise_artifact, PenaltyConfig(weights=(10.0,), search=SHORT, training=SHORT)),
    ],
)
def test_only_the_stages_above_learn(method, config, place: int, at):
    at(place)
    student = build_student(StudentConfig(image_size=16, width=4))
    repaired = method(student, coloured(0), coloured(1), config, 0)
    after = [stage for stage in trunk(repaired) if not isinstance(stage, Compensation)]
    for number, (old, new) in enumerate(zip(trunk(student), after, strict=True)):
        pairs = zip(old.parameters(), new.parameters(), strict=True)
        assert all(a.equal(b) == (number < place) for a, b in pairs)
    assert all(parameter.requires_grad for parameter in repaired.parameters())


def test_a_shuffled_attribute_gives_no_direction_of_the_artifact():
    random = np.random.default_rng(0)
    planted = random.normal(size=50)
    planted /= np.linalg.norm(planted)
    t = random.integers(0, 2, 400)
    activations = random.normal(size=(400, 50)) + 4 * np.outer(t, planted)
    directed = artifact_direction(torch.from_numpy(activations), torch.from_numpy(t))
    assert float(directed @ torch.from_numpy(planted)) > 0.95
    cosines: list[float] = []
    for _ in range(20):
        shuffled = torch.from_numpy(random.permutation(t))
        found = artifact_direction(torch.from_numpy(activations), shuffled)
        cosines.append(float(found @ torch.from_numpy(planted)))
    assert abs(np.mean(cosines)) < 0.4


def test_the_penalty_agrees_with_finite_differences():
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    first, second, v = draw(5, 7), draw(7, 2), draw(5)
    a, signs = draw(4, 5), torch.tensor([[1.0, -1.0], [1, 1], [-1, -1], [-1, 1]]).double()

    def total(row: torch.Tensor, sign: torch.Tensor) -> float:
        return float((torch.tanh(row @ first) @ second * sign).sum())

    step, cosines = 1e-6 * torch.eye(5, dtype=torch.float64), []
    for row, sign in zip(a, signs, strict=True):
        slope = torch.tensor([(total(row + e, sign) - total(row - e, sign)) / 2e-6 for e in step])
        slope = slope.double()
        cosines.append(abs(float(slope @ v / slope.norm() / v.norm())))
    a.requires_grad_()
    found = gradient_penalty(torch.tanh(a @ first) @ second, a, signs, v)
    assert found.item() == pytest.approx(np.mean(cosines), rel=1e-5)
    assert found.requires_grad


def test_a_trunk_that_ends_in_an_activation_has_no_stage_behind_it():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU())
    assert stages(chain) == (0, 2)
