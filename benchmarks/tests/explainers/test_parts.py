"""Masks, bills, noise and repainting, each alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from didae_bench.explainers.base import Tally
from didae_bench.explainers.diffusion import (
    Chain,
    ChainConfig,
    blurred_change,
    dilated_change,
    respaced,
)
from didae_bench.explainers.dime import until_flipped
from explainers import reference
from explainers.toys import IMAGES, SEED, SHAPE, make_work, toy_denoiser

AFTER = np.clip(IMAGES + 0.6 * np.random.RandomState(1).randn(*IMAGES.shape), 0, 1)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_masks_against_loops(size: int):
    before, after = torch.from_numpy(IMAGES), torch.from_numpy(AFTER)
    dilated = dilated_change(before, after, size)
    blurred = blurred_change(before, after, size, sigma=2.0)
    assert dilated.shape == blurred.shape == (3, 1, 4, 4)
    for place in range(3):
        pair = IMAGES[place], AFTER[place]
        np.testing.assert_allclose(dilated[place, 0].numpy(), reference.dilated(*pair, size))
        expected = reference.blurred(*pair, size, 2.0)
        np.testing.assert_allclose(blurred[place, 0].numpy(), expected, rtol=1e-10)


def test_where_nothing_changed_the_masks_are_zero():
    same = torch.from_numpy(IMAGES)
    assert not dilated_change(same, same, 3).any()
    assert not blurred_change(same, same, 3, 2.0).any()


def test_the_chain_visits_both_ends_of_the_diffusion():
    for count in (2, 50, 66, 200, 1000):
        times = respaced(count).times
        assert (len(times), times[0], times[-1]) == (count, 0.001, 1.0)
        assert all(now < after for now, after in pairwise(times))


def test_a_tally_counts_a_backward_pass_only_when_a_gradient_arrives():
    tally, rows = Tally(4), torch.tensor([1, 3])
    x = torch.ones(2, 1, requires_grad=True)
    output = tally.count(x * 2, rows)
    tally.count(x.detach() * 3, torch.tensor([3]))
    assert tally.forward.tolist() == [0, 1, 0, 2]
    assert tally.backward.tolist() == [0, 0, 0, 0]
    torch.autograd.grad(output.sum(), x, retain_graph=True)
    torch.autograd.grad(output.sum(), x)
    assert tally.backward.tolist() == [0, 2, 0, 2]


def test_some_of_the_work_keeps_its_noise_and_its_bill():
    work, whole = make_work(previous=[AFTER]), make_work()
    some = work[torch.tensor([True, False, True])]
    assert len(some) == 2
    assert torch.equal(some.images, work.images[[0, 2]])
    assert torch.equal(some.previous[0], work.previous[0][[0, 2]])
    first = whole.noise()
    assert torch.equal(some.noise(), first[[0, 2]])
    # Image 1 draws for the first time now, the others for the second.
    late, second = work.noise(), whole.noise()
    assert torch.equal(late[1], first[1])
    assert torch.equal(late[[0, 2]], second[[0, 2]])
    some.flipped(some.images)
    assert work.asking.forward.tolist() == [1, 0, 1]
    source = reference.draws(SEED, "0", SHAPE)
    np.testing.assert_array_equal(first[0].numpy(), next(source))


def test_repainting_keeps_what_it_is_told_to():
    chain, work = Chain(toy_denoiser(), ChainConfig(respacing=8, depth=3)), make_work()
    keep = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    keep[:, :, :, :2] = True
    changed = 2 * torch.from_numpy(AFTER) - 1
    made = chain.repainted(work, changed, keep)
    assert torch.equal(made[..., :2], work.x[..., :2])
    assert (made[..., 2:] != work.x[..., 2:]).all()
    assert torch.equal(chain.repainted(work, changed, torch.ones_like(keep)), work.x)
    assert work.drawing.forward.tolist() == [6, 6, 6]


def test_confidence_is_that_of_the_rounded_image():
    work = make_work()
    rounded = torch.from_numpy(np.round(AFTER * 255) / 255)
    after = torch.from_numpy(AFTER)
    expected = (work.student(rounded) / 3).softmax(1)[range(3), work.targets]
    torch.testing.assert_close(work.confidence(after, 3.0), expected, rtol=1e-6, atol=0)
    assert torch.equal(work.flipped(after), work.confidence(after) > 0.5)


def test_scales_are_tried_until_the_image_flips():
    work, tried = make_work(), []
    factual, flipping = work.images, 1 - work.images
    assert not work.flipped(factual).any()
    assert work.flipped(flipping).all()

    def attempt(part, scale):
        tried.append((scale, part.rows.tolist()))
        done = (part.rows < scale)[:, None, None, None]
        return torch.where(done, flipping[part.rows], factual[part.rows])

    made = until_flipped(work, (1.0, 2.0, 2.5), attempt)
    assert tried == [(1.0, [0, 1, 2]), (2.0, [1, 2]), (2.5, [2])]
    assert torch.equal(made, flipping)
    tried.clear()
    until_flipped(work, (3.0, 4.0), attempt)
    assert tried == [(3.0, [0, 1, 2])]
