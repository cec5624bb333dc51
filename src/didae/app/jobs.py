"""Long work beside the page: one piece at a time, watched by whoever looks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from didae.app.results import Progress
from didae.errors import DidaeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """How far a piece of work is."""

    kind: str
    run: str
    running: bool = True
    share: float | None = None
    words: str = ""
    seconds: float = 0.0
    error: str = ""


class Jobs:
    """Runs one piece of work at a time in a thread of its own."""

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
            logger.exception("the work of the page failed")
            error = f"unexpected {type(problem).__name__}: {problem}"
        seconds = time.monotonic() - self._started
        self._change(running=False, share=None, words="", seconds=seconds, error=error)

    def _report(self, share: float | None, words: str) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self._change(share=share, words=words)

    def _change(self, **values: bool | float | str | None) -> None:
        with self._lock:
            if self._status is not None:
                self._status = replace(self._status, **values)  # pyright: ignore[reportArgumentType]
