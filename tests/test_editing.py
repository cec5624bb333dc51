"""Edits in closed form: Algorithms 1 and 2, clamping, and what they must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didae.editing import amplification, apply, clamp, cross_boundary, cross_jointly, reflect
from references.editing import crossed, reflected

SEEDS = st.integers(0, 10_000)
IMAGES, DIRECTIONS, WIDTH = 7, 3, 8


def scene(seed, oblique=False):
    """Embeddings, mean, (analysis, atoms) and a probe, in float64."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(IMAGES, WIDTH)) * 3 + 1
    mean = random.normal(size=WIDTH)
    rows = np.linalg.qr(random.normal(size=(WIDTH, DIRECTIONS)))[0].T
    atoms = rows
    analysis = rows
    if oblique:
        atoms = random.normal(size=(DIRECTIONS, WIDTH))
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        analysis = np.linalg.pinv(atoms).T
    weight, bias = random.normal(size=WIDTH), random.normal()
    tensors = (torch.from_numpy(part) for part in (z, mean, analysis, atoms, weight))
    return (*tensors, float(bias))


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_reflection_is_an_involution_and_an_isometry_about_the_mean(seed):
    z, mean, analysis, atoms, _, _ = scene(seed)
    edited = apply(z, reflect((z - mean) @ analysis.T), atoms)
    close((edited - mean).norm(dim=-1), (z - mean).norm(dim=-1)[:, None].expand(-1, DIRECTIONS))
    for k in range(DIRECTIONS):
        back = apply(edited[:, k], reflect((edited[:, k] - mean) @ analysis.T), atoms)
        close(back[:, k], z)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, oblique=st.booleans(), strength=st.floats(0, 2))
def test_reflection_changes_exactly_one_code(seed, oblique, strength):
    z, mean, analysis, atoms, _, _ = scene(seed, oblique)
    codes = (z - mean) @ analysis.T
    edited = apply(z, reflect(codes, strength), atoms)
    after = (edited - mean) @ analysis.T
    for k in range(DIRECTIONS):
        expected = codes.clone()
        expected[:, k] = (1 - 2 * strength) * codes[:, k]
        close(after[:, k], expected, 1e-9)


def test_reflection_is_the_written_out_formula():
    z, mean, analysis, atoms, _, _ = scene(0)
    edited = apply(z, reflect((z - mean) @ analysis.T), atoms)
    assert edited.shape == (IMAGES, DIRECTIONS, WIDTH)
    for i in range(IMAGES):
        for k in range(DIRECTIONS):
            expected = reflected(z[i].tolist(), mean.tolist(), atoms[k].tolist())
            np.testing.assert_allclose(edited[i, k], expected, atol=1e-12)


def test_half_strength_removes_a_code_and_doing_so_again_changes_nothing():
    z, mean, analysis, atoms, _, _ = scene(0)
    once = apply(z, reflect((z - mean) @ analysis.T, 0.5), atoms)[:, 0]
    codes = (once - mean) @ analysis.T
    close(codes[:, 0], torch.zeros(IMAGES, dtype=torch.float64))
    twice = apply(once, reflect(codes, 0.5), atoms)
    close(twice[:, 0], once)
    other = apply(z, reflect((z - mean) @ analysis.T, 0.5), atoms)[:, 1]
    crossed_over = apply(other, reflect((other - mean) @ analysis.T, 0.5), atoms)[:, 0]
    close(twice[:, 1], crossed_over)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_strength_zero_is_the_identity(dtype):
    z, mean, analysis, atoms, weight, bias = scene(0)
    z, codes, atoms = z.to(dtype), ((z - mean) @ analysis.T).to(dtype), atoms.to(dtype)
    same = z[:, None].expand(-1, DIRECTIONS, -1)
    assert torch.equal(apply(z, reflect(codes, 0.0), atoms), same)
    margin, slope = z @ weight.to(dtype) + bias, atoms @ weight.to(dtype)
    change, feasible = cross_boundary(margin, slope, 0.0)
    assert torch.equal(apply(z, change, atoms), same)
    assert feasible.all()
    assert change.dtype == apply(z, change, atoms).dtype == dtype


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, strength=st.floats(0, 4), oblique=st.booleans())
def test_boundary_edit_reaches_the_margin_it_promises(seed, strength, oblique):
    z, _, _, atoms, weight, bias = scene(seed, oblique)
    margin, slope = z @ weight + bias, atoms @ weight
    change, feasible = cross_boundary(margin, slope, strength)
    after = apply(z, change, atoms) @ weight + bias
    assert feasible.all()
    scale = 1 + change.abs().max() * weight.norm()
    close(after / scale, ((1 - strength) * margin)[:, None].expand_as(after) / scale)


def test_boundary_and_mirror():
    z, _, _, atoms, weight, bias = scene(0)
    margin, slope = z @ weight + bias, atoms @ weight
    for strength, factor in ((1.0, 0.0), (2.0, -1.0)):
        change, _ = cross_boundary(margin, slope, strength)
        after = apply(z, change, atoms) @ weight + bias
        close(after, (factor * margin)[:, None].expand_as(after), 1e-10)
    default, _ = cross_boundary(margin, slope)
    assert torch.equal(default, cross_boundary(margin, slope, 2.0)[0])


