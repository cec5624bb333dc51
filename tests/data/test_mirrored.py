from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from didae.data.mirrored import Mirrored
from didae.data.square import Square
from didae.errors import DidaeError

BOTH = ("horizontal", "vertical")
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), np.uint8))


@dataclass
class Kept:
    """Five images of different height and width, one of which is given out as it is kept."""

    labels: np.ndarray | None = field(default_factory=lambda: np.array([0, 1, 1, 0, 1]))
    pictures: Tensor = field(default_factory=PICTURES.clone)
    label_names: tuple[str, ...] = ("no", "yes")
    licence: str = "MIT"
    ids: tuple[str, ...] = ("a", "b", "c", "d", "e")

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        return {"size": np.arange(5.0), "age": np.arange(5.0) ** 2}

    @property
    def splits(self) -> dict[str, np.ndarray]:
        return {"train": np.array([4, 0, 2]), "test": np.array([1]), "validation": np.array([3])}

    def __len__(self) -> int:
        return 5

    def images(self, indices) -> Tensor:
        if len(indices) == 1:
            return self.pictures[indices[0] : indices[0] + 1]
        return self.pictures[list(indices)]


@pytest.mark.parametrize(
    ("axes", "forms"),
    [
        (("horizontal",), ((), ("horizontal",))),
        (("vertical",), ((), ("vertical",))),
        (BOTH, ((), ("horizontal",), ("vertical",), BOTH)),
        (("vertical", "vertical"), ((), ("vertical",))),
    ],
)
def test_every_set_of_axes_is_a_form_once(axes, forms):
    mirrored = Mirrored(Kept(), axes)
    assert mirrored.forms == forms
    assert len(mirrored) == len(mirrored.ids) == 5 * len(forms)


def test_pixels_are_those_of_flips():
    mirrored, pictures = Mirrored(Kept(), BOTH), PICTURES.numpy()
    expected = np.concatenate(
        [pictures, np.flip(pictures, 3), np.flip(pictures, 2), np.flip(pictures, (2, 3))]
    )
    for rows in (range(20), [17, 3, 3, 9, 14], [8]):
        assert np.array_equal(mirrored.images(rows).numpy(), expected[list(rows)])
    upright = Mirrored(Kept(), ("vertical",)).images(np.arange(5, 10))
    assert np.array_equal(upright.numpy(), np.flip(pictures, 2))


def test_the_images_of_the_source_stay_as_they_are():
    source = Kept()
    mirrored = Mirrored(source, BOTH)
    for row in range(20):
        mirrored.images([row])
        assert source.pictures.equal(PICTURES)


def test_what_is_known_of_an_image_is_known_of_its_forms():
    source = Kept()
    mirrored = Mirrored(source, BOTH)
    origin = np.arange(20) % 5
    assert np.array_equal(mirrored.labels, source.labels[origin])
    assert mirrored.attributes.keys() == source.attributes.keys()
    for name, values in mirrored.attributes.items():
        assert np.array_equal(values, source.attributes[name][origin])
    assert (mirrored.label_names, mirrored.licence) == (("no", "yes"), "MIT")
    assert Mirrored(Kept(labels=None), BOTH).labels is None


def test_ids_are_unique_and_the_first_are_those_of_the_source():
    ids = Mirrored(Kept(), BOTH).ids
    assert len(set(ids)) == 20
    assert ids[:5] == ["a", "b", "c", "d", "e"]
    assert ids[5::5] == ["a#horizontal", "a#vertical", "a#horizontal#vertical"]


def test_no_image_leaves_its_split():
    source = Kept()
    splits = Mirrored(source, BOTH).splits
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(20))
    for name, rows in splits.items():
        assert len(rows) == 4 * len(source.splits[name])
        assert set((rows % 5).tolist()) == set(source.splits[name].tolist())


def test_a_source_without_splits_has_none():
    class Whole(Kept):
        @property
        def splits(self) -> dict[str, np.ndarray]:
            return {}

    assert Mirrored(Whole(), BOTH).splits == {}


@pytest.mark.parametrize("row", [-1, 20])
def test_rows_out_of_range_are_refused(row):
    with pytest.raises(DidaeError, match=f"no image {row}; the table has 20"):
        Mirrored(Kept(), BOTH).images([0, row])


def test_no_rows_give_no_images():
    assert Mirrored(Square(10), BOTH).images([]).shape == Square(10).images([]).shape
