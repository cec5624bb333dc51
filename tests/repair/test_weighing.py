"""What images count beside their counterfactuals, and the sums that make it cheap to ask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.repair.head import (
    FEWEST,
    RIDGE,
    WEIGHTS,
    image_weight,
    moments,
    moments_of_forms,
    solve,
    worst_cell,
)

WIDTH = 12


def ridge_regression(z, target, share, ridge):
    """Solve the regression on standardised columns, with rows in place of the penalty."""
    share = share / share.sum()
    mean, middle = share @ z, share @ target
    spread = np.sqrt((share @ (z - mean) ** 2).mean())
    root = np.sqrt(share)[:, None]
    design = np.vstack([root * (z - mean) / spread, np.sqrt(ridge) * np.eye(z.shape[1])])
    goal = np.vstack([root * (target - middle), np.zeros((z.shape[1], target.shape[1]))])
    weight = (np.linalg.lstsq(design, goal, rcond=None)[0] / spread).T
    return weight, middle - weight @ mean


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_the_solution_is_the_slow_one(ridge: float):
    random = np.random.default_rng(0)
    z, share = 5 + random.normal(size=(60, WIDTH)), random.uniform(size=60)
    target = random.normal(size=(60, 2))
    found = solve(moments(*(torch.from_numpy(part) for part in (z, target, share))), ridge)
    for one, other in zip(found, ridge_regression(z, target, share, ridge), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_sums_add_up_and_scale():
    random = torch.Generator().manual_seed(0)
    z, share = torch.randn(40, WIDTH, generator=random), torch.rand(40, generator=random)
    target = torch.randn(40, 3, generator=random)
    whole = solve(moments(z, target, torch.cat([share[:25], 2 * share[25:]])), 0.1)
    first, second = (moments(z[r], target[r], share[r]) for r in (slice(25), slice(25, None)))
    for one, other in zip(whole, solve(first + second * 2, 0.1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_embeddings_that_are_all_equal_give_the_middle():
    weight, bias = solve(moments_of_forms(torch.ones(8, 1, WIDTH), torch.arange(8) % 2, 2), RIDGE)
    assert not weight.any()
    torch.testing.assert_close(bias, torch.zeros(2, dtype=torch.float64))


def test_the_worst_cell_is_found_and_small_ones_are_not_asked():
    labels = torch.tensor([0] * 20 + [1] * 20)
    code = torch.tensor([0.0] * 14 + [1.0] * 6 + [1.0] * 16 + [0.0] * 4)[:, None]
    right = torch.ones(40, dtype=torch.bool)
    right[14:17] = False  # half of class 0 on the side of class 1
    right[36:] = False  # all of class 1 on the side of class 0, which are too few
    assert FEWEST == 5
    assert worst_cell(right, labels, code) == 0.5
    assert worst_cell(right, labels, torch.zeros(40, 1)) == pytest.approx(16 / 20)
    assert worst_cell(right[:3], labels[:3], code[:3]) == 1


def shortcut(left: float, seed: int) -> dict[str, Tensor]:
    """Draw a dim feature of the class, a bright shortcut, and `left` of it that no code sees."""
    random = np.random.default_rng(seed)

    def draw(labels, types):
        z = random.normal(size=(len(labels), WIDTH))
        z[:, 0] += 2 * labels
        z[:, 1] += 3 * types
        z[:, 2:7] += left * types[:, None]
        return torch.from_numpy(z).float()

    labels = np.repeat([-1, 1], 300)
    types = labels * np.where(np.arange(600) % 30 < 2, -1, 1)
    z, sign = draw(labels, types), torch.from_numpy(labels)
    code = z[:, 1:2]
    # Every image gets the code of images of the other class; what else goes with it stays.
    edited = z[:, None].repeat(1, 8, 1)
    for k in range(8):
        order = torch.from_numpy(random.permutation(300))
        edited[:, k, 1] = torch.cat([code[300:][order], code[:300][order]])[:, 0]
    tests = np.repeat([[-1, -1], [-1, 1], [1, -1], [1, 1]], 500, 0)
    cells = torch.from_numpy(np.arange(2000) // 500)
    return {
        "z": z, "labels": (sign > 0).long(), "code": code, "edited": edited,
        "test": draw(*tests.T), "truth": torch.from_numpy(tests[:, 0] > 0).long(), "cells": cells,
    }  # fmt: skip


def worst_group(data: dict[str, Tensor], weight: float) -> float:
    own, edited = (
        moments_of_forms(forms, data["labels"], 2) for forms in (data["z"][:, None], data["edited"])
    )
    slope, bias = solve(own * weight + edited, RIDGE)
    right = (data["test"].double() @ slope.T + bias).argmax(1) == data["truth"]
    return min(float(right[data["cells"] == cell].double().mean()) for cell in range(4))


def gains(left: float) -> tuple[float, float]:
    """Worst groups with the chosen and with the smallest weight, above that with weight 1."""
    chosen, least = [], []
    for seed in range(6):
        data = shortcut(left, seed)
        weight = image_weight(data["z"], data["labels"], 2, data["code"], [data["edited"]], seed)
        usual = worst_group(data, 1.0)
        chosen.append(worst_group(data, weight) - usual)
        least.append(worst_group(data, WEIGHTS[-1]) - usual)
    return float(np.mean(chosen)), float(np.mean(least))


def test_images_count_less_where_the_exchange_leaves_a_part_of_the_shortcut():
    chosen, least = gains(1.0)
    assert chosen > 0.05
    assert least > 0.05


def test_where_the_code_is_all_of_the_shortcut_little_is_lost():
    """The negative control: there, less weight on the images makes a shortcut of its own."""
    chosen, least = gains(0.0)
    assert chosen > -0.015
    assert least < -0.03


def test_without_counter_examples_nothing_is_known_and_all_count_the_same():
    data = shortcut(0.5, 0)
    usual = (data["code"][:, 0] > 0) == (data["labels"] > 0)
    kept = {key: data[key][usual] for key in ("z", "labels", "code", "edited")}
    assert image_weight(kept["z"], kept["labels"], 2, kept["code"], [kept["edited"]]) >= 0.7
