"""Cases of pixels, endings, links, names and images that cannot be read."""

from __future__ import annotations

import pytest

from didae.data.images import read_image


@pytest.mark.parametrize("case", ["bmp32_alpha_zero"], indirect=True)
def test_a_bitmap_without_any_alpha_is_opaque(case):
    image = read_image(case / "picture.bmp").float()
    assert image.mean((1, 2)).tolist() == [200, 60, 30]


@pytest.mark.parametrize("case", ["png_large_profile"], indirect=True)
@pytest.mark.parametrize("name", ["profile", "comment"])
def test_a_long_profile_is_passed_over(case, name):
    assert read_image(case / f"{name}.png").float().mean((1, 2)).tolist() == [200, 0, 0]
