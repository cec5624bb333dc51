"""`didae report`, and what `didae explain` and `didae demo` say at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from didae.cli.command import Command, console
from didae.report import write_report
from didae.storage import read_json
from didae.summary import FUNNEL, Summary

SUMMARY_FILE = "summary.json"


class Report(Command):
    """Write report.html of a run again, from its table and images.

    Attributes
    ----------
    folder : Path
        What didae explain or didae demo wrote.
    """

    folder: Annotated[Path, tyro.conf.Positional]

    def run(self) -> None:
        """Write the report."""
        path = self.folder / SUMMARY_FILE
        finish(self.folder, Summary.from_json(read_json(path), str(path)))


def finish(folder: Path, summary: Summary) -> None:
    """Write the report of a run and print its key numbers.

    Parameters
    ----------
    folder : Path
        The run folder.
    summary : Summary
        What the run counted.
    """
    report = write_report(folder, summary)
    terminal = console()
    table = Table("direction", *(words for _, words in FUNNEL))
    for direction in summary.directions:
        table.add_row(direction.name, *(str(getattr(direction, stage)) for stage, _ in FUNNEL))
    terminal.print(table)
    figures = {
        "counterfactuals per second": summary.counterfactuals_per_second,
        "network evaluations per counterfactual": summary.nfe_per_counterfactual,
        "round trip, dB": summary.round_trip_psnr,
        **{key.replace("_", " "): value for key, value in summary.measures.items()},
    }
    terminal.print(f"{summary.n_images} images, {summary.n_directions} directions")
    for words, value in figures.items():
        if value is not None:
            terminal.print(f"{words}: {value:.4g}")
    terminal.print(f"report: {report}", style="bold")
