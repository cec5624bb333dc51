"""The photographs of two benchmarks: a planted tag, and the decoders that are trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from didae.config import Config, save_yaml
from didae.data.sampling import uniforms
from didae.data.table import ImageSource, ImageTable, changed
from didae.decoders.base import Decoder
from didae.decoders.training import fit_decoder, suited_config
from didae.encoders.base import Encoder, cached_embed
from didae.errors import DidaeError
from didae.training import TrainingConfig

TAG = "tag"
"""Name of the attribute."""


class TagConfig(Config):
    """Where the tag is, what it looks like, and how many images have it.

    Attributes
    ----------
    top : int
        First row, in pixels of the delivered image.
    left : int
        First column.
    side : int
        Height and width, in pixels.
    opacity : float
        Share of the tag's own brightness: 1 hides what is under it.
    brightness : float
        Its brightness, 0 to 255, in every channel.
    share : float
        Probability that an image has it, independently of everything else.
    seed : int
        Which images have it.
    """

    top: int = Field(default=2, ge=0)
    left: int = Field(default=2, ge=0)
    side: int = Field(default=5, ge=1)
    opacity: float = Field(default=0.8, gt=0, le=1)
    brightness: float = Field(default=235, ge=0, le=255)
    share: float = Field(default=0.5, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    def blend(self, images: Tensor) -> Tensor:
        """Put the tag on uint8 images, (1 - opacity) · pixel + opacity · brightness, rounded."""
        bottom, right = self.top + self.side, self.left + self.side
        if images.shape[2] < bottom or images.shape[3] < right:
            raise DidaeError(
                f"the tag ends at row {bottom} and column {right}, the images have "
                f"{images.shape[2]} x {images.shape[3]} pixels; choose another place for it"
            )
        tagged = images.clone()
        inside = tagged[:, :, self.top : bottom, self.left : right]
        blended = (1 - self.opacity) * inside.double() + self.opacity * self.brightness
        inside[:] = blended.round().to(torch.uint8)
        return tagged


class Planted(ImageTable):
    """A data set with a tag on some of its images.

    Which ones depends on the seed and the image's id alone, so neither the batch nor the order of
    the images changes anything. The attribute `tag` joins those of the data set.
    """

    source: ImageTable
    config: TagConfig
    tagged: NDArray[np.bool_]

    def __init__(self, source: ImageTable, config: TagConfig | None = None) -> None:
        config = config or TagConfig()
        if TAG in source.attributes:
            raise DidaeError(f"the data has an attribute {TAG!r} of its own; leave it out")
        tagged = uniforms(config.seed, TAG, source.ids) < config.share

        def read(rows: list[int], other: bool = False) -> Tensor:
            images = source.images(rows)
            has = torch.from_numpy(tagged[rows] != other)[:, None, None, None]
            return torch.where(has, config.blend(images), images)

        super().__init__(
            source.ids,
            read,
            source.labels,
            source.label_names,
            {**source.attributes, TAG: tagged.astype(np.float64)},
            source.splits,
            source.license,
        )
        # The base is frozen.
        self.__dict__.update(source=source, config=config, tagged=tagged)
        self.__dict__.update(_other=partial(read, other=True))

    def truth(self, indices: Sequence[int] | NDArray[Any]) -> Tensor:
        """Read true counterfactuals: the same images with the tag taken away or put on."""
        return changed(self, read=self.__dict__["_other"]).images(indices)


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
    """Train a decoder; what is already there is kept."""
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
