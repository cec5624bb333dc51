"""Sheets of images as inline SVG: pairs and their difference, one pair a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from didae.report import svg
from didae.report.figures import shorten
from didae.report.numbers import decibels, percent
from didae.report.pictures import THUMBNAIL, common_gain, difference_map

_CELL = THUMBNAIL
_GAP = 12
_CAPTION = 30
_ROW = _CELL + _CAPTION


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
class Caption:
    """Words beneath a column.

    Attributes
    ----------
    y
        Baseline beneath the images, in CSS pixels.
    words
        The text; a long one is cut, with the whole as a tooltip.
    style
        One of the styles of `svg`.
    """

    y: int
    words: str
    style: str


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
    captions: list[list[Caption]] = []
    for pair in pairs:
        was, is_now = pair.classes
        outcome = f"still {was}" if was == is_now else f"now {is_now}"
        before, after = percent(pair.probability_before), percent(pair.probability_after)
        captions.append([
            Caption(20, was, svg.NOTE),
            Caption(39, f"{before} → {after}", svg.STRONG),
            Caption(57, outcome, svg.NOTE),
            Caption(74, pair.standing, svg.NOTE),
        ])  # fmt: skip
    return sheet([(p.name, p.factual, p.counterfactual) for p in pairs], captions, label)


def sheet(
    pairs: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]],
    captions: Sequence[Sequence[Caption]],
    label: str,
) -> Markup:
    """Draw pairs of images and their difference, one pair a column, with words beneath.

    Parameters
    ----------
    pairs
        (name, factual, counterfactual) of each column, the images (h, w, 3) uint8.
    captions
        Words beneath each column, at most 80 units down.
    label
        Text alternative.

    Returns
    -------
    Markup
        An SVG of fixed width, 140 units a column.
    """
    gain = common_gain([(before, after) for _, before, after in pairs])
    headings = ("Factual", "Counterfactual", f"Difference × {gain}, grey is none")
    bottom = _ROW * len(headings)
    parts = [svg.start(_width(len(pairs)), bottom + 80, label), *_headings(headings)]
    for i, ((name, before, after), lines) in enumerate(zip(pairs, captions, strict=True)):
        x = i * (_CELL + _GAP)
        change = difference_map(before, after, gain)
        parts += _column(x, name, (before, after, change), headings)
        parts += [
            svg.text(x, bottom + line.y, shorten(line.words, 18), line.style, title=line.words)
            for line in lines
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
        psnr = decibels(trip.psnr)
        parts += [
            *_column(x, trip.name, (trip.image, trip.decoded, error), headings),
            svg.text(x, bottom + 20, psnr, svg.STRONG),
        ]
    return svg.join(parts)


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
