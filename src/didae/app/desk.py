"""What the controls of the page do: judging, walking, and starting long work."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from didae.app.jobs import Jobs
from didae.app.limits import Accepted, UploadLimits
from didae.app.results import (
    MODEL_FILE,
    Actions,
    Progress,
    SavedResult,
    clear_result,
    load_result,
    save_result,
)
from didae.app.runs import OWN_FOLDER, Runs
from didae.app.state import Run
from didae.app.uploads import unpack
from didae.errors import DidaeError
from didae.repair.measure import ONNX_FILE
from didae.report import write_report
from didae.report.html import REPORT_FILE
from didae.report.repair import REPAIR_FOLDER
from didae.teachers import VERDICTS_FILE, Verdict
from didae.teachers.verdicts import Event

WINDOWS = 256
"""Windows whose verdicts can be taken back."""


class Desk(Runs):
    """Everything that can be done with the runs."""

    def __init__(
        self, home: str | Path, actions: Actions, limits: UploadLimits, teacher: str = "page"
    ) -> None:
        super().__init__(home)
        self.actions, self.limits, self.teacher = actions, limits, teacher
        self.jobs = Jobs()
        self._windows: dict[tuple[str, str], list[Event]] = {}
        self._lock = threading.Lock()

    def judge(self, place: str, verdict: Verdict, window: str = "") -> str:
        """Judge the direction on the screen of a window.

        Gives the place of the next direction to judge; the same where none is left.
        """
        with self._lock:
            run, direction = self.locate(place)
            if direction < 0:
                return place
            verdicts = run.verdicts()
            if verdicts[direction] != verdict:
                verdicts.judge(direction, verdict, self.teacher)
                self._own(window, place).append(verdicts.events[-1])
            following = run.next_open(direction)
            return self._at(place, direction if following is None else following)

    def undo(self, place: str, window: str = "") -> str | None:
        """Take back the last verdict that was given in a window and still stands.

        Gives the place of the direction that it was about; None where there is none.
        """
        with self._lock:
            run, _ = self.locate(place)
            own = self._own(window, place)
            direction = run.verdicts().undo(self.teacher, own)
            if direction is None:
                return None
            own.remove(next(event for event in reversed(own) if event.direction == direction))
            return self._at(place, direction)

    def _own(self, window: str, place: str) -> list[Event]:
        """Give what was judged in a window of the run on its screen; what is forgotten stays."""
        name = (window, place.rpartition(":")[0])
        self._windows[name] = self._windows.pop(name, [])
        if len(self._windows) > WINDOWS:
            del self._windows[next(iter(self._windows))]
        return self._windows[name]

    def step(self, place: str, by: int) -> str:
        """Go to a neighbouring screen."""
        run, direction = self.locate(place)
        return place if direction < 0 else self._at(place, run.step(direction, by))

    def obstacle(self, run: Run) -> str:
        """Say why a run cannot be repaired now."""
        reason = self.actions.obstacle(run.folder)
        if not reason and not run.verdicts().directions("spurious"):
            reason = "No direction is judged spurious yet, so there is nothing to repair."
        return reason

    def start_repair(self, place: str) -> None:
        """Start the repair that the verdicts ask for."""
        run, _ = self.locate(place)
        reason = self.obstacle(run)
        if reason:
            raise DidaeError(reason)

        def work(progress: Progress) -> None:
            verdicts = judged(run)
            clear_result(run.folder)
            save_result(run.folder, verdicts, self.actions.repair(run.folder, progress))

        self.jobs.start("repair", place.rpartition(":")[0], work)

    def result(self, run: Run) -> tuple[SavedResult | None, bool]:
        """Give the result of a run's last repair."""
        saved = load_result(run.folder)
        return saved, saved is not None and saved.verdicts != judged(run)

    def start_audit(
        self, archive: Path | None, folder: str, model: Path | None, student: str
    ) -> Accepted | None:
        """Start an audit of a user's own images, with a classifier of their own.

        Images are a zip file that was uploaded or a folder on this machine; the classifier is an
        ONNX file that was uploaded or a name as for --student. Says what was taken of an archive.
        """
        if self.jobs.running:
            raise DidaeError("other work is still running: wait until it ends.")
        if not (archive or folder) or not (model or student):
            what = "a classifier" if archive or folder else "images"
            raise DidaeError(f"give {what}: a file, or where it is on this computer.")
        images = Path(folder).expanduser().absolute()
        if not archive and not images.is_dir():
            raise DidaeError(f"{folder} is not a folder: give the path of a folder of images.")
        with self._lock:
            name, home = self._new_own()
            images = home / "images" if archive else images
            try:
                accepted = unpack(archive, images, self.limits) if archive else None
            except DidaeError:
                home.rmdir()
                raise
            if model:
                student = str(shutil.move(model, home / "classifier.onnx"))

        def work(progress: Progress) -> None:
            try:
                self.actions.audit(images, student, home / "run", progress)
            except DidaeError:
                # What was refused before it began has nothing to go on with.
                if not (home / "run").exists():
                    shutil.rmtree(home, ignore_errors=True)
                raise
            self.opened = name

        self.jobs.start("audit", name, work)
        return accepted

    def downloads(self, run: Run) -> dict[str, Path]:
        """List the files of a run to take home."""
        report = run.folder / REPORT_FILE
        if not report.is_file():
            write_report(run.folder, run.summary)
        saved, home = load_result(run.folder), run.folder / REPAIR_FOLDER
        onnx = saved is not None and saved.result.accepted and (home / ONNX_FILE).is_file()
        files = {
            "model": home / (ONNX_FILE if onnx else MODEL_FILE),
            "verdicts": run.folder / VERDICTS_FILE,
            "report": report,
        }
        return {name: path for name, path in files.items() if path.is_file()}

    def _new_own(self) -> tuple[str, Path]:
        home = self.home / OWN_FOLDER
        home.mkdir(exist_ok=True)
        taken = [int(path.name) for path in home.iterdir() if path.name.isdecimal()]
        name = f"{max(taken, default=0) + 1:03d}"
        (home / name).mkdir()
        return name, home / name

    @staticmethod
    def _at(place: str, direction: int) -> str:
        return f"{place.rpartition(':')[0]}:{direction}"


def judged(run: Run) -> dict[str, str]:
    """Read all verdicts of a run."""
    verdicts = run.verdicts()
    return {str(d): verdict for d in run.order if (verdict := verdicts[d]) is not None}
