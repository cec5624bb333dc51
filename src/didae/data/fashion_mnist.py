"""Fashion-MNIST: 70 000 grey pictures of clothes (Xiao et al. 2017), from its four `idx` files.

They are where Debian's package `dataset-fashion-mnist` puts them, or where torchvision does
(``FashionMNIST/raw``), packed or not. MNIST has files of the same names and sizes, so a folder is
never taken for Fashion-MNIST unless it is called so.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from didae.data.batches import checked_rows, stacked
from didae.data.catalogue import place_of
from didae.data.images import to_tensor
from didae.errors import DidaeError

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` has the files."""

CLASSES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

LICENCE: Final = "MIT"

_SIDE, _PADDING = 28, 2
_MOST: Final = 100_000
_PARTS: Final = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, eq=False)
class FashionMNIST:
    """The images, 32 x 32 pixels: 28 x 28 and a margin of two black ones.

    Only the labels are read when it is made by `from_folder`; the pixels (55 MB) when the first
    image is asked for.

    Attributes
    ----------
    files
        The files of images, by split.
    ids
        ``train/00000`` and so on; n of them.
    labels
        Class of each image, int64 of shape (n,).
    splits
        The official train and test rows.
    size
        Side to which `images` resizes, in pixels; None for 32.
    label_names
        Name of each class.
    licence
        Licence of the images.
    """

    files: Mapping[str, Path]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: Mapping[str, NDArray[np.int64]]
    size: int | None = None
    label_names: tuple[str, ...] = CLASSES
    licence: str = LICENCE

    @classmethod
    def from_folder(cls, folder: str | Path | None = None, size: int | None = None) -> FashionMNIST:
        """Find the files and read the labels.

        Parameters
        ----------
        folder
            Their folder, or the one that torchvision was given; None takes that of Debian's
            package.
        size
            Side to which `images` resizes (antialiased bicubic), in pixels; None for 32.

        Returns
        -------
        FashionMNIST
            70 000 images where the data set is whole.

        Raises
        ------
        DidaeError
            If a file is missing or broken.
        """
        home = DEBIAN if folder is None else Path(folder)
        if folder is None and not home.is_dir():
            raise DidaeError(
                f"Fashion-MNIST is not in {home}: `apt-get install dataset-fashion-mnist`, "
                "or name the folder of its files, fashion-mnist:FOLDER."
            )
        if size is not None and size < 1:
            raise DidaeError(f"size must be at least 1 pixel, got {size}")
        files = {split: _find(home, f"{name}-images-idx3-ubyte") for split, name in _PARTS.items()}
        labels: list[NDArray[np.uint8]] = []
        for split, name in _PARTS.items():
            path = _find(home, f"{name}-labels-idx1-ubyte")
            found, counted = _read(path, 1), _count(files[split], 3)
            if len(found) != counted:
                raise DidaeError(
                    f"{path} has {len(found)} labels, {files[split].name} has {counted} images; "
                    "download it again"
                )
            if found.size and found.max() >= len(CLASSES):
                raise DidaeError(f"{path} has a label {found.max()}, not 0 to 9; download it again")
            labels.append(found)
        train, test = (len(part) for part in labels)
        return cls(
            files=files,
            ids=tuple(
                f"{split}/{row:05d}"
                for split, part in zip(_PARTS, labels, strict=True)
                for row in range(len(part))
            ),
            labels=np.concatenate(labels).astype(np.int64),
            splits={"train": np.arange(train), "test": np.arange(train, train + test)},
            size=size,
        )

    @property
    def attributes(self) -> dict[str, NDArray[np.float64]]:
        """dict: empty, nothing but the class is known."""
        return {}

    def __len__(self) -> int:
        """Return the number of images.

        Returns
        -------
        int
            n.
        """
        return len(self.ids)

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return np.concatenate([_read(path, 3) for path in self.files.values()])

    def images(self, indices: Sequence[int] | NDArray[Any]) -> Tensor:
        """Give the images of these rows.

        Parameters
        ----------
        indices
            Rows, b of them, each from 0 to n - 1.

        Returns
        -------
        Tensor
            uint8, shape (b, 3, size, size), the three channels equal.

        Raises
        ------
        DidaeError
            If a row does not exist, or a file has been damaged since it was found.
        """
        rows = checked_rows(indices, len(self))
        if self.size is None or self.size == _SIDE + 2 * _PADDING:
            padded = np.pad(self._pixels[rows], ((0, 0), *[(_PADDING, _PADDING)] * 2))
            return torch.from_numpy(padded)[:, None].repeat(1, 3, 1, 1)
        pictures = [Image.fromarray(np.pad(self._pixels[row], _PADDING)) for row in rows]
        batch = [to_tensor(picture.convert("RGB"), self.size) for picture in pictures]
        return stacked(batch, [self.ids[row] for row in rows], self.size)


def has_idx_files(folder: Path) -> bool:
    """Say whether a folder holds files of MNIST's kind.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    bool
        True for MNIST, Fashion-MNIST and others of their kind, which look alike.
    """
    return _place(folder, "train-images-idx3-ubyte") is not None


def _place(folder: Path, name: str) -> str | None:
    homes = ("", "raw/", "FashionMNIST/raw/")
    return place_of(folder, *(f"{home}{name}{end}" for home in homes for end in ("", ".gz")))


def _find(folder: Path, name: str) -> Path:
    place = _place(folder, name)
    if place is None:
        raise DidaeError(
            f"{folder} has no {name}.gz; name the folder of Fashion-MNIST's four files"
        )
    return folder / place


def _count(path: Path, dimensions: int) -> int:
    """Read how many items a file says it has."""
    return _load(path, dimensions, header_only=True)[0]


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a file of labels (1) or of images (3)."""
    count, content = _load(path, dimensions)
    shape = (count, _SIDE, _SIDE)[:dimensions]
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _load(path: Path, dimensions: int, header_only: bool = False) -> tuple[int, bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            file = cast("gzip.GzipFile", opened)
            header = file.read(4 * (dimensions + 1))
            if len(header) < 4 * (dimensions + 1):
                raise EOFError("it is too short")
            magic, count, *sides = struct.unpack(f">{dimensions + 1}I", header)
            # 0x08 stands for bytes. What a header claims is checked before memory is taken for it.
            if magic != 0x0800 + dimensions or sides != [_SIDE, _SIDE][: dimensions - 1]:
                raise EOFError("it is no idx file of 28 x 28 bytes or of labels")
            if count > _MOST:
                raise EOFError(f"it claims {count} items, more than {_MOST}")
            length = 0 if header_only else count * _SIDE ** (dimensions - 1)
            content = file.read(length)
            if len(content) < length or (file.read(1) and not header_only):
                raise EOFError(f"it does not hold the {count} items that it claims")
            return count, content
    except (OSError, EOFError, zlib.error) as error:
        raise DidaeError(f"cannot read {path}: {error}; download it again") from error
