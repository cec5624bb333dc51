"""Attacks reach what they may, and the benchmark tells them from the truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from didae.data.images import to_float
from didae.data.square import Square
from didae.decoders.base import StochasticCode
from didae.demo import SHIPPED, load_components, load_judges
from didae_bench import adversarial
from didae_bench.adversarial import Attacks, attack, bench_adversarial, drawing
from didae_bench.students import Audit, StudentCase

N = 6


@cache
def case() -> StudentCase:
    square = Square(16_000, 0)
    audit = Audit.make(square, square.splits["test"][:N], load_components())
    return StudentCase(audit, *load_judges(SHIPPED), 0)


def ascend(gradient, radius, steps):
    """PGD in L2 on a quadratic score, in float64, one row."""
    moved = np.zeros_like(radius * gradient(0 * np.ones(3)))
    for _ in range(steps):
        slope = gradient(moved)
        moved = moved + 2.5 * radius / steps * slope / np.linalg.norm(slope)
        moved = moved * min(1, radius / np.linalg.norm(moved))
    return moved


def test_attack_is_projected_gradient_ascent():
    peaks = torch.tensor([[3.0, 0.0, 1.0], [0.1, -0.2, 0.05]], dtype=torch.float64)
    radius = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def score(images, rows):
        return -(images - peaks[rows]).square().sum(1)

    found = attack(lambda step, _: step, score, torch.zeros_like(peaks), radius, 7)
    for row in range(2):
        expected = ascend(lambda m, r=row: -2 * (m - peaks[r].numpy()), radius[row].item(), 7)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-12)
    assert found.norm(dim=1)[0] == pytest.approx(1.0)
    assert (found.norm(dim=1) <= radius + 1e-12).all()


def test_what_is_done_moves_no_more():
    start, radius = torch.zeros(3, 1), torch.ones(3)

    def done(images, rows):
        return (rows == 1) | (images[:, 0] > 0.4)

    found = attack(lambda step, _: step, lambda i, _: i.sum(1), start, radius, 10, done)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.0, 0.5])
    every = attack(lambda step, _: step, lambda i, _: i.sum(1), start, radius, 10)
    assert every[:, 0].tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_drawing_is_decoding_with_gradients():
    audit = case().audit
    decoder = audit.components.decoder
    z = audit.z.clone().requires_grad_()
    images = drawing(decoder, z, audit.code)
    torch.testing.assert_close(images, decoder.decode(audit.z, audit.code))
    torch.testing.assert_close(images, to_float(audit.images), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(images.mean(), z)
    assert (gradient.norm(dim=1) > 0).all()
    other = StochasticCode(audit.code.noise + 1, audit.code.residual)
    assert (drawing(decoder, audit.z, other) - images).abs().max() > 1e-3


def test_the_true_counterfactual_passes_every_stage_and_no_edit_none():
    one = case()
    truth = one.judge(*Attacks(one).deliver("truth"))
    flips = truth["flip"]
    assert flips >= 0.5
    assert truth["na"] == pytest.approx(1.0)
    assert truth["confirmed"] == pytest.approx(flips)
    assert truth["truth_psnr"] == pytest.approx(99)
    assert truth["untrue"] == 0
    nothing = one.judge(one.audit.images, one.audit.z)
    assert nothing["flip"] == nothing["nafr"] == nothing["latent"] == nothing["confirmed"] == 0
    assert "na" not in nothing  # undefined where nothing flips


def test_an_image_that_only_claims_the_edit_is_not_verified():
    one = case()
    claimed = one.judge(one.audit.images, one.audit.z + one.edit)
    assert claimed["latent"] == 1
    assert claimed["verified"] == claimed["confirmed"] == 0


@pytest.mark.parametrize("kind", ["z_full", "z_quarter", "random"])
def test_edits_keep_to_their_length_and_stages_are_nested(kind):
    one = case()
    images, z = Attacks(one).deliver(kind)
    allowed = one.edit.norm(dim=1) * (0.25 if kind == "z_quarter" else 1)
    assert ((z - one.audit.z).norm(dim=1) <= allowed * 1.0001).all()
    found = one.judge(images, z)
    assert found["latent"] >= found["verified"] >= found["confirmed"] >= found["untrue"]
    assert found["nafr"] <= found["flip"]


def test_an_attack_on_z_flips_more_than_a_random_edit_of_its_length():
    one = case()
    measured = [Attacks(one).measure(kind)["flip"] for kind in ("z_through", "random")]
    assert measured[0] >= 0.8
    assert measured[1] <= 0.2


def test_adaptive_attacks_keep_to_their_radius(monkeypatch):
    monkeypatch.setattr(adversarial, "ADAPTIVE_STEPS", 2)
    one = case()
    for kind in ("pixels_encoder", "pixels_judges"):
        images, _ = Attacks(one).deliver(kind)
        change = (images.double() - one.audit.images.double()).square().mean((1, 2, 3)).sqrt()
        assert (change > 1).all()
        assert (change <= 255 * adversarial.ADAPTIVE_RADIUS + 1).all()


def test_the_benchmark_goes_on_where_it_stopped(monkeypatch, tmp_path):
    made = []

    def make(audit, _recipe, seed, _folder):
        return StudentCase(audit, *load_judges(SHIPPED), seed)

    def measure(self, kind):
        made.append((kind, self.case.seed))
        values = {"flip": 0.25 * (1 + self.case.seed), "na": 0.5}
        return values if kind == "alg2" else {"flip": 0.0}

    monkeypatch.setattr(StudentCase, "make", make)
    monkeypatch.setattr(Attacks, "measure", measure)
    monkeypatch.setattr(adversarial, "KINDS", ("alg2", "random"))
    for _ in range(2):
        figures = bench_adversarial(True, tmp_path)
        assert made == [("alg2", 0), ("alg2", 1), ("random", 0), ("random", 1)]
    assert figures["adversarial_flip_alg2"].value == pytest.approx(0.375)
    assert figures["adversarial_flip_alg2"].seeds == 2
    assert "adversarial_seconds_alg2" not in figures
    assert figures["adversarial_flip_random"].ok
    assert "adversarial_na_random" not in figures
