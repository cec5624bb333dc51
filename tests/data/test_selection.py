from __future__ import annotations

import pytest
import torch

from data.downloads import make_fashion
from didae.data.opening import open_named
from didae.data.square import Square
from didae.data.table import ImageTable, Reading
from didae.errors import DidaeError


@pytest.fixture
def source(tmp_path):
    make_fashion(tmp_path)
    return open_named(f"fashion-mnist:{tmp_path}", Reading())


def test_classes_are_chosen_and_numbered_anew(source):
    two = source.of_classes(("Ankle boot", "Sneaker"))
    assert two.label_names == ("Ankle boot", "Sneaker")
    assert two.labels.tolist() == [1, 0] * 4
    assert len(two) == 8
    assert two.ids == tuple(source.ids[row] for row in (7, 9, 17, 19, 27, 29, 37, 39))
    assert {name: rows.tolist() for name, rows in two.splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "test": [6, 7],
    }
    assert two.license == "MIT"
    assert torch.equal(two.images([6, 1]), source.images([37, 9]))


def test_attributes_follow():
    square = Square(40)
    bright = square.of_classes(["bright"])
    assert bright.labels.tolist() == [0] * 20
    expected = square.attributes["x"][square.labels == 1]
    assert bright.attributes["x"].tolist() == expected.tolist()


def test_bad_choices(source):
    with pytest.raises(DidaeError, match="unknown class 'sneaker'; did you mean 'Sneaker'"):
        source.of_classes(["sneaker"])
    with pytest.raises(DidaeError, match="chosen twice"):
        source.of_classes(["Bag", "Bag"])
    with pytest.raises(DidaeError, match="no image 4"):
        source.of_classes(["Bag"]).images([4])
    table = ImageTable(("a.png",), lambda _: pytest.fail("read"))
    with pytest.raises(DidaeError, match="no labels"):
        table.of_classes(["Bag"])
