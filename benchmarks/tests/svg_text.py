"""Where words stand in an SVG figure."""

from __future__ import annotations

from xml.etree import ElementTree

TEXT = "{http://www.w3.org/2000/svg}text"


def written(drawn: str) -> dict[str, tuple[float, float]]:
    """Give every text of a figure with its place, y downwards."""
    return {
        "".join(element.itertext()): (float(element.get("x", 0)), float(element.get("y", 0)))
        for element in ElementTree.fromstring(drawn).iter(TEXT)
    }
