"""A run folder from a stranger: whoever opens it opens nothing beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.folder import make_folder
from didae.app.state import Run
from didae.counterfactuals.stability import stability
from didae.errors import DidaeError
from didae.report import write_report
from didae.storage import read_json, read_table
from didae.summary import Summary
from didae.teachers import read_pairs
from report.run_folder import save
from run_tables import write_rows
from teachers.folder import make_folder as make_judged_folder


def report(folder: Path) -> None:
    write_report(folder, Summary.from_json(read_json(folder / "summary.json")))


def page(folder: Path) -> None:
    run = Run(folder)
    for direction in run.order:
        run.screen(direction)


def label(folder: Path) -> None:
    read_pairs(folder)


def disturb(folder: Path) -> None:
    stability(read_table(folder / "table"), folder, lambda images: images.mean((2, 3)), 4)


def point_elsewhere(folder: Path, column: str, name: str) -> None:
    table = read_table(folder / "table")
    rows = [{**row, column: name} if row[column] else row for row in table.to_pylist()]
    for part in (folder / "table").iterdir():
        part.unlink()
    write_rows(folder / "table", rows, table.schema)


PAIR = ("file", "factual_file")
READS = {report: (*PAIR, "round_trip_file"), page: PAIR, label: PAIR, disturb: ("file",)}


@pytest.mark.parametrize(
    ("reader", "column"), [(reader, column) for reader, names in READS.items() for column in names]
)
@pytest.mark.parametrize("way", ["up", "absolute", "link"])
def test_a_table_names_a_picture_outside_of_the_run(tmp_path, reader, column, way) -> None:
    make = make_judged_folder if reader in (label, disturb) else make_folder
    folder = make(tmp_path / "run")
    save(np.full((8, 8, 3), 77, dtype=np.uint8), tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(tmp_path / "secret.png")
    names = {"up": "../secret.png", "absolute": str(tmp_path / "secret.png"), "link": "inside.png"}
    point_elsewhere(folder, column, names[way])
    with pytest.raises(DidaeError, match="no file inside the folder"):
        reader(folder)
    assert not (folder / "report.html").exists()
