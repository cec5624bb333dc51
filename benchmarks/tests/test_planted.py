from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from didae.data.square import Square
from didae.data.table import ImageSource
from didae.errors import DidaeError
from didae_bench.data import Planted, TagConfig

SQUARE = Square(400)
PLANTED = Planted(SQUARE)


def slow_tag(image, top, left, side, opacity, brightness):
    """The definition, one pixel at a time in float64."""
    tagged = image.astype(np.float64)
    for channel in range(3):
        for row in range(top, top + side):
            for column in range(left, left + side):
                old = tagged[channel, row, column]
                tagged[channel, row, column] = (1 - opacity) * old + opacity * brightness
    return np.round(tagged).astype(np.uint8)


@pytest.mark.parametrize(
    "config", [TagConfig(), TagConfig(top=50, left=9, side=14, opacity=0.37, brightness=3)]
)
def test_the_tag_is_blended_where_and_how_it_should_be(config):
    image = SQUARE.images([5])
    before = image.clone()
    expected = slow_tag(
        image[0].numpy(), config.top, config.left, config.side, config.opacity, config.brightness
    )
    assert np.array_equal(config.blend(image)[0].numpy(), expected)
    assert torch.equal(image, before)


def test_a_tag_on_black_and_white():
    tagged = TagConfig().blend(torch.tensor([0, 255]).repeat(1, 3, 32, 16).to(torch.uint8))
    assert tagged[0, 0, 2:7, 2:7].unique().tolist() == [188, 239]
    assert tagged[0, :, :, 7:].unique().tolist() == [0, 255]


def test_images_and_truth_differ_by_the_tag_alone():
    rows = list(range(40))
    images, truth, plain = PLANTED.images(rows), PLANTED.truth(rows), SQUARE.images(rows)
    config = PLANTED.config
    for row in rows:
        with_tag, without = (images, truth) if PLANTED.tagged[row] else (truth, images)
        assert torch.equal(without[row], plain[row])
        assert torch.equal(with_tag[row], config.blend(plain[row : row + 1])[0])
    assert not torch.equal(images, truth)


def test_which_images_are_tagged_is_a_function_of_seed_and_id():
    def slow(seed, name):
        digest = hashlib.sha256(ascii([seed, "tag"]).encode() + name.encode()).digest()
        return int.from_bytes(digest, "big") / 2**256 < 0.5

    assert PLANTED.tagged.tolist() == [slow(0, name) for name in SQUARE.ids]
    assert 160 < PLANTED.tagged.sum() < 240
    other = Planted(SQUARE, TagConfig(seed=1))
    assert 120 < (other.tagged == PLANTED.tagged).sum() < 280
    assert Planted(SQUARE, TagConfig(share=0.1)).tagged.sum() < 70


def test_batch_and_order_change_nothing():
    rows = [7, 3, 399, 3]
    batch = PLANTED.images(rows)
    for image, row in zip(batch, rows, strict=True):
        assert torch.equal(image, PLANTED.images([row])[0])
    assert PLANTED.images([]).shape == (0, 3, 64, 64)


def test_it_is_a_source_with_the_tag_as_attribute():
    def names(source: ImageSource) -> list[str]:
        return list(source.attributes)

    assert names(PLANTED) == ["foreground", "background", "x", "y", "tag"]
    assert PLANTED.attributes["tag"].tolist() == PLANTED.tagged.tolist()
    assert np.array_equal(PLANTED.labels, SQUARE.labels)
    assert PLANTED.label_names == SQUARE.label_names
    assert PLANTED.ids == SQUARE.ids
    assert len(PLANTED) == 400
    assert PLANTED.splits.keys() == SQUARE.splits.keys()
    assert PLANTED.license == ""


def test_bad_tags_and_rows():
    with pytest.raises(DidaeError, match="has an attribute 'tag' of its own"):
        Planted(PLANTED)
    with pytest.raises(DidaeError, match=r"ends at row 65 and column 7, .* 64 x 64"):
        Planted(SQUARE, TagConfig(top=60)).images([0])
    for read in (PLANTED.images, PLANTED.truth):
        with pytest.raises(DidaeError, match="no image 400"):
            read([400])
