from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from didae.encoders.base import Encoder
from didae.randomness import seeded
from didae.runtime import AutoBatch
from didae.students import (
    LinearHead,
    check_student,
    finite_rows,
    logits,
    margin,
    read_student,
)
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


@dataclass
class Output:
    logits: Tensor


with seeded(0):
    LINEAR, ONE = nn.Linear(3, 2), nn.Linear(3, 1)


def mean(images: Tensor) -> Tensor:
    return images.float().mean((2, 3)) - 0.5


@pytest.mark.parametrize(
    "student",
    [
        lambda images: Output(LINEAR(mean(images))),
        lambda images: {"loss": torch.zeros(()), "logits": LINEAR(mean(images))},
        lambda images: (LINEAR(mean(images)), mean(images)),
        lambda images: LINEAR(mean(images))[:, :, None, None],
        lambda images: LINEAR(mean(images)).double(),
    ],
)
def test_logits_are_taken_from_what_networks_give(student):
    expected = LINEAR(mean(IMAGES)).detach()
    torch.testing.assert_close(logits(student, IMAGES), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(student, IMAGES[:1]), expected[:1], atol=1e-6, rtol=1e-6)
    assert check_student(student, IMAGES) == 2
    assert read_student(student, IMAGES) is student


@torch.no_grad()
def unseen(images: Tensor) -> Tensor:
    return (100 * ONE(mean(images))).sigmoid()[:, 0]


@pytest.mark.parametrize(
    "student",
    [
        lambda images: 100 * ONE(mean(images)),
        lambda images: 100 * ONE(mean(images))[:, 0],
        lambda images: (100 * ONE(mean(images))).squeeze(),
        lambda images: (100 * ONE(mean(images))).sigmoid(),
        lambda images: (100 * ONE(mean(images))).sigmoid().squeeze(),
        lambda images: 1 / (1 + (-100 * ONE(mean(images))).exp()),
        unseen,
        nn.Sequential(
            nn.AvgPool2d(16),
            nn.Flatten(),
            nn.BatchNorm1d(3, affine=False),
            nn.Linear(3, 1),
            nn.Sigmoid(),
        ),
    ],
)
def test_one_output_is_two_classes_with_or_without_a_sigmoid(student):
    read = read_student(student, IMAGES)
    found = logits(read, IMAGES)
    torch.testing.assert_close(found[:, 0], -found[:, 1])
    if isinstance(student, nn.Module):
        expected = student[:-1](IMAGES)[:, 0].detach()
    else:
        expected = 100 * ONE(mean(IMAGES))[:, 0].detach()
    torch.testing.assert_close(margin(found), expected, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(logits(read, IMAGES[:1]), found[:1])
    assert check_student(read, IMAGES) == 2


def test_a_small_logit_of_a_linear_layer_is_no_probability():
    small = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
    with torch.no_grad():
        small[1].weight.zero_()
        small[1].bias.fill_(0.4)
    assert read_student(small, IMAGES) is small
    assert margin(logits(small, IMAGES)).tolist() == pytest.approx([0.4] * 5)


def test_probabilities_are_taken_by_their_logarithms_where_that_is_asked_for(caplog):
    def student(images: Tensor) -> Tensor:
        return LINEAR(mean(images)).softmax(1)

    assert "didae.students.read_student" in one_line(lambda: check_student(student, IMAGES))
    read = read_student(student, IMAGES)
    assert "their logarithms are taken as logits" in caplog.text
    expected = margin(LINEAR(mean(IMAGES))).detach()
    torch.testing.assert_close(margin(logits(read, IMAGES)), expected)
    assert check_student(read, IMAGES) == 2
    # Without a finite logarithm there would be no margin.
    hard = read_student(lambda images: torch.eye(2).expand(len(images), 2, 2)[:, 0], IMAGES)
    assert logits(hard, IMAGES).isfinite().all()


def test_labels_of_their_own_are_refused():
    message = one_line(lambda: read_student(lambda x: LINEAR(mean(x)).sigmoid(), IMAGES))
    assert "2 independent probabilities" in message


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_students_of_other_precision_get_their_images_in_it(kind: torch.dtype):
    student = nn.Sequential(nn.Flatten(), nn.Linear(768, 2)).to(kind)
    found = logits(student, (IMAGES * 255).round().to(torch.uint8))
    assert found.dtype == torch.float32
    expected = student.float()(IMAGES).detach()
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)
    assert check_student(student.to(kind), IMAGES) == 2


class Batchwise(nn.Module):
    """Normalise over the batch whatever the mode, or drop at random."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, LINEAR

    def forward(self, images: Tensor) -> Tensor:
        values = 20 * mean(images)
        if self.how == "batch":
            values = values - values.mean(0)
        if self.how == "order":
            values = values + values[:1]
        if self.how == "chance":
            values = nn.functional.dropout(values, 0.5, True)
        return self.layer(values)


@pytest.mark.parametrize(
    ("how", "words"), [("batch", "alone"), ("order", "another order"), ("chance", "asked again")]
)
def test_logits_must_depend_on_the_image_alone(how: str, words: str):
    assert words in one_line(lambda: check_student(Batchwise(how), IMAGES))
    assert check_student(Batchwise(""), IMAGES) == 2


def test_images_without_finite_logits_are_named(caplog):
    images = IMAGES.clone()
    images[1] = 0

    def student(images: Tensor) -> Tensor:
        return images.mean((2, 3)) / images.std((1, 2, 3))[:, None]

    assert check_student(student, images) == 3
    good = finite_rows(student, logits(student, images), list("abcde"))
    assert good.tolist() == [True, False, True, True, True]
    assert "the logits of 1 of 5 images are not finite, which are left out: b" in caplog.text
    everything = torch.full((2, 2), torch.inf)
    assert "student student: none of 2 images" in one_line(
        lambda: finite_rows(student, everything, ["a", "b"])
    )


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
