from __future__ import annotations

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.data.table import ImageTable, changed
from didae.errors import DidaeError

BOTH = ("horizontal", "vertical")
PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), np.uint8))


def kept(pictures=PICTURES, labels=(0, 1, 1, 0, 1)):
    """Five images of different height and width, one of which is given out as it is kept."""

    def read(rows):
        return pictures[rows[0] : rows[0] + 1] if len(rows) == 1 else pictures[rows]

    return ImageTable(
        ids=("a", "b", "c", "d", "e"),
        read=read,
        labels=None if labels is None else np.array(labels),
        label_names=("no", "yes"),
        attributes={"size": np.arange(5.0), "age": np.arange(5.0) ** 2},
        splits={"train": np.array([4, 0, 2]), "test": np.array([1]), "validation": np.array([3])},
        license="MIT",
    )


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
    mirrored = kept().mirrored(axes)
    assert mirrored.ids[::5] == tuple("".join(["a", *(f"#{a}" for a in f)]) for f in forms)
    assert len(mirrored) == len(mirrored.ids) == 5 * len(forms)


def test_pixels_are_those_of_flips():
    mirrored, pictures = kept().mirrored(BOTH), PICTURES.numpy()
    expected = np.concatenate(
        [pictures, np.flip(pictures, 3), np.flip(pictures, 2), np.flip(pictures, (2, 3))]
    )
    for rows in (range(20), [17, 3, 3, 9, 14], [8]):
        assert np.array_equal(mirrored.images(rows).numpy(), expected[list(rows)])
    upright = kept().mirrored(("vertical",)).images(np.arange(5, 10))
    assert np.array_equal(upright.numpy(), np.flip(pictures, 2))


def test_the_images_of_the_source_stay_as_they_are():
    pictures = PICTURES.clone()
    mirrored = kept(pictures).mirrored(BOTH)
    for row in range(20):
        mirrored.images([row])
        assert pictures.equal(PICTURES)


def test_what_is_known_of_an_image_is_known_of_its_forms():
    source = kept()
    mirrored = source.mirrored(BOTH)
    origin = np.arange(20) % 5
    assert np.array_equal(mirrored.labels, source.labels[origin])
    assert mirrored.attributes.keys() == source.attributes.keys()
    for name, values in mirrored.attributes.items():
        assert np.array_equal(values, source.attributes[name][origin])
    assert (mirrored.label_names, mirrored.license) == (("no", "yes"), "MIT")
    assert kept(labels=None).mirrored(BOTH).labels is None


def test_ids_are_unique_and_the_first_are_those_of_the_source():
    ids = kept().mirrored(BOTH).ids
    assert len(set(ids)) == 20
    assert ids[:5] == ("a", "b", "c", "d", "e")
    assert ids[5::5] == ("a#horizontal", "a#vertical", "a#horizontal#vertical")


def test_no_image_leaves_its_split():
    source = kept()
    splits = source.mirrored(BOTH).splits
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(20))
    for name, rows in splits.items():
        assert len(rows) == 4 * len(source.splits[name])
        assert set((rows % 5).tolist()) == set(source.splits[name].tolist())


def test_a_source_without_splits_has_none():
    assert changed(kept(), splits={}).mirrored(BOTH).splits == {}


@pytest.mark.parametrize("row", [-1, 20])
def test_rows_out_of_range_are_refused(row):
    with pytest.raises(DidaeError, match=f"no image {row}; the table has 20"):
        kept().mirrored(BOTH).images([0, row])


def test_no_rows_give_no_images():
    assert Square(10).mirrored(BOTH).images([]).shape == Square(10).images([]).shape
