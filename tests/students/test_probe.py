from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from didae.students import Probe, agreement, fit_probe
from failures import one_line
from references import probes


def sample(seed: int = 0, n: int = 200, d: int = 6) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 5 * rng.normal(size=d)
    margins = np.tanh(z @ rng.normal(size=d)) * 3 + 0.1 * rng.normal(size=n) + 2
    return torch.from_numpy(z), torch.from_numpy(margins)


@given(seed=st.integers(0, 1000), strength=st.sampled_from([1e-6, 1e-3, 1.0]))
def test_fit_is_ridge_least_squares_with_intercept(seed: int, strength: float):
    z, margins = sample(seed)
    weight, bias = probes.ridge(z.numpy(), margins.numpy(), strength)
    probe = fit_probe(z, margins, strength)
    np.testing.assert_allclose(probe.between()[0].numpy(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probe.margin(z).numpy(), z.numpy() @ weight + bias, atol=1e-4)


@pytest.mark.parametrize("strength", [1e-4, 1.0])
def test_fewer_images_than_dimensions_are_fitted_by_the_same_formula(strength: float):
    z, margins = sample(n=20, d=60)
    weight, bias = probes.ridge(z.numpy(), margins.numpy(), strength)
    probe = fit_probe(z, margins, strength)
    np.testing.assert_allclose(probe.between()[0].numpy(), weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(probe.margin(z).numpy(), z.numpy() @ weight + bias, atol=1e-4)


def test_scaling_and_shifting_z_changes_no_margin():
    z, margins = sample()
    scale = torch.tensor([1e-3, 1.0, 1e3, 7.0, 0.2, 50.0], dtype=torch.float64)
    expected = fit_probe(z, margins, 0.1).margin(z)
    moved = z * scale + 3
    torch.testing.assert_close(
        fit_probe(moved, margins, 0.1).margin(moved), expected, atol=1e-4, rtol=1e-4
    )


def test_shifting_margins_moves_only_the_intercept():
    z, margins = sample()
    first, second = fit_probe(z, margins), fit_probe(z, margins + 10)
    torch.testing.assert_close(first.weight, second.weight, atol=1e-5, rtol=1e-5)
    assert second.between()[1] - first.between()[1] == pytest.approx(10, abs=1e-4)


def test_a_planted_linear_student_is_recovered():
    z, _ = sample(3)
    weight = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    margins = z @ weight - 1.5
    probe = fit_probe(z, margins, 1e-10)
    found, bias = probe.between()
    torch.testing.assert_close(found.double(), weight, atol=1e-4, rtol=1e-4)
    assert bias == pytest.approx(-1.5, abs=1e-3)
    assert agreement(probe, z, margins) == 1


def test_a_constant_coordinate_gets_no_weight():
    z, margins = sample()
    z[:, 2] = 0.1
    probe = fit_probe(z, margins)
    assert probe.between()[0][2] == 0
    assert probe.weight.isfinite().all()


def test_agreement_is_the_share_of_equal_signs():
    probe = Probe.of_margin(torch.tensor([1.0]), -1.0)
    z = torch.tensor([[0.0], [0.5], [2.0], [3.0]])
    assert agreement(probe, z, torch.tensor([-1.0, 4.0, 2.0, 0.1])) == 0.75
    # Zero is class 0 for the student's arg max and must be for the probe.
    assert agreement(probe, torch.tensor([[1.0]]), torch.tensor([0.0])) == 1


def test_save_and_load(tmp_path):
    z, margins = sample()
    probe = fit_probe(z, margins, encoder_fingerprint="abc")
    probe.save(tmp_path)
    loaded = Probe.load(tmp_path)
    assert torch.equal(loaded.margin(z), probe.margin(z))
    assert loaded.encoder_fingerprint == "abc"
    replace(probe, bias=torch.zeros(3)).save(tmp_path)
    assert "damaged" in one_line(lambda: Probe.load(tmp_path))


def test_bad_input_is_one_line():
    z, margins = sample()
    assert "(200, 6)" in one_line(lambda: fit_probe(z, margins[:-1]))
    assert "finite" in one_line(lambda: fit_probe(z / 0, margins))
    assert "same margin" in one_line(lambda: fit_probe(z, margins * 0 + 1))
    assert "ridge" in one_line(lambda: fit_probe(z, margins, 0))
    assert "at least one" in one_line(
        lambda: agreement(Probe.of_margin(z[0], 0), z[:0], margins[:0])
    )


def test_where_probe_and_student_disagree_the_student_tells_where_an_image_stands():
    probe = Probe.of_margin(torch.tensor([1.0]), -1.0)
    z = torch.tensor([[3.0], [3.0], [0.0], [0.0], [1.0]])
    student = torch.tensor([0.5, -0.5, -4.0, 4.0, 2.0])
    assert probe.standing(z, student).tolist() == [2.0, -0.5, -1.0, 4.0, 2.0]
