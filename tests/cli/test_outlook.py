"""What `didae repair` says of a known world: accuracies by class, and what can be won."""

from __future__ import annotations

import torch

from didae.cli.console import tell_outlook
from didae.repair.base import Labelled
from didae.repair.gate import Ceiling
from didae.repair.measure import Outlook, RepairData


def by_red(images: torch.Tensor) -> torch.Tensor:
    """Say cat where an image is dark, hen where it is bright, and never dog."""
    red = images[:, 0].mean((1, 2))
    return torch.stack([0.5 - red, red - 2, red - 0.5], 1)


def always_dog(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(images), 1)


def known() -> RepairData:
    """Ten cats, four of them bright, six dogs and eight hens, two of them dark."""
    bright = torch.tensor([0] * 6 + [1] * 4 + [0] * 6 + [1] * 6 + [0] * 2)
    labels = torch.tensor([0] * 10 + [1] * 6 + [2] * 8)
    images = (255 * bright).to(torch.uint8)[:, None, None, None].expand(24, 3, 4, 4).contiguous()
    test = Labelled(images, labels)
    return RepairData(test, test[labels != 1], test, ("cat", "dog", "hen"), (), "from a test")


def test_the_accuracy_of_each_class_is_its_own() -> None:
    found = known().by_class(by_red, always_dog)
    assert found == [
        ("cat", 10, 0.6, 0.0),
        ("dog", 6, 0.0, 1.0),
        ("hen", 8, 0.75, 0.0),
    ]
    looked = known().looked()
    assert looked["counts"] == {"cat": 10, "dog": 0, "hen": 8}


def said(capsys, ceiling: Ceiling | None, whole: bool = False) -> str:
    tell_outlook(Outlook(ceiling, whole, {"drawing": 30.0, "training": 90.0}), known(), by_red)
    return capsys.readouterr().out


def test_it_is_said_before_anything_takes_long(capsys) -> None:
    text = said(capsys, Ceiling(0.45, 0.975, 24, False))
    assert "accuracy now, by class: cat 60.0 % of 10, dog 0.0 % of 6, hen 75.0 % of 8" in text
    assert (
        "can reach at most about 97.5 % on these 24 images (mean of the classes; now 45.0 %)"
        in text
    )
    assert "takes about 2 min: drawing 30 s, training 2 min" in text
    assert "win nothing" not in text


def test_a_ceiling_that_is_no_higher_is_said_plainly(capsys) -> None:
    text = said(capsys, Ceiling(0.97, 0.972, 24, True))
    assert "it can win nothing there" in text
    assert "others are needed" in text
    assert "win nothing" not in said(capsys, Ceiling(0.97, 0.972, 24, True), whole=True)
    assert "the whole network is trained" in said(capsys, Ceiling(0.5, 0.6, 24, True), whole=True)
    assert "too few test images" in said(capsys, None)
