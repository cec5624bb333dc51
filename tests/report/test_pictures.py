from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from didae.report.html import _common_gain, _data_uri, _difference_map


def flat(*colour: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), colour, dtype=np.uint8)


def test_difference_is_grey_where_nothing_changed_and_signed_elsewhere():
    shown = _difference_map(flat(10, 200, 100), flat(30, 190, 100), gain=2)
    assert shown[0, 0].tolist() == [128 + 20, 128 - 10, 128]
    assert _difference_map(flat(0, 0, 0), flat(255, 255, 255)).max() == 255
    assert _difference_map(flat(255, 255, 255), flat(0, 0, 0)).min() == 0


def test_amplification_is_cut_off_not_wrapped_around():
    assert _difference_map(flat(0, 0, 0), flat(100, 0, 0), gain=8)[0, 0].tolist() == [255, 128, 128]
    assert _difference_map(flat(100, 0, 0), flat(0, 0, 0), gain=8)[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("change", "gain"), [(0, 32), (7, 32), (8, 16), (100, 2), (128, 1), (255, 1)]
)
def test_gain_keeps_the_largest_change_in_range(change: int, gain: int):
    black = flat(0, 0, 0)
    assert _common_gain([(black, black), (black, flat(change, 0, 0))]) == gain


def test_no_pair_has_a_gain_too():
    assert _common_gain([]) == 32


def read(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_large_images_are_reduced_in_their_shape():
    large = np.full((100, 400, 3), 77, dtype=np.uint8)
    assert read(_data_uri(large)).shape == (32, 128, 3)
    assert (read(_data_uri(large)) == 77).all()
    assert read(_data_uri(np.zeros((1, 1000, 3), dtype=np.uint8))).shape == (1, 128, 3)


def test_data_uri_holds_the_very_pixels():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert _data_uri(image).startswith("data:image/png;base64,")
    assert (read(_data_uri(image)) == image).all()
