"""Photographs with a confounder: a planted tag, poisoned subsets, and decoders trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor

from didae.config import Config, save_yaml
from didae.data.sampling import quota_subset, split_by_group, uniforms
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


class ConfoundingConfig(Config):
    """How to confound a data set."""

    attribute: str  # The confounder, an attribute with two values; the higher one counts as 1
    size: int = Field(ge=1)  # Images that a student is trained and validated on
    # Share of them in which label and confounder are equal
    correlation: float = Field(default=0.98, ge=0, le=1)
    # Share of them, of every group alike, that is kept for validation
    held_out: float = Field(default=0.2, gt=0, lt=1)
    # Images of the balanced test; None for as many as there are
    test: int | None = Field(default=None, ge=4, multiple_of=4)
    # What counts as 0 and as 1 where the attribute has more values, such as two of five hospitals;
    # other images are left out
    values: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ConfoundedSplit:
    """Rows of a data set, none of them in two parts."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    test: NDArray[np.int64]


def confounded_split(
    source: ImageSource, config: ConfoundingConfig, seed: int = 0, pool: ArrayLike | None = None
) -> ConfoundedSplit:
    """Draw poisoned images to train and validate on, and a balanced test, from any data set.

    Where the source has train and test splits, the poisoned images come from the first and the test
    from the second; else both come from all images, the poisoned ones first. The order in which
    images are drawn depends on nothing but the seed and their ids.
    """
    confounder = binary_attribute(source, config.attribute, config.values)
    allowed = confounder >= 0
    if pool is not None:
        allowed &= np.isin(np.arange(len(source)), np.asarray(pool))
    order = np.argsort(uniforms(seed, "confounding", source.ids), kind="stable")
    if source.labels is not None:
        allowed &= source.labels >= 0
    order = order[allowed[order]]
    label, splits = _binary_label(source, order), source.splits
    apart = {"train", "test"} <= set(splits)
    first = order[np.isin(order, splits["train"])] if apart else order
    poisoned = first[quota_subset(label[first], confounder[first], config.size, config.correlation)]
    groups = 2 * label + confounder
    parts = (1 - config.held_out, config.held_out)
    train, held_out = split_by_group(poisoned, groups[poisoned], parts)
    second = order[np.isin(order, splits["test"])] if apart else order
    second = second[~np.isin(second, poisoned)]
    size = config.test
    if size is None:
        size = 4 * min(int((groups[second] == group).sum()) for group in range(4))
    if size == 0:
        raise DidaeError(
            f"no balanced test is left: a group of label and {config.attribute!r} has no image "
            "apart from the poisoned ones; poison fewer"
        )
    test = second[quota_subset(label[second], confounder[second], size, 0.5)]
    return ConfoundedSplit(train, held_out, test)


def binary_attribute(
    source: ImageSource, name: str, values: tuple[float, float] | None = None
) -> Int[NDArray[np.int64], " n"]:
    """Read an attribute as 0 and 1."""
    if name not in source.attributes:
        known = ", ".join(source.attributes) or "none"
        raise DidaeError(f"the data has no attribute {name!r}; known are: {known}")
    column = source.attributes[name]
    kinds = np.unique(column).tolist()
    if len(kinds) == 1:
        raise DidaeError(
            f"attribute {name!r} is {kinds[0]:g} on all {len(column)} images and can confound "
            "nothing; choose one with two values"
        )
    some = ", ".join(f"{kind:g}" for kind in kinds[:10])
    if values is None and len(kinds) > 2:
        raise DidaeError(
            f"attribute {name!r} has {len(kinds)} values ({some}, ...); say which two count"
        )
    low, high = values or kinds
    if low == high or low not in kinds or high not in kinds:
        raise DidaeError(
            f"attribute {name!r} does not have the two values {low:g} and {high:g}; it has {some}"
        )
    return np.where(column == high, 1, np.where(column == low, 0, -1))


def _binary_label(source: ImageSource, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if source.labels is None:
        raise DidaeError("the data has no labels to confound; use class folders or a column label")
    kinds = np.unique(source.labels[rows]).tolist()
    if kinds != [0, 1]:
        names = ", ".join(source.label_names[kind] for kind in kinds[:10])
        raise DidaeError(
            f"the images are of the classes {names or 'none'}; confounding needs the classes 0 and "
            "1, both of them"
        )
    return source.labels


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
