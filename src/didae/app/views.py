"""The parts of the page as HTML; whatever a user named is escaped by the templates."""

from __future__ import annotations

import importlib.resources
import shlex
from typing import Any

from didae.app.desk import Desk, Run, Status
from didae.app.uploads import UploadLimits
from didae.report.html import drawn_preview, drawn_real_pairs, templates
from didae.report.repair import REPAIR_FOLDER
from didae.report.trust import how_many_verified, label_hint, remedy, trust
from didae.report.words import remarks
from didae.teachers import VERDICTS

MEANINGS = {
    "causal": "the thing itself",
    "spurious": "only a side effect",
    "unclear": "cannot tell",
    "broken": "no proper image",
}
"""Verdict -> its answer to the question what has changed."""

_FACTORS = 4
"""Factors that a screen lists."""


def style() -> str:
    """Read how the page looks: what it shares with the report, and its own."""
    shared = importlib.resources.files("didae.report") / "parts.css"
    return shared.read_text(encoding="utf-8") + asset("page.css")


def asset(name: str) -> str:
    """Read a file that comes with the page."""
    return (importlib.resources.files("didae.app") / name).read_text(encoding="utf-8")


def judge_view(run: Run, direction: int) -> str:
    """Draw the screen of one direction; -1 is that of a run without any."""
    if direction < 0:
        return _render("empty.html.jinja", run=run)
    shown, verdicts = run.directions[direction], run.verdicts()
    found = trust(run.summary, shown)
    return _render(
        "judge.html.jinja",
        run=run,
        direction=shown,
        verdicts={index: verdicts[index] for index in run.order},
        **run.drawn(direction),
        trust=found,
        advice=remedy(run.folder, found.remedy),
        verified=how_many_verified(shown),
        hint=label_hint(shown.name),
        factors=_FACTORS,
        remarks=remarks(run.summary),
    )


def verdicts_view(run: Run) -> str:
    """Draw what has been judged so far."""
    verdicts = run.verdicts()
    names: dict[str, list[str]] = {verdict: [] for verdict in (*VERDICTS, "open")}
    for direction in run.order:
        names[verdicts[direction] or "open"].append(run.directions[direction].name)
    return _render("verdicts.html.jinja", names=names, run=run)


def repair_view(desk: Desk, run: Run) -> str:
    """Draw the repair: its progress while it runs, and what the last one came to."""
    status = desk.jobs.status
    if status is not None and (status.kind, status.run) != ("repair", run.name):
        status = None
    if status is not None and status.running:
        return job_view(status)
    document, stale = desk.result(run)
    return _render(
        "repair.html.jinja",
        error=status.error if status is not None else "",
        document=document,
        stale=stale,
        folder=shlex.quote(str(run.folder)),
        obstacle=desk.obstacle(run),
        preview=drawn_preview(run.folder / REPAIR_FOLDER, document) if document else [],
    )


def job_view(status: Status | None, kind: str = "") -> str:
    """Draw how far long work of a kind is, or why it failed; nothing where there is none."""
    shown = status is not None and kind in ("", status.kind)
    return _render("job.html.jinja", status=status) if shown else ""


def photographs_view(desk: Desk) -> str:
    """Draw the real pairs that a running audit of a user's own images has found."""
    folder = desk.auditing()
    real = drawn_real_pairs(folder) if folder is not None else {}
    return _render("photographs.html.jinja", real=real) if real else ""


def own_intro(limits: UploadLimits) -> str:
    """Say what a user may hand in."""
    return _render("own.html.jinja", limits=limits)


def downloads_view(desk: Desk, run: Run) -> str:
    """Draw the links to the files of a run that can be taken home."""
    return _render("downloads.html.jinja", run=run.name, files=desk.downloads(run))


def _render(template: str, **values: Any) -> str:
    return templates("didae.app").get_template(template).render(**values)
