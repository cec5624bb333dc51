"""One self-contained HTML page for a run: images inside, no script, no address on the network.

The pictures are its own, as the page of `didae app` shows them too, and those of a training.
"""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jinja2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from didae.config import dotted
from didae.data.images import read_run_image, write_png
from didae.decoders.base import Decoder
from didae.decoders.training import draw_samples
from didae.errors import visible
from didae.explainer.pairs import Photograph, read_pairs
from didae.explainer.summary import DirectionSummary, Summary, read_run_table
from didae.report import trust as trusted
from didae.report.repair import RepairDocument, find_repair, read_repair
from didae.report.trust import headline, label_hint, onward, remedy
from didae.report.words import FILTERS, class_lines, class_name, key_figures, remarks
from didae.storage import write_text
from didae.teachers import Oracle
from didae.training import TrainingConfig

REPORT_FILE = "report.html"

_SHEET = 6
"""Pairs of a card, and images of the round trip."""

_FIRST = 3
"""Pairs beside the headline."""

_CARDS = 16
"""Directions that get a card with images; all others stand in the ranking."""

_RENEWAL = 15
"""Seconds after which an unfinished report looks for a newer one."""

_SAMPLE_WIDTH = 960
"""Longest side of the sheet of drawings, in pixels; larger ones are reduced to it."""

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

_SAMPLE_FOLDER = "samples"

SAMPLES = 6
"""Images on a sheet."""

_SHEETS = 10
"""Sheets of a training, at most, and one after the last step: under one percent of its time."""

_ROWS = ("image", "drawn from its z_sem and fresh noise", "round trip without residual")

_CELL, _GAP, _LABEL = 96, 4, 16

Row = Mapping[str, Any]
_Pixels = NDArray[np.uint8]
"""An image, (h, w, 3)."""


def write_report(
    folder: str | Path,
    summary: Summary,
    *,
    title: str = "What the classifier looks at",
    repair: str | Path | None = None,
) -> Path:
    """Write the report of a run, beside its table or beside a repair.

    Parameters
    ----------
    folder
        Run folder: `table/part-*.parquet` with the columns that `explain` writes, and the images
        that its columns `file`, `factual_file` and `round_trip_file` name, relative to the folder.
    summary
        What the run counted.
    title
        Heading of the page.
    repair
        Folder of a repair of the run, as `didae repair` writes it: it gets the page, with the
        repair in it. By default the run folder gets the page, with the repair inside the run where
        there is one: `repair/repair.json` of a person, else `oracle/repair.json` of the demo.

    Returns
    -------
    Path
        The page, `report.html`.

    Raises
    ------
    DidaeError
        If the table lacks a column, an image is missing or broken, repair.json holds no repair, or
        the page cannot be written.
    """
    folder = Path(folder)
    rows = read_rows(folder)
    delivered = delivered_rows(rows)
    shown = find_repair(folder) if repair is None else Path(repair)
    document = read_repair(shown) if shown else None
    said = headline(summary)
    trusts = {d.index: trusted.trust(summary, d) for d in summary.directions}
    first = next((d for d in summary.directions if delivered.get(d.index)), None)

    def pairs(direction: DirectionSummary, most: int) -> dict[str, Any]:
        chosen = varied(delivered.get(direction.index, []), most)
        return {**drawn_pairs(folder, chosen, summary.label_names), "direction": direction}

    cards = [
        {
            **pairs(direction, _SHEET),
            "delivered": len(delivered.get(direction.index, [])),
            "hint": label_hint(direction.name),
            "advice": remedy(folder, trusts[direction.index].remedy),
        }
        for direction in summary.directions[:_CARDS]
    ]
    page = templates().get_template("report.html.jinja")
    text = page.render(
        title=title,
        summary=summary,
        headline=said,
        advice=remedy(folder, said.remedy),
        first={"pairs": ()} if first is None else pairs(first, _FIRST),
        key_figures=key_figures(summary),
        class_lines=class_lines(summary),
        remarks=remarks(summary),
        cards=cards,
        real=drawn_real_pairs(folder),
        thresholds=trusted,
        trusts=trusts,
        repair=document,
        preview=drawn_preview(shown, document) if shown and document else [],
        oracle=document is not None and Oracle.name in document.teachers,
        run=shlex.quote(str(folder)),
        sample=_sample(folder),
        trips=_round_trips(folder, rows),
        settings=[(k, "–" if v is None else str(v)) for k, v in dotted(summary.settings)],
        onward=onward(folder),
    )
    path = (folder if repair is None else Path(repair)) / REPORT_FILE
    write_text(path, text)
    return path


def write_first_report(folder: Path) -> Path:
    """Write a report of real pairs alone; it renews itself until the usual one replaces it."""
    page = templates().get_template("first.html.jinja")
    path = folder / REPORT_FILE
    write_text(path, page.render(real=drawn_real_pairs(folder), renewal=_RENEWAL))
    return path


def templates(package: str = "didae.report") -> jinja2.Environment:
    """Find the templates of a package, and what it shares with the report; every value is text."""

    def shown(value: object) -> object:
        """Show what is hidden in a text that somebody named, such as marks of direction."""
        return value if hasattr(value, "__html__") else visible(str(value))

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(p, "") for p in (package, "didae.report")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cast("dict[str, Any]", environment.filters).update(FILTERS)
    return environment


