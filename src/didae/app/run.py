"""What the page works on: a run folder, where everything that matters stays, and long work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from didae.errors import DidaeError
from didae.explainer.summary import Summary
from didae.report.figures import delivered_rows, drawn_pairs, read_rows, varied
from didae.storage import read_json
from didae.teachers import VERDICTS_FILE, Verdicts

_logger = logging.getLogger(__name__)

_PAIRS = 12
"""Counterfactual pairs on a screen."""

Progress = Callable[[float | None, str], None]
"""Called with the share that is done, in [0, 1] or None where unknown, and with what is done."""


class Run:
    """A run folder, opened for judging.

    ``order`` are its directions in the order of their screens, ``silent`` the names of those
    without a counterfactual to look at.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "summary.json"
        if not path.is_file():
            raise DidaeError(
                f"{self.folder} holds no finished run (no summary.json): "
                "give a folder that `didae explain` or `didae demo` wrote."
            )
        self.summary = Summary.from_json(read_json(path), str(path))
        rows = delivered_rows(read_rows(self.folder))
        self.delivered = {direction: len(found) for direction, found in rows.items()}
        self._strongest = {direction: varied(found, _PAIRS) for direction, found in rows.items()}
        self.directions = {d.index: d for d in self.summary.directions}
        self.order = tuple(d for d in self.directions if d in rows)
        self.silent = tuple(d.name for d in self.summary.directions if d.index not in rows)

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
        said = ((name, verdicts[direction]) for direction, name in enumerate(verdicts.names))
        return {name: verdict for name, verdict in said if verdict is not None}

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
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._started = 0.0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def status(self) -> Status | None:
        """Status or None: of the last piece of work."""
        with self._lock:
            status = self._status
            if status is not None and status.running:
                return replace(status, seconds=time.monotonic() - self._started)
            return status

    @property
    def running(self) -> bool:
        """bool: whether something is being done."""
        status = self.status
        return status is not None and status.running

    def start(self, kind: str, run: str, work: Callable[[Progress], None]) -> None:
        """Start a piece of work."""
        with self._lock:
            if self._status is not None and self._status.running:
                raise DidaeError(f"the {self._status.kind} is still running: wait until it ends.")
            self._status = Status(kind, run, words="starting")
            self._started = time.monotonic()
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
        with self._lock:
            if self._status is not None:
                self._status = replace(self._status, **values)
