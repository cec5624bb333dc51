"""The ceiling of `didae bench repair` is that of true counterfactuals, and no other figure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from didae.data.images import to_uint8
from didae.demo import SquareRecipe, load_components
from didae.teachers import square_classes
from didae_bench import repair as bench
from didae_bench.students import SPURIOUS, Case


class By(nn.Module):
    """Classifies Square by its true class, or else by the brightness of the background."""

    def __init__(self, background: bool) -> None:
        super().__init__()
        self.background = background

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        dark = images[:, :, 0, 0].mean(1) < 0.5
        classes = (~dark).long() if self.background else square_classes(to_uint8(images))
        return nn.functional.one_hot(classes, 2).float()


def test_what_learns_from_the_truth_is_the_ceiling(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "TEST_IMAGES", 200)
    measured = bench._Bench(tmp_path)
    measured.recipe = SquareRecipe(poisoned=100)
    load_components().student.save(tmp_path / "seed-0" / "098")
    monkeypatch.setattr(measured, "_spurious", lambda *_: (SPURIOUS,))
    case = measured.case(0)
    true, drawn = case.true_counterfactuals(), case.counterfactuals()
    assert true.labels.equal(drawn.labels)
    assert not true.images.equal(drawn.images)

    def learnt(_: Case, student: nn.Module, made) -> nn.Module:
        del student
        return By(background=not made.images.equal(true.images))

    monkeypatch.setattr(Case, "repair", learnt)
    found = measured.student(0)
    assert found["ceiling_aga_098"] > found["cfkd_aga_098"] + 0.2
    gap = found["ceiling_aga_098"] - found["cfkd_aga_098"]
    assert found["cfkd_below_ceiling_098"] == pytest.approx(gap)
    assert found["cfkd_oracle_aga_098"] == found["cfkd_aga_098"]
