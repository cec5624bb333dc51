"""The ELPV components: solar cells, whose type goes with nothing but the confounded draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from didae.data.known import installed_elpv
from didae.data.sampling import split_by_group, uniforms
from didae.data.table import Axis, ImageTable, changed
from didae.decoders.base import Decoder
from didae.encoders.base import Encoder
from didae.training import TrainingConfig
from didae_bench.recipes.decoder import DecoderRecipe, make_decoder

MIRRORS: tuple[Axis, ...] = ("horizontal", "vertical")
ENCODER = "lite0@128"
DEFECT, TYPE = "defect", "mono"

_PARTS = {"train": 0.7, "validation": 0.1, "test": 0.2}


class ElpvRecipe(DecoderRecipe):
    """Everything that decides the ELPV decoder.

    Attributes
    ----------
    image_size : int
        Side of the images in pixels.
    components : int
        Principal components of z_sem that the decoder gets: 64 carry .91 of the variance, and the
        type and the defect are read from them as well as from more.
    """

    image_size: int = 64
    components: int = 64
    decoder: TrainingConfig = TrainingConfig(
        steps=24000, batch_size=16, learning_rate=2e-3, weight_decay=0
    )


def open_elpv(folder: Path | None, recipe: ElpvRecipe) -> ImageTable:
    """Open the solar cells, split alike within every probability of a defect and type.

    Parameters
    ----------
    folder : Path or None
        Of ELPV; None for that of the package.
    recipe : ElpvRecipe
        With the size of the images.

    Returns
    -------
    ImageTable
        2 624 grey images; 70 % to train on, 10 % for validation, 20 % for tests.

    Raises
    ------
    DidaeError
        If the images are not there.
    """
    table = ImageTable.from_folder(folder or installed_elpv(), recipe.image_size, layout="elpv")
    order = np.argsort(uniforms(0, "split", table.ids), kind="stable")
    kinds = np.round(3 * table.attributes[DEFECT]) + 4 * table.attributes[TYPE]
    parts = split_by_group(order, kinds[order], tuple(_PARTS.values()))
    return changed(table, splits=dict(zip(_PARTS, parts, strict=True)))


def certain(table: ImageTable) -> ImageTable:
    """Leave out the cells that its experts were not sure about.

    Parameters
    ----------
    table : ImageTable
        All cells.

    Returns
    -------
    ImageTable
        Those whose probability of a defect is 0 or 1, 2 223 of them.
    """
    return table.select(np.flatnonzero(np.isin(table.attributes[DEFECT], (0, 1))))


def train_elpv_decoder(
    source: ImageTable, encoder: Encoder, recipe: ElpvRecipe, folder: Path
) -> Decoder:
    """Train the decoder on the train split and its mirror images; what is there is kept.

    Parameters
    ----------
    source : ImageTable
        The cells.
    encoder : Encoder
        Φ.
    recipe : ElpvRecipe
        How.
    folder : Path
        Gets ``decoder`` and ``recipe.yaml``.

    Returns
    -------
    Decoder
        In evaluation mode.
    """
    mirrored = source.mirrored(MIRRORS)
    return make_decoder(mirrored, mirrored.splits["train"], encoder, recipe, folder)
