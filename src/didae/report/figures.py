"""Figures as inline SVG: pure functions of numbers and images.

Colours are CSS variables with a fallback, so that a figure follows the page into dark mode and also
stands on its own. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from didae.report import svg
from didae.report.pictures import THUMBNAIL, common_gain, difference_map

_CELL = THUMBNAIL
_GAP = 12
_CAPTION = 30
_ROW = _CELL + _CAPTION
_WIDE, _HIGH = 76, 48


@dataclass(frozen=True)
class Pair:
    """One column of a contact sheet.

    Attributes
    ----------
    name
        Identifier of the image.
    factual, counterfactual
        (h, w, 3) uint8.
    probability_before, probability_after
        Of the class predicted for the factual, in [0, 1].
    classes
        Names of the classes predicted before and after.
    standing
        How far the counterfactual came, in words ("verified").
    """

    name: str
    factual: NDArray[np.uint8]
    counterfactual: NDArray[np.uint8]
    probability_before: float
    probability_after: float
    classes: tuple[str, str]
    standing: str


@dataclass(frozen=True)
class RoundTrip:
    """One column of a round-trip strip.

    Attributes
    ----------
    name
        Identifier of the image.
    image, decoded
        (h, w, 3) uint8; `decoded` is the round trip without the kept residual.
    psnr
        Between the two, in dB.
    """

    name: str
    image: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    psnr: float


def percent(share: float | None) -> str:
    """Write a share for reading, never rounding something to nothing or almost all to all.

    Parameters
    ----------
    share
        In [0, 1], or None.

    Returns
    -------
    str
        "97 %", "0.4 %", "99.8 %", "<0.1 %", or "–" for None and NaN.
    """
    if share is None or math.isnan(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1\u202f%"
    if 99.9 < value < 100:
        return ">99.9\u202f%"
    return f"{value:.{1 if 0 < value < 1 or 99 < value < 100 else 0}f}\u202f%"


def shorten(text: str, length: int) -> str:
    """Cut a text to at most `length` characters, with an ellipsis where something was cut off.

    Parameters
    ----------
    text
        Any text.
    length
        At least 1.

    Returns
    -------
    str
        The text or its beginning.
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def funnel(stages: Sequence[tuple[str, int]], label: str) -> Markup:
    """Draw a funnel: one bar per stage, as wide as its share of the first stage.

    Parameters
    ----------
    stages
        (words, count), the whole first.
    label
        Text alternative.

    Returns
    -------
    Markup
        An SVG as wide as its box.
    """
    whole = max(stages[0][1], 1) if stages else 1
    row = 36
    parts = [svg.start(None, row * len(stages), label)]
    for i, (words, count) in enumerate(stages):
        share, y = count / whole, row * i
        parts += [
            svg.text(0, y + 13, words, svg.BODY if i else svg.SOFT),
            svg.text("100%", y + 13, percent(share), svg.BODY, anchor="end"),
            svg.text("100%", y + 13, f"{count:,}", svg.SOFT, anchor="end", dx=-58),
            svg.bar("100%", y + 20, svg.TRACK),
            svg.bar(
                f"{100 * share:.2f}%",
                y + 20,
                svg.MUTED if i == 0 else svg.ACCENT,
                opacity=0.4 + 0.12 * i,
            ),
        ]
    return svg.join(parts)


def contact_sheet(pairs: Sequence[Pair], label: str) -> Markup:
    """Draw counterfactual pairs: factual, counterfactual and their difference, one pair a column.

    Parameters
    ----------
    pairs
        The columns, from left to right.
    label
        Text alternative.

    Returns
    -------
    Markup
        An SVG of fixed width, 140 units a column.
    """
    gain = common_gain([(p.factual, p.counterfactual) for p in pairs])
    headings = ("Factual", "Counterfactual", f"Difference × {gain}, grey is none")
    bottom = _ROW * len(headings)
    parts = [svg.start(_width(len(pairs)), bottom + 80, label), *_headings(headings)]
    for i, pair in enumerate(pairs):
        x = i * (_CELL + _GAP)
        change = difference_map(pair.factual, pair.counterfactual, gain)
        was, is_now = pair.classes
        outcome = f"still {was}" if was == is_now else f"now {is_now}"
        before, after = percent(pair.probability_before), percent(pair.probability_after)
        parts += [
            *_column(x, pair.name, (pair.factual, pair.counterfactual, change), headings),
            svg.text(x, bottom + 20, shorten(was, 18), svg.NOTE, title=was),
            svg.text(x, bottom + 39, f"{before} → {after}", svg.STRONG),
            svg.text(x, bottom + 57, shorten(outcome, 18), svg.NOTE, title=outcome),
            svg.text(x, bottom + 74, pair.standing, svg.NOTE),
        ]
    return svg.join(parts)


