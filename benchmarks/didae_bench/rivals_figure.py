"""A picture of how fast and how valid explainers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from didae_bench import svg

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP = 620, 320, 56, 220, 24
_DOT = 10
_LINE, _LETTER = 13, 7  # height of a label, and about the width of its letters


def speed_and_validity(points: Mapping[str, tuple[float, float]], names: Mapping[str, str]) -> str:
    """Draw NAFR against seconds per counterfactual, on a logarithmic axis; the first stands out."""
    powers = [math.log10(seconds) for seconds, _ in points.values()]
    first, last = math.floor(min(powers)), max(math.ceil(max(powers)), math.floor(min(powers)) + 1)

    def across(power: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * (power - first) / (last - first)

    def up(share: float) -> float:
        return _TOP + (_HIGH - 2 * _TOP - 20) * (1 - share)

    label = "Non-adversarial flip rate and seconds per counterfactual of every explainer"
    parts = [svg.start(_WIDE, _HIGH, label)]
    for share in (0.0, 0.5, 1.0):
        parts.append(svg.box(_LEFT, up(share), _WIDE - _LEFT, 1, svg.TRACK))
        parts.append(svg.text(_LEFT - 8, up(share) + 4, f"{share:.1f}", svg.NOTE, anchor="end"))
    for power in range(first, last + 1):
        words = f"{10.0**power:g} s"
        parts.append(svg.text(across(power), _HIGH - 26, words, svg.NOTE, anchor="middle"))
    parts.append(svg.text(_LEFT, 12, "NAFR", svg.NOTE))
    parts.append(svg.text(_WIDE, _HIGH - 8, "per counterfactual", svg.NOTE, anchor="end"))
    dots = [(across(math.log10(seconds)), up(share)) for seconds, share in points.values()]
    words = [names[method].replace("*", "") for method in points]
    for i, ((x, y), line) in enumerate(zip(dots, _lines(dots, words), strict=True)):
        style = svg.CONTRA if i else svg.ACCENT
        parts.append(svg.box(x - _DOT / 2, y - _DOT / 2, _DOT, _DOT, style))
        parts.append(svg.text(x + _DOT, line + 4, words[i], svg.NOTE))
    return str(Markup("{}\n").format(svg.join(parts)))


def _lines(dots: Sequence[tuple[float, float]], words: Sequence[str]) -> list[float]:
    """Give the height of every dot's label, at the nearest line that neither dots nor labels hold.

    Labels begin beside their dots, and are laid from the lowest dot up.
    """
    taken = [(x - _DOT / 2, x + _DOT / 2, y) for x, y in dots]
    lines = [y for _, y in dots]
    for i in sorted(range(len(dots)), key=lines.__getitem__, reverse=True):
        start = dots[i][0] + _DOT
        end = start + _LETTER * len(words[i])
        near = [y for a, b, y in taken if a < end and start < b]
        while any(abs(lines[i] - y) < _LINE for y in near):
            lines[i] -= 1
        taken.append((start, end, lines[i]))
    return lines
