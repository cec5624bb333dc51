"""The parts of the page as HTML; whatever a user named is escaped by the templates."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from didae.app.desk import Desk
from didae.app.jobs import Status
from didae.app.limits import UploadLimits
from didae.app.pairs import Image
from didae.app.state import Run, Screen
from didae.report import figures
from didae.report.pictures import common_gain, data_uri, difference_map, read_picture, thumbnail
from didae.report.repair import Preview
from didae.report.trust import trust
from didae.summary import FUNNEL
from didae.teachers import VERDICTS

FACTORS = 4
"""Factors that a screen lists."""

MEANINGS = {
    "causal": "the thing itself",
    "spurious": "only a side effect",
    "unclear": "cannot tell",
    "broken": "no proper image",
}
"""Verdict -> its answer to the question what has changed."""


def asset(name: str) -> str:
    """Read a file that comes with the page.

    Parameters
    ----------
    name : str
        Its name.

    Returns
    -------
    str
        Its text.
    """
    return importlib.resources.files("didae.app").joinpath(name).read_text(encoding="utf-8")


def judge_view(run: Run, direction: int) -> str:
    """Draw the screen of one direction.

    Parameters
    ----------
    run : Run
        The run.
    direction : int
        The direction; -1 where the run has no counterfactual at all.

    Returns
    -------
    str
        HTML.
    """
    if direction < 0:
        return _render("empty.html.jinja", run=run)
    screen = run.screen(direction)
    gain = common_gain([(pair.factual, pair.counterfactual) for pair in screen.pairs])
    pairs = [
        {
            "pair": pair,
            "factual": _uri(pair.factual),
            "counterfactual": _uri(pair.counterfactual),
            "difference": _uri(difference_map(pair.factual, pair.counterfactual, gain)),
        }
        for pair in screen.pairs
    ]
    return _render(
        "judge.html.jinja",
        screen=screen,
        pairs=pairs,
        gain=gain,
        funnel=_funnel(screen),
        trust=trust(run.summary, screen.direction),
        factors=FACTORS,
    )


def verdicts_view(run: Run) -> str:
    """Draw what has been judged so far.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    str
        HTML.
    """
    verdicts = run.verdicts()
    names: dict[str, list[str]] = {verdict: [] for verdict in (*VERDICTS, "open")}
    for direction in run.order:
        names[verdicts[direction] or "open"].append(run.name(direction))
    return _render("verdicts.html.jinja", names=names, run=run)


def repair_view(desk: Desk, run: Run, name: str) -> str:
    """Draw the repair: its progress while it runs, and what the last one came to.

    Parameters
    ----------
    desk : Desk
        Knows the work that runs.
    run : Run
        The run.
    name : str
        Its name.

    Returns
    -------
    str
        HTML.
    """
    status = desk.jobs.status
    mine = status if status is not None and (status.kind, status.run) == ("repair", name) else None
    if mine is not None and mine.running:
        return job_view(mine)
    saved, stale = desk.result(run)
    result = saved.result if saved else None
    return _render(
        "repair.html.jinja",
        error=mine.error if mine is not None else "",
        result=result,
        stale=stale,
        obstacle=desk.obstacle(run),
        preview=[_preview(run, preview) for preview in result.preview] if result else [],
    )


def job_view(status: Status | None) -> str:
    """Draw how far the long work is, or why it failed.

    Parameters
    ----------
    status : Status or None
        The work.

    Returns
    -------
    str
        HTML; empty where there is nothing to say.
    """
    return _render("job.html.jinja", status=status) if status is not None else ""


def own_view(desk: Desk) -> str:
    """Draw the progress of a user's own images.

    Parameters
    ----------
    desk : Desk
        Knows the work that runs.

    Returns
    -------
    str
        HTML; empty where nothing was started.
    """
    status = desk.jobs.status
    return job_view(status) if status is not None and status.kind == "explain" else ""


def own_intro(limits: UploadLimits) -> str:
    """Say what a user may hand in.

    Parameters
    ----------
    limits : UploadLimits
        The limits.

    Returns
    -------
    str
        HTML.
    """
    return _render("own.html.jinja", limits=limits)


def _funnel(screen: Screen) -> Markup:
    stages: Sequence[tuple[str, int]] = [
        (words, getattr(screen.direction, stage)) for stage, words in FUNNEL
    ]
    label = ", ".join(f"{words} {count}" for words, count in stages)
    return figures.funnel(stages, f"Funnel of “{screen.direction.name}”: {label}")


def _preview(run: Run, preview: Preview) -> dict[str, Any]:
    return {
        "said": preview,
        "factual": _uri(read_picture(run.folder, preview.factual)),
        "counterfactual": _uri(read_picture(run.folder, preview.counterfactual)),
    }


def _uri(image: Image) -> str:
    return data_uri(thumbnail(image))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = figures.percent
    environment.filters["signed"] = _signed
    environment.filters["points"] = _points
    return environment.get_template(template).render(**values)
