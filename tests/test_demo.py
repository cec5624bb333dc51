"""The shipped components fit together and show what the student looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from didae.data.square import Square
from didae.demo import (
    SHIPPED,
    SquareRecipe,
    broad_images,
    load_components,
    poisoned_split,
)
from didae.explainer import Components, ExplainConfig, explain


@pytest.fixture(scope="module")
def components() -> Components:
    return load_components()


def test_the_shipped_weights_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 10_000_000


def test_the_poisoned_draw_has_its_quotas_and_stays_in_the_train_split():
    square, recipe = Square(), SquareRecipe()
    train, validation = poisoned_split(square, recipe, seed=3)
    rows = np.concatenate([train, validation])
    groups = 2 * square.classes[rows, 0] + square.classes[rows, 1]
    assert np.bincount(groups).tolist() == [490, 10, 10, 490]
    assert len(train) == 800
    assert len(set(rows)) == 1000
    assert set(rows) | set(broad_images(square, recipe, 3)) <= set(square.splits["train"])


def test_the_background_flips_the_student_and_no_other_direction_does(
    components: Components, tmp_path: Path
):
    square = Square()
    summary = explain(
        square, square.splits["validation"][:24], components, ExplainConfig(), tmp_path
    )
    best, *others = summary.directions
    assert best.name == "background"
    assert best.non_adversarial_flips >= 20
    assert all(direction.verified_flips <= 4 for direction in others)


def test_an_edit_of_no_strength_flips_nothing(components: Components, tmp_path: Path):
    square = Square()
    config = ExplainConfig(algorithm="reflection", strength=0.0)
    summary = explain(square, square.splits["validation"][:8], components, config, tmp_path)
    assert all(direction.ambient_flips == 0 for direction in summary.directions)
