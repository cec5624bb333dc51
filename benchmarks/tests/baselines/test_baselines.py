import numpy as np
import pytest
import torch
from torch import nn

from didae.errors import DidaeError
from didae.repair.base import Labelled, inputs_of, last_linear
from didae.students import StudentConfig, build_student, train_student
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
from didae_bench.baselines.dfr import LastLayerConfig, reweight_last_layer, validation_aga
from didae_bench.baselines.group_dro import GroupDROConfig, GroupWeights, group_dro

SHAPE = StudentConfig(image_size=16, width=8)


def images(labels, attributes, seed):
    """Colour the red channel by the attribute, and less clearly the blue one by the label."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (len(labels), 3, 16, 16), generator=random)
    pixels[:, 0] += 180 * attributes[:, None, None]
    pixels[:, 2, 4:8, 4:8] += 120 * labels[:, None, None]
    return Labelled(pixels.to(torch.uint8), labels, attributes)


def biased(n, exceptions, seed):
    labels = torch.arange(n) % 2
    attributes = labels.clone()
    attributes[:exceptions] = 1 - attributes[:exceptions]
    return images(labels, attributes, seed)


@pytest.fixture(scope="module")
def sets():
    return biased(240, 20, 0), biased(120, 20, 1), biased(200, 100, 2)


@pytest.fixture(scope="module")
def student(sets):
    training = TrainingConfig(steps=25, batch_size=32, learning_rate=2e-3, ema_decay=0.8)
    return train_student(sets[0].images, sets[0].labels, SHAPE, training)


SHORT = TrainingConfig(steps=40, batch_size=32, ema_decay=0.8)
LONGER = SHORT.model_copy(update={"steps": 80, "learning_rate": 4e-3})

METHODS = {
    "dfr": (reweight_last_layer, LastLayerConfig(subsets=3, penalties=(1e-3, 1e-1))),
    "group_dro": (
        group_dro,
        GroupDROConfig(
            learning_rates=(2e-3,), training=TrainingConfig(steps=60, batch_size=32, ema_decay=0.8)
        ),
    ),
    "pclarc": (
        project_artifact,
        ProjectionConfig(strengths=(1.0,), search=SHORT, training=SHORT),
    ),
    "rrclarc": (
        penalise_artifact,
        PenaltyConfig(weights=(1.0, 3.0), search=LONGER, training=LONGER),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_shortcut_is_weakened_and_the_student_stays(name, sets, student):
    method, config = METHODS[name]
    train_data, validation, test = sets
    before = {key: value.clone() for key, value in student.state_dict().items()}
    repaired = method(student, train_data, validation, config, 0)
    assert validation_aga(student, test) < 0.75
    assert validation_aga(repaired, test) > validation_aga(student, test) + 0.1
    assert all(before[key].equal(value) for key, value in student.state_dict().items())
    again = method(student, train_data, validation, config, 0)
    pairs = zip(repaired.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(a.equal(b) for a, b in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_without_group_labels_there_is_no_baseline(name, sets, student):
    method, config = METHODS[name]
    blind = Labelled(sets[0].images, sets[0].labels)
    with pytest.raises(DidaeError, match="attribute"):
        method(student, blind, sets[1], config, 0)


@pytest.mark.parametrize("name", METHODS)
def test_without_counter_examples_they_give_up(name, sets, student):
    method, config = METHODS[name]
    with pytest.raises(DidaeError, match="cfkd"):
        method(student, biased(80, 0, 3), sets[1], config, 0)


def test_the_artifact_direction_is_the_regression_slope():
    random = np.random.default_rng(0)
    t = random.integers(0, 2, 40)
    activations = random.normal(size=(40, 5)) + np.outer(2 * t - 1, [2, 0, 0, -1, 0])
    slopes = [np.polyfit(2.0 * t - 1, column, 1)[0] for column in activations.T]
    expected = np.array(slopes) / np.linalg.norm(slopes)
    found = artifact_direction(torch.from_numpy(activations), torch.from_numpy(t))
    assert found.numpy() == pytest.approx(expected, abs=1e-10)
    shuffled = torch.from_numpy(random.permutation(t))
    assert abs(artifact_direction(torch.from_numpy(activations), shuffled) @ found) < 0.9


def test_compensation_moves_to_the_clean_mean_along_the_direction_only():
    direction = torch.tensor([0.6, 0.8, 0.0])
    clean, a = torch.tensor([1.0, 2.0, 3.0]), torch.randn(4, 3)
    moved = Compensation(direction, clean, 1.0)(a)
    assert torch.allclose(moved @ direction, (clean @ direction).expand(4), atol=1e-6)
    rest = torch.eye(3) - torch.outer(direction, direction)
    assert torch.allclose(moved @ rest, a @ rest, atol=1e-6)
    assert Compensation(direction, clean, 0.0)(a).equal(a)


def test_the_penalty_is_the_cosine_of_the_gradient():
    a = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weight, v = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    signs = torch.tensor([[1.0, -1.0]], dtype=torch.float64).repeat(6, 1)
    found = gradient_penalty(a @ weight, a, signs, v)
    slope = weight[:, 0] - weight[:, 1]
    assert found.item() == pytest.approx(abs((slope @ v / slope.norm() / v.norm()).item()))


def test_group_weights_are_those_of_algorithm_1():
    counts = torch.tensor([100, 4])
    config = GroupDROConfig(step_size=0.1, adjustment=2.0)
    weigh, q = GroupWeights(counts, config), np.array([0.5, 0.5])
    for step in range(5):
        losses = torch.tensor([0.2, 1.0 + step])
        q = q * np.exp(0.1 * (losses.numpy() + 2.0 / np.sqrt(counts.numpy())))
        q /= q.sum()
        assert weigh(losses).item() == pytest.approx(float(q @ losses.numpy()), rel=1e-5)
    assert weigh.q.numpy() == pytest.approx(q, rel=1e-5)
    assert q[1] > 0.55


def test_layers_are_found():
    student = build_student(SHAPE)
    assert last_linear(student).out_features == 2
    assert stages(student) == (0, 2, 4, 6)
    batch = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    assert inputs_of(trunk(student)[2], student, batch).shape == (3, 8, 8, 8)
    with pytest.raises(DidaeError, match="no linear layer"):
        last_linear(nn.Conv2d(3, 2, 1))
    with pytest.raises(DidaeError, match=r"no nn\.Sequential"):
        trunk(nn.Linear(2, 2))
