"""What the page works on and does: runs to judge, and long work that it starts."""

from __future__ import annotations

import io
import logging
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from didae.app.uploads import UploadLimits, unpack
from didae.errors import DidaeError
from didae.explainer.pairs import PAIRS_FILE
from didae.explainer.summary import SUMMARY_FILE, Summary
from didae.repair.measure import ONNX_FILE, REPAIR_FILE
from didae.report import write_report
from didae.report.html import REPORT_FILE, delivered_rows, drawn_pairs, read_rows, varied
from didae.report.repair import REPAIR_FOLDER, RepairDocument, read_repair
from didae.storage import read_json, write_bytes
from didae.teachers import VERDICTS_FILE, Verdict, Verdicts
from didae.teachers.verdicts import Event

_logger = logging.getLogger(__name__)

_PAIRS = 12
"""Counterfactual pairs on a screen."""

_WINDOWS = 256
"""Windows whose verdicts can be taken back."""

_MAIN, _OWN = "main", "own"
_STUDENT, _MODEL = "student", "repaired_model.zip"

Progress = Callable[[float | None, str], None]
"""Called with the share that is done, in [0, 1] or None where unknown, and with what is done."""


class Run:
    """A run folder, opened for judging.

    ``order`` are its directions in the order of their screens, ``silent`` the names of those
    without a counterfactual to look at. A *place* names a run and a direction ("main:3").
    """

    def __init__(self, folder: str | Path, name: str = _MAIN) -> None:
        self.folder, self.name = Path(folder), name
        path = self.folder / SUMMARY_FILE
        if not path.is_file():
            raise DidaeError(
                f"{self.folder} holds no finished run (no {SUMMARY_FILE}): "
                "give a folder that `didae explain` or `didae demo` wrote."
            )
        self.summary = Summary.from_json(read_json(path), str(path))
        rows = delivered_rows(read_rows(self.folder))
        self.delivered = {direction: len(found) for direction, found in rows.items()}
        self._strongest = {direction: varied(found, _PAIRS) for direction, found in rows.items()}
        self.directions = {d.index: d for d in self.summary.directions}
        self.order = tuple(d for d in self.directions if d in rows)
        self.silent = tuple(d.name for d in self.summary.directions if d.index not in rows)

    def place(self, direction: int | None) -> str:
        """Name the screen of a direction; a run without any has that of -1."""
        return f"{self.name}:{-1 if direction is None else direction}"

    def verdicts(self) -> Verdicts:
        """Read the verdicts as they are on the disk now."""
        fingerprint = self.summary.settings.get("components", {}).get("dictionary")
        if not fingerprint:
            raise DidaeError(
                f"{self.folder}/summary.json does not name the dictionary: run didae explain again."
            )
        path = self.folder / VERDICTS_FILE
        return Verdicts.open_file(path, str(fingerprint), self.summary.names)

    def judged(self) -> dict[str, str]:
        """Give the verdicts by name, as a repair that follows them writes them down."""
        verdicts = self.verdicts()
        return {name: said for k, name in enumerate(verdicts.names) if (said := verdicts[k])}

    def next_open(self, after: int | None = None) -> int | None:
        """Find a direction without a verdict, behind one or else from the front."""
        start = 0 if after is None else self.order.index(after) + 1
        verdicts = self.verdicts()
        ahead = (*self.order[start:], *self.order[:start])
        return next((d for d in ahead if verdicts[d] is None), None)

    def drawn(self, direction: int) -> dict[str, Any]:
        """Draw the strongest pairs of a direction."""
        return drawn_pairs(self.folder, self._strongest[direction], self.summary.label_names)


@dataclass(frozen=True)
class Status:
    """How far a piece of work is: the share in [0, 1] is None where it is unknown."""

    kind: str
    run: str
    running: bool = True
    share: float | None = None
    words: str = ""
    seconds: float = 0.0
    error: str = ""


