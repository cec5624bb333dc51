"""One self-contained HTML page for a run: images inside, no script, no address on the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from didae.explainer.summary import DirectionSummary, Matrix, Summary
from didae.report import trust
from didae.report.advice import dotted, onward, remedy
from didae.report.headline import class_lines, headline, key_figures, label_hint
from didae.report.pairs import (
    Row,
    delivered_rows,
    drawn_pairs,
    load_pair,
    picture,
    read_rows,
    varied,
)
from didae.report.pictures import common_gain, data_uri, difference_map, read_picture, thumbnail
from didae.report.repair import find_repair
from didae.report.repair_section import repair_section
from didae.report.samples import SAMPLE_FOLDER
from didae.report.template import templates
from didae.storage import write_text

REPORT_FILE = "report.html"

SHEET = 6
"""Pairs of a card, and images of the round trip."""

FIRST = 3
"""Pairs beside the headline."""

SAMPLE_WIDTH = 960
"""Longest side of the sheet of drawings, in pixels; larger ones are reduced to it."""

CARDS = 16
"""Directions that get a card with images; all others stand in the ranking."""


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
    said = headline(summary)
    page = (
        templates()
        .get_template("report.html.jinja")
        .render(
            title=title,
            summary=summary,
            headline=said,
            advice=remedy(folder, said.remedy),
            first=_first(folder, delivered, summary),
            key_figures=key_figures(summary),
            class_lines=class_lines(summary),
            cards=[_card(folder, d, delivered, summary) for d in summary.directions[:CARDS]],
            thresholds=trust,
            trusts={d.index: trust.trust(summary, d) for d in summary.directions},
            repair=None if shown is None else repair_section(shown, folder),
            matrices=_matrices(summary),
            sample=_sample(folder),
            trips=_round_trips(folder, rows),
            settings=[(k, "–" if v is None else str(v)) for k, v in dotted(summary.settings)],
            onward=onward(folder),
        )
    )
    path = (folder if repair is None else Path(repair)) / REPORT_FILE
    write_text(path, page)
    return path


def _first(folder: Path, delivered: dict[int, list[Row]], summary: Summary) -> dict[str, Any]:
    """Draw the pairs beside the headline, of the first direction that has any."""
    for direction in summary.directions:
        rows = varied(delivered.get(direction.index, []), FIRST)
        if rows:
            pairs = [load_pair(folder, row, summary.label_names) for row in rows]
            return {**drawn_pairs(pairs), "direction": direction.name}
    return {"pairs": ()}


def _card(
    folder: Path, direction: DirectionSummary, delivered: dict[int, list[Row]], summary: Summary
) -> dict[str, Any]:
    rows = delivered.get(direction.index, [])
    pairs = [load_pair(folder, row, summary.label_names) for row in varied(rows, SHEET)]
    return {
        **drawn_pairs(pairs),
        "direction": direction,
        "delivered": len(rows),
        "hint": label_hint(direction.name),
        "advice": remedy(folder, trust.trust(summary, direction).remedy),
    }


def _sample(folder: Path) -> dict[str, Any] | None:
    """Show the last sheet that was drawn while the decoder trained, where there is one."""
    names = sorted(path.name for path in (folder / SAMPLE_FOLDER).glob("step-*.png"))
    if not names:
        return None
    sheet = read_picture(folder, f"{SAMPLE_FOLDER}/{names[-1]}")
    step = names[-1].removeprefix("step-").removesuffix(".png")
    return {"picture": data_uri(thumbnail(sheet, SAMPLE_WIDTH)), "step": step.lstrip("0")}


def _round_trips(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Draw images evenly spaced from the worst round trip to the best."""
    measured = {
        str(r["image_id"]): r
        for r in rows
        if r["round_trip_file"]
        and r["round_trip_psnr"] is not None
        and not math.isnan(r["round_trip_psnr"])
    }
    ranked = sorted(measured.values(), key=lambda r: float(r["round_trip_psnr"]))
    last = len(ranked) - 1
    ranks = sorted({round(i * last / (SHEET - 1)) for i in range(SHEET)}) if ranked else []
    trips = [
        (
            ranked[i],
            read_picture(folder, ranked[i]["factual_file"]),
            read_picture(folder, ranked[i]["round_trip_file"]),
        )
        for i in ranks
    ]
    gain = common_gain([(image, decoded) for _, image, decoded in trips])
    pairs = [
        {
            "name": str(row["image_id"]),
            "factual": picture(image),
            "decoded": picture(decoded),
            "difference": picture(difference_map(image, decoded, gain)),
            "psnr": float(row["round_trip_psnr"]),
        }
        for row, image, decoded in trips
    ]
    return {"pairs": pairs, "gain": gain}


def _matrices(summary: Summary) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    names = summary.names
    if summary.disentanglement:
        note = (
            "Row: the direction that was edited. Column, by number: mean |change| of each code, in "
            "its standard deviations, read from the re-encoded counterfactual. Off the diagonal, "
            "less is better."
        )
        found.append({
            "title": "What an edit changes", "square": True, "columns": names, "note": note,
            "rows": _shaded(names, summary.disentanglement),
        })  # fmt: skip
    if summary.code_factor_correlation:
        note = "Correlation of each direction’s code (row) with each known factor (column)."
        found.append({
            "title": "What a direction stands for", "square": False, "columns": summary.factors,
            "note": note, "rows": _shaded(names, summary.code_factor_correlation),
        })  # fmt: skip
    return found


def _shaded(
    names: Sequence[str], values: Matrix
) -> list[tuple[str, list[tuple[float | None, float]]]]:
    """Give every value its strength in [0, 1], relative to the largest."""
    sizes = [abs(v) for row in values for v in row if v is not None and math.isfinite(v)]
    largest = max(sizes, default=0.0) or 1.0

    def strength(value: float | None) -> float:
        return abs(value) / largest if value is not None and math.isfinite(value) else 0.0

    return [
        (name, [(v, strength(v)) for v in row]) for name, row in zip(names, values, strict=True)
    ]
