"""Numbers as people read them: one way of rounding, for terminal, report and page."""

from __future__ import annotations

import math

NARROW = "\u202f"
"""The space between a number and its unit."""


def percent(share: float | None) -> str:
    """Write a share, never rounding something to nothing or almost all to all ("0.4 %")."""
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.1:
        return f"<0.1{NARROW}%"
    if 99.9 < value < 100:
        return f">99.9{NARROW}%"
    return f"{value:.{1 if 0 < value < 1 or 99 < value < 100 else 0}f}{NARROW}%"


def accuracy(share: float | None) -> str:
    """Write an accuracy with the tenths of a percent that comparisons need ("97.0 %")."""
    return "–" if share is None else f"{100 * share:.1f}{NARROW}%"


def plain_accuracy(share: float | None) -> str:
    """Write an accuracy with a space that every code page has."""
    return accuracy(share).replace(NARROW, " ")


def number(value: float | None) -> str:
    """Write a number with three digits that count ("1,234", "12.3")."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "−")
    # Between shares, .9 looks like fewer digits than .944.
    return f"{value:{'#' if 0 < abs(value) < 1 else ''}.3g}".replace("-", "−")


def decibels(value: float | None) -> str:
    """Write a PSNR ("37.1 dB"); two images that are the same are exact."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.1f}{NARROW}dB" if math.isfinite(value) else "exact"


def decimals(value: float | None, sign: bool = False) -> str:
    """Write a number with two decimals ("0.31", with its sign "+0.31")."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.2f}".replace("-", "−")


def points(change: float) -> str:
    """Write a difference of two shares in points of a percent ("+3.1")."""
    return f"{100 * change:+.1f}".replace("-", "−")


FILTERS = {f.__name__: f for f in (percent, accuracy, number, decibels, decimals, points)}
"""For templates, by name."""
