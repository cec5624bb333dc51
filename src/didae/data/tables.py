"""Images with ids, labels and attributes: the contract of every data set, and folders of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from didae.data.images import MAX_PIXELS, check_image, read_image
from didae.data.layouts import Listing, list_folder, read_metadata
from didae.errors import DidaeError, ImageReadError

_METADATA: Final = "metadata.csv"

OnError = Literal["raise", "skip"]
"""What to do about an image file that cannot be read."""


class ImageSource(Protocol):
    """What every part of didae needs of a data set: n images and what is known of them."""

    @property
    def ids(self) -> Sequence[str]:
        """One unique name per image, n of them."""
        ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each image, shape (n,); None if unknown."""
        ...

    @property
    def label_names(self) -> tuple[str, ...]:
        """Name of each class; empty if the labels are unknown."""
        ...

    @property
    def attributes(self) -> Mapping[str, NDArray[np.float64]]:
        """Further known quantities, each of shape (n,)."""
        ...

    def __len__(self) -> int:
        """Return the number of images n."""
        ...

    def images(self, indices: Sequence[int]) -> Tensor:
        """Read images.

        Parameters
        ----------
        indices
            The b rows, each in 0..n - 1.

        Returns
        -------
        Tensor
            uint8 of shape (b, 3, height, width).
        """
        ...


@dataclass(frozen=True)
class Skipped:
    """A file that was left out of a table.

    Attributes
    ----------
    path
        The file, relative to the table's folder.
    reason
        Why it could not be read, in one line.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ImageTable:
    """A folder of image files and what is known of each; made by `ImageTable.from_folder`.

    Three layouts are understood:

    - With a `metadata.csv` (Hugging Face's `imagefolder`): the files that it lists, in its order;
      files that it does not list are no part of the table. See `didae.data.layouts.read_metadata`.
    - With sub-folders: each is a class. See `didae.data.layouts.list_folder`.
    - With image files alone: no labels.

    Only names and numbers are kept in memory; files are decoded when `images` asks for them. What
    becomes of files that are missing or cannot be read is the caller's choice:

    - "raise": the table is made after a cheap look at the header of every file. Damage behind the
      header shows only when `images` decodes the file. Either error names the file.
    - "skip": every file is decoded once when the table is made, at the cost of one pass over the
      data, so that `skipped` is complete. What is left can be read; should a file be damaged
      later, `images` raises as above.

    Attributes
    ----------
    folder
        The folder.
    ids
        Path of each image relative to the folder, with `/`; n of them.
    labels
        int64, shape (n,); None if unknown.
    label_names
        Name of each class.
    attributes
        Per attribute, float64 of shape (n,).
    size
        Side of the squares that `images` returns, in pixels; None for the files' own size.
    max_pixels
        Largest width x height that is decoded.
    skipped
        The files that were left out, and why.
    """

    folder: Path
    ids: tuple[str, ...]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...]
    attributes: Mapping[str, NDArray[np.float64]]
    size: int | None = None
    max_pixels: int = MAX_PIXELS
    skipped: list[Skipped] = field(default_factory=list[Skipped])

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        size: int | None = None,
        on_error: OnError = "raise",
        *,
        label: str | None = None,
        attributes: Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> ImageTable:
        """Read a folder.

        Parameters
        ----------
        folder
            A folder with `metadata.csv`, with class folders, or with images alone.
        size
            Side of the squares that `images` returns, in pixels; None keeps the files' own size.
        on_error
            What to do about a file that is missing or cannot be read: "raise" or "skip".
        label
            Column of `metadata.csv` that holds the class; None takes `label` if there is one.
        attributes
            Columns of `metadata.csv` to keep; None takes all others, which must then be numeric.
        max_pixels
            Largest width x height that is decoded.

        Returns
        -------
        ImageTable
            The table, with at least one image.

        Raises
        ------
        DidaeError
            If the folder or its `metadata.csv` is not as described, or no image is left.
        """
        folder = Path(folder)
        listing = _list(folder, label, attributes)
        kept, skipped = _sift(folder, listing, size, on_error, max_pixels)
        return cls(
            folder=folder,
            ids=tuple(listing.file_names[row] for row in kept),
            labels=None if listing.labels is None else listing.labels[kept],
            label_names=listing.label_names,
            attributes={name: values[kept] for name, values in listing.attributes.items()},
            size=size,
            max_pixels=max_pixels,
            skipped=skipped,
        )

    def __len__(self) -> int:
        """Return the number of images.

        Returns
        -------
        int
            n.
        """
        return len(self.ids)

    def images(self, indices: Sequence[int]) -> Tensor:
        """Decode the images of these rows.

        Parameters
        ----------
        indices
            Rows, b of them, each from 0 to n - 1.

        Returns
        -------
        Tensor
            uint8, shape (b, 3, height, width); height and width are `size` if that is set.

        Raises
        ------
        ImageReadError
            If a file cannot be read; it names the path.
        DidaeError
            If a row does not exist, or `size` is None and the images differ in size.
        """
        rows = [int(row) for row in indices]
        for row in rows:
            if not 0 <= row < len(self):
                raise DidaeError(f"there is no image {row}; the table has {len(self)}")
        if not rows:
            side = self.size or 0
            return torch.empty((0, 3, side, side), dtype=torch.uint8)
        batch = [
            read_image(self.folder / self.ids[row], self.size, self.max_pixels) for row in rows
        ]
        for row, image in zip(rows, batch, strict=True):
            if image.shape != batch[0].shape:
                raise DidaeError(
                    f"images differ in size: {self.ids[rows[0]]} is {_extent(batch[0])}, "
                    f"{self.ids[row]} is {_extent(image)}; choose a size for the table"
                )
        return torch.stack(batch)


def _extent(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]}"


def _list(folder: Path, label: str | None, attributes: Sequence[str] | None) -> Listing:
    if not folder.is_dir():
        raise DidaeError(f"{folder} is not a folder")
    if (folder / _METADATA).exists():
        return read_metadata(folder / _METADATA, label, attributes)
    if label is not None or attributes is not None:
        raise DidaeError(f"label and attributes name columns, but {folder} has no {_METADATA}")
    try:
        return list_folder(folder)
    except OSError as error:
        raise DidaeError(f"cannot read folder {folder}: {error}") from error


def _sift(
    folder: Path, listing: Listing, size: int | None, on_error: OnError, max_pixels: int
) -> tuple[list[int], list[Skipped]]:
    """Return the rows whose files can be read, and the other files."""
    if on_error not in get_args(OnError):
        raise DidaeError(f'on_error must be "raise" or "skip", got {on_error!r}')
    if size is not None and size < 1:
        raise DidaeError(f"size must be at least 1 pixel, got {size}")
    kept: list[int] = []
    skipped: list[Skipped] = []
    for row, name in enumerate(listing.file_names):
        path = folder / name
        try:
            if on_error == "skip":
                read_image(path, size, max_pixels)
            else:
                check_image(path, max_pixels)
            kept.append(row)
        except ImageReadError as error:
            where = f" ({_METADATA}, line {listing.lines[row]})" if listing.lines else ""
            if on_error == "raise":
                raise ImageReadError(f"{error}{where}") from error
            reason = str(error).removeprefix(f"cannot read image {path}: ")
            skipped.append(Skipped(name, f"{reason}{where}"))
    if not kept:
        raise DidaeError(
            f"none of the {len(skipped)} images in {folder} can be read; "
            f"the first, {skipped[0].path}: {skipped[0].reason}"
        )
    return kept, skipped
