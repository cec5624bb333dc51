"""The run folder that is judged, and the runs of a user's own images that live in it."""

from __future__ import annotations

from pathlib import Path

from didae.app.state import Run
from didae.errors import DidaeError

OWN_FOLDER = "own"
MAIN = "main"


class Runs:
    """Runs by name, and places in them.

    A *place* names a run and a direction ("main:3"). The browser sends the place that it shows with
    every click, so that a late click never judges what is not on the screen.
    """

    def __init__(self, home: str | Path) -> None:
        self.home = Path(home)
        self.opened = MAIN
        self._runs = {MAIN: Run(self.home)}
        self._runs[MAIN].verdicts()

    def names(self) -> tuple[str, ...]:
        """List the finished runs."""
        found = sorted((self.home / OWN_FOLDER).glob("*/run/summary.json"))
        return (MAIN, *(path.parents[1].name for path in found))

    def title(self, name: str) -> str:
        """Name a run for a reader."""
        return self.home.resolve().name if name == MAIN else f"Own images {int(name)}"

    def run(self, name: str) -> Run:
        """Open a run."""
        if name not in self._runs:
            if name not in self.names():
                raise DidaeError("this run is no longer there: reload the page.")
            self._runs[name] = Run(self.home / OWN_FOLDER / name / "run")
        return self._runs[name]

    def first(self, name: str) -> str:
        """Find where to begin or to go on."""
        run = self.run(name)
        self.opened = name
        direction = run.next_open()
        if direction is None:
            direction = run.order[-1] if run.order else -1
        return f"{name}:{direction}"

    def locate(self, place: str) -> tuple[Run, int]:
        """Look up a place."""
        name, _, number = place.rpartition(":")
        run = self.run(name)
        if number not in {str(direction) for direction in (*run.order, -1)}:
            raise DidaeError("this direction is no longer there: reload the page.")
        return run, int(number)
