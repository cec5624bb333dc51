"""`didae repair`: from the verdicts on a run to a student without the shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.repaired import ONNX_FILE, RepairData, repair_and_measure
from didae.cli.report import SUMMARY_FILE, load_summary, publish, tell_repair
from didae.cli.runs import load_run_components
from didae.cli.sources import SourceConfig, rows
from didae.data.confounding import split_by_group
from didae.data.square import Square
from didae.data.table import ImageSource
from didae.recipes.square import SquareRecipe
from didae.repair.run import RepairConfig
from didae.runtime import resolve_device
from didae.teachers import VERDICTS_FILE, Verdicts


class RepairRun(Command):
    """Repair the student of a run with the verdicts on its directions.

    Attributes
    ----------
    explained : Path
        What didae explain or didae demo wrote, with the verdicts.json of didae label.
    folder : Path
        Gets the student, repair.json and report.html, the report of the run with this repair; an
        interrupted repair is continued.
    source : SourceConfig
        The images that the student was trained on: those of Square, or a folder.
    poisoned : int
        Images of Square the student was trained and validated on.
    correlation : float
        Share of them whose label and background class agree.
    draw : int
        Which draw of them: the seed of `didae train student`.
    held_out : float
        Share of the training images of a folder that is kept for the gate; Square has its own.
    attribute : str
        Spurious attribute for the accuracies before and after; nothing else uses it.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    repair : RepairConfig
        How to repair, and when to accept it.
    """

    explained: Annotated[Path, tyro.conf.Positional]
    folder: Path = Path("runs/repair")
    source: tyro.conf.OmitArgPrefixes[SourceConfig] = SourceConfig()
    poisoned: int = Field(default=1000, ge=4)
    correlation: float = Field(default=0.98, ge=0, le=1)
    draw: int = Field(default=0, ge=0)
    held_out: float = Field(default=0.2, gt=0, lt=1)
    attribute: str | None = None
    device: str = "auto"
    repair: RepairConfig = RepairConfig()

    def run(self) -> None:
        """Repair."""
        components = load_run_components(self.explained).to(resolve_device(self.device))
        verdicts = Verdicts.load(self.explained / VERDICTS_FILE)
        verdicts.require(components.dictionary.fingerprint, components.dictionary.names)
        data = self._data(self.source.open())
        open_run(self, self.folder)
        document = repair_and_measure(components, data, verdicts, self.repair, self.folder)
        tell_repair(document)
        saved = [self.folder / name for name in ("student", ONNX_FILE)]
        missing = "not saved, as it is neither didae's nor a linear head nor ONNX"
        told = next((place for place in saved if place.exists()), missing)
        console().print(f"student: {told}")
        # A run can be judged, and repaired, before all of it is explained.
        if (self.explained / SUMMARY_FILE).exists():
            publish(self.explained, load_summary(self.explained), self.folder)

    def _data(self, source: ImageSource) -> RepairData:
        """Read the training images, the held-out ones, and those that tell of the repair."""
        if isinstance(source, Square):
            recipe = SquareRecipe(poisoned=self.poisoned, correlation=self.correlation)
            return RepairData.of_square(source, recipe, self.draw)
        known, test = source.labelled(rows(source, "train")), rows(source, "test")
        test = test[np.asarray(source.labels)[test] >= 0]
        order = np.random.RandomState(self.draw).permutation(known)
        labels = np.asarray(source.labels)[order]
        training, held_out = split_by_group(order, labels, (1 - self.held_out, self.held_out))
        if not len(test) or np.isin(test, known).any():  # No labels there, or not split.
            test = held_out
        return RepairData.read(source, (training, held_out, test), self.attribute)
