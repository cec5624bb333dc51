"""The data a user names: Square, or a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from didae.config import Config
from didae.data.square import FACTOR_MEAN, FACTOR_STD, Square
from didae.data.tables import ImageSource, ImageTable
from didae.errors import DidaeError

SQUARE = "square"


class SourceConfig(Config):
    """Which images.

    Attributes
    ----------
    data : str
        square, or a folder of images: class folders, or with metadata.csv.
    pool : int
        Images of Square; 80 % are trained on and the last 10 % explained.
    pool_seed : int
        Seed of Square.
    image_size : int
        Side to which the images of a folder are cut and resized.
    label : str
        Column of metadata.csv with the class; `label` by default.
    attributes : tuple of str
        Numeric columns of metadata.csv to use; all by default.
    on_error : str
        What to do about an image that cannot be read.
    """

    data: str = SQUARE
    pool: int = Field(default=16_000, ge=10)
    pool_seed: int = Field(default=0, ge=0)
    image_size: int = Field(default=64, ge=8)
    label: str | None = None
    attributes: tuple[str, ...] = ()
    on_error: Literal["raise", "skip"] = "raise"

    def open(self) -> ImageSource:
        """Open the data.

        Returns
        -------
        ImageSource
            Square or a table of images.

        Raises
        ------
        DidaeError
            If the folder or its metadata.csv is not as it should be.
        """
        if self.data == SQUARE:
            return Square(self.pool, self.pool_seed)
        return ImageTable.from_folder(
            Path(self.data),
            self.image_size,
            self.on_error,
            label=self.label,
            attributes=self.attributes or None,
        )


def rows(source: ImageSource, split: Literal["train", "test"]) -> NDArray[np.int64]:
    """Choose the images of a split; a folder has none, so all of it.

    Parameters
    ----------
    source : ImageSource
        The data.
    split : {"train", "test"}
        Which split of Square.

    Returns
    -------
    ndarray of int64
        Indices.
    """
    return source.splits[split] if isinstance(source, Square) else np.arange(len(source))


def factors(
    source: ImageSource, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Standardise the known attributes of images.

    Parameters
    ----------
    source : ImageSource
        The data.
    chosen : ndarray of int64, length n
        Which images.

    Returns
    -------
    values : ndarray, shape (n, f)
        Mean 0 and standard deviation 1.
    names : tuple of str
        Names of the attributes.

    Raises
    ------
    DidaeError
        If there are none, or one is the same everywhere.
    """
    names = tuple(source.attributes)
    if not names:
        raise DidaeError(
            "the data has no attributes to learn from: add numeric columns to metadata.csv."
        )
    values = np.stack([source.attributes[name][chosen] for name in names], axis=1)
    if isinstance(source, Square):
        return (values - FACTOR_MEAN) / FACTOR_STD, names
    spread = values.std(0)
    for name, std in zip(names, spread, strict=True):
        if std == 0:
            raise DidaeError(f"attribute '{name}' is the same on all images: leave it out.")
    return (values - values.mean(0)) / spread, names
