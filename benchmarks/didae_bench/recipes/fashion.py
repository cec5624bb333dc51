"""The Fashion components: real photographs of shoes, half of them with a planted tag."""

from __future__ import annotations

from pathlib import Path

from didae.data.known import fashion_mnist, installed_fashion
from didae.data.sampling import complete
from didae.data.table import Reading, changed
from didae.decoders.base import Decoder
from didae.encoders.base import Encoder
from didae_bench.planted import Planted, TagConfig
from didae_bench.recipes.decoder import DecoderRecipe, make_decoder

SHIPPED = Path(__file__).parents[1] / "assets" / "fashion"
CLASSES = ("Sneaker", "Ankle boot")
ENCODER = "lite0@96"


class FashionRecipe(DecoderRecipe):
    """Everything that decides the Fashion decoder.

    Attributes
    ----------
    tag : TagConfig
        The confounder.
    components : int
        Principal components of z_sem that the decoder gets. The tag is read linearly from 32 of
        them with .76 accuracy, from 64 with .91, from 256 with .96, from all 1280 with .98.
    """

    tag: TagConfig = TagConfig()
    components: int = 256


def open_fashion(folder: Path | None, recipe: FashionRecipe) -> Planted:
    """Open the shoes, half of them with a tag.

    Parameters
    ----------
    folder : Path or None
        Of the four files of Fashion-MNIST; None for Debian's package.
    recipe : FashionRecipe
        With the tag.

    Returns
    -------
    Planted
        14 000 images of 32 x 32 pixels; a tenth of the official training images is kept for
        validation.

    Raises
    ------
    DidaeError
        If the files are not there.
    """
    source = fashion_mnist(folder or installed_fashion(), Reading())
    whole = changed(source, splits=complete(source.splits, source.ids, 0))
    return Planted(whole.of_classes(CLASSES), recipe.tag)


def train_fashion_decoder(
    source: Planted, encoder: Encoder, recipe: FashionRecipe, folder: Path
) -> Decoder:
    """Train the decoder on the train split; what is already there is kept.

    Parameters
    ----------
    source : Planted
        The shoes.
    encoder : Encoder
        Φ.
    recipe : FashionRecipe
        How.
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``.

    Returns
    -------
    Decoder
        In evaluation mode.
    """
    return make_decoder(source, source.splits["train"], encoder, recipe, folder)
