from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np

from didae.report.figures import funnel, heat_map, shorten
from didae.report.sheets import Pair, RoundTrip, contact_sheet, round_trip_strip

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = """<script>alert("x")</script> & 'größe' 大"""


def parse(figure: str) -> ElementTree.Element:
    """Parse strictly: a name that is not escaped would break the XML or add an element."""
    return ElementTree.fromstring(figure)


def texts(figure: str) -> list[str]:
    """Return what stands in the figure, tooltips left out."""
    found = parse(figure).iter(f"{SVG}text")
    return ["".join([t.text or "", *(tip.tail or "" for tip in t)]) for t in found]


def image(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, dtype=np.uint8)


def pair(name: str = "a", after: int = 0, classes: tuple[str, str] = ("cat", "dog")) -> Pair:
    return Pair(name, image(100), image(100 + after), 0.98, 0.034, classes, "verified")


def test_shorten():
    assert shorten("background", 10) == "background"
    assert shorten("backgrounds", 10) == "backgroun…"


def test_funnel_bars_are_as_wide_as_their_share():
    figure = funnel([("asked for", 400), ("feasible", 100), ("verified", 0)], "the funnel")
    widths = [r.get("width") for r in parse(figure).iter(f"{SVG}rect")]
    assert widths == ["100%", "100.00%", "100%", "25.00%", "100%", "0.00%"]
    assert "25\u202f%" in texts(figure)
    assert parse(figure).get("aria-label") == "the funnel"


def test_funnel_of_nothing_is_empty_not_an_error():
    assert "0\u202f%" in texts(funnel([("asked for", 0), ("feasible", 0)], ""))
    assert not texts(funnel([], ""))


def test_contact_sheet_has_three_images_a_pair_and_its_probabilities():
    sheet = contact_sheet([pair("a", 50), pair("b", 20, ("cat", "cat"))], "sheet")
    images = list(parse(sheet).iter(f"{SVG}image"))
    assert len(images) == 6
    assert all((i.get("href") or "").startswith("data:image/png;base64,") for i in images)
    assert all("pixelated" in (i.get("style") or "") for i in images)
    words = texts(sheet)
    assert words.count("98\u202f% → 3\u202f%") == 2
    assert {"cat", "now dog", "still cat", "verified", "Difference × 4, grey is none"} <= set(words)


def test_large_images_are_smoothed_not_pixelated():
    big = Pair("a", image(0, 300), image(9, 300), 1.0, 0.0, ("a", "b"), "")
    assert "pixelated" not in contact_sheet([big], "")


def test_round_trip_strip_names_psnr_and_exactness():
    trips = [
        RoundTrip("a", image(9), image(10), 48.13),
        RoundTrip("b", image(9), image(9), math.inf),
    ]
    words = texts(round_trip_strip(trips, "strip"))
    assert {"48.1\u202fdB", "exact", "Error × 32, grey is none"} <= set(words)


def test_heat_map_writes_numbers_and_shades_by_magnitude():
    figure = heat_map([[2.0, -1.0], [None, math.nan]], ["a", "b"], ["c", "d"], "matrix")
    words = texts(figure)
    assert {"2.00", "−1.00", "a", "b", "c", "d"} <= set(words)
    assert len(words) == 6
    shades = re.findall(r'style="fill:var\(--(\w+)[^"]*" fill-opacity="([\d.]+)"', figure)
    assert [s for s in shades if s[0] != "track"] == [("accent", "1.000"), ("contra", "0.500")]


def test_heat_map_of_zeros_divides_by_nothing():
    assert texts(heat_map([[0.0]], ["a"], ["b"], "")).count("0.00") == 1


def test_every_name_is_escaped_everywhere():
    sheet = contact_sheet([pair(HOSTILE, 1, (HOSTILE, HOSTILE))], HOSTILE)
    strip = round_trip_strip([RoundTrip(HOSTILE, image(0), image(1), 40.0)], HOSTILE)
    matrix = heat_map([[1.0]], [HOSTILE], [HOSTILE], HOSTILE)
    bars = funnel([(HOSTILE, 1)], HOSTILE)
    for figure in (sheet, strip, matrix, bars):
        assert parse(figure).get("aria-label") == HOSTILE
        assert not list(parse(figure).iter(f"{SVG}script"))
        assert "<script" not in figure
