"""Samplers against analytic solutions and slow references, with their orders of convergence."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from didae.decoders.sampling import (
    DIFFUSION_STEPS,
    ddim,
    ddim_times,
    euler,
    flow_times,
    heun,
    invert,
    signal_level,
)
from references import diffusion

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=GENERATOR) / 2
MEAN, STD = 0.2, 0.4
EXACT = diffusion.gaussian_noise(MEAN, STD)


def test_the_schedule_is_the_cumulative_product_and_falls():
    t = torch.arange(1, DIFFUSION_STEPS + 1, dtype=torch.float64) / DIFFUSION_STEPS
    levels = signal_level(t)
    assert levels.numpy() == pytest.approx(diffusion.signal_levels(), rel=1e-10)
    assert (levels.diff() < 0).all()
    assert 0 < levels[-1] < 1e-4
    assert levels[0] == pytest.approx(1 - 1e-4)
    assert torch.equal(signal_level(t.float()), levels.float())


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_the_times_run_from_data_to_noise(steps: int):
    times = flow_times(steps)
    assert times == [(i / steps) ** 2 for i in range(steps + 1)]
    assert (times[0], times[-1]) == (0, 1)
    assert all(now < after for now, after in pairwise(times))
    assert [round(t * 1000) - 1 for t in ddim_times(steps)] == [
        i * 1000 // steps for i in range(steps)
    ]


# dx/dt = a x + b t has a solution in closed form; over [0, .5] Heun never meets its Euler step.
A, B = -1.5, 0.7


def velocity(x, t):
    return A * x + B * t


def solution(t: float) -> torch.Tensor:
    return (X + B / A**2) * math.exp(A * t) - B * t / A - B / A**2


@pytest.mark.parametrize(("integrate", "order"), [(euler, 1), (heun, 2)])
@pytest.mark.parametrize("backwards", [False, True])
def test_order_of_convergence(integrate, order: int, backwards: bool):
    errors = []
    for steps in (16, 32, 64):
        times = [0.5 * i / steps for i in range(steps + 1)]
        start, end = (solution(0.5), X) if backwards else (X, solution(0.5))
        result = integrate(velocity, start, times[::-1] if backwards else times)
        errors.append((result - end).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.08)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_euler_and_heun_against_a_written_out_reference(steps: int, backwards: bool):
    times = flow_times(steps)[:: -1 if backwards else 1]
    slow_euler = slow_heun = X.numpy()
    for now, after in pairwise(times):
        slow_euler = slow_euler + (after - now) * velocity(slow_euler, now)
        first = velocity(slow_heun, now)
        second = velocity(slow_heun + (after - now) * first, after)
        last = 1.0 in (now, after)
        slow_heun = slow_heun + (after - now) * (first if last else (first + second) / 2)
    assert euler(velocity, X, times).numpy() == pytest.approx(slow_euler, abs=1e-12)
    assert heun(velocity, X, times).numpy() == pytest.approx(slow_heun, abs=1e-12)


@pytest.mark.parametrize("integrate", [euler, heun])
def test_corrections_make_the_inversion_the_inverse_of_decoding(integrate):
    times = flow_times(4)
    errors = []
    for corrections in (0, 1, 3, 10):
        noise = invert(integrate, velocity, X, times, corrections)
        errors.append((integrate(velocity, noise, times[::-1]) - X).abs().max().item())
    # The longest step, from t = 9/16 to 1, contracts by |A| · 7/16 = .66 an iteration.
    assert errors[3] < errors[2] < errors[1]
    assert errors[3] < errors[1] * 0.67**9 * 1.1 < errors[0]
    plain = invert(integrate, velocity, X, times, 0)
    assert plain.equal(integrate(velocity, X, times))


def test_one_correction_is_the_written_out_fixed_point_step():
    now, after = 0.2, 0.5
    guess = X + (after - now) * velocity(X, now)
    corrected = guess + (X - (guess + (now - after) * velocity(guess, after)))
    found = invert(euler, velocity, X, (now, after), 1)
    torch.testing.assert_close(found, corrected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 7, 20])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_against_a_written_out_reference(steps: int, invert: bool, clip: bool):
    def predict(x, t):
        return EXACT(x, t) + 0.3 * (x * t) ** 2

    fast = ddim(predict, X, ddim_times(steps), invert, clip).numpy()
    slow = diffusion.ddim(predict, X.numpy(), steps, invert, clip)
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-10)


def test_the_round_trip_of_ddim_converges_at_first_order():
    errors = []
    for steps in (25, 50, 100, 200):
        times = ddim_times(steps)
        back = ddim(EXACT, ddim(EXACT, X, times, invert=True), times, invert=False)
        errors.append((back - X).abs().max().item())
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in pairwise(errors)), errors


def test_clipping_spoils_the_round_trip_of_a_model_with_errors():
    def predict(x, t):
        return EXACT(x, t) + 0.1 * torch.tanh(3 * x)

    x, times = X.clamp(-1, 1), ddim_times(100)
    errors = []
    for clip in (False, True):
        noise = ddim(predict, x, times, invert=True, clip=clip)
        back = ddim(predict, noise, times, invert=False, clip=clip)
        errors.append((back - x).pow(2).mean().item())
    assert errors[1] > 2 * errors[0], errors
