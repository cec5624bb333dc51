"""Real pairs of photographs along a direction, as the reports and the page draw them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from didae.explainer.retrieval import Along, Photograph, read_pairs
from didae.report.figures import data_uri, read_picture

_TELLING = 0.2
"""Correlation below which a code goes with nothing."""


def drawn_real_pairs(folder: Path) -> dict[int, dict[str, Any]]:
    """Give what the templates draw of each direction, by number; most foreseen flips first."""
    ranked = sorted(read_pairs(folder), key=lambda along: -along.flips)
    return {along.index: _drawn(folder, along) for along in ranked}


def _drawn(folder: Path, along: Along) -> dict[str, Any]:
    def photograph(shown: Photograph) -> dict[str, Any]:
        picture = data_uri(read_picture(folder, shown.file))
        return {**shown.model_dump(), "picture": picture}

    pairs = [[photograph(shown) for shown in pair] for pair in along.pairs]
    goes_with = [(name, r) for name, r in along.goes_with if abs(r) >= _TELLING]
    return {"along": along, "goes_with": goes_with, "pairs": pairs}
