"""What decides a decoder of real images, and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from didae.config import Config, save_yaml
from didae.data.table import ImageSource
from didae.decoders.base import Decoder
from didae.decoders.training import fit_decoder, suited_config
from didae.encoders.base import Encoder, cached_embed
from didae.training import TrainingConfig


class DecoderRecipe(Config):
    """How a decoder is made.

    Attributes
    ----------
    components : int
        Principal components of z_sem that it gets.
    width : int
        Channels of the U-Net's first level.
    jitter : float
        Noise on its z_sem while it trains, in standard deviations of the components.
    decoder : TrainingConfig
        How long and how fast it is trained.
    """

    components: int = 128
    width: int = 48
    jitter: float = 0.25
    decoder: TrainingConfig = TrainingConfig(
        steps=14000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )


def make_decoder(
    source: ImageSource,
    rows: NDArray[np.int64],
    encoder: Encoder,
    recipe: DecoderRecipe,
    folder: Path,
) -> Decoder:
    """Train a decoder; what is already there is kept.

    Parameters
    ----------
    source : ImageSource
        Images.
    rows : ndarray of int64
        Which ones it is trained on.
    encoder : Encoder
        Φ.
    recipe : DecoderRecipe
        How.
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``; an interrupted training there is continued.

    Returns
    -------
    Decoder
        In evaluation mode.
    """
    if not (folder / "decoder" / "config.json").exists():
        save_yaml(recipe, folder / "recipe.yaml")
        z, images = cached_embed(encoder, source, rows), source.images(rows.tolist())
        config = suited_config(images, z, recipe.components, recipe.width)
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
