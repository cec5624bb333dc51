"""The templates of report and page: found in the package, every value escaped and visible."""

from __future__ import annotations

import importlib.resources
from typing import Any, cast

import jinja2

from didae.errors import visible
from didae.explainer.summary import FUNNEL, DirectionSummary
from didae.report.numbers import FILTERS, NARROW, decimals

SHARED_STYLE = "parts.css"
"""How pairs, funnels and verdict words look, in the report and on the page."""

_FOLLOWED = 0.3
"""Correlation below which a code follows no factor."""


def templates(package: str = "didae.report") -> jinja2.Environment:
    """Find the templates of a package, and what it shares with the report."""

    def find(name: str) -> str | None:
        homes = (importlib.resources.files(home) for home in (package, "didae.report"))
        return next((f.read_text("utf-8") for h in homes if (f := h / name).is_file()), None)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(find),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cast("dict[str, Any]", environment.filters).update(FILTERS, follows=_follows, stages=_stages)
    return environment


def _shown(value: object) -> object:
    """Show what is hidden in a text that somebody named, such as marks of direction."""
    return value if hasattr(value, "__html__") else visible(str(value))


def _stages(direction: DirectionSummary) -> list[tuple[str, int, float]]:
    """List the funnel of a direction: words, count and share of all n."""
    counts = [(words, int(getattr(direction, stage))) for stage, words in FUNNEL]
    return [(words, count, count / max(direction.n, 1)) for words, count in counts]


def _follows(direction: DirectionSummary) -> str:
    if not direction.correlates_with:
        return ""
    factor, r = direction.correlates_with[0]
    if abs(r) < _FOLLOWED:
        return "no known factor"
    return f"{factor} (r{NARROW}={NARROW}{decimals(r)})"
