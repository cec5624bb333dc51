"""What `didae bench square` counts, on judges whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from biased_students import background, blind
from didae.data.square import Square, read_factors
from didae.demo import SHIPPED, load_components
from didae.encoders.base import embed
from didae_bench import square as bench


def nervous(images: Tensor) -> Tensor:
    """Change the class with every change of the image, half of the time."""
    odd = (images * 255).round().long().flatten(1).sum(1) % 2
    return torch.stack([1.0 - odd, odd.float()], 1)


@pytest.fixture(scope="module")
def measured():
    components = load_components()
    square = Square(200)
    rows = square.splits["test"][:16]
    images, z = square.images(rows), embed(components.encoder, square, rows)
    audit = bench.Audit(square, rows, images, z, read_factors(images))
    stochastic = bench.invert(components.decoder, images, z)

    def judge(monkeypatch: pytest.MonkeyPatch, student, *surrogates) -> dict[str, float]:
        judges = student, components.probe, surrogates
        monkeypatch.setattr(bench, "load_judges", lambda _: judges)
        return bench._judge(audit, components, stochastic, SHIPPED, 0)

    return judge


def test_a_flip_is_non_adversarial_if_every_surrogate_flips_too(measured, monkeypatch):
    assert measured(monkeypatch, background, background, background)["nafr"] >= 0.9
    for surrogates in ((background, blind), (blind, background), (blind, blind)):
        found = measured(monkeypatch, background, *surrogates)
        assert found["alg2_spurious_flip"] >= 0.9
        assert found["nafr"] == 0
    assert measured(monkeypatch, blind, background, background)["nafr"] == 0


def test_controls_move_what_they_say_they_move(measured, monkeypatch):
    found = measured(monkeypatch, nervous, blind)
    assert found["control_random_flip"] >= 0.15
    assert found["control_noedit_flip"] == 0
    # A random direction of the same length leaves the background where it was.
    assert measured(monkeypatch, background, blind)["control_random_flip"] <= 0.25


def test_the_class_is_kept_where_the_object_keeps_its_colour(measured, monkeypatch):
    assert measured(monkeypatch, background, blind)["alg2_class_kept"] >= 0.9
    assert np.isclose(measured(monkeypatch, background, blind)["student_aga"], 0.5, atol=0.2)
