"""`didae data square`: Square as files."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from didae.cli.command import Command, console, open_run
from didae.data.images import write_png
from didae.data.square import FACTORS, Square
from didae.runtime import progress
from didae.storage import write_text


class DataSquare(Command):
    """Write Square as PNG files and metadata.csv, the imagefolder layout of Hugging Face.

    Label is the class of the foreground (1 is the upper half); the four factors are attributes.

    Attributes
    ----------
    folder : Path
        An empty folder, or one that an interrupted call left.
    size : int
        Number of images.
    seed : int
        Seed of factors and noise.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("data/square")
    size: int = Field(default=16_000, ge=1)
    seed: int = Field(default=0, ge=0)

    def run(self) -> None:
        """Write what is not there yet; the table comes last."""
        open_run(self, self.folder)
        square = Square(self.size, self.seed)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file_name", "label", *FACTORS])
        names = progress(enumerate(square.ids), "writing images", len(square))
        for index, name in names:
            file = f"images/{name}.png"
            if not (self.folder / file).exists():
                write_png(square.images([index])[0], self.folder / file)
            table.writerow([file, square.labels[index], *square.factors[index]])
        write_text(self.folder / "metadata.csv", text.getvalue())
        console().print(f"{len(square)} images and metadata.csv in {self.folder}")
