"""`didae evaluate`: group accuracies of a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from pydantic import Field
from rich.table import Table

from didae.cli.command import Command, console
from didae.cli.components import SHIPPED_NAME, load_judges
from didae.cli.sources import SourceConfig, rows
from didae.data.sampling import draw
from didae.metrics.groups import GroupAccuracies, group_accuracies
from didae.repair.measure import read_labelled
from didae.runtime import resolve_device
from didae.storage import prepare_run_folder, write_json
from didae.students import (
    accuracy_above_chance,
    check_student,
    finite_rows,
    logits,
    warn_of_constant,
)

Indices = NDArray[np.int64]

BACKGROUND = "background"


class Evaluate(Command):
    """Measure a student's accuracy in every group of label and spurious attribute.

    Attributes
    ----------
    student : str
        square (shipped), what `didae train student` or `didae repair` wrote, or the folder of a
        student alone.
    source : SourceConfig
        Which images: the test split of Square, or a folder.
    attribute : str
        The spurious attribute: a numeric column of metadata.csv with few values.
    images : int
        How many at most, drawn so that every group keeps its share.
    json_file : Path
        Gets the same as JSON.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    """

    student: str = SHIPPED_NAME
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    attribute: str = BACKGROUND
    images: int = Field(default=10_000, ge=1)
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    device: str = "auto"

    def run(self) -> None:
        """Measure."""
        student = load_judges(self.student)[0]
        if isinstance(student, torch.nn.Module):
            student.to(resolve_device(self.device))
        source = self.source.open()
        chosen = draw(source, source.labelled(rows(source, "test")), self.images, proportional=True)
        data, chosen, _ = read_labelled(source, chosen, self.attribute)
        check_student(student, data.images)
        judged = logits(student, data.images)
        good = finite_rows(student, judged, [source.ids[int(row)] for row in chosen])
        predictions, attributes = judged[good].argmax(1), data[good].known_attributes()
        warn_of_constant(predictions.tolist(), source.label_names)
        accuracy_above_chance(judged[good], data[good].labels)
        measured = group_accuracies(predictions, data[good].labels, attributes)
        console().print(groups_table({"student": measured}, self.attribute))
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
            write_json(self.json_file, measured.to_json())


def groups_table(measured: dict[str, GroupAccuracies], attribute: str) -> Table:
    """Lay group accuracies out for the terminal, one column per student."""
    table = Table(f"label, {attribute}", "n", *measured)
    students = list(measured.values())
    for group, n in students[0].counts.items():
        cells = [f"{student.accuracies[group]:.3f}" for student in students]
        table.add_row(f"{group[0]}, {group[1]}", str(n), *cells)
    total = str(sum(students[0].counts.values()))
    table.add_section()
    table.add_row("mean of groups (AGA)", total, *(f"{student.aga:.3f}" for student in students))
    worst = [f"{s.wga:.3f} [{s.wga_low:.3f}, {s.wga_high:.3f}]" for s in students]
    table.add_row("worst group (WGA)", str(students[-1].wga_n), *worst)
    table.add_row("mean of images", total, *(f"{student.mean:.3f}" for student in students))
    if all(student.weighted_mean is not None for student in students):
        cells = [f"{student.weighted_mean:.3f}" for student in students]
        table.add_row("mean weighted as in training", total, *cells)
    return table
