"""Figures as inline SVG: pure functions of numbers.

Colours are CSS variables with a fallback, so that a figure follows the page into dark mode and also
stands on its own. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from didae.report import svg
from didae.report.numbers import decimals, percent

_WIDE, _HIGH = 76, 48


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
        number = decimals(value)
        style = svg.ON_FILL if strength > 0.55 else svg.BODY
        parts.append(svg.text(x + _WIDE / 2, y + _HIGH / 2 + 4.5, number, style, anchor="middle"))
    return Markup("").join(parts)