def drawn_preview(folder: Path, document: RepairDocument) -> list[dict[str, Any]]:
    """Give the previews of a repair with their pictures as addresses."""
    return [
        {
            "said": pair,
            "factual": _data_uri(_read_picture(folder, pair.factual)),
            "counterfactual": _data_uri(_read_picture(folder, pair.counterfactual)),
        }
        for pair in document.preview
    ]


def _sample(folder: Path) -> dict[str, Any] | None:
    """Show the last sheet that was drawn while the decoder trained, where there is one."""
    names = sorted(path.name for path in (folder / _SAMPLE_FOLDER).glob("step-*.png"))
    if not names:
        return None
    sheet = _read_picture(folder, f"{_SAMPLE_FOLDER}/{names[-1]}")
    step = names[-1].removeprefix("step-").removesuffix(".png")
    return {"picture": _data_uri(sheet, _SAMPLE_WIDTH), "step": step.lstrip("0")}


def _round_trips(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Draw images evenly spaced from the worst round trip to the best."""
    measured = {
        str(row["image_id"]): row
        for row in rows
        if row["round_trip_file"]
        and row["round_trip_psnr"] is not None
        and not math.isnan(row["round_trip_psnr"])
    }
    ranked = sorted(measured.values(), key=lambda row: float(row["round_trip_psnr"]))
    last = len(ranked) - 1
    ranks = sorted({round(i * last / (_SHEET - 1)) for i in range(_SHEET)}) if ranked else []
    shown = [ranked[i] for i in ranks]
    gain, pictures = _drawn_rows(folder, shown, "round_trip_file")
    pairs = [
        {"name": row["image_id"], "psnr": row["round_trip_psnr"], **drawn}
        for row, drawn in zip(shown, pictures, strict=True)
    ]
    return {"pairs": pairs, "gain": gain}


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
    """Give what the template draws of rows with a counterfactual; what is unknown is empty."""
    gain, pictures = _drawn_rows(folder, rows, "file")
    pairs: list[dict[str, Any]] = []
    for row, drawn in zip(rows, pictures, strict=True):
        label = -1 if row["label"] is None else row["label"]
        before, after = row["prediction_before"], row["prediction_after"]
        said = {
            "name": str(row["image_id"]),
            "label": class_name(label, labels) if label >= 0 else "",
            "wrong": 0 <= label != before,
            "classes": (class_name(before, labels), class_name(after, labels)),
            # Of the class predicted first.
            "probabilities": (float(row["probability_before"]), float(row["probability_after"])),
            "standing": _STANDINGS[_passed(row)],
            "flipped": before != after,
        }
        pairs.append({**said, **drawn})
    return {"gain": gain, "pairs": pairs}


def _drawn_rows(folder: Path, rows: Sequence[Row], column: str) -> tuple[int, list[dict[str, str]]]:
    """Write the images of rows, those of a column and their differences as addresses; one gain."""
    images = [
        (_read_picture(folder, row["factual_file"]), _read_picture(folder, row[column]))
        for row in rows
    ]
    gain = _common_gain(images)
    names = "factual", "counterfactual", "difference"
    shown = [(before, after, _difference_map(before, after, gain)) for before, after in images]
    return gain, [dict(zip(names, map(_data_uri, three), strict=True)) for three in shown]


def _read_picture(folder: Path, name: str) -> _Pixels:
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


def _data_uri(image: _Pixels, side: int = _THUMBNAIL) -> str:
    """Write an image, reduced to what a page shows, as a PNG inside a `data:` address."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def drawn_real_pairs(folder: Path) -> dict[int, dict[str, Any]]:
    """Give what the templates draw of each direction, by number; most foreseen flips first."""

    def drawn(shown: Photograph) -> dict[str, Any]:
        picture = _data_uri(_read_picture(folder, shown.file))
        return {**shown.model_dump(), "picture": picture}

    return {
        along.index: {
            "along": along,
            "goes_with": [(name, r) for name, r in along.goes_with if abs(r) >= _TELLING],
            "pairs": [[drawn(shown) for shown in pair] for pair in along.pairs],
        }
        for along in sorted(read_pairs(folder), key=lambda along: -along.flips)
    }


class SampleSheets:
    """Write ``samples/step-NNNNNN.png`` of a few images; `fit_decoder` takes it as what watches."""

    def __init__(
        self,
        folder: Path,
        images: UInt8[Tensor, "n 3 h w"],
        z: Float[Tensor, "n d"],
        training: TrainingConfig,
    ) -> None:
        self.folder, self.images, self.z = folder / _SAMPLE_FOLDER, images, z
        often = training.checkpoint_every
        self.every = often * -(-training.steps // (_SHEETS * often))
        self.last = training.steps

    def __call__(self, step: int, decoder: Decoder) -> None:
        """Write a sheet if it is time for one after so many steps."""
        if step % self.every and step != self.last:
            return
        rows = draw_samples(decoder, self.images, self.z)
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
        path = self.folder / f"step-{step:06d}.png"
        write_png(torch.from_numpy(np.array(sheet)), path)
