"""Counterfactual pairs of a run folder: which to show, and what to say beneath them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from didae.counterfactuals.run import read_run_table
from didae.report.html import COLUMNS
from didae.report.pictures import read_picture

Row = Mapping[str, Any]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """An image and what became of it along one direction.

    Attributes
    ----------
    name : str
        Identifier of the image.
    factual, counterfactual : ndarray of uint8, shape (h, w, 3)
        The two images.
    classes : tuple of str
        Names of the classes predicted before and after.
    probabilities : tuple of float
        Of the class predicted before, on the image and on the counterfactual, in [0, 1].
    standing : str
        How far the counterfactual came, in words.
    """

    name: str
    factual: Image
    counterfactual: Image
    classes: tuple[str, str]
    probabilities: tuple[float, float]
    standing: str

    @property
    def flipped(self) -> bool:
        """bool: whether the classifier changed its decision."""
        return self.classes[0] != self.classes[1]


def delivered_rows(folder: Path) -> dict[int, list[Row]]:
    """Read the rows of the table that have a counterfactual.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    dict of int to list of mapping
        Direction -> its rows, strongest first: by stages passed, then by what the class that was
        predicted first has lost. It is the order of the report.

    Raises
    ------
    DidaeError
        If there is no table, or it lacks a column.
    """
    rows = cast("Iterable[Row]", read_run_table(folder, COLUMNS).to_pylist())
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["file"]:
            found.setdefault(int(row["direction"]), []).append(row)
    for ranked in found.values():
        ranked.sort(key=_strength, reverse=True)
    return found


def load_pair(folder: Path, row: Row, labels: tuple[str, ...]) -> Pair:
    """Read the images of a row.

    Parameters
    ----------
    folder : Path
        The run folder.
    row : mapping
        A row with a counterfactual.
    labels : tuple of str
        Names of the classes; empty if unknown.

    Returns
    -------
    Pair
        What the screen shows.

    Raises
    ------
    DidaeError
        If an image is missing or broken.
    """
    non_adversarial, verified, ambient, _ = _strength(row)
    standing = "flip, not verified" if ambient else "no flip"
    if verified:
        standing = "non-adversarial" if non_adversarial else "verified"
    return Pair(
        name=str(row["image_id"]),
        factual=read_picture(folder, str(row["factual_file"])),
        counterfactual=read_picture(folder, str(row["file"])),
        classes=(
            _class_name(int(row["prediction_before"]), labels),
            _class_name(int(row["prediction_after"]), labels),
        ),
        probabilities=(float(row["probability_before"]), float(row["probability_after"])),
        standing=standing,
    )


def _strength(row: Row) -> tuple[bool, bool, bool, float]:
    drop = float(row["probability_before"] or 0.0) - float(row["probability_after"] or 0.0)
    return (
        bool(row["non_adversarial_flip"]),
        bool(row["verified_flip"]),
        bool(row["ambient_flip"]),
        drop if math.isfinite(drop) else -math.inf,
    )


def _class_name(index: int, labels: tuple[str, ...]) -> str:
    return labels[index] if 0 <= index < len(labels) else f"class {index}"
