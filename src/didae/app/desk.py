"""What the controls of the page do: judging, walking, and starting long work."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from didae.app.run import Jobs, Progress, Run
from didae.app.uploads import Accepted, UploadLimits, unpack
from didae.errors import DidaeError
from didae.repair.measure import ONNX_FILE, REPAIR_FILE
from didae.report import write_report
from didae.report.html import REPORT_FILE
from didae.report.repair import REPAIR_FOLDER, RepairDocument, read_repair
from didae.storage import write_bytes
from didae.teachers import VERDICTS_FILE, Verdict
from didae.teachers.verdicts import Event

_WINDOWS = 256
"""Windows whose verdicts can be taken back."""

_MAIN, _OWN = "main", "own"
_STUDENT, _MODEL = "student", "repaired_model.zip"


@dataclass(frozen=True)
class Actions:
    """The long work that the page starts but does not know how to do.

    ``obstacle`` says why the run in a folder cannot be repaired, or nothing; ``repair`` leaves the
    repair of a run in its folder, and ``audit`` writes a whole run of images and a student.
    """

    obstacle: Callable[[Path], str]
    repair: Callable[[Path, Progress], object]
    audit: Callable[[Path, str, Path, Progress], None]


class Desk:
    """Everything that can be done with a run, and with those of own images that live in it.

    A *place* names a run and a direction ("main:3"). The browser sends the place that it shows with
    every click, so that a late click never judges what is not on the screen.
    """

    def __init__(
        self, home: str | Path, actions: Actions, limits: UploadLimits, teacher: str = "page"
    ) -> None:
        self.home, self.opened = Path(home), _MAIN
        self.actions, self.limits, self.teacher = actions, limits, teacher
        self.jobs = Jobs()
        self._runs = {_MAIN: Run(self.home)}
        self._runs[_MAIN].verdicts()
        self._windows: dict[tuple[str, str], list[Event]] = {}
        self._lock = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """List the finished runs: main, and the numbers of the own ones."""
        found = sorted((self.home / _OWN).glob("*/run/summary.json"))
        return (_MAIN, *(path.parents[1].name for path in found))

    def title(self, name: str) -> str:
        """Name a run for a reader."""
        return self.home.resolve().name if name == _MAIN else f"Own images {int(name)}"

    def run(self, name: str) -> Run:
        """Open a run."""
        if name not in self._runs:
            if name not in self.names():
                raise DidaeError("this run is no longer there: reload the page.")
            self._runs[name] = Run(self.home / _OWN / name / "run")
        return self._runs[name]

    def first(self, name: str) -> str:
        """Find where to begin or to go on; a run without counterfactuals has no direction, -1."""
        run = self.run(name)
        self.opened = name
        direction = run.next_open()
        if direction is None:
            direction = run.order[-1] if run.order else -1
        return f"{name}:{direction}"

    def locate(self, place: str) -> tuple[Run, int]:
        """Look up a place that the browser sent."""
        name, _, number = place.rpartition(":")
        run = self.run(name)
        if number not in {str(direction) for direction in (*run.order, -1)}:
            raise DidaeError("this direction is no longer there: reload the page.")
        return run, int(number)

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
            return _at(place, direction if following is None else following)

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
            return _at(place, direction)

    def _own(self, window: str, place: str) -> list[Event]:
        """Give what was judged in a window of the run on its screen; what is forgotten stays."""
        name = (window, place.rpartition(":")[0])
        self._windows[name] = self._windows.pop(name, [])
        if len(self._windows) > _WINDOWS:
            del self._windows[next(iter(self._windows))]
        return self._windows[name]

    def step(self, place: str, by: int) -> str:
        """Go to a neighbouring screen; at either end it stays the same."""
        run, direction = self.locate(place)
        if direction < 0:
            return place
        there = run.order.index(direction) + by
        return _at(place, run.order[min(max(there, 0), len(run.order) - 1)])

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
            home = run.folder / REPAIR_FOLDER
            # An earlier result must not be taken for that of this repair.
            for name in (REPAIR_FILE, _MODEL, ONNX_FILE):
                (home / name).unlink(missing_ok=True)
            shutil.rmtree(home / _STUDENT, ignore_errors=True)
            self.actions.repair(run.folder, progress)

        self.jobs.start("repair", place.rpartition(":")[0], work)

    def result(self, run: Run) -> tuple[RepairDocument | None, bool]:
        """Give what a run's last repair came to, and whether verdicts have changed since."""
        home = run.folder / REPAIR_FOLDER
        if not (home / REPAIR_FILE).is_file():
            return None, False
        document = read_repair(home)
        return document, document.verdicts != run.judged()

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
            name = self._new_own()
            home = self.home / _OWN / name
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

    def _new_own(self) -> str:
        """Make a folder for a run of own images, numbered behind the others."""
        home = self.home / _OWN
        home.mkdir(exist_ok=True)
        taken = [int(path.name) for path in home.iterdir() if path.name.isdecimal()]
        name = f"{max(taken, default=0) + 1:03d}"
        (home / name).mkdir()
        return name

    def downloads(self, run: Run) -> dict[str, Path]:
        """List the files of a run to take home; report and model are made where missing."""
        report, home = run.folder / REPORT_FILE, run.folder / REPAIR_FOLDER
        if not report.is_file():
            write_report(run.folder, run.summary)
        files = {"verdicts": run.folder / VERDICTS_FILE, "report": report}
        document, _ = self.result(run)
        if document is not None and document.decision.accepted:
            model, student = home / _MODEL, home / _STUDENT
            if student.is_dir() and not model.is_file():
                write_bytes(model, _packed(student))
            files = {"model": home / ONNX_FILE if (home / ONNX_FILE).is_file() else model, **files}
        return {name: path for name, path in files.items() if path.is_file()}


def _at(place: str, direction: int) -> str:
    return f"{place.rpartition(':')[0]}:{direction}"


def _packed(folder: Path) -> bytes:
    """Zip the files of a folder; weights do not get smaller by compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, f"{folder.name}/{path.name}")
    return buffer.getvalue()
