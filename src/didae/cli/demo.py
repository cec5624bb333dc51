"""`didae demo`: from images to a report, on Square."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from didae.cli.command import Command, open_run
from didae.cli.report import finish
from didae.counterfactuals import ExplainConfig, explain
from didae.data.square import Square
from didae.recipes import SquareRecipe, load_components, train_components
from didae.runtime import resolve_device


class Demo(Command):
    """Explain a biased classifier on the test split of Square, and write report.html.

    Attributes
    ----------
    folder : Path
        Gets table, images, summary.json and report.html; an interrupted run is continued.
    images : int
        How many.
    from_scratch : bool
        Train every component first, into the folder `components`, instead of the shipped ones.
    recipe : SquareRecipe
        How, and which pool of Square.
    device : str
        auto (CUDA, else MPS, else the CPU) or a name that PyTorch knows.
    explain : ExplainConfig
        How to edit and what counts as verified.
    """

    folder: Path = Path("runs/demo")
    images: int = Field(default=400, ge=1)
    from_scratch: tyro.conf.FlagCreatePairsOff[bool] = False
    recipe: SquareRecipe = SquareRecipe()
    device: str = "auto"
    explain: tyro.conf.OmitArgPrefixes[ExplainConfig] = ExplainConfig()

    def run(self) -> None:
        """Explain."""
        shipped = None if self.from_scratch else load_components()
        open_run(self, self.folder)
        components = shipped or train_components(self.folder / "components", self.recipe)
        components.to(resolve_device(self.device))
        square = Square(self.recipe.size, self.recipe.seed)
        chosen = square.splits["test"][: self.images]
        finish(self.folder, explain(square, chosen, components, self.explain, self.folder))
