"""Square: the same bytes for ever, true counterfactuals, and a read-out one can trust."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from didae.data.sampling import quota_subset
from didae.data.square import (
    FACTOR_COUNT,
    FACTOR_MEAN,
    FACTOR_STD,
    IMAGE_SIZE,
    Square,
    read_factors,
)
from failures import one_line

SQUARE = Square(1600, seed=0)


def test_the_bytes_of_seed_zero_never_change():
    images, factors = Square(64, seed=0).images([0, 1, 63]), Square().factors
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "ad5306ba4840e9d4"
    assert hashlib.sha256(factors.astype("<i8").tobytes()).hexdigest()[:16] == "5327e3f1bad10c21"


def test_images_depend_on_seed_and_index_alone():
    some = SQUARE.images([7, 3])
    assert torch.equal(some[1], SQUARE.images([3])[0])
    assert torch.equal(some, Square(1600, seed=0).images([7, 3]))
    assert not torch.equal(some, Square(1600, seed=1).images([7, 3]))
    assert some.dtype == torch.uint8
    assert some.shape == (2, 3, 64, 64)


def test_bits_of_the_index_are_the_classes():
    bits = (np.arange(1600)[:, None] >> np.arange(4)) % 2
    assert np.array_equal(SQUARE.classes, 1 - bits)
    assert np.array_equal(SQUARE.labels, SQUARE.classes[:, 0])
    assert np.all((SQUARE.factors >= 0) & (SQUARE.factors < FACTOR_COUNT))
    assert SQUARE.ids[12] == "00000012"
    assert np.array_equal(SQUARE.attributes["x"], SQUARE.factors[:, 2])


def test_factor_moments_are_those_of_uniform_integers():
    for count, mean, std in zip(FACTOR_COUNT, FACTOR_MEAN, FACTOR_STD, strict=True):
        assert mean == pytest.approx(np.arange(count).mean())
        assert std == pytest.approx(np.arange(count).std())


def test_splits_are_disjoint_complete_and_balanced():
    splits = Square().splits
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12_800, 1600, 1600]
    assert np.array_equal(np.concatenate(list(splits.values())), np.arange(16_000))
    cells = Square().classes @ [1, 2, 4, 8]
    for rows in splits.values():
        assert set(np.bincount(cells[rows])) == {len(rows) // 16}


def test_own_factors_give_the_images():
    rows = [0, 5, 1599]
    assert torch.equal(SQUARE.render(rows, SQUARE.factors[rows]), SQUARE.images(rows))


def test_a_true_counterfactual_has_the_same_noise():
    rows, background = np.arange(8), SQUARE.factors[:8].copy()
    background[:, 1] = 255 - background[:, 1]
    before = SQUARE.images(rows).numpy().astype(int)
    after = SQUARE.render(rows, background).numpy().astype(int)
    open_pixels = (before > 0) & (before < 255) & (after > 0) & (after < 255)
    expected = (background[:, 1] - SQUARE.factors[:8, 1])[:, None, None, None]
    inside = np.zeros(before.shape, dtype=bool)
    for image, (_, _, row, column) in zip(inside, SQUARE.factors[:8], strict=True):
        image[:, row : row + 12, column : column + 12] = True
    # Adding a whole number commutes with truncation to 8 bits, but not with clipping.
    assert np.all((after - before - expected)[open_pixels & ~inside] == 0)
    assert np.array_equal(after[inside], before[inside])
    assert (open_pixels & ~inside).sum() > 10_000


def test_the_read_out_of_known_images():
    rows = np.arange(400)
    read, true = read_factors(SQUARE.images(rows)), SQUARE.factors[rows].astype(float)
    assert np.array_equal(read[:, 2:], true[:, 2:])
    for column, least in ((0, 0.998), (1, 0.9999)):
        error = ((read - true)[:, column] ** 2).sum() / ((true[:, column] - 127.5) ** 2).sum()
        assert 1 - error > least


@pytest.mark.parametrize("value", [0, 10, 128, 245, 255])
def test_the_read_out_is_unbiased_at_the_extremes(value: int):
    factors = SQUARE.factors[:200].copy()
    factors[:, :2] = value
    error = read_factors(SQUARE.render(np.arange(200), factors))[:, :2] - value
    # 64 pixels with noise of 20 give a foreground to 2.5 (3.5 where clipping hides half of them),
    # so a mean of 200 to 0.25.
    assert abs(error[:, 0].mean()) < 1
    assert abs(error[:, 1].mean()) < 0.1
    assert np.isfinite(error).all()


def test_a_batch_changes_no_read_out_and_may_be_empty():
    images = SQUARE.images(range(70))
    alone = np.concatenate([read_factors(image[None]) for image in images])
    assert np.array_equal(read_factors(images), alone)
    assert read_factors(images[:0]).shape == (0, 4)


@pytest.mark.parametrize(("correlation", "cells"), [
    (0.02, [10, 490, 490, 10]), (0.98, [490, 10, 10, 490]), (0.5, [250] * 4), (1, [500, 0, 0, 500]),
])  # fmt: skip
def test_poisoned_subsets_have_their_quotas(correlation: float, cells: list[int]):
    square = Square()
    label, confounder = square.classes[:, 0], square.classes[:, 1]
    rows = quota_subset(label, confounder, 1000, correlation)
    assert np.bincount(2 * label[rows] + confounder[rows], minlength=4).tolist() == cells


def test_bad_input_is_one_line():
    assert "uint8" in one_line(lambda: read_factors(torch.rand(1, 3, 64, 64)))
    assert "(b, 3, 64, 64)" in one_line(lambda: read_factors(SQUARE.images([0])[:, :, 1:]))
    for factors in ([256, 0, 0, 0], [0, 0, 52, 0], [0, -1, 0, 0]):
        assert "outside" in one_line(lambda f=factors: SQUARE.render([0], np.array([f])))
    assert "shape" in one_line(lambda: SQUARE.render([0, 1], np.zeros((1, 4))))
    for row in (-1, 1600):
        assert f"no image {row}" in one_line(lambda row=row: SQUARE.images([row]))
        assert "outside the pool" in one_line(
            lambda row=row: SQUARE.render([row], np.zeros((1, 4), int))
        )
    assert "at least one" in one_line(lambda: Square(0))
    assert IMAGE_SIZE == 64
