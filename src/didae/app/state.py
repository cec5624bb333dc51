"""What the page shows, read from a run folder; everything that matters stays on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from didae.errors import DidaeError
from didae.report.pairs import Pair, delivered_rows, load_pair, read_rows, varied
from didae.storage import read_json
from didae.summary import DirectionSummary, Summary
from didae.teachers import VERDICTS_FILE, Verdict, Verdicts

PAIRS = 12
"""Counterfactual pairs on a screen."""


@dataclass(frozen=True)
class Mark:
    """One direction in the progress strip.

    Attributes
    ----------
    name : str
        Name of the direction.
    verdict : str or None
        What was judged.
    here : bool
        Whether it is the one on the screen.
    """

    name: str
    verdict: Verdict | None
    here: bool


@dataclass(frozen=True)
class Screen:
    """Everything that the screen of one direction shows.

    Attributes
    ----------
    direction : DirectionSummary
        The direction and its funnel.
    verdict : str or None
        What was judged.
    place : int
        Number of the screen, from 1.
    pairs : tuple of Pair
        The strongest pairs, strongest first.
    delivered : int
        Counterfactuals from which these were chosen.
    images : int
        Images of the run.
    strip : tuple of Mark
        All directions in the order of their screens.
    """

    direction: DirectionSummary
    verdict: Verdict | None
    place: int
    pairs: tuple[Pair, ...]
    delivered: int
    images: int
    strip: tuple[Mark, ...]

    @property
    def judged(self) -> int:
        """int: how many directions have a verdict."""
        return sum(mark.verdict is not None for mark in self.strip)


class Run:
    """A run folder, opened for judging.

    Parameters
    ----------
    folder : str or Path
        What ``didae explain`` or ``didae demo`` wrote.

    Attributes
    ----------
    folder : Path
        The folder.
    summary : Summary
        What the run counted.
    order : tuple of int
        Directions in the order of their screens: those with a counterfactual to look at.
    silent : tuple of str
        Names of the directions without one.

    Raises
    ------
    DidaeError
        If the folder holds no finished run.
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
        self._delivered = {direction: len(found) for direction, found in rows.items()}
        self._strongest = {direction: varied(found, PAIRS) for direction, found in rows.items()}
        self._directions = {d.index: d for d in self.summary.directions}
        self.order = tuple(d for d in self._directions if self._delivered.get(d))
        self.silent = tuple(
            d.name for d in self.summary.directions if not self._delivered.get(d.index)
        )

    def verdicts(self) -> Verdicts:
        """Read the verdicts as they are on the disk now.

        Returns
        -------
        Verdicts
            Saved in ``verdicts.json`` at each change.

        Raises
        ------
        DidaeError
            If the file belongs to another dictionary, or the run does not say which is its own.
        """
        components = self.summary.settings.get("components", {})
        fingerprint = components.get("dictionary")
        if not fingerprint:
            raise DidaeError(
                f"{self.folder}/summary.json does not name the dictionary: run didae explain again."
            )
        path = self.folder / VERDICTS_FILE
        return Verdicts.open_file(path, str(fingerprint), self.summary.names)

    def name(self, direction: int) -> str:
        """Name a direction.

        Parameters
        ----------
        direction : int
            Its number.

        Returns
        -------
        str
            Its name.
        """
        return self._directions[direction].name

    def step(self, direction: int, by: int) -> int:
        """Go to a neighbouring screen.

        Parameters
        ----------
        direction : int
            The direction on the screen.
        by : {-1, 1}
            Which way.

        Returns
        -------
        int
            The direction there; the same at either end.
        """
        place = self.order.index(direction) + by
        return self.order[min(max(place, 0), len(self.order) - 1)]

    def next_open(self, after: int | None = None) -> int | None:
        """Find a direction without a verdict.

        Parameters
        ----------
        after : int, optional
            Where to start; the search goes on from the front behind the last screen.

        Returns
        -------
        int or None
            The direction, or None where all are judged.
        """
        start = 0 if after is None else self.order.index(after) + 1
        verdicts = self.verdicts()
        ahead = (*self.order[start:], *self.order[:start])
        return next((d for d in ahead if verdicts[d] is None), None)

    def screen(self, direction: int) -> Screen:
        """Gather what the screen of a direction shows.

        Parameters
        ----------
        direction : int
            One of `order`.

        Returns
        -------
        Screen
            Its content.

        Raises
        ------
        DidaeError
            If an image is missing or broken.
        """
        verdicts = self.verdicts()
        labels = self.summary.label_names
        return Screen(
            direction=self._directions[direction],
            verdict=verdicts[direction],
            place=self.order.index(direction) + 1,
            pairs=tuple(load_pair(self.folder, row, labels) for row in self._strongest[direction]),
            delivered=self._delivered[direction],
            images=self.summary.n_images,
            strip=tuple(Mark(self.name(d), verdicts[d], d == direction) for d in self.order),
        )
