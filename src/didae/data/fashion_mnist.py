"""Fashion-MNIST: 70 000 grey pictures of clothes (Xiao et al. 2017), from its four `idx` files.

They are where Debian's package `dataset-fashion-mnist` puts them, or where torchvision does
(``FashionMNIST/raw``), packed or not. MNIST has files of the same names and sizes, so a folder is
never taken for Fashion-MNIST unless it is called so.
"""

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from didae.data.images import to_tensor
from didae.data.table import ImageTable, Reading, stacked
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

_SIDE, _PADDING = 28, 2
_MOST: Final = 100_000
_PARTS: Final = {"train": "train", "test": "t10k"}


def installed_fashion() -> Path:
    """Find the files of Debian's package."""
    if not DEBIAN.is_dir():
        raise DidaeError(
            f"Fashion-MNIST is not in {DEBIAN}: `apt-get install dataset-fashion-mnist`, "
            "or name the folder of its files, fashion-mnist:FOLDER."
        )
    return DEBIAN


def fashion_mnist(folder: Path, reading: Reading) -> ImageTable:
    """Open the images, 32 x 32 pixels: 28 x 28 and a margin of two black ones.

    The folder is that of the files, or the one that torchvision was given. Only the labels are read
    at first; the pixels (55 MB) when the first image is asked for. `size` resizes the 32 x 32
    pixels, antialiased and bicubic.
    """
    if reading.label is not None or reading.attributes:
        raise DidaeError("fashion-mnist has no columns: leave out label and attributes.")
    files = {split: _find(folder, f"{name}-images-idx3-ubyte") for split, name in _PARTS.items()}
    labels: dict[str, NDArray[np.uint8]] = {}
    for split, name in _PARTS.items():
        path = _find(folder, f"{name}-labels-idx1-ubyte")
        found, counted = _read(path, 1), _count(files[split], 3)
        if len(found) != counted:
            raise DidaeError(
                f"{path} has {len(found)} labels, {files[split].name} has {counted} images; "
                "download it again"
            )
        if found.size and found.max() >= len(CLASSES):
            raise DidaeError(f"{path} has a label {found.max()}, not 0 to 9; download it again")
        labels[split] = found
    train, total = len(labels["train"]), sum(map(len, labels.values()))
    ids = tuple(f"{split}/{row:05d}" for split, part in labels.items() for row in range(len(part)))
    return ImageTable(
        ids,
        _reader(files, ids, reading.size),
        np.concatenate([*labels.values()]).astype(np.int64),
        CLASSES,
        splits={"train": np.arange(train), "test": np.arange(train, total)},
        license="MIT",
    )


def _reader(
    files: Mapping[str, Path], ids: Sequence[str], size: int | None
) -> Callable[[list[int]], Tensor]:
    @functools.cache
    def pixels() -> NDArray[np.uint8]:
        return np.concatenate([_read(path, 3) for path in files.values()])

    def read(rows: list[int]) -> Tensor:
        if size is None or size == _SIDE + 2 * _PADDING:
            padded = np.pad(pixels()[rows], ((0, 0), *[(_PADDING, _PADDING)] * 2))
            return torch.from_numpy(padded)[:, None].repeat(1, 3, 1, 1)
        pictures = [Image.fromarray(np.pad(pixels()[row], _PADDING)) for row in rows]
        batch = [to_tensor(picture.convert("RGB"), size) for picture in pictures]
        return stacked(batch, [ids[row] for row in rows], size)

    return read


def has_idx_files(folder: Path) -> bool:
    """Say whether a folder holds files of MNIST's kind, which look alike."""
    return _place(folder, "train-images-idx3-ubyte") is not None


def _place(folder: Path, name: str) -> str | None:
    homes = ("", "raw/", "FashionMNIST/raw/")
    places = (f"{home}{name}{end}" for home in homes for end in ("", ".gz"))
    return next((place for place in places if (folder / place).exists()), None)


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
