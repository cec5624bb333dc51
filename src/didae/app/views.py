"""The parts of the page as HTML; whatever a user named is escaped by the templates."""

from __future__ import annotations

import importlib.resources
import shlex
from typing import Any

from didae.app.desk import Desk
from didae.app.jobs import Status
from didae.app.limits import UploadLimits
from didae.app.state import Run
from didae.report.figures import data_uri, read_picture
from didae.report.html import templates
from didae.report.repair import Preview
from didae.report.trust import how_many_verified, label_hint, remedy, trust
from didae.teachers import VERDICTS

SHARED_STYLE = "parts.css"
"""How pairs, funnels and verdict words look, in the report and on the page."""

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
    """Read a file that comes with the page, or that it shares with the report."""
    home = "didae.report" if name == SHARED_STYLE else "didae.app"
    return importlib.resources.files(home).joinpath(name).read_text(encoding="utf-8")


def judge_view(run: Run, direction: int) -> str:
    """Draw the screen of one direction."""
    if direction < 0:
        return _render("empty.html.jinja", run=run)
    screen = run.screen(direction)
    found = trust(run.summary, screen.direction)
    return _render(
        "judge.html.jinja",
        screen=screen,
        **screen.drawn,
        trust=found,
        advice=remedy(run.folder, found.remedy),
        verified=how_many_verified(screen.direction),
        hint=label_hint(screen.direction.name),
        factors=FACTORS,
    )


def verdicts_view(run: Run) -> str:
    """Draw what has been judged so far."""
    verdicts = run.verdicts()
    names: dict[str, list[str]] = {verdict: [] for verdict in (*VERDICTS, "open")}
    for direction in run.order:
        names[verdicts[direction] or "open"].append(run.name(direction))
    return _render("verdicts.html.jinja", names=names, run=run)


def repair_view(desk: Desk, run: Run, name: str) -> str:
    """Draw the repair: its progress while it runs, and what the last one came to."""
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
        folder=shlex.quote(str(run.folder)),
        obstacle=desk.obstacle(run),
        preview=[_preview(run, preview) for preview in result.preview] if result else [],
    )


def job_view(status: Status | None) -> str:
    """Draw how far the long work is, or why it failed."""
    return _render("job.html.jinja", status=status) if status is not None else ""


def own_view(desk: Desk) -> str:
    """Draw the progress of a user's own images."""
    status = desk.jobs.status
    return job_view(status) if status is not None and status.kind == "audit" else ""


def own_intro(limits: UploadLimits) -> str:
    """Say what a user may hand in."""
    return _render("own.html.jinja", limits=limits)


def downloads_view(desk: Desk, name: str) -> str:
    """Draw the links to the files of a run that can be taken home."""
    return _render("downloads.html.jinja", run=name, files=desk.downloads(desk.run(name)))


def _preview(run: Run, preview: Preview) -> dict[str, Any]:
    return {
        "said": preview,
        "factual": data_uri(read_picture(run.folder, preview.factual)),
        "counterfactual": data_uri(read_picture(run.folder, preview.counterfactual)),
    }


def _render(template: str, **values: Any) -> str:
    return templates("didae.app").get_template(template).render(**values)
