"""`didae app`: the page on which a person judges and repairs."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field

from didae.cli.command import Command
from didae.cli.console import console
from didae.cli.sources import tried
from didae.cli.study import (
    Audit,
    Demo,
    load_summary,
    lost,
    read_run,
    require_finished,
    taken,
)
from didae.cli.verdicts import RepairRun
from didae.errors import DidaeError, require
from didae.repair.run import RepairConfig
from didae.report import write_report
from didae.report.repair import REPAIR_FOLDER, RepairDocument, read_repair
from didae.runtime import watched

if TYPE_CHECKING:
    from didae.app.desk import Jobs, Progress


class App(Command):
    """Judge the directions of a run on a page, and repair the classifier there.

    The page is served on this machine only. Verdicts are saved in the run folder with every click.

    Attributes
    ----------
    folder : Path
        What didae explain or didae demo wrote.
    port : int
        Where to serve; 0 for any free one.
    browser : bool
        Open a browser.
    teacher : str
        Who judges, for verdicts.json.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    essential = ("folder", "port", "browser", "teacher", "device")

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    port: int = Field(default=7860, ge=0, le=65535)
    browser: bool = True
    teacher: str = "page"
    device: str = "auto"
    repair: RepairConfig = RepairConfig()

    def run(self) -> None:
        """Serve until interrupted."""
        require("didae.app.page", "app", "didae app")
        from didae.app.desk import Actions, Desk
        from didae.app.page import serve
        from didae.app.uploads import UploadLimits

        require_finished(self.folder)
        actions = Actions(obstacle, self.repair_run, audit_own)
        desk = Desk(self.folder, actions, UploadLimits(), self.teacher)
        try:
            with serve(desk, self.port, self.browser) as address:
                console().print(f"{address} (Ctrl-C ends it)", style="bold")
                threading.Event().wait()
        finally:
            _end(desk.jobs)

    def repair_run(self, folder: Path, progress: Progress) -> RepairDocument:
        """Repair the student of a run as its verdicts ask for; the run gets its report again."""
        progress(None, "Reading what the run used")
        home = folder / REPAIR_FOLDER
        with watched(progress):
            RepairRun(
                explained=folder,
                folder=home,
                **taken(folder),
                device=self.device,
                repair=self.repair,
            ).execute()
        write_report(folder, load_summary(folder))
        return read_repair(home)


def _end(jobs: Jobs) -> None:
    """Stop the work of the page: Python would abort if it ended beside a thread that computes."""
    interrupt = sys.exc_info()[1]
    with contextlib.suppress(KeyboardInterrupt):
        if jobs.stop():
            return
    number = interrupt.args[0] if interrupt is not None and interrupt.args else signal.SIGINT
    sys.stderr.write("didae: interrupted in the middle of work that goes on when it is repeated.\n")
    sys.stderr.flush()
    os._exit(128 + number)


def obstacle(folder: Path) -> str:
    """Say why the page cannot repair the student of a run; nothing for demos and audits."""
    run = None
    with contextlib.suppress(DidaeError):
        run = read_run(folder)
    if isinstance(run, Demo):
        return ""
    if not isinstance(run, Audit):
        return (
            "The page does not know whether this classifier was trained on the images of this run. "
            f"If it was, `didae repair {shlex.quote(str(folder))}` repairs it as these verdicts "
            "ask for; its help says how to name other images."
        )
    for part, name in lost(folder).items():
        return (
            f"The {part} of this audit, {name}, cannot be used, for it is not found from here: end "
            "this page and start `didae app` where `didae audit` was started, or put it there "
            "again."
        )
    return ""


def audit_own(images: Path, student: str, folder: Path, progress: Progress) -> None:
    """Audit a user's own images and classifier as `didae audit` does, with its defaults."""
    progress(None, "Looking at the classifier and the images")
    tried(student)
    with watched(progress):
        Audit(images=str(images), student=student, folder=folder).execute()
