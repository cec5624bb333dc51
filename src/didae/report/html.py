"""One self-contained HTML page for a run: images inside, no script, no address on the network."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jinja2

from didae.config import dotted
from didae.errors import visible
from didae.explainer.summary import DirectionSummary, Summary
from didae.report import trust as trusted
from didae.report.figures import (
    SAMPLE_FOLDER,
    Row,
    data_uri,
    delivered_rows,
    drawn_pairs,
    drawn_real_pairs,
    drawn_rows,
    read_picture,
    read_rows,
    varied,
)
from didae.report.repair import drawn_preview, find_repair, read_repair
from didae.report.trust import headline, label_hint, onward, remedy
from didae.report.words import FILTERS, class_lines, key_figures, remarks
from didae.storage import write_text
from didae.teachers import Oracle

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
        repair=None if shown is None else _repair(shown, folder),
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


def _repair(folder: Path, run: Path) -> dict[str, Any]:
    document = read_repair(folder)
    return {
        "document": document,
        "preview": drawn_preview(folder, document),
        "oracle": Oracle.name in document.teachers,
        "run": shlex.quote(str(run)),
    }


def _sample(folder: Path) -> dict[str, Any] | None:
    """Show the last sheet that was drawn while the decoder trained, where there is one."""
    names = sorted(path.name for path in (folder / SAMPLE_FOLDER).glob("step-*.png"))
    if not names:
        return None
    sheet = read_picture(folder, f"{SAMPLE_FOLDER}/{names[-1]}")
    step = names[-1].removeprefix("step-").removesuffix(".png")
    return {"picture": data_uri(sheet, _SAMPLE_WIDTH), "step": step.lstrip("0")}


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
    gain, pictures = drawn_rows(folder, shown, "round_trip_file")
    pairs = [
        {"name": row["image_id"], "psnr": row["round_trip_psnr"], **drawn}
        for row, drawn in zip(shown, pictures, strict=True)
    ]
    return {"pairs": pairs, "gain": gain}
