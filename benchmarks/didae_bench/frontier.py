"""A frontier as inline SVG: what quality costs, one point per setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from didae.errors import DidaeError
from didae_bench import svg

_WIDTH, _HEIGHT = 720, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 60, 60, 76


@dataclass(frozen=True)
class Point:
    """One setting."""

    name: str
    rate: float
    quality: float
    strong: bool = True


def frontier(points: Sequence[Point], rate: str, quality: str, legend: tuple[str, str]) -> Markup:
    """Draw points over a logarithmic axis of rates, and join those that none surpasses in both."""
    bad = [p.name for p in points if p.rate <= 0 or not math.isfinite(p.rate + p.quality)]
    if not points or bad:
        raise DidaeError(
            f"frontier: {bad or 'no point'} cannot be drawn; give rates above 0 and finite values."
        )
    places = {p: (_across(p, points), _up(p, points)) for p in points}
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (places[p] for p in unsurpassed(points)))
    parts = [
        svg.start(_WIDTH, _HEIGHT, f"{quality} over {rate}"),
        Markup(
            '<polyline points="{}" style="fill:none;stroke:var(--accent,#1f5f8b);'
            'stroke-width:1.5;stroke-opacity:0.5"/>'
        ).format(line),
        svg.text(8, 16, quality, svg.NOTE),
        svg.text(_WIDTH - _RIGHT, _HEIGHT - 12, f"{rate} (logarithmic)", svg.NOTE, anchor="end"),
    ]
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="5" style="{}"><title>{}</title></circle>')
    for words, x, style in zip(legend, (-190, -60), (svg.ACCENT, svg.CONTRA), strict=True):
        parts.append(svg.box(_WIDTH + x - 16, 6, 10, 10, style))
        parts.append(svg.text(_WIDTH + x, 16, words, svg.NOTE))
    for p, (x, y) in places.items():
        told = f"{p.name}: {p.rate:.4g}, {p.quality:.3g}"
        parts.append(dot.format(x, y, svg.ACCENT if p.strong else svg.CONTRA, told))
        if p.strong and x > 0.8 * _WIDTH:  # fast settings crowd there
            parts.append(
                svg.text(round(x - 10, 1), round(y + 4, 1), p.name, svg.NOTE, anchor="end")
            )
        elif p.strong:
            name = svg.text(round(x, 1), round(y - 10, 1), p.name, svg.NOTE, anchor="middle")
            parts.append(name)
    for p in (min(points, key=_rate), max(points, key=_rate)):
        x = round(places[p][0], 1)
        parts.append(svg.text(x, _HEIGHT - 32, f"{p.rate:.4g}", svg.NOTE, anchor="middle"))
    for p in (min(points, key=_quality), max(points, key=_quality)):
        y = round(places[p][1] + 4, 1)
        parts.append(svg.text(_LEFT - 28, y, f"{p.quality:.3g}", svg.NOTE, anchor="end"))
    return svg.join(parts)


def unsurpassed(points: Sequence[Point]) -> list[Point]:
    """Find the points than which none is both faster and better."""
    kept = [
        p
        for p in points
        if not any(
            other.rate >= p.rate
            and other.quality >= p.quality
            and (other.rate, other.quality) != (p.rate, p.quality)
            for other in points
        )
    ]
    return sorted(kept, key=_rate)


def _rate(point: Point) -> float:
    return point.rate


def _quality(point: Point) -> float:
    return point.quality


def _across(point: Point, points: Sequence[Point]) -> float:
    low, high = (bound(math.log(p.rate) for p in points) for bound in (min, max))
    share = (math.log(point.rate) - low) / (high - low) if high > low else 0.5
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _up(point: Point, points: Sequence[Point]) -> float:
    low, high = (bound(p.quality for p in points) for bound in (min, max))
    share = (point.quality - low) / (high - low) if high > low else 0.5
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
