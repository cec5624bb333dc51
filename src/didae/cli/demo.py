"""`didae demo`: from images to a report and a repaired classifier, on Square."""

from __future__ import annotations

import shlex
from pathlib import Path

import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.cli.report import publish, tell, tell_repair
from didae.data.square import Square
from didae.demo import SquareRecipe, load_components, square_repair_data, train_components
from didae.explainer import Components, ExplainConfig, explain
from didae.repair.measure import REPAIR_FILE, repair_and_measure
from didae.repair.run import RepairConfig
from didae.report.repair import ORACLE_FOLDER, RepairDocument, read_repair
from didae.runtime import resolve_device
from didae.storage import prepare_run_folder
from didae.teachers import VERDICTS_FILE, Oracle, Verdicts, judge_all, square_classes


class Demo(Command):
    """Explain a biased classifier on the test split of Square, repair it, and write report.html.

    An oracle, which reads the true class off the pixels, judges the directions for the repair; what
    a person judges with didae label or didae app stays apart.

    Attributes
    ----------
    folder : Path
        Gets table, images, summary.json, report.html and the repair in the folder `oracle`; an
        interrupted run is continued.
    images : int
        How many.
    from_scratch : bool
        Train every component first, into the folder `components`, instead of the shipped ones.
    only_explain : bool
        Leave the repair out.
    recipe : SquareRecipe
        How, and which pool of Square.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    explain : ExplainConfig
        How to edit and what counts as verified.
    repair : RepairConfig
        How to repair, and when to accept it.
    """

    folder: Path = Path("runs/demo")
    images: int = Field(default=400, ge=1)
    from_scratch: tyro.conf.FlagCreatePairsOff[bool] = False
    only_explain: tyro.conf.FlagCreatePairsOff[bool] = False
    recipe: SquareRecipe = SquareRecipe()
    device: str = "auto"
    explain: tyro.conf.OmitArgPrefixes[ExplainConfig] = ExplainConfig()
    repair: RepairConfig = RepairConfig()

    def run(self) -> None:
        """Explain and repair."""
        shipped = None if self.from_scratch else load_components()
        open_run(self, self.folder)
        components = shipped or train_components(self.folder / "components", self.recipe)
        components.to(resolve_device(self.device))
        square = Square(self.recipe.size, self.recipe.seed)
        # The classes of Square take turns from image to image.
        chosen = square.splits["test"][: self.images]
        summary = explain(square, chosen, components, self.explain, self.folder)
        tell(self.folder, summary)
        if not self.only_explain:
            tell_repair(self._repaired(square, components))
        publish(self.folder, summary)
        console().print(f"judge for yourself: didae app {shlex.quote(str(self.folder))}")

    def _repaired(self, square: Square, components: Components) -> RepairDocument:
        """Let the oracle judge, and repair; what is already there is kept."""
        home = self.folder / ORACLE_FOLDER
        if not (home / REPAIR_FILE).exists():
            prepare_run_folder(home)
            dictionary = components.dictionary
            verdicts = Verdicts.open_file(
                home / VERDICTS_FILE, dictionary.fingerprint, dictionary.names
            )
            judge_all(Oracle(square_classes), self.folder, verdicts)
            data = square_repair_data(square, self.recipe)
            repair_and_measure(components, data, verdicts, self.repair, home)
        return read_repair(home)
