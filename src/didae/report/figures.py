"""Pictures: pairs of a run folder as a page shows them, and what a decoder in training draws."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from didae.data.images import read_run_image, write_png
from didae.decoders.base import Decoder
from didae.decoders.training import draw_samples
from didae.explainer.retrieval import Along, Photograph, read_pairs
from didae.explainer.summary import read_run_table
from didae.report.words import class_name
from didae.training import TrainingConfig

_THUMBNAIL = 128
"""Longest side of an image inside a report, in pixels; larger images are reduced to it."""

_COLUMNS = (
    "image_id", "label", "direction", "prediction_before", "prediction_after",
    "probability_before", "probability_after", "ambient_flip", "verified_flip",
    "non_adversarial_flip", "round_trip_psnr", "file", "factual_file", "round_trip_file",
)  # fmt: skip
"""Columns of the table of counterfactuals that report and page need."""

_STANDINGS = ("no flip", "flip, not verified", "verified", "non-adversarial")
"""What to call a row by the number of stages that it passed."""

_TELLING = 0.2
"""Correlation below which a code goes with nothing."""

_GAINS = (1, 2, 4, 8, 16, 32)

SAMPLE_FOLDER = "samples"

SAMPLES = 6
"""Images on a sheet."""

_SHEETS = 10
"""Sheets of a training, at most, and one after the last step: under one percent of its time."""

_ROWS = ("image", "drawn from its z_sem and fresh noise", "round trip without residual")

_CELL, _GAP, _LABEL = 96, 4, 16

Row = Mapping[str, Any]
_Pixels = NDArray[np.uint8]
"""An image, (h, w, 3)."""


def read_rows(folder: Path) -> list[Row]:
    """Read the table of a run."""
    return cast("list[Row]", read_run_table(folder, _COLUMNS).to_pylist())


def delivered_rows(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Sort rows with a counterfactual by direction, the strongest first.

    Strong is what passed many stages, and then what took much from the class predicted first.
    """

    def strength(row: Row) -> tuple[int, float]:
        drop = float(row["probability_before"] or 0.0) - float(row["probability_after"] or 0.0)
        return _passed(row), drop if math.isfinite(drop) else -math.inf

    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["file"]:
            found.setdefault(int(row["direction"]), []).append(row)
    return {
        direction: sorted(those, key=strength, reverse=True) for direction, those in found.items()
    }


def varied(rows: Sequence[Row], most: int) -> list[Row]:
    """Choose strong rows so that every class that was predicted first has its turn."""
    turns: dict[Any, int] = {}
    order: list[tuple[int, int]] = []
    for place, row in enumerate(rows):
        turn = turns[row["prediction_before"]] = turns.get(row["prediction_before"], -1) + 1
        # What did not flip comes after everything that did.
        order.append((turn if row["ambient_flip"] else len(rows) + place, place))
    return [rows[place] for _, place in sorted(order)[:most]]


def _passed(row: Row) -> int:
    """Count the stages that a row passed, each together with all before it."""
    flags = ("ambient_flip", "verified_flip", "non_adversarial_flip")
    return next((place for place, flag in enumerate(flags) if not row[flag]), len(flags))