class Jobs:
    """Does one piece of long work at a time, beside the page; whoever looks sees its status."""

    def __init__(self) -> None:
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._status: Status | None = None
        self._started = 0.0
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> Status | None:
        """Status or None: of the last piece of work."""
        status = self._status
        if status is not None and status.running:
            return replace(status, seconds=time.monotonic() - self._started)
        return status

    @property
    def running(self) -> bool:
        """bool: whether something is being done."""
        return self._status is not None and self._status.running

    def start(self, kind: str, run: str, work: Callable[[Progress], None]) -> None:
        """Start a piece of work."""
        with self._lock:
            if self._status is not None and self._status.running:
                raise DidaeError(f"the {self._status.kind} is still running: wait until it ends.")
            self._started = time.monotonic()
            self._status = Status(kind, run, words="starting")
        # A daemon: `stop` ends it, and what does not listen must not keep the program.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 15.0) -> bool:
        """End the work as Ctrl-C does, at its next report; say whether it has ended in time."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, work: Callable[[Progress], None]) -> None:
        error = ""
        try:
            work(self._report)
        except DidaeError as problem:
            error = str(problem)
        except KeyboardInterrupt:
            error = "it was stopped; started again, it goes on."
        except Exception as problem:
            # The thread has no caller: who looks at the page must learn of it.
            _logger.exception("the work of the page failed")
            error = f"unexpected {type(problem).__name__}: {problem}"
        seconds = time.monotonic() - self._started
        self._change(running=False, share=None, words="", seconds=seconds, error=error)

    def _report(self, share: float | None, words: str) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self._change(share=share, words=words)

    def _change(self, **values: Any) -> None:
        # Only the thread at work comes here, and `start` only where there is none.
        if self._status is not None:
            self._status = replace(self._status, **values)


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

    The browser sends the place that it shows with every click, so that a late click never judges
    what is not on the screen.
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

    def auditing(self) -> Path | None:
        """Give the folder of a running audit of own images once its real pairs are there."""
        status = self.jobs.status
        if status is None or not status.running or status.kind != "audit":
            return None
        folder = self.home / _OWN / status.run / "run"
        return folder if (folder / PAIRS_FILE).is_file() else None

    def title(self, name: str) -> str:
        """Name a run for a reader."""
        return self.home.resolve().name if name == _MAIN else f"Own images {int(name)}"

    def run(self, name: str) -> Run:
        """Open a run."""
        if name not in self._runs:
            if name not in self.names():
                raise DidaeError("this run is no longer there: reload the page.")
            self._runs[name] = Run(self.home / _OWN / name / "run", name)
        return self._runs[name]

    def first(self, name: str) -> str:
        """Find where to begin or to go on; a run without counterfactuals has no direction, -1."""
        run = self.run(name)
        self.opened = name
        direction = run.next_open()
        if direction is None and run.order:
            direction = run.order[-1]
        return run.place(direction)

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
                self._own(window, run).append(verdicts.events[-1])
            following = run.next_open(direction)
            return place if following is None else run.place(following)

    def undo(self, place: str, window: str = "") -> str | None:
        """Take back the last verdict that was given in a window and still stands.

        Gives the place of the direction that it was about; None where there is none.
        """
        with self._lock:
            run, _ = self.locate(place)
            own = self._own(window, run)
            direction = run.verdicts().undo(self.teacher, own)
            if direction is None:
                return None
            own.remove(next(event for event in reversed(own) if event.direction == direction))
            return run.place(direction)

    def _own(self, window: str, run: Run) -> list[Event]:
        """Give what was judged of a run in a window; what is forgotten stays."""
        name = (window, run.name)
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
        return run.place(run.order[min(max(there, 0), len(run.order) - 1)])

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

        self.jobs.start("repair", run.name, work)

    def result(self, run: Run) -> tuple[RepairDocument | None, bool]:
        """Give what a run's last repair came to, and whether verdicts have changed since."""
        home = run.folder / REPAIR_FOLDER
        if not (home / REPAIR_FILE).is_file():
            return None, False
        document = read_repair(home)
        return document, document.verdicts != run.judged()

    def start_audit(
        self, archive: Path | None, folder: str, model: Path | None, student: str
    ) -> tuple[str, ...]:
        """Start an audit of a user's own images, with a classifier of their own.

        Images are a zip file that was uploaded or a folder on this machine; the classifier is an
        ONNX file that was uploaded or a name as for --student. Gives the names of files left out.
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
            own = self.home / _OWN
            own.mkdir(exist_ok=True)
            taken = [int(path.name) for path in own.iterdir() if path.name.isdecimal()]
            name = f"{max(taken, default=0) + 1:03d}"
            home = own / name
            home.mkdir()
            images = home / "images" if archive else images
            try:
                ignored = unpack(archive, images, self.limits) if archive else ()
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
        return ignored

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
                buffer = io.BytesIO()
                # Weights do not get smaller by compression.
                with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
                    for path in sorted(student.glob("[!.]*")):
                        archive.write(path, f"{_STUDENT}/{path.name}")
                write_bytes(model, buffer.getvalue())
            files = {"model": home / ONNX_FILE if (home / ONNX_FILE).is_file() else model, **files}
        return {name: path for name, path in files.items() if path.is_file()}
