"""What the page shows, read from a run folder; everything that matters stays on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didae.errors import DidaeError
from didae.explainer.summary import DirectionSummary, Summary
from didae.report.figures import delivered_rows, drawn_pairs, read_rows, varied
from didae.storage import read_json
from didae.teachers import VERDICTS_FILE, Verdict, Verdicts

PAIRS = 12
"""Counterfactual pairs on a screen."""


@dataclass(frozen=True)
class Mark:
    """One direction in the progress strip."""

    name: str
    verdict: Verdict | None
    here: bool


@dataclass(frozen=True)
class Screen:
    """Everything that the screen of one direction shows."""

    direction: DirectionSummary
    verdict: Verdict | None
    place: int
    drawn: dict[str, Any]
    delivered: int
    images: int
    strip: tuple[Mark, ...]

    @property
    def judged(self) -> int:
        """int: how many directions have a verdict."""
        return sum(mark.verdict is not None for mark in self.strip)


class Run:
    """A run folder, opened for judging."""

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
        self._delivered = {direction: len(found) for direction, found in rows.items()}
        self._strongest = {direction: varied(found, PAIRS) for direction, found in rows.items()}
        self._directions = {d.index: d for d in self.summary.directions}
        self.order = tuple(d for d in self._directions if self._delivered.get(d))
        self.silent = tuple(
            d.name for d in self.summary.directions if not self._delivered.get(d.index)
        )

    def verdicts(self) -> Verdicts:
        """Read the verdicts as they are on the disk now."""
        components = self.summary.settings.get("components", {})
        fingerprint = components.get("dictionary")
        if not fingerprint:
            raise DidaeError(
                f"{self.folder}/summary.json does not name the dictionary: run didae explain again."
            )
        path = self.folder / VERDICTS_FILE
        return Verdicts.open_file(path, str(fingerprint), self.summary.names)

    def name(self, direction: int) -> str:
        """Name a direction."""
        return self._directions[direction].name

    def step(self, direction: int, by: int) -> int:
        """Go to a neighbouring screen."""
        place = self.order.index(direction) + by
        return self.order[min(max(place, 0), len(self.order) - 1)]

    def next_open(self, after: int | None = None) -> int | None:
        """Find a direction without a verdict."""
        start = 0 if after is None else self.order.index(after) + 1
        verdicts = self.verdicts()
        ahead = (*self.order[start:], *self.order[:start])
        return next((d for d in ahead if verdicts[d] is None), None)

    def screen(self, direction: int) -> Screen:
        """Gather what the screen of a direction shows."""
        verdicts = self.verdicts()
        return Screen(
            direction=self._directions[direction],
            verdict=verdicts[direction],
            place=self.order.index(direction) + 1,
            drawn=drawn_pairs(self.folder, self._strongest[direction], self.summary.label_names),
            delivered=self._delivered[direction],
            images=self.summary.n_images,
            strip=tuple(Mark(self.name(d), verdicts[d], d == direction) for d in self.order),
        )