def drawn_pairs(folder: Path, rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    """Give what the template draws of rows with a counterfactual."""
    gain, pictures = drawn_rows(folder, rows, "file")
    said = [_said(row, labels) for row in rows]
    return {"gain": gain, "pairs": [{**s, **p} for s, p in zip(said, pictures, strict=True)]}


def _said(row: Row, labels: Sequence[str]) -> dict[str, Any]:
    """Give the words of a pair: its label is empty where unknown, and wrong where not predicted."""
    label = -1 if row["label"] is None else row["label"]
    before, after = row["prediction_before"], row["prediction_after"]
    return {
        "name": str(row["image_id"]),
        "label": class_name(label, labels) if label >= 0 else "",
        "wrong": 0 <= label != before,
        "classes": (class_name(before, labels), class_name(after, labels)),
        # Of the class predicted first.
        "probabilities": (float(row["probability_before"]), float(row["probability_after"])),
        "standing": _STANDINGS[_passed(row)],
        "flipped": before != after,
    }


def drawn_rows(folder: Path, rows: Sequence[Row], column: str) -> tuple[int, list[dict[str, str]]]:
    """Write the images of rows, those of a column and their differences as addresses; one gain."""
    images = [
        (read_picture(folder, row["factual_file"]), read_picture(folder, row[column]))
        for row in rows
    ]
    gain = _common_gain(images)
    names = "factual", "counterfactual", "difference"
    shown = [(before, after, _difference_map(before, after, gain)) for before, after in images]
    return gain, [dict(zip(names, map(data_uri, three), strict=True)) for three in shown]


def read_picture(folder: Path, name: str) -> _Pixels:
    """Read an image that a run names; one that leads out of its folder is refused."""
    return read_run_image(folder, name).permute(1, 2, 0).numpy()


def _difference_map(factual: _Pixels, counterfactual: _Pixels, gain: float = 1.0) -> _Pixels:
    """Show a signed difference around grey: 128 + gain · (after - before) / 2, cut off."""
    change = counterfactual.astype(np.float64) - factual.astype(np.float64)
    return np.rint(128 + gain * change / 2).clip(0, 255).astype(np.uint8)


def _common_gain(pairs: Sequence[tuple[_Pixels, _Pixels]]) -> int:
    """Choose one gain for several pairs, so that their maps can be compared.

    It is the largest power of two up to 32 at which 99.9 % of each pair's values fit the range.
    """
    peaks = [np.quantile(np.abs(b.astype(np.int16) - a.astype(np.int16)), 0.999) for a, b in pairs]
    peak = max((float(p) for p in peaks), default=0.0)
    return max(gain for gain in _GAINS if gain == 1 or gain * peak <= 255)


def data_uri(image: _Pixels, side: int = _THUMBNAIL) -> str:
    """Write an image, reduced to what a page shows, as a PNG inside a `data:` address."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def drawn_real_pairs(folder: Path) -> dict[int, dict[str, Any]]:
    """Give what the templates draw of each direction, by number; most foreseen flips first."""
    ranked = sorted(read_pairs(folder), key=lambda along: -along.flips)
    return {along.index: _drawn(folder, along) for along in ranked}


def _drawn(folder: Path, along: Along) -> dict[str, Any]:
    def photograph(shown: Photograph) -> dict[str, Any]:
        picture = data_uri(read_picture(folder, shown.file))
        return {**shown.model_dump(), "picture": picture}

    pairs = [[photograph(shown) for shown in pair] for pair in along.pairs]
    goes_with = [(name, r) for name, r in along.goes_with if abs(r) >= _TELLING]
    return {"along": along, "goes_with": goes_with, "pairs": pairs}


class SampleSheets:
    """Write ``samples/step-NNNNNN.png`` of a few images; `fit_decoder` takes it as what watches."""

    def __init__(
        self,
        folder: Path,
        images: UInt8[Tensor, "n 3 h w"],
        z: Float[Tensor, "n d"],
        training: TrainingConfig,
    ) -> None:
        self.folder, self.images, self.z = folder / SAMPLE_FOLDER, images, z
        often = training.checkpoint_every
        self.every = often * -(-training.steps // (_SHEETS * often))
        self.last = training.steps

    def __call__(self, step: int, decoder: Decoder) -> None:
        """Write a sheet if it is time for one after so many steps."""
        if step % self.every and step != self.last:
            return
        rows = draw_samples(decoder, self.images, self.z)
        write_png(torch.from_numpy(_lay_out(rows)), self.folder / f"step-{step:06d}.png")


def _lay_out(rows: UInt8[Tensor, "r n 3 h w"]) -> NDArray[np.uint8]:
    """Put rows of images beneath each other, with words above each."""
    columns, height, width = rows.shape[1], *rows.shape[3:]
    scale = max(1, -(-_CELL // max(height, width)))
    down, right = scale * height + _GAP, scale * width + _GAP
    band = _LABEL + down
    sheet = Image.new("RGB", (columns * right + _GAP, len(rows) * band + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for r, (row, words) in enumerate(zip(rows, _ROWS, strict=True)):
        pen.text((_GAP, r * band + 2), words, fill="black")
        for c, image in enumerate(row):
            shown = Image.fromarray(image.permute(1, 2, 0).numpy())
            large = shown.resize((scale * width, scale * height), Image.Resampling.NEAREST)
            sheet.paste(large, (_GAP + c * right, r * band + _LABEL))
    return np.array(sheet)
