"""Counterfactual pairs of a run folder: which to show first, and what to say beneath them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from didae.explainer.summary import read_run_table
from didae.report.pictures import common_gain, data_uri, difference_map, read_picture, thumbnail

COLUMNS = (
    "image_id",
    "label",
    "direction",
    "status",
    "prediction_before",
    "prediction_after",
    "probability_before",
    "probability_after",
    "ambient_flip",
    "verified_flip",
    "non_adversarial_flip",
    "round_trip_psnr",
    "file",
    "factual_file",
    "round_trip_file",
)
"""Columns of the table of counterfactuals that report and page need."""

STANDINGS = ("no flip", "flip, not verified", "verified", "non-adversarial")

Row = Mapping[str, Any]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """An image and what became of it along one direction, (h, w, 3) each.

    ``label`` is empty where it is unknown, and ``wrong`` says that the image was not predicted as
    such; ``probabilities`` are of the class predicted first, on the image and on the
    counterfactual.
    """

    name: str
    label: str
    factual: Image
    counterfactual: Image
    classes: tuple[str, str]
    probabilities: tuple[float, float]
    standing: str
    wrong: bool
    flipped: bool


def read_rows(folder: Path) -> list[Row]:
    """Read the table of a run."""
    return cast("list[Row]", read_run_table(folder, COLUMNS).to_pylist())


def delivered_rows(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Sort rows with a counterfactual by direction, the strongest first.

    Strong is what passed many stages, and then what took much from the class predicted first.
    """
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["file"]:
            found.setdefault(int(row["direction"]), []).append(row)
    for ranked in found.values():
        ranked.sort(key=_strength, reverse=True)
    return found


def varied(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose strong rows so that every class that was predicted first has its turn."""
    turns: dict[Any, int] = {}
    order: list[tuple[int, int]] = []
    for place, row in enumerate(rows):
        turn = turns[row["prediction_before"]] = turns.get(row["prediction_before"], -1) + 1
        # What did not flip comes after everything that did.
        order.append((turn if row["ambient_flip"] else len(rows) + place, place))
    return [rows[place] for _, place in sorted(order)[:count]]


def load_pair(folder: Path, row: Row, labels: tuple[str, ...]) -> Pair:
    """Read the images of a row with a counterfactual."""
    label = -1 if row["label"] is None else row["label"]
    before, after = row["prediction_before"], row["prediction_after"]
    return Pair(
        name=str(row["image_id"]),
        label=_class_name(label, labels) if label >= 0 else "",
        factual=read_picture(folder, row["factual_file"]),
        counterfactual=read_picture(folder, row["file"]),
        classes=(_class_name(before, labels), _class_name(after, labels)),
        probabilities=(float(row["probability_before"]), float(row["probability_after"])),
        standing=STANDINGS[_passed(row)],
        wrong=0 <= label != before,
        flipped=before != after,
    )


def drawn_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Turn pairs into what the template draws: pictures as addresses, with one gain for all."""
    gain = common_gain([(pair.factual, pair.counterfactual) for pair in pairs])
    shown = [
        {
            "said": pair,
            "factual": picture(pair.factual),
            "counterfactual": picture(pair.counterfactual),
            "difference": picture(difference_map(pair.factual, pair.counterfactual, gain)),
        }
        for pair in pairs
    ]
    return {"gain": gain, "pairs": shown}


def picture(image: Image) -> str:
    """Write an image as an address, reduced to what a page shows."""
    return data_uri(thumbnail(image))


def _passed(row: Row) -> int:
    """Count the stages that a row passed, each together with all before it."""
    flags = ("ambient_flip", "verified_flip", "non_adversarial_flip")
    return next((place for place, flag in enumerate(flags) if not row[flag]), len(flags))


def _strength(row: Row) -> tuple[int, float]:
    drop = float(row["probability_before"] or 0.0) - float(row["probability_after"] or 0.0)
    return _passed(row), drop if math.isfinite(drop) else -math.inf


def _class_name(index: int, labels: tuple[str, ...]) -> str:
    return labels[index] if 0 <= index < len(labels) else f"class {index}"
