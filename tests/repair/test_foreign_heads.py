"""Heads on another encoder than the run's, and ONNX students, are repaired through images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.square import Square
from didae.demo import SquareRecipe, load_components, poisoned_split
from didae.encoders.base import Encoder
from didae.repair.base import Labelled, accuracies_of, encode_images
from didae.repair.cfkd import CfkdConfig
from didae.repair.head import fit_head
from didae.repair.measure import ONNX_FILE, RepairData, repair_and_measure
from didae.repair.run import RepairConfig, repair_student
from didae.report.repair import read_repair
from didae.students import logits
from didae.students.onnx import OnnxStudent
from didae.teachers import Verdicts
from didae.training import TrainingConfig
from onnx_files import Classifier

BACKGROUND = 1
ONCE = RepairConfig(copies=1)


class Turned(Encoder):
    """Another encoder: that of Square, seen in a mirror."""

    def __init__(self) -> None:
        inner = load_components().encoder
        super().__init__("turned", inner.dim, None, "")
        self.inner = inner
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images).flip(1)


@pytest.fixture(scope="module")
def data():
    square = Square(4000)
    recipe = SquareRecipe(poisoned=400, correlation=0.98)
    labels, classes = torch.from_numpy(square.labels), torch.from_numpy(square.classes)
    rows = (*poisoned_split(square, recipe, 0), square.splits["test"])
    return [Labelled(square.images(r), labels[r], classes[r, 1]) for r in rows]


def test_a_head_on_another_encoder_is_repaired_through_images(data):
    train, held_out, test = data
    encoder = Turned()
    head = fit_head(encoder, encode_images(encoder, train.images), train.labels)
    components = dataclasses.replace(load_components(), student=head)
    done = repair_student(components, train, held_out, (BACKGROUND,), ONCE)
    assert done.decision.accepted
    assert done.counterfactuals == len(train)
    assert accuracies_of(done.student, test).aga > accuracies_of(head, test).aga + 0.05
    # The foreground called spurious: what it learns then is wrong, and the gate says so.
    assert not repair_student(components, train, held_out, (0,), ONCE).decision.accepted


@pytest.mark.parametrize("scope", ["last", "all"])
def test_an_onnx_student_is_repaired_and_written_back(data, tmp_path: Path, scope):
    few = TrainingConfig(steps=5)
    config = RepairConfig(copies=1, cfkd=CfkdConfig(scope=scope, training=few))
    path = Classifier(shape=("b", 3, "h", "w")).save(tmp_path / "net.onnx")
    student, components = OnnxStudent(str(path)), load_components()
    components = dataclasses.replace(components, student=student)
    dictionary, names = components.dictionary, components.dictionary.names
    verdicts = Verdicts(dictionary.fingerprint, names)
    verdicts.judge(BACKGROUND, "spurious", "test")
    repair_data = RepairData(*(part[torch.arange(40)] for part in data), ("a", "b"), ())
    repair_and_measure(components, repair_data, verdicts, config, tmp_path / "repair")
    document = read_repair(tmp_path / "repair")
    written = OnnxStudent(str(tmp_path / "repair" / ONNX_FILE))
    done = repair_student(
        components, repair_data.train_data, repair_data.held_out, (BACKGROUND,), config
    )
    assert document.decision.accepted == done.decision.accepted
    images = data[2].images[:20]
    found, expected = logits(written, images), logits(done.student, images)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-4)
    if not done.decision.accepted:
        np.testing.assert_allclose(found, logits(student, images), rtol=1e-4, atol=1e-4)
