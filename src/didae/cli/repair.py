"""`didae repair`: from the verdicts on a run to a student without the shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.evaluate import BACKGROUND, Indices, groups_table, labelled
from didae.cli.runs import load_run_components
from didae.cli.sources import SourceConfig, rows
from didae.data.confounding import split_by_group
from didae.data.square import Square
from didae.data.tables import ImageSource
from didae.errors import DidaeError
from didae.metrics.groups import GroupAccuracies
from didae.recipes import SquareRecipe, poisoned_split
from didae.repair.base import Labelled, judge
from didae.repair.run import Repair, RepairConfig, repair_student
from didae.runtime import resolve_device
from didae.storage import write_json
from didae.students import StudentNetwork
from didae.teachers import VERDICTS_FILE, Verdicts

REPAIR_FILE = "repair.json"


class RepairRun(Command):
    """Repair the student of a run with the verdicts on its directions.

    Attributes
    ----------
    explained : Path
        What didae explain or didae demo wrote, with the verdicts.json of didae label.
    folder : Path
        Gets the student and repair.json; an interrupted repair is continued.
    source : SourceConfig
        The images that the student was trained on: those of Square, or a folder.
    poisoned : int
        Images of Square the student was trained and validated on.
    correlation : float
        Share of them whose label and background class agree.
    draw : int
        Which draw of them: the seed of `didae train student`.
    held_out : float
        Share of a folder that is kept for the gate; Square has its own.
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
        dictionary = components.dictionary
        verdicts = Verdicts.load(self.explained / VERDICTS_FILE)
        verdicts.require(dictionary.fingerprint, dictionary.names)
        source = self.source.open()
        train_data, held_out = self._data(source)
        open_run(self, self.folder)
        done = repair_student(
            components,
            train_data,
            held_out,
            verdicts.directions("spurious"),
            self.repair,
            verdicts.directions("causal"),
            self.folder / "training",
        )
        if isinstance(done.student, StudentNetwork):
            done.student.save(self.folder / "student")
        attribute = BACKGROUND if isinstance(source, Square) else self.attribute
        measured: dict[str, GroupAccuracies] = {}
        if attribute is not None:
            # A folder has no test split: its held-out images tell of the repair.
            test = rows(source, "test") if isinstance(source, Square) else self._split(source)[1]
            data = labelled(source, test, attribute)
            students = {"original": components.student, "now": done.student}
            measured = {name: judge(student, data) for name, student in students.items()}
            console().print(groups_table(measured, attribute))
        write_json(self.folder / REPAIR_FILE, document(done, measured))
        console().print(done.decision.reason, style="bold")
        console().print(f"student: {self.folder / 'student'}")

    def _data(self, source: ImageSource) -> tuple[Labelled, Labelled]:
        """Read the training images and the held-out ones."""
        training, held_out = self._split(source)
        return labelled(source, training, None), labelled(source, held_out, None)

    def _split(self, source: ImageSource) -> tuple[Indices, Indices]:
        if isinstance(source, Square):
            recipe = SquareRecipe(poisoned=self.poisoned, correlation=self.correlation)
            return poisoned_split(source, recipe, self.draw)
        if source.labels is None:
            raise DidaeError("the data has no labels: use class folders or a column `label`.")
        order = np.random.RandomState(self.draw).permutation(len(source))
        labels = np.asarray(source.labels)[order]
        first, second = split_by_group(order, labels, (1 - self.held_out, self.held_out))
        return first, second


def document(done: Repair, measured: dict[str, GroupAccuracies]) -> dict[str, object]:
    """Give the content of ``repair.json``.

    Parameters
    ----------
    done : Repair
        The repair.
    measured : dict of str to GroupAccuracies
        Group accuracies by student; empty where the attribute is unknown.

    Returns
    -------
    dict
        Plain values.
    """
    return {
        "schema": 1,
        "decision": done.decision.to_json(),
        "counterfactuals": done.counterfactuals,
        "groups": {name: value.to_json() for name, value in measured.items()},
    }
