"""What `didae bench square` counts, on judges whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from biased_students import background, blind
from didae.data.square import Square
from didae.demo import load_components
from didae_bench import square as bench


def nervous(images: Tensor) -> Tensor:
    """Change the class with every change of the image, half of the time."""
    odd = (images * 255).round().long().flatten(1).sum(1) % 2
    return torch.stack([1.0 - odd, odd.float()], 1)


@pytest.fixture(scope="module")
def measured():
    components = load_components()
    square = Square(200)
    audit = bench.Audit.make(square, square.splits["test"][:16], components)

    def judge(student, *surrogates) -> dict[str, float]:
        return bench._judge(bench.StudentCase(audit, student, components.probe, surrogates, 0))

    return judge


def test_a_flip_is_non_adversarial_if_every_surrogate_flips_too(measured):
    assert measured(background, background, background)["nafr"] >= 0.9
    for surrogates in ((background, blind), (blind, background), (blind, blind)):
        found = measured(background, *surrogates)
        assert found["alg2_spurious_flip"] >= 0.9
        assert found["nafr"] == 0
    assert measured(blind, background, background)["nafr"] == 0


def test_controls_move_what_they_say_they_move(measured):
    found = measured(nervous, blind)
    assert found["control_random_flip"] >= 0.15
    assert found["control_noedit_flip"] == 0
    # A random direction of the same length leaves the background where it was.
    assert measured(background, blind)["control_random_flip"] <= 0.25


def test_the_class_is_kept_where_the_object_keeps_its_colour(measured):
    assert measured(background, blind)["alg2_class_kept"] >= 0.9
    assert np.isclose(measured(background, blind)["student_aga"], 0.5, atol=0.2)