def test_boundary_edit_is_the_written_out_formula():
    z, _, _, atoms, weight, bias = scene(2)
    change, _ = cross_boundary(z @ weight + bias, atoms @ weight, 1.2)
    edited = apply(z, change, atoms)
    for i in range(IMAGES):
        for k in range(DIRECTIONS):
            expected = crossed(z[i].tolist(), weight.tolist(), bias, atoms[k].tolist(), 1.2)
            np.testing.assert_allclose(edited[i, k], expected, rtol=1e-9, atol=1e-9)


def test_the_step_along_the_probe_itself_is_the_shortest():
    z, _, _, _, weight, bias = scene(0)
    random = torch.from_numpy(np.random.default_rng(0).normal(size=(50, WIDTH)))
    atoms = torch.nn.functional.normalize(torch.cat([weight[None], random]), dim=1)
    change, _ = cross_boundary(z @ weight + bias, atoms @ weight)
    assert (change.abs().argmin(1) == 0).all()


@pytest.mark.parametrize("tiny", [0.0, -0.0, 1e-9, -1e-9, 1e-300, float("nan")])
def test_flat_directions_are_infeasible_and_change_nothing(tiny):
    slope = torch.tensor([tiny, -0.5, 2e-6], dtype=torch.float64)
    change, feasible = cross_boundary(torch.tensor([3.0, -3.0], dtype=torch.float64), slope)
    assert feasible.tolist() == [[False, True, True]] * 2
    assert change[:, 0].tolist() == [0, 0]
    assert change[:, 1].tolist() == [12, -12]


def test_a_probe_flat_along_every_direction_is_infeasible():
    change, feasible = cross_boundary(torch.ones(2), torch.tensor([1e-9, -3e-8]))
    assert not feasible.any()
    assert not change.any()


def test_a_slope_next_to_nothing_beside_the_steepest_is_infeasible():
    _, feasible = cross_boundary(torch.ones(1), torch.tensor([1e-3, 1e4]))
    assert feasible.tolist() == [[False, True]]


def test_a_margin_that_is_not_finite_spoils_its_own_image_only():
    margin = torch.tensor([1.0, float("nan"), float("inf")])
    change, feasible = cross_boundary(margin, torch.tensor([0.5, -0.5]))
    assert feasible.tolist() == [[True, True], [False, False], [False, False]]
    assert change.tolist() == [[-4, 4], [0, 0], [0, 0]]


RANGES = st.lists(st.tuples(st.floats(-5, 5), st.floats(-20, 20)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(pairs=RANGES, low=st.floats(-3, 0), width=st.floats(0, 4))
def test_clamping_shortens_and_never_pushes_farther_out(pairs, low, width):
    codes, change = torch.tensor(pairs, dtype=torch.float64).T[:, :, None]
    high = low + width
    bounds = (torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))
    clamped = clamp(codes, change, *bounds)
    assert (clamped.abs() <= change.abs()).all()
    assert (clamped * change >= 0).all()
    for before, after in zip(codes.flatten(), (codes + clamped).flatten(), strict=True):
        if low <= before <= high:
            assert low - 1e-12 <= after <= high + 1e-12
        else:
            assert min(low, before) - 1e-12 <= after <= max(high, before) + 1e-12
    inside = (codes + change >= bounds[0]) & (codes + change <= bounds[1])
    untouched = inside & (codes >= bounds[0]) & (codes <= bounds[1])
    torch.testing.assert_close(clamped[untouched], change[untouched], atol=1e-12, rtol=0)


def test_clamping_by_hand():
    codes = torch.tensor([[0.0], [0.0], [5.0], [5.0], [5.0], [5.0]])
    change = torch.tensor([[2.0], [-9.0], [1.0], [0.0], [-1.0], [-99.0]])
    clamped = clamp(codes, change, torch.tensor([-1.0]), torch.tensor([3.0]))
    assert clamped.flatten().tolist() == [2, -1, 0, 0, -1, -6]


def test_batch_equals_single():
    z, mean, analysis, atoms, weight, bias = scene(0)
    low, high = torch.full((DIRECTIONS,), -1.0).double(), torch.full((DIRECTIONS,), 1.0).double()

    def edit(part):
        codes = (part - mean) @ analysis.T
        change, feasible = cross_boundary(part @ weight + bias, atoms @ weight)
        return apply(part, clamp(codes, change, low, high), atoms), feasible

    together, feasible = edit(z)
    for i in range(IMAGES):
        alone, alone_feasible = edit(z[i : i + 1])
        close(alone[0], together[i])
        assert torch.equal(alone_feasible[0], feasible[i])


def test_crossing_jointly_mirrors_the_margin_by_the_shortest_way():
    z, _, _, atoms, weight, bias = scene(0)
    slope = atoms @ weight
    spread = torch.linspace(0.5, 3, DIRECTIONS).double()
    margin = z @ weight + bias
    change = cross_jointly(margin, slope, spread, 2.0)
    close(change @ slope, -2 * margin)
    # Slow reference: minimise the length in spreads under the constraint, by least squares.
    for row, wanted in zip(change, -2 * margin, strict=True):
        scaled = torch.linalg.lstsq((slope * spread)[None], wanted[None, None]).solution[:, 0]
        close(row, scaled * spread)
    assert not torch.allclose(change, cross_jointly(margin, slope, spread.flip(0), 2.0))


def test_asking_for_more_by_hand():
    asked = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, -2.0, 0.0, 0.0])
    seen = torch.tensor([1.0, 1.6, 2.0, 5.0, -1.0, -1.0, 0.0, 3.0])
    assert amplification(asked, seen).tolist() == [2.0, 1.25, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    assert amplification(asked, seen, most=1.5)[0] == 1.5
