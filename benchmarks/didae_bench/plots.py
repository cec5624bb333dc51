"""Figures of the result pages, as SVG that is the same for the same numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from didae.errors import DidaeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONG, WEAK = "#1f5f8b", "#b4532a"
_SETTINGS: Any = {
    "svg.hashsalt": "didae",
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Point:
    """One setting: what it reaches, and how fast."""

    name: str
    rate: float
    quality: float
    strong: bool = True


def frontier(points: Sequence[Point], rate: str, quality: str, legend: tuple[str, str]) -> str:
    """Draw qualities over a logarithmic axis of rates; join points that none surpasses in both."""
    bad = [p.name for p in points if p.rate <= 0 or not math.isfinite(p.rate + p.quality)]
    if not points or bad:
        raise DidaeError(
            f"frontier: {bad or 'no point'} cannot be drawn; give rates above 0 and finite values."
        )

    def draw(axes: Axes) -> None:
        best = unsurpassed(points)
        axes.plot([p.rate for p in best], [p.quality for p in best], color=STRONG, alpha=0.5)
        for words, strong, color in zip(legend, (True, False), (STRONG, WEAK), strict=True):
            shown = [p for p in points if p.strong is strong]
            rates, qualities = [p.rate for p in shown], [p.quality for p in shown]
            axes.scatter(rates, qualities, 30, color, label=words)
        named = [p for p in points if p.strong]
        _label(axes, [(p.rate, p.quality, p.name) for p in named])
        axes.set_xlabel(f"{rate} (logarithmic)")
        axes.set_ylabel(quality)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12), ncols=2)

    return _svg(draw)


def unsurpassed(points: Sequence[Point]) -> list[Point]:
    """Find the points than which none is both faster and better, the slowest first."""

    def surpassed(p: Point) -> bool:
        better = [q for q in points if q.rate >= p.rate and q.quality >= p.quality]
        return any((q.rate, q.quality) != (p.rate, p.quality) for q in better)

    return sorted((p for p in points if not surpassed(p)), key=lambda p: p.rate)


def speed_and_validity(points: Mapping[str, tuple[float, float]], names: Mapping[str, str]) -> str:
    """Draw NAFR against seconds per counterfactual, on a logarithmic axis; the first stands out."""

    def draw(axes: Axes) -> None:
        for i, (seconds, share) in enumerate(points.values()):
            axes.scatter([seconds], [share], 40, WEAK if i else STRONG)
        words = [names[method].replace("*", "") for method in points]
        _label(axes, [(*at, name) for at, name in zip(points.values(), words, strict=True)])
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("seconds per counterfactual")
        axes.set_ylabel("NAFR")

    return _svg(draw)


def _label(axes: Axes, named: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, moved down where another name stands there."""
    axes.set_xscale("log")
    axes.margins(0.25, 0.1)
    axes.figure.canvas.draw()
    taken: list[tuple[float, float, float]] = []
    for x, y, words in sorted(named, key=lambda point: -point[1]):
        left, up = axes.transData.transform((x, y))
        end, line = left + 14 + 7 * len(words), float(up)
        while any(a < end and left < b and abs(line - c) < 14 for a, b, c in taken):
            line -= 1
        taken.append((left, end, line))
        # Displayed in 72 dots an inch, so that points are pixels.
        axes.annotate(words, (x, y), (7, line - up - 3), textcoords="offset points")


def _svg(draw: Any) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure((8, 5), dpi=72, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
