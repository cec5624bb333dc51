from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from didae.encoders.base import Encoder
from didae.runtime import AutoBatch
from didae.students import LinearHead, check_student, logits, margin
from failures import one_line

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Mean(Encoder):
    def __init__(self) -> None:
        super().__init__("mean", 3, None, "Apache-2.0")
        self.scale = nn.Parameter(torch.ones(1))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.scale


def test_margin_of_two_classes():
    values = torch.tensor([[1.0, 3.0], [0.5, -1.0]])
    assert margin(values).tolist() == [2.0, -1.5]
    assert margin(values, (1, 0)).tolist() == [-2.0, 1.5]


def test_margin_is_the_log_odds():
    values = torch.randn(20, 2, dtype=torch.float64)
    probability = values.softmax(1)[:, 1]
    torch.testing.assert_close(margin(values), (probability / (1 - probability)).log())


def test_margin_of_more_classes_needs_a_pair():
    values = torch.tensor([[1.0, 3.0, 7.0]])
    assert margin(values, (0, 2)).tolist() == [6.0]
    assert "pair=(a, b)" in one_line(lambda: margin(values))
    assert "different classes" in one_line(lambda: margin(values, (1, 1)))
    assert "0..2" in one_line(lambda: margin(values, (0, 3)))
    assert "0..2" in one_line(lambda: margin(values, (-1, 0)))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (lambda images: images.mean((2, 3))[:1], "(5, classes)"),
        (lambda images: images.mean((2, 3)).argmax(1), "(5,) int64"),
        (lambda images: images.mean((2, 3)) + torch.nan, "none of 5 images gets finite logits"),
        (lambda images: images.mean((2, 3)).softmax(1), "look like probabilities"),
        (lambda images: images.numpy(), "ndarray, not a tensor"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "(5, 3, 16, 16)"),
    ],
)
def test_check_names_what_is_wrong(student: Callable[[Tensor], Tensor], message: str):
    assert message in one_line(lambda: check_student(student, IMAGES))


def test_check_gives_the_number_of_classes():
    assert check_student(lambda images: images.mean((2, 3)), IMAGES) == 3


def test_logits_do_not_depend_on_batches_and_take_bytes():
    pixels = (IMAGES * 255).round().to(torch.uint8)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    student(IMAGES)
    student.train()
    whole = logits(student, pixels)
    parts = logits(student, pixels, AutoBatch(2))
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(whole, logits(student, pixels / 255), atol=1e-6, rtol=1e-6)
    assert not student.training
    assert not whole.requires_grad


def test_linear_head_reads_z():
    weight, bias = torch.randn(2, 3), torch.tensor([0.5, -1.0])
    encoder = Mean()
    head = LinearHead(encoder, weight, bias)
    expected = encoder(IMAGES) @ weight.T + bias
    torch.testing.assert_close(logits(head, IMAGES), expected)
    trainable = [name for name, value in head.named_parameters() if value.requires_grad]
    assert trainable == ["weight", "bias"]
    assert "(classes, 3)" in one_line(lambda: LinearHead(encoder, weight[:, :2], bias))
    assert "(classes, 3)" in one_line(lambda: LinearHead(encoder, weight, bias[:1]))
