"""One self-contained HTML page for a run: images inside, no script, no address on the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup

from didae.counterfactuals.run import read_run_table
from didae.report import figures, sheets, trust
from didae.report.advice import dotted, remedy
from didae.report.headline import headline, key_figures
from didae.report.pictures import read_picture
from didae.report.repair import find_repair
from didae.report.repair_section import repair_section
from didae.report.template import page_template
from didae.storage import write_text
from didae.summary import FUNNEL, DirectionSummary, Summary

REPORT_FILE = "report.html"

COLUMNS = (
    "image_id",
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
"""Columns of the counterfactual table that the page needs."""

SHEET = 7
"""Columns of a contact sheet and of the round-trip strip."""

CARDS = 16
"""Directions that get a card with images; all others stand in the ranking."""

Row = Mapping[str, Any]


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
        Run folder: `table/part-*.parquet` with at least `COLUMNS`, and the images that its columns
        `file`, `factual_file` and `round_trip_file` name, relative to the folder.
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
    rows = cast("list[Row]", read_run_table(folder, COLUMNS).to_pylist())
    shown = find_repair(folder) if repair is None else Path(repair)
    cards = [_card(folder, d, rows, summary) for d in summary.directions[:CARDS]]
    said = headline(summary)
    page = page_template().render(
        title=title,
        summary=summary,
        headline=said,
        advice=remedy(folder, said.remedy),
        key_figures=key_figures(summary),
        cards=cards,
        thresholds=trust,
        trusts={d.index: trust.trust(summary, d) for d in summary.directions},
        repair=None if shown is None else repair_section(shown, folder),
        matrices=_matrices(summary),
        round_trip=_round_trip(folder, rows),
        settings=[(k, "–" if v is None else str(v)) for k, v in dotted(summary.settings)],
    )
    path = (folder if repair is None else Path(repair)) / REPORT_FILE
    write_text(path, page)
    return path


def _card(
    folder: Path, direction: DirectionSummary, rows: Iterable[Row], summary: Summary
) -> dict[str, Any]:
    shown = [r for r in rows if r["direction"] == direction.index and r["file"]]
    shown.sort(key=_strength, reverse=True)
    pairs = [_pair(folder, row, summary.label_names) for row in shown[:SHEET]]
    stages = [(words, getattr(direction, stage)) for stage, words in FUNNEL]
    name = direction.name
    label = f"Contact sheet of “{name}”: {len(pairs)} factuals, counterfactuals and differences"
    return {
        "direction": direction,
        "funnel": figures.funnel(
            stages, f"Funnel of “{name}”: " + ", ".join(f"{w} {c}" for w, c in stages)
        ),
        "sheet": sheets.contact_sheet(pairs, label) if pairs else None,
        "shown": len(pairs),
        "delivered": len(shown),
    }


def _strength(row: Row) -> tuple[bool, bool, bool, float]:
    drop = float(row["probability_before"] or 0.0) - float(row["probability_after"] or 0.0)
    return (
        bool(row["non_adversarial_flip"]),
        bool(row["verified_flip"]),
        bool(row["ambient_flip"]),
        drop if math.isfinite(drop) else -math.inf,
    )


def _pair(folder: Path, row: Row, labels: tuple[str, ...]) -> sheets.Pair:
    non_adversarial, verified, ambient, _ = _strength(row)
    standing = (
        "non-adversarial"
        if non_adversarial and verified
        else "verified"
        if verified
        else "flip, not verified"
        if ambient
        else "no flip"
    )
    return sheets.Pair(
        name=str(row["image_id"]),
        factual=read_picture(folder, row["factual_file"]),
        counterfactual=read_picture(folder, row["file"]),
        probability_before=float(row["probability_before"]),
        probability_after=float(row["probability_after"]),
        classes=(
            _class_name(row["prediction_before"], labels),
            _class_name(row["prediction_after"], labels),
        ),
        standing=standing,
    )


def _round_trip(folder: Path, rows: Iterable[Row]) -> Markup | None:
    """Draw images evenly spaced from the worst round trip to the best."""
    measured = {
        str(r["image_id"]): r
        for r in rows
        if r["round_trip_file"]
        and r["round_trip_psnr"] is not None
        and not math.isnan(r["round_trip_psnr"])
    }
    ranked = sorted(measured.values(), key=lambda r: float(r["round_trip_psnr"]))
    if not ranked:
        return None
    ranks = sorted({round(i * (len(ranked) - 1) / (SHEET - 1)) for i in range(SHEET)})
    trips = [
        sheets.RoundTrip(
            name=str(ranked[i]["image_id"]),
            image=read_picture(folder, ranked[i]["factual_file"]),
            decoded=read_picture(folder, ranked[i]["round_trip_file"]),
            psnr=float(ranked[i]["round_trip_psnr"]),
        )
        for i in ranks
    ]
    return sheets.round_trip_strip(trips, f"Round trip of {len(trips)} images, worst to best")


def _matrices(summary: Summary) -> dict[str, Markup]:
    matrices: dict[str, Markup] = {}
    if summary.disentanglement:
        names = summary.names
        label = "Disentanglement matrix: mean change of each code for an edit along each direction"
        matrices["disentanglement"] = figures.heat_map(summary.disentanglement, names, names, label)
    if summary.code_factor_correlation:
        matrices["correlation"] = figures.heat_map(
            summary.code_factor_correlation,
            summary.names,
            summary.factors,
            "Correlation of each direction’s code with each known factor",
        )
    return matrices


def _class_name(index: int, labels: tuple[str, ...]) -> str:
    return labels[index] if 0 <= index < len(labels) else f"class {index}"
