"""The parts of an audit that a run does not show."""

from __future__ import annotations

import pytest

from didae.audit import Sample
from didae.data.square import Square
from didae.errors import DidaeError, ImageReadError


class Holes:
    """Square, of which every seventh image cannot be read."""

    def __init__(self):
        self.square = Square(200)
        self.ids, self.labels, self.label_names = self.square.ids, None, ()

    def images(self, indices):
        for index in indices:
            if index % 7 == 0:
                raise ImageReadError(f"{index}.png is broken")
        return self.square.images(indices)


def test_what_cannot_be_read_is_left_out():
    sample = Sample.read(Holes(), range(100))
    assert sample.rows.tolist() == [row for row in range(100) if row % 7]
    assert sample.images.equal(Square(200).images(sample.rows))
    with pytest.raises(DidaeError, match="42 images to learn from are too few"):
        Sample.read(Holes(), range(50))
