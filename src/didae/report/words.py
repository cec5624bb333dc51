"""Numbers and names as people read them: one way of writing, for terminal, report and page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from didae.explainer.summary import ASKED, FOUND, FUNNEL, DirectionSummary, Matrix, Summary

_NARROW = "\u202f"
"""The space between a number and its unit."""

_MOST = 10
"""Classes that are listed by name."""

_FOLLOWED = 0.3
"""Correlation below which a code follows no factor."""

_MEASURES = {"student_accuracy": "student accuracy, on images learnt from"}


def percent(share: float | None) -> str:
    """Write a share, never rounding something to nothing or almost all to all ("0.4 %")."""
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.1:
        return f"<0.1{_NARROW}%"
    if 99.9 < value < 100:
        return f">99.9{_NARROW}%"
    return f"{value:.{1 if 0 < value < 1 or 99 < value < 100 else 0}f}{_NARROW}%"


def accuracy(share: float | None) -> str:
    """Write an accuracy with the tenths of a percent that comparisons need ("97.0 %")."""
    return "–" if share is None else f"{100 * share:.1f}{_NARROW}%"


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
    return f"{value:.1f}{_NARROW}dB" if math.isfinite(value) else "exact"


def decimals(value: float | None, sign: bool = False) -> str:
    """Write a number with two decimals ("0.31", with its sign "+0.31")."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.2f}".replace("-", "−")


def points(change: float) -> str:
    """Write a difference of two shares in points of a percent ("+3.1")."""
    return f"{100 * change:+.1f}".replace("-", "−")


def count(value: int) -> str:
    """Write how many ("1,234")."""
    return f"{value:,}"


def plain(text: str) -> str:
    """Put spaces that every code page has, for the terminal."""
    return text.replace(_NARROW, " ")


def class_name(index: int, names: Sequence[str]) -> str:
    """Name a class; one beyond the names is a number."""
    return names[index] if 0 <= index < len(names) else f"class {index}"


def stages(direction: DirectionSummary) -> list[tuple[str, int, float]]:
    """List the funnel of a direction: words, count and share of all n."""
    counts = [(words, int(getattr(direction, stage))) for stage, words in FUNNEL]
    return [(words, passed, passed / max(direction.n, 1)) for words, passed in counts]


def follows(direction: DirectionSummary) -> str:
    """Name the known factor that the code of a direction follows; empty where none is known."""
    if not direction.correlates_with:
        return ""
    factor, r = direction.correlates_with[0]
    if abs(r) < _FOLLOWED:
        return "no known factor"
    return f"{factor} (r{_NARROW}={_NARROW}{decimals(r)})"


def remarks(summary: Summary) -> list[tuple[str, bool]]:
    """Say what a reader must know of images and classifier, and of each whether it is grave."""
    known = {FOUND: "Files in the folder", ASKED: "Images to be learnt from"}
    said = [
        (f"{known.get(purpose, f'Images to be {purpose}')}: {unread}.", bool(unread.uneven))
        for purpose, unread in summary.unread.items()
    ]
    right = summary.measures.get("student_accuracy")
    if right is not None and right * len(summary.label_names) < 1:
        words = (
            f"The classifier is right on {percent(right)} of the images learnt from, which is less "
            "than chance: if it numbers its classes otherwise, name them in its order (--classes)."
        )
        said.insert(0, (words, True))
    return said


def class_lines(summary: Summary) -> list[tuple[str, str]]:
    """Say how many images each class has, and which class they were to become."""
    found: list[tuple[str, str]] = []
    if summary.classes:
        counts = [f"{name} {images:,}" for name, images in summary.classes.items()]
        found.append(("images by class", _listed(counts)))
    if len({name for pair in summary.pairs.items() for name in (pair[0], *pair[1])}) < 3:
        return found  # Of two classes there is only one pair.
    chosen = summary.settings.get("target") is not None
    predicted = sorted(summary.pairs.items(), key=lambda pair: -sum(pair[1].values()))
    for name, targets in predicted[:_MOST]:
        ordered = sorted(targets.items(), key=lambda pair: -pair[1])
        shares = [f"{other} {percent(n / sum(targets.values()))}" for other, n in ordered]
        found.append((f"{name} against" + ("" if chosen else " its runner-up"), _listed(shares)))
    if len(predicted) > _MOST:
        found.append(("further predicted classes", f"{len(predicted) - _MOST:,}"))
    return found


def _listed(parts: Sequence[str]) -> str:
    more = [f"and {len(parts) - _MOST:,} more"] if len(parts) > _MOST else []
    return ", ".join([*parts[:_MOST], *more])


def key_figures(summary: Summary) -> list[tuple[str, str]]:
    """List what else a run measured, words and number."""
    measures = summary.measures.items()
    return [
        ("images", f"{summary.n_images:,}"),
        ("directions", f"{summary.n_directions:,}"),
        ("counterfactuals per second", number(summary.counterfactuals_per_second)),
        ("network evaluations per counterfactual", number(summary.nfe_per_counterfactual)),
        ("round trip without residual", decibels(summary.round_trip_psnr)),
        *((_MEASURES.get(k, k.replace("_", " ")), number(value)) for k, value in measures),
    ]


def shares(values: Matrix) -> list[list[tuple[float | None, float]]]:
    """Give every value with its size in [0, 1], relative to the largest; what is none has none."""
    sizes = [[abs(v) if v is not None and math.isfinite(v) else 0.0 for v in row] for row in values]
    largest = max((size for row in sizes for size in row), default=0.0) or 1.0
    return [
        [(v, size / largest) for v, size in zip(*rows, strict=True)]
        for rows in zip(values, sizes, strict=True)
    ]


_ALL = (percent, accuracy, number, decibels, decimals, points, count, stages, follows, shares)

FILTERS = {f.__name__: f for f in _ALL}
"""For templates, by name."""
