"""A student is what it is made of and what it answers, and not what it is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases.inputs import network
from didae.students import identity
from didae.students.base import Read
from didae.students.onnx import OnnxStudent


def linear(scale: float) -> nn.Module:
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    nn.init.constant_(student[1].weight, scale)
    nn.init.zeros_(student[1].bias)
    return student


class Temperature(nn.Module):
    """No weights, but a number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) / self.value


def opaque(scale: float):
    return lambda images: images.mean((2, 3)) * scale


@pytest.mark.parametrize(
    "make", [linear, opaque, Temperature, lambda scale: Read(opaque(scale), "logits")]
)
def test_it_changes_with_the_content_alone(make) -> None:
    assert identity(make(2.0), 8) == identity(make(2.0), 8)
    assert identity(make(2.0), 8) != identity(make(3.0), 8)


def test_a_file_counts_by_its_content(tmp_path) -> None:
    for name, weight in (("a", None), ("b", None), ("c", [[0, 0], [5, -5], [-5, 5]])):
        network(tmp_path / f"{name}.onnx", weight=weight)
    first, copy, other = (
        identity(OnnxStudent(str(tmp_path / f"{name}.onnx")), 8) for name in "abc"
    )
    assert first == copy != other