def round_trip_strip(trips: Sequence[RoundTrip], label: str) -> Markup:
    """Draw images, their round trip without residual, and the amplified error, one image a column.

    Parameters
    ----------
    trips
        The columns, from left to right.
    label
        Text alternative.

    Returns
    -------
    Markup
        An SVG of fixed width, 140 units a column.
    """
    gain = common_gain([(t.image, t.decoded) for t in trips])
    headings = ("Image", "Round trip", f"Error × {gain}, grey is none")
    bottom = _ROW * len(headings)
    parts = [svg.start(_width(len(trips)), bottom + 28, label), *_headings(headings)]
    for i, trip in enumerate(trips):
        x = i * (_CELL + _GAP)
        error = difference_map(trip.image, trip.decoded, gain)
        psnr = f"{trip.psnr:.1f} dB" if math.isfinite(trip.psnr) else "exact"
        parts += [
            *_column(x, trip.name, (trip.image, trip.decoded, error), headings),
            svg.text(x, bottom + 20, psnr, svg.STRONG),
        ]
    return svg.join(parts)


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
) -> Markup:
    """Draw a matrix with its numbers; negative values in the contrasting colour.

    Parameters
    ----------
    values
        (rows, columns); None or NaN leaves a cell empty; colour is relative to the largest.
    rows, columns
        Names; long ones are cut, with the whole name as a tooltip.
    label
        Text alternative.

    Returns
    -------
    Markup
        An SVG of fixed width.
    """
    left, top = 132, 32
    largest = max(
        (abs(v) for row in values for v in row if v is not None and math.isfinite(v)), default=0.0
    )
    parts = [svg.start(left + _WIDE * len(columns), top + _HIGH * len(rows), label)]
    for j, name in enumerate(columns):
        x = left + _WIDE * (j + 0.5)
        words = shorten(name, 10)
        parts.append(svg.text(x, top - 12, words, svg.NOTE, anchor="middle", title=name))
    for i, name in enumerate(rows):
        y = top + _HIGH * i
        parts.append(svg.text(0, y + _HIGH / 2 + 4.5, shorten(name, 17), svg.BODY, title=name))
        for j, value in enumerate(values[i]):
            parts.append(_heat_cell(left + _WIDE * j, y, value, largest))
    return svg.join(parts)


def _heat_cell(x: float, y: float, value: float | None, largest: float) -> Markup:
    corner = (x + 1, y + 1, _WIDE - 2, _HIGH - 2)
    parts = [svg.box(*corner, svg.TRACK, 0.6)]
    if value is not None and math.isfinite(value):
        strength = abs(value) / largest if largest else 0.0
        parts.append(svg.box(*corner, svg.CONTRA if value < 0 else svg.ACCENT, strength))
        number = f"{value:.2f}".replace("-", "−")
        style = svg.ON_FILL if strength > 0.55 else svg.BODY
        parts.append(svg.text(x + _WIDE / 2, y + _HIGH / 2 + 4.5, number, style, anchor="middle"))
    return Markup("").join(parts)


def _headings(words: Sequence[str]) -> list[Markup]:
    return [svg.text(0, _ROW * r + 21, heading, svg.NOTE) for r, heading in enumerate(words)]


def _column(
    x: int, name: str, images: Sequence[NDArray[np.uint8]], headings: Sequence[str]
) -> list[Markup]:
    return [
        svg.picture(x, _ROW * r + _CAPTION, image, f"{name}: {heading.lower()}")
        for r, (image, heading) in enumerate(zip(images, headings, strict=True))
    ]


def _width(columns: int) -> int:
    # Two cells at least, so that the headings fit.
    return max(columns * (_CELL + _GAP) - _GAP, 2 * _CELL)
