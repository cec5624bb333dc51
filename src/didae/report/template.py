"""The template of the page: found in the package, every value escaped, numbers written as words."""

from __future__ import annotations

import importlib.resources

import jinja2

from didae.report.numbers import FILTERS, decimals
from didae.summary import DirectionSummary


def page_template() -> jinja2.Template:
    """Load the template of the page.

    Returns
    -------
    jinja2.Template
        To be rendered with all of its values; a missing one is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_packaged),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {**FILTERS, "follows": _follows}
    return environment.get_template("report.html.jinja")


def _packaged(name: str) -> str:
    return importlib.resources.files("didae.report").joinpath(name).read_text(encoding="utf-8")


def _follows(direction: DirectionSummary) -> str:
    if not direction.correlates_with:
        return ""
    factor, r = direction.correlates_with[0]
    return f"{factor} (r\u202f=\u202f{decimals(r)})" if abs(r) >= 0.3 else "no known factor"
