from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from didae.data.sampling import quota_subset
from didae.data.square import Square
from didae.errors import DidaeError
from didae.students import (
    SmallCNN,
    StudentConfig,
    StudentNetwork,
    build_student,
    logits,
    train_student,
    train_surrogate,
)
from didae.training import TrainingConfig
from failures import one_line

ARCHITECTURES = ("strided", "pooled", "patches")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(24) % 2
TINY = StudentConfig(image_size=16, width=4)
SHORT = TrainingConfig(steps=8, batch_size=10, checkpoint_every=3)


def weights(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in student.state_dict().values()])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_save_and_load(architecture: str, tmp_path: Path):
    config = StudentConfig(architecture=architecture, image_size=24, classes=3, width=4)
    student = build_student(config, seed=5).eval()
    student.save(tmp_path)
    loaded = StudentNetwork.load(tmp_path)
    images = torch.rand(4, 3, 24, 24)
    assert type(loaded) is type(student)
    assert torch.equal(logits(loaded, images), logits(student, images))
    assert logits(loaded, images).shape == (4, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_changes_no_result(architecture: str):
    student = build_student(StudentConfig(architecture=architecture, image_size=16, width=4))
    together = logits(student, IMAGES)
    single = torch.cat([logits(student, image[None]) for image in IMAGES])
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_forward_pass_is_cheap(architecture: str):
    student = build_student(StudentConfig(architecture=architecture))
    with FlopCounterMode(display=False) as counter:
        student(torch.rand(1, 3, 64, 64))
    assert counter.get_total_flops() < 0.01e9


def test_the_seed_gives_the_weights_and_leaves_the_global_one_alone():
    state = torch.random.get_rng_state()
    first, again, other = (build_student(TINY, seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_is_a_function_of_the_seed():
    first, again = (train_student(IMAGES, LABELS, TINY, SHORT) for _ in range(2))
    other = train_student(IMAGES, LABELS, TINY, SHORT.model_copy(update={"seed": 1}))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training


def test_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch):
    expected = train_student(IMAGES, LABELS, TINY, SHORT)
    real, calls = SmallCNN.forward, iter(range(100))

    def interrupted(self: SmallCNN, images: torch.Tensor) -> torch.Tensor:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(SmallCNN, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_student(IMAGES, LABELS, TINY, SHORT, tmp_path)
    monkeypatch.undo()
    resumed = train_student(IMAGES, LABELS, TINY, SHORT, tmp_path)
    assert torch.equal(weights(resumed), weights(expected))


def test_a_student_of_poisoned_data_follows_the_confounder_and_a_surrogate_follows_it():
    square = Square(1600)
    classes = square.classes
    poisoned = quota_subset(classes[:1200, 0], classes[:1200, 1], 400, 0.98)
    training = TrainingConfig(steps=60, batch_size=32, learning_rate=2e-3, ema_decay=0.9)
    config = StudentConfig(width=4)
    student = train_student(square.images(poisoned), classes[poisoned, 0], config, training)
    held_out = square.images(range(1200, 1600))
    predicted = logits(student, held_out).argmax(1).numpy()
    assert (predicted == classes[1200:, 1]).mean() > 0.9
    assert abs((predicted == classes[1200:, 0]).mean() - 0.5) < 0.1

    other = StudentConfig(architecture="patches", width=8)
    second = training.model_copy(update={"seed": 9})
    surrogate = train_surrogate(student, square.images(range(400)), other, second)
    assert (logits(surrogate, held_out).argmax(1).numpy() == predicted).mean() > 0.9


def test_a_surrogate_takes_the_probabilities_of_any_callable():
    training = TrainingConfig(steps=150, batch_size=24, ema_decay=0, weight_decay=0)
    surrogate = train_surrogate(
        lambda images: images.new_tensor([0.0, 1.0]).expand(len(images), 2), IMAGES, TINY, training
    )
    # Hard labels would drive the margin to infinity; the student's own is 1.
    differences = logits(surrogate, IMAGES).diff(dim=1)
    torch.testing.assert_close(differences, torch.ones(24, 1), atol=0.1, rtol=0)


def test_bad_input_is_one_line(tmp_path: Path):
    assert "one label per image" in one_line(lambda: train_student(IMAGES, LABELS[1:], TINY, SHORT))
    assert "0..1" in one_line(lambda: train_student(IMAGES, LABELS + 1, TINY, SHORT))
    assert "(b, 3, 16, 16)" in one_line(lambda: build_student(TINY)(torch.rand(1, 3, 24, 24)))
    three = TINY.model_copy(update={"classes": 3})
    student = build_student(three)
    assert "3 classes" in one_line(lambda: train_surrogate(student, IMAGES, TINY, SHORT))
    student.save(tmp_path)
    path = tmp_path / "config.json"
    header = json.loads(path.read_text())
    header["config"]["width"] = 8
    path.write_text(json.dumps(header))
    assert "do not fit" in one_line(lambda: StudentNetwork.load(tmp_path))


def test_a_student_with_a_foreign_layer_is_not_saved(tmp_path):
    student = build_student(StudentConfig(image_size=16, width=4))
    student.layers.insert(2, torch.nn.PReLU())
    with pytest.raises(DidaeError, match="layers were changed"):
        student.save(tmp_path / "student")
    assert not (tmp_path / "student").exists()
