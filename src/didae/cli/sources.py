"""What users name: data, encoders, dictionaries, decoders and classifiers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from didae.config import Config
from didae.data.opening import open_named
from didae.data.sampling import FEWEST, Splits, complete
from didae.data.square import Square
from didae.data.table import ImageSource, ImageTable, Reading, changed
from didae.encoders.onnx_file import split_spec, try_file
from didae.errors import DidaeError
from didae.explainer.fit import attributes_of
from didae.storage import SHIPPED_NAME
from didae.students import StudentLike
from didae.students.names import open_student

logger = logging.getLogger(__name__)

SQUARE = "square"

NONE: Final = ("none",)
"""The attributes of who wants none."""


class SourceConfig(Config):
    """Which images.

    Attributes
    ----------
    data : str
        square; a folder of images: class folders, train/ and test/ of them, or with metadata.csv,
        metadata.jsonl or metadata.parquet; or {data sets}. hf is what Hugging Face's
        datasets saved, or Parquet files of the Hub; cutouts are objects with masks on backgrounds.
    pool : int
        Images of Square; 80 % are trained on and the last 10 % explained.
    pool_seed : int
        Seed of Square.
    image_size : int
        Side to which images from files are cut and resized; where networks are trained on them, a
        multiple of 8 (audit, train student), 4 (train decoder) or 2 (train encoder).
    label : str
        Column with the class; by default `label` or the only column of classes, Blond_Hair of
        celeba, and the usual one of the others.
    attributes : tuple of str
        Numeric columns to use, or none; by default all that have a number in every row (true and
        yes are 1, false and no are 0), and the usual ones of well-known data sets.
    classes : tuple of str
        Keep only the images of these classes, numbered in this order; all by default.
    whole : bool
        Use all images for everything, as for a folder of test images alone. Else train/ and test/,
        a column `split`, or an official split is followed, and of a folder of at least 100 images
        without one, a tenth is kept for validation and a tenth for tests.
    split_seed : int
        Which tenths.
    on_error : str
        What to do about an image that cannot be read: raise (look at every file first), skip
        (decode every file first) or late (look at none first; a sweep then records the image and
        goes on). By default late for the well-known data sets and raise for other folders.
    """

    data: str = SQUARE
    pool: int = Field(default=16_000, ge=10)
    pool_seed: int = Field(default=0, ge=0)
    image_size: int = Field(default=64, ge=8)
    label: str | None = None
    attributes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    whole: bool = False
    split_seed: int = Field(default=0, ge=0)
    on_error: Literal["raise", "skip", "late"] | None = None

    _own: frozenset[str] = PrivateAttr(frozenset())

    @property
    def own_splits(self) -> frozenset[str]:
        """frozenset of str: the splits that opened data had by itself, not cut from its images."""
        return self._own

    def open(self) -> ImageSource:
        """Open the data."""
        if self.data == SQUARE:
            return Square(self.pool, self.pool_seed)
        source = self._read()
        self._own = frozenset(source.splits)
        source = changed(source, splits=self._splits(source))
        return source.of_classes(self.classes) if self.classes else source

    def require_multiple(self, step: int) -> None:
        """Refuse a side that networks which halve their images cannot have."""
        if self.data != SQUARE and self.image_size % step:
            below = max(8, self.image_size // step * step)
            raise DidaeError(
                f"--image-size {self.image_size}: give a multiple of {step}, such as {below} or "
                f"{below + step}"
            )

    def _read(self) -> ImageTable:
        attributes = () if self.attributes == NONE else self.attributes or None
        reading = Reading(self.image_size, self.on_error, self.label, attributes)
        return open_named(self.data, reading)

    def _splits(self, source: ImageTable) -> Splits:
        if self.whole or not (source.splits or len(source) >= FEWEST):
            return {}
        return complete(source.splits, source.ids, self.split_seed, source.labels)


def rows(source: ImageSource, split: Literal["train", "validation", "test"]) -> NDArray[np.int64]:
    """Choose the images of a split; all of them where the data is not split."""
    splits = source.splits
    if not splits:
        return np.arange(len(source))
    if not len(splits.get(split, ())):
        sizes = ", ".join(f"{name} {len(found)}" for name, found in splits.items())
        raise DidaeError(
            f"the data has no {split} images ({sizes}): add some, or use all images for everything "
            "with --whole."
        )
    return splits[split]


def factors(
    source: ImageSource, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Standardise the known attributes of images."""
    found = attributes_of(source, chosen)
    if found is None:
        raise DidaeError(
            "the data has no attributes to learn from: add numeric columns to metadata.csv."
        )
    return found


def student_of(name: str) -> StudentLike:
    """Open a student, which is named with a flag."""
    try:
        return open_student(tried(name))
    except DidaeError as error:
        raise DidaeError(f"--student: {error}") from error


def tried(name: str) -> str:
    """Give a name back; an ONNX file, which anyone may have made, is asked elsewhere first."""
    path = file_of(name)
    if path is not None and (name.startswith("onnx:") or path.suffix.lower() == ".onnx"):
        try_file(path)
    return name


def file_of(name: str) -> Path | None:
    """Give the file or folder that the name of a student or an encoder speaks of, if it does."""
    kind, _, rest = name.partition(":")
    if name == SHIPPED_NAME or kind == "zero_shot":
        return None
    if kind == "timm":
        file = rest.partition("@")[2]
        return Path(file) if file else None
    return split_spec(rest if kind == "onnx" else name)[0]
