"""The images of a repair: what is held out, and where it is from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.data.table import ImageTable
from didae.errors import DidaeError
from didae.repair.measure import RepairData

TRAINING, TEST = np.arange(20), np.arange(20, 30)


def table(names: tuple[str, ...] = ("cat", "dog"), first: int = 0) -> ImageTable:
    """Thirty images, each of its own brightness, of two classes in turn."""
    return ImageTable(
        tuple(f"{first + row}" for row in range(30)),
        lambda rows: torch.tensor(rows).add(first).byte()[:, None, None, None].repeat(1, 3, 8, 8),
        np.arange(30) % 2,
        names,
        {"tag": np.arange(30) // 2 % 2 * 3.0},
    )


def numbers(images: torch.Tensor) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())


def test_a_share_of_the_training_images_is_held_out() -> None:
    data = RepairData.choose(table(), TRAINING, TEST, "tag", share=0.25)
    training, held_out = numbers(data.train_data.images), numbers(data.held_out.images)
    assert len(held_out) == 5
    assert training | held_out == set(range(20))
    assert not training & held_out
    assert numbers(data.test.images) == set(range(20, 30))
    assert data.attribute_names == ("tag 0", "tag 3")
    assert "may have seen" in data.origin


def test_validation_images_are_held_out_where_there_are_any() -> None:
    data = RepairData.choose(table(), TRAINING[:15], TEST, validation=TRAINING[15:])
    assert numbers(data.train_data.images) == set(range(15))
    assert numbers(data.held_out.images) == set(range(15, 20))


def test_images_that_were_trained_on_do_not_tell_of_the_repair() -> None:
    data = RepairData.choose(table(), TRAINING, TRAINING)
    assert numbers(data.test.images) == numbers(data.held_out.images)


def test_unseen_images_take_the_numbers_of_their_classes() -> None:
    data = RepairData.choose(table(), TRAINING, TEST)
    unseen = replace(table(("dog", "cat"), 100), attributes={})
    few = data.with_unseen(unseen, "folder", 10)
    assert numbers(few.held_out.images) == set(range(100, 130))
    assert few.held_out.labels.tolist() == [1 - row % 2 for row in range(30)]
    more = data.with_unseen(unseen, "folder", 31)
    assert len(more.held_out) == 30 + len(data.held_out)
    assert more.origin.startswith("30 of folder, given")
    with pytest.raises(DidaeError, match="folder has the class 'cow'"):
        data.with_unseen(table(("dog", "cow")), "folder", 10)


def test_the_groups_of_square_are_classes_of_its_factors() -> None:
    square = Square(200)
    data = RepairData.choose(square, np.arange(160), np.arange(160, 200), "background")
    assert data.attribute_names == ("dark background", "bright background")
    assert data.test.attributes is not None
    assert data.test.attributes.tolist() == square.classes[160:, 1].tolist()
