"""The Fashion components: real photographs of shoes, half of them with a planted tag."""

from __future__ import annotations

from pathlib import Path

from didae.config import Config, save_yaml
from didae.data.fashion_mnist import FashionMNIST
from didae.data.planted import Planted, TagConfig
from didae.data.selection import Selection
from didae.data.splits import complete
from didae.decoders.base import Decoder
from didae.decoders.training import fit_decoder, suited_config
from didae.encoders.base import Encoder
from didae.encoders.cache import cached_embed
from didae.training import TrainingConfig

SHIPPED = Path(__file__).parents[1] / "assets" / "fashion"
CLASSES = ("Sneaker", "Ankle boot")
ENCODER = "lite0@96"


class FashionRecipe(Config):
    """Everything that decides the Fashion decoder.

    Attributes
    ----------
    tag : TagConfig
        The confounder.
    components : int
        Principal components of z_sem that the decoder gets. The tag is read linearly from 32 of
        them with .76 accuracy, from 64 with .91, from 256 with .96, from all 1280 with .98.
    width : int
        Channels of the U-Net's first level.
    jitter : float
        Noise on the decoder's z_sem while it trains, in standard deviations of its components.
    decoder : TrainingConfig
        How the decoder is trained.
    """

    tag: TagConfig = TagConfig()
    components: int = 256
    width: int = 48
    jitter: float = 0.25
    decoder: TrainingConfig = TrainingConfig(
        steps=14000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )


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
    source = FashionMNIST.from_folder(folder)
    splits = dict(complete(source.splits, source.ids, 0))
    whole = FashionMNIST(source.files, source.ids, source.labels, splits)
    return Planted(Selection.of_classes(whole, CLASSES), recipe.tag)


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
    if not (folder / "decoder" / "config.json").exists():
        save_yaml(recipe, folder / "recipe.yaml")
        rows = source.splits["train"]
        z, images = cached_embed(encoder, source, rows), source.images(rows)
        config = suited_config(images, encoder.dim, recipe.components, recipe.width)
        fit_decoder(
            images,
            z,
            config,
            recipe.decoder,
            encoder.fingerprint,
            folder / "decoder.training",
            jitter=recipe.jitter,
        ).save(folder / "decoder")
    return Decoder.load(folder / "decoder")
